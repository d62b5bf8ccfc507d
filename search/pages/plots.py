"""Drawings in SVG that take their colours from the style sheet and carry no style of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 28

Point = tuple[float, float]


def line_plot(
    series: Sequence[tuple[str, Sequence[Point]]],
    *,
    title: str,
    about: str,
    x_label: str,
    x_ticks: Sequence[tuple[float, str]],
    from_zero: bool = False,
    as_percent: bool = False,
) -> Markup:
    """Lines over one x axis; "" where no line has two points.

    series: name and (x, y), the first one filled below. about: the drawing in words.
    """
    drawn = [(name, points) for name, points in series if len(points) > 1]
    if not drawn:
        return Markup("")
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    ticks = _ticks(0.0 if from_zero else min(ys), max(ys))
    low, high = ticks[0], ticks[-1]
    x_low, x_span = min(xs), (max(xs) - min(xs)) or 1.0

    def at(point: Point) -> tuple[float, float]:
        x = _LEFT + (point[0] - x_low) / x_span * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [
        Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}: {}">').format(
            WIDTH, HEIGHT, title, about
        )
    ]
    for value in ticks:
        _, y = at((x_low, value))
        text = f"{100 * value:.4g} %" if as_percent else f"{value:,.4g}"
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(_LEFT, WIDTH - _RIGHT, y, y, _LEFT - 8, y + 4, text)
        )
    for place, text in x_ticks:
        x, _ = at((place, low))
        anchor = "end" if x > WIDTH - 40 else "start" if x < _LEFT + 20 else "middle"
        parts.append(
            Markup(
                '<text x="{}" y="{}" text-anchor="{}" dominant-baseline="hanging">{}</text>'
            ).format(x, HEIGHT - _BOTTOM + 8, anchor, text)
        )
    for number, (_, points) in enumerate(drawn, 1):
        places = [at(point) for point in points]
        line = " ".join(f"{x},{y}" for x, y in places)
        if number == 1 and from_zero:
            base = HEIGHT - _BOTTOM
            area = f"{places[0][0]},{base} {line} {places[-1][0]},{base}"
            parts.append(Markup('<polygon class="area" points="{}"/>').format(area))
        parts.append(Markup('<polyline class="line-{}" points="{}"/>').format(number, line))
        if len(places) <= 12:
            for x, y in places:
                parts.append(
                    Markup('<circle class="dot-{}" cx="{}" cy="{}" r="3.5"/>').format(number, x, y)
                )
    parts.append(Markup("</svg>"))
    legend = [
        Markup('<span class="key-{}">{}</span>').format(number, name)
        for number, (name, _) in enumerate(drawn, 1)
        if len(drawn) > 1
    ]
    caption = Markup(" ").join([*legend, Markup("{}").format(x_label)])
    return Markup("").join([*parts, Markup('<p class="axis">{}</p>').format(caption)])


def interval_bar(low: float, mean: float, high: float, reach: float) -> Markup:
    """A 95 % interval on an axis from -reach to reach, with 0 in the middle."""
    span = reach or 1.0

    def x(value: float) -> float:
        return round(60 + 56 * max(-1.0, min(1.0, value / span)), 1)

    kind = "better" if low > 0 else "worse" if high < 0 else "open"
    return Markup(
        '<svg class="interval {}" viewBox="0 0 120 20" width="120" height="20" aria-hidden="true">'
        '<line class="zero" x1="60" x2="60" y1="1" y2="19"/>'
        '<line class="range" x1="{}" x2="{}" y1="10" y2="10"/>'
        '<circle cx="{}" cy="10" r="4"/></svg>'
    ).format(kind, x(low), x(high), x(mean))


def _ticks(low: float, high: float, n: int = 4) -> list[float]:
    """About n round numbers that enclose low and high."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / n))
    for factor in (1, 2, 5, 10):
        if span / (step * factor) <= n:
            step *= factor
            break
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    return [round(number * step, 12) for number in range(first, last + 1)]
