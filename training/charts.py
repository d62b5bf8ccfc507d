"""Charts as SVG that takes its colours and its font from the page around it.

One chart so serves a light page, a dark one and paper. Drawn with matplotlib (extra `train`), which
is imported when the first chart is drawn.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.extras import require
from training.metrics import Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 5.2  # of a chart: 374 points, so that its letters can still be read on a phone
ROW_IN = 0.3

# Stand-ins that matplotlib draws with, and the colours of the page that they become.
INK, MUTED, LINE, BASE, TUNED = "#000001", "#000002", "#000003", "#000004", "#000005"
SERIES = tuple(f"#0000{number:02x}" for number in range(0x10, 0x18))
_PAGE_COLORS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BASE: "var(--base)",
    TUNED: "var(--tuned)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}
MARKERS = "osD^vPX*"  # with the colours, so that neither is needed to tell series apart
DASHES = ("-", "--", "-.", ":")
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str = TUNED
    marker: str = "o"
    dash: str = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """One marked point of a chart, with the interval of its height."""

    name: str
    x: float
    y: float
    low: float
    high: float
    color: str
    marker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A figure beside the bound that it is to keep."""

    name: str
    figure: str  # as people read it
    value: float  # length of the bar
    bound: float  # on the scale of value
    met: bool


def difference_chart(rows: Sequence[tuple[str, Difference]], *, title: str, x_label: str) -> str:
    """Each difference as a point with its interval, one below the other, around 0."""
    about = "; ".join(
        f"{name} {signed(item.mean)}, interval {signed(item.low)} to {signed(item.high)}"
        for name, item in rows
    )
    figure, axes = _chart(height_in=0.75 + ROW_IN * len(rows))
    for place, (_, difference) in enumerate(rows):
        is_clear = difference.low > 0 or difference.high < 0
        color = (TUNED if difference.mean > 0 else BASE) if is_clear else MUTED
        axes.hlines(place, difference.low, difference.high, color=color, linewidth=2.5)
        axes.plot(
            difference.mean,
            place,
            marker="o" if is_clear else "D",
            color=color,
            markerfacecolor=color if is_clear else "none",
            markersize=7 if is_clear else 6,
        )
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(x_label)
    axes.locator_params(axis="x", nbins=7)
    axes.xaxis.set_major_formatter(lambda value, _: signed(value, 2))
    return _svg(figure, title, about)


def change_chart(changes: Sequence[float], *, title: str, about: str) -> str:
    """The change of every query, from the one that gained most to the one that lost most."""
    figure, axes = _chart(height_in=2.3)
    ordered = sorted(changes, reverse=True)
    gained = [(place, value) for place, value in enumerate(ordered) if value > 0]
    lost = [(place, value) for place, value in enumerate(ordered) if value < 0]
    for part, color in ((gained, TUNED), (lost, BASE)):
        if part:
            places, values = zip(*part, strict=True)
            axes.fill_between(
                [places[0] - 0.5, *places, places[-1] + 0.5],
                [values[0], *values, values[-1]],
                step="mid",
                color=color,
                linewidth=0,
            )
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlim(-0.5, len(ordered) - 0.5)
    axes.set_xlabel("queries, from most gained to most lost")
    axes.yaxis.set_major_formatter(lambda value, _: signed(value, 1))
    axes.grid(axis="x", visible=False)
    return _svg(figure, title, about)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    about: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[int] | None = None,
    as_percent: bool = False,
    height_in: float = 2.6,
) -> str:
    """Lines over one axis. x_ticks: a scale of powers of two that names just these values."""
    figure, axes = _chart(height_in=height_in)
    for line in series:
        axes.plot(
            *zip(*line.points, strict=True),
            color=line.color,
            marker=line.marker if len(line.points) <= 40 else "",
            linestyle=line.dash,
            linewidth=2,
            markersize=5,
            label=line.name,
        )
    if x_ticks is not None:
        axes.set_xscale("log", base=2)
        axes.set_xticks(x_ticks, [str(value) for value in x_ticks])
        axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if as_percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    return _svg(figure, title, about)


def spot_chart(spots: Sequence[Spot], *, title: str, about: str, x_label: str, y_label: str) -> str:
    """Marked points with intervals over a scale of powers of ten; a legend names them."""
    figure, axes = _chart(height_in=3.0 + 0.16 * len(spots))
    from matplotlib.ticker import LogLocator

    for spot in spots:
        axes.vlines(spot.x, spot.low, spot.high, color=spot.color, linewidth=1.5)
        axes.plot(
            spot.x,
            spot.y,
            color=spot.color,
            marker=spot.marker,
            markersize=8,
            linestyle="",
            label=spot.name,
        )
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(0, -0.22))
    return _svg(figure, title, about)


def target_chart(targets: Sequence[Target], *, title: str, x_label: str, x_max: float) -> str:
    """A bar for each figure, up to x_max, with a line where its bound is. Missed: hatched."""
    about = "; ".join(f"{target.name} {target.figure}" for target in targets)
    figure, axes = _chart(height_in=0.7 + 0.5 * len(targets))
    for place, target in enumerate(targets):
        axes.barh(
            place,
            min(max(target.value, 0), x_max),
            height=0.34,
            color=TUNED if target.met else "none",
            edgecolor=TUNED if target.met else BASE,
            hatch="" if target.met else "////",
        )
        axes.vlines(target.bound, place - 0.28, place + 0.28, color=INK, linewidth=2)
        for side, x, text in (("left", 0.0, target.name), ("right", x_max, target.figure)):
            # parse_math: a name with two dollar signs is no formula.
            axes.text(x, place - 0.34, text, ha=side, color=INK, fontsize=9, parse_math=False)
    axes.set_yticks([])
    axes.set_ylim(len(targets) - 0.5, -0.85)
    axes.set_xlim(0, x_max)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(x_label)
    return _svg(figure, title, about)


def signed(value: float, digits: int = 3) -> str:
    """With its sign, which is a true minus; what rounds to nothing has none."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def _chart(*, height_in: float) -> tuple[Figure, Axes]:
    require("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(color=LINE, linewidth=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
    axes.tick_params(colors=MUTED, labelcolor=INK, length=3)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    return figure, axes


def _svg(figure: Figure, title: str, about: str) -> str:
    """The drawing as one element, with what a screen reader says in place of it."""
    from matplotlib import rc_context

    name = re.sub(r"\W+", "-", title.lower()).strip("-")
    drawn = io.StringIO()
    # hashsalt: equal input gives equal ids, and two charts on a page give different ones.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<defs>\s*<style.*?</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\w+"', "", text)  # figure_1, which every chart has
    text = re.sub(r"font-family: [^;\"]+", "font-family: inherit", text)
    text = re.sub(r"font: (\d[\d.]*px) [^;\"]+", r"font-size: \1; font-family: inherit", text)
    for stand_in, color in _PAGE_COLORS.items():
        text = text.replace(stand_in, color)
    view = re.search(r'viewBox="[^"]+"', text)
    assert view is not None, "matplotlib gives every drawing its viewBox"
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]} role="img" '
        f'aria-labelledby="{name}-title {name}-about">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-about">{html.escape(about)}</desc>'
    )
    return head + text[text.index(">") + 1 :].strip()
