"""The query log as the settings say, with the secret that its hashes are made with."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from reindexer.settings import Settings
from search.database import Database
from search.feedback import FeedbackLog
from search.query_log import LogRules

SECRET_FILE = "feedback.key"
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
