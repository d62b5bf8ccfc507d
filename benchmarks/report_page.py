"""A benchmark's report as a page that needs nothing from elsewhere, and as Markdown."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from benchmarks.report import Line, Report
from training.charts import Target, target_chart
from training.pages import render, render_markdown, write_twins

TEMPLATES = Path(__file__).parent / "templates"
WIDEST = 3.0  # times the target: a longer bar is cut off there; its figure stands beside it


def write_page(report: Report, path: Path) -> tuple[Path, Path]:
    """Write the page to path and its Markdown beside it. Raises ExtraMissing without matplotlib."""
    promised = [line for line in report.lines if line.target]
    missed = [line.name for line in promised if not line.met]
    view = {
        "headline": f"{len(missed)} of {len(promised)} targets missed"
        if missed
        else f"All {len(promised)} targets met"
        if promised
        else "Figures without targets",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
    }
    chart = Markup(_chart(promised)) if promised else ""
    page = render("benchmark.html.j2", folder=TEMPLATES, report=report, view=view, chart=chart)
    markdown = render_markdown("benchmark.md.j2", folder=TEMPLATES, report=report, view=view)
    return write_twins(path, page, markdown)


def _chart(lines: list[Line]) -> str:
    targets = [
        Target(
            name=line.name,
            figure=f"{line.figure}, {line.target}",
            value=_times(line),
            bound=1.0,
            met=line.met,
        )
        for line in lines
    ]
    return target_chart(
        targets,
        title="Figures and their targets",
        x_label="times the target",
        x_max=WIDEST,
    )


def _times(line: Line) -> float:
    """The figure over its target. A target of nothing is kept by nothing, and missed by any."""
    assert line.bound is not None
    if line.bound == 0:
        return 1.0 if line.value == 0 else WIDEST
    return line.value / line.bound
