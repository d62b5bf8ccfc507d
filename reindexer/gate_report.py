"""The gate's report on a generation as a page for a browser and as Markdown; both say the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reindexer.data_directory import DataDirectory
from reindexer.listings import generation_facts, generation_json
from search.errors import WrongState
from training.charts import Target, difference_chart, signed, target_chart
from training.metrics import PRIMARY_METRIC, Difference
from training.pages import metric_name, render, render_markdown, write_twins

TEMPLATES = Path(__file__).parent / "templates"


def write_gate_report(data: DataDirectory, name: str, path: Path) -> tuple[Path, Path]:
    """Write what the gate last found to path and its Markdown beside it; return where they are.

    Votes are counted now. Raises WrongState when the gate never looked at the generation, and
    ExtraMissing without matplotlib.
    """
    generation = data.catalog.get(name)
    if generation.verified is None:
        raise WrongState(f"the gate never looked at {name}; run `reindexer verify {name}`")
    value = generation_json(data, name)
    view = gate_view(generation.verified, value["votes"], generation_facts(generation, value))
    charts = {key: Markup(svg) for key, svg in _charts(view).items()}
    page = render("gate.html.j2", folder=TEMPLATES, view=view, charts=charts)
    return write_twins(path, page, render_markdown("gate.md.j2", folder=TEMPLATES, view=view))


def gate_view(
    report: Mapping[str, Any], votes: Sequence[Mapping[str, Any]], facts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Everything that both forms say. report: as `verify` keeps it; what it lacks is left out."""
    metrics = report.get("metrics") or {}
    name = facts[0][0]
    rows = _metric_rows(metrics)
    against = metrics.get("against") or ("live" if metrics.get("live") else None)
    return {
        "name": name,
        "passed": bool(report.get("passed")),
        "headline": _headline(name, report, rows, against),
        "verified_at": report.get("verified_at", ""),
        "checks": report.get("checks", []),
        "metrics": rows,
        "against": against,
        "judged": metrics.get("judged"),
        "changed": metrics.get("changed"),
        "votes": votes,
        "facts": facts,
        "command": _command(name, metrics.get("judged")),
    }


def _headline(
    name: str, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], against: str | None
) -> str:
    checks = report.get("checks", [])
    refused = [check["name"] for check in checks if not check["passed"]]
    text = (
        f"The gate refused {name}: {', '.join(refused)}"
        if refused or not report.get("passed")
        else f"The gate passed {name}"
    )
    found = next((row["difference"] for row in rows if row["is_primary"]), None)
    if found is None:
        return f"{text}."
    return (
        f"{text}; nDCG@10 {signed(found.mean)} against {against} "
        f"(95 % interval {signed(found.low)} to {signed(found.high)})."
    )


def _metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    candidate, live = metrics.get("candidate") or {}, metrics.get("live") or {}
    differences = metrics.get("difference") or {}
    return [
        {
            "name": metric_name(metric),
            "is_primary": metric == PRIMARY_METRIC,
            "live": live.get(metric),
            "candidate": value,
            "difference": Difference(**differences[metric]) if metric in differences else None,
        }
        for metric, value in candidate.items()
    ]


def _command(name: str, judged: Mapping[str, Any] | None) -> str:
    command = ["reindexer", "verify", name]
    if judged is not None:
        command += ["--eval", judged["folder"], "--split", judged["split"]]
    return shlex.join(command)


def _charts(view: Mapping[str, Any]) -> dict[str, str]:
    """The drawings of the page, by name; those without data are empty."""
    targets = [
        Target(
            name=check["name"],
            figure=f"{check['value']:.3f}, at least {check['at_least']:g}",
            value=check["value"],
            bound=check["at_least"],
            met=check["passed"],
        )
        for check in view["checks"]
        if check.get("value") is not None
    ]
    changes = [(row["name"], row["difference"]) for row in view["metrics"] if row["difference"]]
    return {
        "targets": target_chart(
            targets,
            title="Figures and their bounds",
            x_label="share of 1",
            x_max=1.0,
        )
        if targets
        else "",
        "changes": difference_chart(
            changes,
            title="Change of every metric",
            x_label=f"{view['name']} minus {view['against']}",
        )
        if changes
        else "",
    }
