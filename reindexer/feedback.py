"""The query log as the settings say: opened, written as a file, and forgotten in time."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

import orjson

from reindexer.settings import Settings
from search.database import Database
from search.feedback import FeedbackLog
from search.feedback_reports import click_events, prune_feedback
from search.query_log import LogRules
from training.whole_file import whole_file

SECRET_FILE = "feedback.key"
DAY_S = 86_400
_SECRET_BYTES = 32


def feedback_of(database: Database, settings: Settings) -> FeedbackLog:
    """The log of one serving process."""
    rules = LogRules(
        enabled=settings.feedback_enabled,
        sample=settings.feedback_sample,
        query=settings.feedback_query,
        who=settings.feedback_who,
        secret=_secret(settings.data_dir / SECRET_FILE),
    )
    return FeedbackLog(database, rules)


def _secret(path: Path) -> bytes:
    """Made when it is first needed; whole or not there, whoever is quicker."""
    if not path.exists():
        fresh = path.with_suffix(f".{secrets.token_hex(8)}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    return path.read_bytes()


def forget_old_feedback(database: Database, settings: Settings) -> int:
    """Delete what is older than feedback.retention_days, also when the log is off by now; how
    many rows."""
    return prune_feedback(database, time.time() - settings.feedback_retention_days * DAY_S)


def write_click_log(database: Database, out: Path, *, since: float = 0.0) -> dict[str, int]:
    """The log as JSON Lines that `training.clicks` reads; whole, or not there. since: Unix seconds.

    How many queries, events (documents shown) and clicks were written.
    """
    sessions: set[str] = set()
    events = clicks = 0
    with whole_file(out) as file:
        for event in click_events(database, since=since):
            file.write(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
            sessions.add(event["session"])
            events += 1
            clicks += event["clicked"]
    return {"queries": len(sessions), "events": events, "clicks": clicks}
