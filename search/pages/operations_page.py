"""What is going on, and the few things that a person may do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from search.errors import InvalidOperation
from search.pages.models_page import with_intervals
from search.pages.plots import line_plot
from search.pages.rendering import link, page
from search.pages.throughput import ThroughputLog
from search.pages.visitors import Visitor, form_of, visitor_of
from search.service import Service
from search.threads import Threads

EVENTS_SHOWN = 20
JOBS_SHOWN = 10
REPORTS_SHOWN = 4
Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """Something to be confirmed."""

    name: str
    title: str  # with {subject}
    explained: str
    button: str
    done: str
    is_grave: bool = False  # what users see changes, or work is thrown away


ACTIONS: Mapping[str, Action] = {
    action.name: action
    for action in (
        Action(
            name="cut-over",
            title="Cut over to {subject}?",
            explained="Every serving process prepares {subject} first; then all of them switch at "
            "once. What is live now becomes standby, is kept in step, and you can roll back.",
            button="Cut over to {subject}",
            done="{subject} is live.",
            is_grave=True,
        ),
        Action(
            name="rollback",
            title="Roll back to {subject}?",
            explained="{subject} answers again. Nothing that was written since the cut-over is "
            "lost: the standby generation was kept in step.",
            button="Roll back to {subject}",
            done="Rolled back: {subject} is live again.",
            is_grave=True,
        ),
        Action(
            name="pause",
            title="Pause build {subject}?",
            explained="It stops at the next checkpoint and keeps what it has done.",
            button="Pause the build",
            done="Build {subject} stops at its next checkpoint.",
        ),
        Action(
            name="resume",
            title="Resume build {subject}?",
            explained="A worker goes on from the checkpoint.",
            button="Resume the build",
            done="Build {subject} waits for a worker to go on with it.",
        ),
        Action(
            name="cancel",
            title="Cancel build {subject}?",
            explained="The build is given up and cannot be resumed. `reindexer prune` then drops "
            "what it has made.",
            button="Cancel the build",
            done="Build {subject} is given up.",
            is_grave=True,
        ),
    )
}


class OperationsPage:
    def __init__(self, service: Service, threads: Threads) -> None:
        self._service = service
        self._threads = threads
        self._throughput = ThroughputLog()

    async def show(self, request: Request) -> Response:
        visitor = await visitor_of(self._service, request)
        params = request.query_params
        notice = _notice(params.get("done", ""), params.get("subject", ""))
        return await self._threads.run(self._show, visitor, notice)

    async def confirm(self, request: Request) -> Response:
        """The question; in a dialog where there is JavaScript, a page of its own elsewhere."""
        visitor = await self._operator(request)
        params = request.query_params
        action, subject = _action(params.get("action", "")), params.get("subject", "")
        return await self._threads.run(self._confirm, visitor, action, subject)

    async def do(self, request: Request) -> Response:
        """What was confirmed."""
        form = await form_of(request)
        visitor = await self._operator(request)
        action, subject = _action(form.get("action", "")), form.get("subject", "")
        override = form.get("override", "").strip() or None
        await self._threads.run(self._do, action.name, subject, override, visitor.who)
        return RedirectResponse(link("/operations", done=action.name, subject=subject), 303)

    async def start(self, request: Request) -> Response:
        """Ask for a build."""
        form = await form_of(request)
        visitor = await self._operator(request)
        build = await self._threads.run(
            self._service.operations.start_build,
            form.get("model", ""),
            cut_over=form.get("cut_over") == "yes",
            evaluation=form.get("evaluation", "").strip() or None,
            split=form.get("split", "").strip() or "test",
            who=visitor.who,
        )
        target = link("/operations", done="start", subject=build["generation"])
        return RedirectResponse(target, 303)

    async def _operator(self, request: Request) -> Visitor:
        who = await self._service.access.authenticate(request, "operate")
        request.state.who = who
        return Visitor(who=who, may_operate=True, is_signed_in=self._service.access.required)

    # -- in threads ------------------------------------------------------------------------------

    def _show(self, visitor: Visitor, notice: str) -> Response:
        operations = self._service.operations
        status = operations.status()
        self._throughput.see(status["builds"])
        generations = operations.generations()
        events = status["events"]
        last_event = operations.last_event()
        if visitor.may_operate:
            found = operations.events(max(0, last_event - EVENTS_SHOWN), EVENTS_SHOWN)
            events = list(reversed(found))
        return page(
            "operations.html",
            visitor,
            at="operations",
            notice=notice,
            status=status,
            builds=[
                {
                    **build,
                    "plot": self._plot(build),
                    "actions": _actions_on(build),
                    "share": build["docs_done"] / build["docs_total"] if build["docs_total"] else 0,
                }
                for build in status["builds"]
            ],
            generations=[{**item, "action": _action_on(item)} for item in reversed(generations)],
            reports=self._reports(generations),
            models=[item["model"] for item in operations.models() if not item.get("problem")],
            schedules=operations.schedules(),
            jobs=operations.jobs(JOBS_SHOWN),
            events=events,
            last_event=last_event,
        )

    def _reports(self, generations: Sequence[Json]) -> list[dict[str, Any]]:
        """What the gate said of the newest generations, newest first."""
        names = [
            item["generation"]
            for item in reversed(generations)
            if item["state"] not in ("building", "catching_up", "pruned")
        ]
        reports = []
        for name in names[:REPORTS_SHOWN]:
            shown = self._service.operations.generation(name)
            verified: Json | None = shown["verified"]
            if verified is None:
                continue
            reports.append(
                {
                    "generation": name,
                    "state": shown["state"],
                    "passed": bool(verified.get("passed")),
                    "checks": verified.get("checks") or [],
                    "metrics": _gate_rows(verified.get("metrics") or {}),
                    "votes": shown["votes"],
                }
            )
        return reports

    def _plot(self, build: Json) -> Markup:
        rates = self._throughput.rates(build["build_id"])
        if not any(rate for _, rate in rates):
            return Markup("")
        span = -rates[0][0]
        since = f"{span:.0f} s" if span < 100 else f"{span / 60:.0f} min"
        is_running = build["state"] == "running"
        return line_plot(
            [("documents a second", rates)],
            title="Throughput",
            about=f"{rates[-1][1]:,.0f} documents a second {'now' if is_running else 'at last'}",
            x_label="documents a second",
            x_ticks=(
                [(rates[0][0], f"{since} ago"), (0.0, "now")]
                if is_running
                else [(rates[0][0], f"{since} before"), (0.0, "at last")]
            ),
            from_zero=True,
        )

    def _confirm(self, visitor: Visitor, action: Action, subject: str) -> Response:
        status = self._service.operations.status()
        may_override = False
        if action.name == "cut-over":
            shown = self._service.operations.generation(subject)
            verified = shown["verified"] or {}
            may_override = shown["state"] == "failed" or not verified.get("passed")
        elif action.name != "rollback":
            self._service.operations.build(_build_id(subject))
        return page(
            "confirm.html",
            visitor,
            at="operations",
            action=action,
            subject=subject,
            live=(status["live"] or {}).get("generation"),
            may_override=may_override,
        )

    def _do(self, name: str, subject: str, override: str | None, who: str) -> None:
        operations = self._service.operations
        if name == "cut-over":
            operations.cut_over(subject, override=override, who=who)
        elif name == "rollback":
            standby = operations.status()["standby"]
            if standby is not None and standby["generation"] != subject:
                raise InvalidOperation(
                    f"{standby['generation']} is standby now, not {subject!r}; somebody switched "
                    "meanwhile. Look at the operations page again"
                )
            operations.rollback(who=who)
        else:
            work = {
                "pause": operations.pause,
                "resume": operations.resume,
                "cancel": operations.cancel,
            }[name]
            work(_build_id(subject), who=who)


def _action(name: str) -> Action:
    if name not in ACTIONS:
        raise InvalidOperation(f"{name[:50]!r} is nothing that can be done here")
    return ACTIONS[name]


def _build_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidOperation(f"{text[:50]!r} is not the number of a build")
    return int(text)


def _notice(done: str, subject: str) -> str:
    if done == "start":
        return f"{subject} waits for a worker to build it."
    return ACTIONS[done].done.format(subject=subject) if done in ACTIONS else ""


def _actions_on(build: Json) -> list[tuple[Action, str]]:
    """What may be asked of a build, with its number."""
    if build["wanted"]:
        names: tuple[str, ...] = ()
    else:
        names = {
            "running": ("pause", "cancel"),
            "queued": ("pause", "cancel"),
            "paused": ("resume", "cancel"),
            "stopped": ("resume", "cancel"),
            "failed": ("resume", "cancel"),
        }.get(build["state"], ())
    return [(ACTIONS[name], str(build["build_id"])) for name in names]


def _action_on(generation: Json) -> Action | None:
    state = generation["state"]
    if state == "standby":
        return ACTIONS["rollback"]
    return ACTIONS["cut-over"] if state in ("ready", "failed") else None


def _gate_rows(metrics: Json) -> list[dict[str, Any]]:
    """Live against candidate, by metric, as `verify` left them."""
    candidate, live = metrics.get("candidate") or {}, metrics.get("live") or {}
    differences: Json = metrics.get("difference") or {}
    return with_intervals(
        [
            {
                "name": name,
                "before": live.get(name),
                "after": value,
                "difference": differences.get(name),
            }
            for name, value in candidate.items()
        ]
    )
