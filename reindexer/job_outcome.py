"""What a job came to, read from what its child left behind."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from reindexer.build_job import KILLED_BY, ended_by
from reindexer.data_directory import DataDirectory
from reindexer.job_process import JobProcess
from reindexer.jobs import Job, JobQueue
from search.errors import GenerationNotFound

log = logging.getLogger(__name__)

EXIT_USAGE = 2  # of every verb
EXIT_REFUSED = 3
EXIT_LEASE = 4
NOTABLE_LOSS = 0.01  # of nDCG@10 since the evaluation before; as much as the gate lets pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What is to become of a job."""

    # later: another process was in the way. retry: it failed and may succeed. drained: stopped by
    # us. cancelled: stopped by a person.
    state: Literal["done", "failed", "cancelled", "later", "retry", "drained"]
    reason: str = ""
    result: Mapping[str, Any] | None = None
    is_ahead: bool = False  # further than when it began
    was_killed: bool = False  # its process, or the one that builds, by a signal

    def got_ahead(self) -> Outcome:
        return replace(self, is_ahead=True)


def outcome_of(data: DataDirectory, job: Job, child: JobProcess) -> Outcome:
    """Of a job whose verb says it all: exit code, and a JSON document when it went well."""
    code, answer = child.exit_code, child.answer()
    if code == 0 or (code is None and answer is not None):
        result = dict(answer or {})
        if job.kind == "evaluate":
            result = _recorded_evaluation(data, job, result)
        return Outcome(state="done", result=result)
    if code == EXIT_LEASE:
        return Outcome(state="later", reason=child.last_line())
    if code in (EXIT_USAGE, EXIT_REFUSED):
        return Outcome(state="failed", reason=child.last_line(), result=answer)
    return _retry(child)


def build_outcome(data: DataDirectory, job: Job, child: JobProcess) -> Outcome:
    """Of a build: catalog and journal know, also when another worker had started the child."""
    code, answer = child.exit_code, child.answer()
    if code == 0 or (code is None and answer is not None):
        return Outcome(state="done", result=answer)
    if code == EXIT_LEASE:
        return Outcome(state="later", reason=child.last_line())
    if code in (EXIT_USAGE, EXIT_REFUSED):
        return Outcome(state="failed", reason=child.last_line())
    if job.generation is not None:
        try:
            build = data.journal.build_of(job.generation)
        except GenerationNotFound:
            return _retry(child)
        state = data.catalog.get(job.generation).state
        if state == "live" or (state in ("ready", "standby") and job.kind == "build"):
            return Outcome(state="done")
        if state == "failed":  # refused by the gate, or cancelled
            stopped = build.state == "cancelled"
            reason = "a person cancelled it" if stopped else (build.reason or _why(child))
            return Outcome(state="cancelled" if stopped else "failed", reason=reason)
        resumed_as = _newer_job(data, job) if build.state == "queued" else None
        if resumed_as is not None:
            reason = f"the build was paused, and resumed meanwhile as job {resumed_as.job_id}"
            return Outcome(state="cancelled", reason=reason)
        if build.state == "paused":
            return Outcome(state="cancelled", reason="the build was paused; resume goes on")
        if build.state == "failed" and build.reason:
            was_killed = build.reason.startswith(KILLED_BY)
            return Outcome(state="retry", reason=build.reason, was_killed=was_killed)
    return _retry(child)


def _newer_job(data: DataDirectory, job: Job) -> Job | None:
    """That is to go on with the same build."""
    assert job.generation is not None
    last = JobQueue(data.database).last_of(job.generation)
    return last if last is not None and last.job_id > job.job_id else None


def _retry(child: JobProcess) -> Outcome:
    code = child.exit_code
    was_killed = code is None or code < 0  # None: its worker was killed, and then itself
    return Outcome(state="retry", reason=_why(child), was_killed=was_killed)


def _why(child: JobProcess) -> str:
    code = child.exit_code
    if code is not None and code < 0:
        return ended_by(-code)
    return child.last_line() or "its process is gone"


def _recorded_evaluation(data: DataDirectory, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """Leave the metrics as an event, beside those of the evaluation before: a drop shows."""
    metrics = result.get("metrics", {})
    score = metrics.get("hybrid", {}).get("ndcg@10")
    asked = {"folder": str(job.arguments["folder"]), "split": job.arguments.get("split", "test")}
    before = next(
        (
            event
            for event in data.catalog.events.newest(kind="evaluation")
            if all(event.get(name) == value for name, value in asked.items())
        ),
        None,
    )
    detail = {**asked, "ndcg@10": score, "model": result.get("model"), "metrics": metrics}
    if before is not None and score is not None and before.get("ndcg@10") is not None:
        change = score - before["ndcg@10"]
        detail |= {"ndcg@10_before": before["ndcg@10"], "generation_before": before["generation"]}
        detail |= {"change": round(change, 6), "dropped": change < -NOTABLE_LOSS}
        if detail["dropped"]:
            log.warning(
                "nDCG@10 on %s fell from %.4f to %.4f since the evaluation before",
                asked["folder"],
                before["ndcg@10"],
                score,
            )
    data.catalog.events.record("evaluation", result.get("generation"), detail)
    return {**result, **{name: detail[name] for name in ("change", "dropped") if name in detail}}
