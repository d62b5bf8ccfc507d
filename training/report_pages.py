"""A training report as a page for a browser and as Markdown; both say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from training.charts import (
    BASE,
    TUNED,
    Series,
    change_chart,
    difference_chart,
    line_chart,
    signed,
)
from training.metrics import METRICS, PRIMARY_METRIC
from training.pages import metric_name, render, render_markdown
from training.report import ChangedQuery, DataFacts, RankedTitle, TrainingReport

LOSS_POINTS = 12  # of the loss curve, in the Markdown table


def training_html(report: TrainingReport) -> str:
    """One page without anything from elsewhere. Raises ExtraMissing without matplotlib."""
    return render("report.html.j2", report=report, view={**_view(report), **_charts(report)})


def training_markdown(report: TrainingReport) -> str:
    """The same facts in GitHub's Markdown; curves are tables."""
    return render_markdown(
        "report.md.j2", report=report, view=_view(report), side_by_side=_side_by_side
    )


def headline(report: TrainingReport) -> str:
    """The verdict in one sentence."""
    gain, n_queries = report.gain, len(report.base_full.scores.query_ids)
    evidence = (
        f"95 % interval {signed(gain.low)} to {signed(gain.high)}, "
        f"{n_queries:,} {'query' if n_queries == 1 else 'queries'}"
    )
    change = f"{abs(gain.mean):.3f} nDCG@10"
    if gain.low > 0:
        return f"{report.model} is better than {report.base} by {change} ({evidence})."
    if gain.high < 0:
        return f"{report.model} is worse than {report.base} by {change} ({evidence})."
    return (
        f"{report.model} cannot be told from {report.base}: {signed(gain.mean)} nDCG@10 "
        f"({evidence})."
    )


def new_documents(report: TrainingReport) -> str:
    """What the gain is on documents that were not trained on; empty where there is no overlap."""
    rows = {row.name: row for row in report.seen}
    if sum(row.n_queries for name, row in rows.items() if name != "unseen") == 0:
        return ""
    unseen = rows["unseen"]
    if unseen.difference is None:
        return (
            "Every query is answered by documents that it was trained on, so nothing here speaks "
            "for new documents."
        )
    gain = unseen.difference
    text = (
        f"On new documents alone ({unseen.n_queries:,} queries) the change is {signed(gain.mean)} "
        f"(95 % interval {signed(gain.low)} to {signed(gain.high)})"
    )
    if gain.low <= 0 <= gain.high:
        return f"{text}: the interval contains 0, so a gain there is not proven."
    return f"{text}."


def _view(report: TrainingReport) -> dict[str, Any]:
    """What the pages show and the report does not hold as such."""
    base, tuned = report.base_full.scores, report.tuned_full.scores
    base_means, tuned_means = base.means(), tuned.means()
    change = tuned.per_query[PRIMARY_METRIC] - base.per_query[PRIMARY_METRIC]
    first_of_base, first_of_tuned = base.per_query["mrr@10"], tuned.per_query["mrr@10"]
    return {
        "headline": headline(report),
        "new_documents": new_documents(report),
        "n_queries": len(base.query_ids),
        "folder_name": Path(report.folder).name,
        "primary_base": base_means[PRIMARY_METRIC],
        "primary_tuned": tuned_means[PRIMARY_METRIC],
        "first_base": _share(first_of_base == 1),
        "first_tuned": _share(first_of_tuned == 1),
        "ten_base": _share(first_of_base > 0),
        "ten_tuned": _share(first_of_tuned > 0),
        "n_gained": int((change > 0).sum()),
        "n_lost": int((change < 0).sum()),
        "n_alike": int((change == 0).sum()),
        "metrics": [
            {
                "name": metric_name(name),
                "is_primary": name == PRIMARY_METRIC,
                "base": base_means[name],
                "tuned": tuned_means[name],
                "difference": report.differences[name],
            }
            for name in METRICS
        ],
        "seen": [{"name": _SEEN_NAMES.get(row.name, row.name), **_row(row)} for row in report.seen],
        "seen_sentence": _seen_sentence(report.seen_documents),
        "dims": _dims(report),
        "loss_points": _thinned(report.loss_curve, LOSS_POINTS),
        "facts": _facts(report),
    }


_SEEN_NAMES = {
    "unseen": "unseen documents only",
    "mixed": "both kinds",
    "seen": "seen documents only",
}


def _row(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("n_queries", "base", "tuned", "difference")}


def _share(truths: Any) -> float:
    return float(np.mean(truths)) if len(truths) else 0.0


