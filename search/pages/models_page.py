"""Model versions: what they score, what they came from, and what short vectors cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from search.pages.plots import interval_bar, line_plot
from search.pages.rendering import SAFE_HEADERS, page
from search.pages.visitors import Visitor, visitor_of
from search.service import Service
from search.threads import Threads

# A report is a page of its own with its style in it. Whatever it may come to hold, it runs nothing,
# sends nothing and belongs to no origin.
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PRIMARY = "ndcg@10"
_LINEAGE = (
    ("base", "trained from"),
    ("base_from", "which came from"),
    ("pairs", "training pairs"),
    ("pairs_sha256", "pairs SHA-256"),
    ("gate", "gate"),
    ("gate_reason", "because"),
    ("seed", "seed"),
    ("code_version", "code version"),
    ("settings", "settings"),
)


class ModelsPage:
    def __init__(self, service: Service, threads: Threads) -> None:
        self._service = service
        self._threads = threads

    async def show(self, request: Request) -> Response:
        visitor = await visitor_of(self._service, request)
        return await self._threads.run(self._show, visitor)

    async def show_one(self, request: Request, name: str) -> Response:
        visitor = await visitor_of(self._service, request)
        return await self._threads.run(self._show_one, visitor, name)

    async def report(self, request: Request, name: str) -> Response:
        """The report of a training, with a policy that is stricter than that of the pages."""
        await visitor_of(self._service, request)
        found = await self._threads.run(self._service.operations.training_report, name)
        if found is None:
            raise HTTPException(404, f"{name} has no training report; it was not trained here")
        headers = {**SAFE_HEADERS, "Content-Security-Policy": REPORT_POLICY}
        return Response(found, headers=headers, media_type="text/html")

    def _show(self, visitor: Visitor) -> Response:
        operations = self._service.operations
        rows = []
        for listed in operations.models():
            is_damaged = listed.get("problem") is not None
            model = listed if is_damaged else {**operations.model(listed["model"]), **listed}
            rows.append({"is_damaged": is_damaged, **model, "scores": _scores(model)})
        live = self._service.manager.current
        return page(
            "models.html",
            visitor,
            at="models",
            models=rows,
            live_model=live.generation.recipe.model if live is not None else None,
        )

    def _show_one(self, visitor: Visitor, name: str) -> Response:
        model = self._service.operations.model(name)
        metrics: Mapping[str, Any] = model.get("metrics") or {}
        lineage: Mapping[str, Any] = model.get("lineage") or {}
        live = self._service.manager.current
        return page(
            "model.html",
            visitor,
            at="models",
            model=model,
            metrics=metric_rows(metrics),
            curve=_curve(metrics),
            dims=_dims(metrics),
            lineage=[
                (label, f"{lineage[key]:,}" if key == "pairs" else lineage[key])
                for key, label in _LINEAGE
                if lineage.get(key)
            ],
            command_line=lineage.get("command", ""),
            has_report=bool(lineage.get("report")),
            is_live=live is not None and live.generation.recipe.model == model["model"],
        )


def metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Base, tuned and their difference with its interval, by metric."""
    base, tuned = metrics.get("base") or {}, metrics.get("tuned") or {}
    differences: Mapping[str, Any] = metrics.get("difference") or {}
    return with_intervals(
        [
            {
                "name": name,
                "before": base.get(name),
                "after": value,
                "difference": differences.get(name),
            }
            for name, value in tuned.items()
            if isinstance(value, int | float)
        ]
    )


def with_intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a drawing of each difference, all on one axis."""
    found = [row["difference"] for row in rows if row["difference"] is not None]
    reach = max((abs(item[end]) for item in found for end in ("low", "high")), default=0.0)
    for row in rows:
        item = row["difference"]
        row["drawing"] = (
            interval_bar(item["low"], item["mean"], item["high"], reach) if item is not None else ""
        )
    return rows


def _scores(model: Mapping[str, Any]) -> dict[str, Any] | None:
    metrics: Mapping[str, Any] = model.get("metrics") or {}
    rows = {row["name"]: row for row in metric_rows(metrics)}
    return rows.get(_PRIMARY)


def _dims(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The primary metric by dimension, the full one first; [] when only whole vectors were
    scored."""
    dims: Mapping[str, Any] = metrics.get("dims") or {}
    if len(dims) < 2:
        return []
    rows = [{"dim": int(dim), **values} for dim, values in dims.items()]
    rows.sort(key=lambda row: -row["dim"])
    full = rows[0]["tuned"] or 1.0
    return [{**row, "kept": row["tuned"] / full} for row in rows]


def _curve(metrics: Mapping[str, Any]) -> Any:
    rows = sorted(_dims(metrics), key=lambda row: row["dim"])
    # Evenly spaced: each dimension is twice the one before, or nearly so.
    return line_plot(
        [
            ("tuned", [(place, row["tuned"]) for place, row in enumerate(rows)]),
            ("base", [(place, row["base"]) for place, row in enumerate(rows)]),
        ],
        title="nDCG@10 by dimension",
        about="; ".join(f"{row['dim']}: {row['tuned']:.3f}" for row in rows),
        x_label="dimensions kept",
        x_ticks=[(place, str(row["dim"])) for place, row in enumerate(rows)],
    )
