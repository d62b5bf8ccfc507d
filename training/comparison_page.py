"""A comparison as one self-contained HTML page and as Markdown; both say the same."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from training.charts import (
    DASHES,
    MARKERS,
    SERIES,
    Series,
    Spot,
    difference_chart,
    line_chart,
    spot_chart,
)
from training.comparison import Comparison, Contender
from training.metrics import METRICS, PRIMARY_METRIC
from training.pages import metric_name, render, render_markdown, write_twins
from training.resampling import bootstrap_means, interval


def write_comparison(comparison: Comparison, path: Path, *, command: str = "") -> tuple[Path, Path]:
    """Write the page to path and its Markdown beside it, and return where they are.

    command: what repeats it. Raises ExtraMissing without matplotlib.
    """
    view = {**_view(comparison), **_charts(comparison), "command": command}
    page = render("comparison.html.j2", comparison=comparison, view=view)
    markdown = render_markdown("comparison.md.j2", comparison=comparison, view=view)
    return write_twins(path, page, markdown)


def headline(comparison: Comparison) -> str:
    """Which is best, by how much, and whether others may be as good."""
    winner = comparison.winner
    metric = metric_name(PRIMARY_METRIC)
    if len(comparison.contenders) == 1:
        return f"{winner.name} has {metric} {winner.mean:.3f}."
    text = f"{winner.name} is best with {metric} {winner.mean:.3f}"
    if winner.not_told_apart:
        verb = "are" if len(winner.not_told_apart) > 1 else "is"
        others = ", ".join(winner.not_told_apart)
        return (
            f"{text}; {others} {verb} not significantly different on {comparison.n_queries:,} "
            "queries."
        )
    return f"{text}, significantly better than the rest on {comparison.n_queries:,} queries."


def marks(comparison: Comparison) -> dict[str, dict[str, str]]:
    """By contender and metric: ★ for the best, ≈ for those not told from it, otherwise nothing."""
    found: dict[str, dict[str, str]] = {item.name: {} for item in comparison.contenders}
    if len(found) > 1:
        for winner in comparison.winners:
            found[winner.name][winner.metric] = "★"
            for name in winner.not_told_apart:
                found[name][winner.metric] = "≈"
    return found


def _view(comparison: Comparison) -> dict[str, Any]:
    n = len(comparison.contenders)
    devices = {item.measurement.device for item in comparison.contenders}
    return {
        "headline": headline(comparison),
        "folder_name": Path(comparison.folder).name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": METRICS,
        "n_pairs": math.comb(n, 2),
        "device": ", ".join(sorted(devices)),
        "has_device_memory": any(
            item.measurement.device_memory_bytes is not None for item in comparison.contenders
        ),
        "rows": _rows(comparison),
        "difference_chart": None,
        "dim_chart": None,
    }


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    marked = marks(comparison)
    rows = []
    for contender in comparison.contenders:
        measured, means = contender.measurement, contender.scores.means()
        on_device = measured.device_memory_bytes
        found = comparison.differences.get(contender.name)
        rows.append(
            {
                "name": contender.name,
                "dim": contender.dim,
                "is_best": marked[contender.name].get(PRIMARY_METRIC) == "★",
                "marked": {
                    metric: f"{marked[contender.name].get(metric, '')} {means[metric]:.3f}".strip()
                    for metric in METRICS
                },
                "difference": found[PRIMARY_METRIC] if found is not None else None,
                "docs_per_s": _rate(measured.docs_per_s),
                "tokens_per_s": _rate(measured.tokens_per_s),
                "memory": _megabytes(measured.memory_bytes),
                "device_memory": _megabytes(on_device) if on_device is not None else "",
                "vector_bytes": contender.vector_bytes,
            }
        )
    return rows


def _charts(comparison: Comparison) -> dict[str, Markup]:
    charts = {"speed_chart": _speed_chart(comparison)}
    changes = [(name, item[PRIMARY_METRIC]) for name, item in comparison.differences.items()]
    if changes:
        charts["difference_chart"] = difference_chart(
            changes,
            title="Change against the baseline",
            x_label=f"nDCG@10 minus that of {comparison.baseline}",
        )
    by_model: dict[str, list[Contender]] = {}
    for contender in comparison.contenders:
        by_model.setdefault(contender.model, []).append(contender)
    several = {model: items for model, items in by_model.items() if len(items) > 1}
    if several:
        charts["dim_chart"] = line_chart(
            [
                Series(
                    name=model,
                    points=sorted((item.dim, _mean(item)) for item in items),
                    color=SERIES[at % len(SERIES)],
                    marker=MARKERS[at % len(MARKERS)],
                    dash=DASHES[at % len(DASHES)],
                )
                for at, (model, items) in enumerate(by_model.items())
                if model in several
            ],
            title="Score by dimension",
            about="; ".join(
                f"{item.name} {_mean(item):.3f}" for items in several.values() for item in items
            ),
            x_label="dimensions",
            y_label="nDCG@10",
            x_ticks=sorted({item.dim for items in several.values() for item in items}),
        )
    return {name: Markup(svg) for name, svg in charts.items()}


def _speed_chart(comparison: Comparison) -> str:
    """Only the best dimension of a model: they all come from one encoding."""
    best: dict[str, Contender] = {}
    for contender in comparison.contenders:
        if contender.model not in best or _mean(contender) > _mean(best[contender.model]):
            best[contender.model] = contender
    spots = []
    for at, contender in enumerate(best.values()):
        values = contender.scores.per_query[PRIMARY_METRIC]
        spread = interval(_mean(contender), bootstrap_means(values[:, None])[:, 0])
        spots.append(
            Spot(
                name=contender.name,
                x=max(contender.measurement.docs_per_s, 1e-3),
                y=spread.mean,
                low=spread.low,
                high=spread.high,
                color=SERIES[at % len(SERIES)],
                marker=MARKERS[at % len(MARKERS)],
            )
        )
    return spot_chart(
        spots,
        title="Quality against speed",
        about="; ".join(
            f"{item.name}: {item.y:.3f} at {item.x:,.0f} documents/s" for item in spots
        ),
        x_label="documents encoded a second",
        y_label="nDCG@10",
    )


def _mean(contender: Contender) -> float:
    return float(contender.scores.per_query[PRIMARY_METRIC].mean())


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