def _seen_sentence(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return ""
    n_seen, n_documents = counts
    return (
        f"Of the {n_documents:,} documents that answer these queries, {n_seen:,} were also "
        "training positives, with other queries."
    )


def _dims(report: TrainingReport) -> list[dict[str, Any]]:
    """The Matryoshka table; empty when only whole vectors were scored."""
    shared = [dim for dim in report.tuned_evaluations if dim in report.base_evaluations]
    if len(shared) < 2:
        return []
    base = {dim: _primary(report.base_evaluations, dim) for dim in shared}
    tuned = {dim: _primary(report.tuned_evaluations, dim) for dim in shared}
    full = shared[0]
    return [
        {
            "dim": dim,
            "base": base[dim],
            "base_kept": base[dim] / base[full] if base[full] else 0.0,
            "tuned": tuned[dim],
            "tuned_kept": tuned[dim] / tuned[full] if tuned[full] else 0.0,
        }
        for dim in shared
    ]


def _primary(evaluations: Mapping[int, Any], dim: int) -> float:
    return float(evaluations[dim].scores.means()[PRIMARY_METRIC])


def _thinned(points: Sequence[tuple[int, float]], n: int) -> list[tuple[int, float]]:
    """Up to n of the points, evenly spaced, the first and the last among them."""
    if len(points) <= n:
        return list(points)
    return [points[round(place)] for place in np.linspace(0, len(points) - 1, n)]


def _facts(report: TrainingReport) -> list[tuple[str, str]]:
    rows = _data_rows(report.facts) if report.facts is not None else []
    rows += [(name.replace("_", " "), _plain(value)) for name, value in report.settings.items()]
    rows += [
        ("trained in", _duration(report.seconds) if report.seconds else ""),
        ("on", report.hardware),
        ("gate", f"gain of at least {report.min_gain:g} nDCG@10, interval above 0"),
    ]
    return [(name, value) for name, value in rows if value]


def _data_rows(facts: DataFacts) -> list[tuple[str, str]]:
    leaked = ", ".join(f"“{text}”" for text in facts.leaked_queries[:5])
    more = len(facts.leaked_queries) - 5
    return [
        ("training pairs", f"{facts.pairs:,}"),
        ("left out", ", ".join(f"{n:,} {why}" for why, n in facts.dropped.items() if n)),
        (
            "left out since evaluated",
            f"{len(facts.leaked_queries):,}: {leaked}{f' and {more:,} more' if more > 0 else ''}"
            if facts.leaked_queries
            else "",
        ),
        (
            "mismatched pairs",
            f"about {100 * facts.noise_share:.0f} %, estimated"
            if facts.noise_share is not None
            else "",
        ),
        *(
            (
                f"words of the {side}",
                f"half up to {middle:,}, 95 % up to {most:,}, the longest {longest:,}",
            )
            for side, (middle, most, longest) in facts.words.items()
        ),
        ("pair file", f"SHA-256 {facts.pairs_sha256}" if facts.pairs_sha256 else ""),
    ]


def _charts(report: TrainingReport) -> dict[str, Markup]:
    """The drawings of the page, by name; those without data are empty."""
    base, tuned = report.base_full.scores, report.tuned_full.scores
    change = tuned.per_query[PRIMARY_METRIC] - base.per_query[PRIMARY_METRIC]
    rows = [(metric_name(name), report.differences[name]) for name in METRICS]
    charts = {
        "metric_chart": difference_chart(
            rows,
            title="Change of every metric",
            x_label="tuned minus base",
        ),
        "change_chart": change_chart(
            change.tolist(),
            title="Change of every query",
            about=f"{int((change > 0).sum())} queries gained and {int((change < 0).sum())} lost; "
            f"the most gained {signed(float(change.max()))}, the most lost "
            f"{signed(float(change.min()))}",
        ),
    }
    if dims := _dims(report):
        charts["dim_chart"] = line_chart(
            [
                Series(
                    name=name,
                    points=[(row["dim"], row[f"{name}_kept"]) for row in dims],
                    color=color,
                    marker=marker,
                    dash=dash,
                )
                for name, color, marker, dash in (
                    ("tuned", TUNED, "o", "-"),
                    ("base", BASE, "s", "--"),
                )
            ],
            title="Score kept by dimension",
            about="; ".join(f"{row['dim']}: tuned {100 * row['tuned_kept']:.1f} %" for row in dims),
            x_label="dimensions",
            y_label="nDCG@10 kept",
            x_ticks=sorted(row["dim"] for row in dims),
            as_percent=True,
        )
    if len(report.loss_curve) > 1:
        charts["loss_chart"] = line_chart(
            [Series(name="loss", points=report.loss_curve, marker="")],
            title="Training loss",
            about=f"from {report.loss_curve[0][1]:.3f} at step {report.loss_curve[0][0]:,} to "
            f"{report.loss_curve[-1][1]:.3f} at step {report.loss_curve[-1][0]:,}",
            x_label="step",
            y_label="loss",
        )
    if len(report.metric_curve) > 1:
        charts["metric_curve_chart"] = line_chart(
            [Series(name="nDCG@10", points=report.metric_curve)],
            title="Held-out score",
            about="; ".join(
                f"epoch {epoch:g}: {value:.3f}" for epoch, value in report.metric_curve
            ),
            x_label="epoch",
            y_label="nDCG@10",
        )
    empty = dict.fromkeys(("dim_chart", "loss_chart", "metric_curve_chart"), "")
    return {name: Markup(svg) for name, svg in {**empty, **charts}.items()}


# -- words and figures ----------------------------------------------------------------------------


def _side_by_side(query: ChangedQuery) -> list[tuple[str, str]]:
    def at(hits: Sequence[RankedTitle], place: int) -> str:
        if place >= len(hits):
            return ""
        return f"{'✓ ' if hits[place].relevant else ''}{hits[place].title}"

    n = max(len(query.base_hits), len(query.tuned_hits))
    return [(at(query.base_hits, place), at(query.tuned_hits, place)) for place in range(n)]


def _plain(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
