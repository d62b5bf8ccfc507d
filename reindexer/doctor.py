"""Doctor: looks at everything an installation stands on and says what to do. Changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
from collections.abc import Callable, Iterator, Sequence

from reindexer.data_directory import DataDirectory
from reindexer.doctor_clock import look_at_clock
from reindexer.doctor_collections import look_at_store
from reindexer.doctor_files import look_at_disk, look_at_lexical
from reindexer.errors import ReindexerError
from reindexer.findings import Finding
from reindexer.journal import BUILD_LEASE, CUT_OVER_LEASE, SYNC_LEASE
from reindexer.service_address import SERVICE_FILE, ServiceAddress
from reindexer.settings import Settings
from search.database import SCHEMA_REVISION, Database
from search.errors import DatabaseError, SearchError
from search.processes import describe_process
from training.errors import TrainingError

MIN_SQLITE = (3, 35)  # RETURNING
DATABASE_ADVICE = (
    "`reindexer settings` shows which one it is; once it answers, run `reindexer doctor` again. "
    "Where it is damaged: `reindexer --data-dir NEW restore PLACE`"
)
ENGINES = ("torch", "sentence-transformers", "qdrant-edge-py", "qdrant-client", "bm25s")


def diagnose(
    settings: Settings,
    *,
    deep: bool = False,
    on_step: Callable[[str], None] = lambda _step: None,
) -> list[Finding]:
    """Everything there is to say about this installation, in the order it builds on itself.

    deep: look through any number of vectors, and encode a sample of them again.
    """
    on_step("versions and hardware")
    findings = [_versions(), _device(settings), look_at_disk(settings)]
    on_step("database")
    database, is_usable = _database(settings)
    findings.append(database)
    if not is_usable:
        return findings
    data = DataDirectory(settings)
    try:
        findings.append(look_at_clock(data))
        on_step("models")
        findings += _models(data)
        on_step("collections")
        findings += look_at_store(data, deep=deep, on_step=on_step)
        on_step("lexical indexes")
        findings += look_at_lexical(data)
        findings += [_service(data), _leases(data)]
    except (SearchError, ReindexerError, TrainingError, OSError) as error:
        findings.append(
            Finding(
                name="diagnosis",
                state="problem",
                found=f"it could not go on: {error}",
                advice="put that right, then run `reindexer doctor` again: what comes after it has "
                "not been looked at",
            )
        )
    finally:
        data.close()
    return findings


def repair(settings: Settings, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Put right what can be put right without a loss; (name, what was done) of each.

    A running service may keep one of them from it, which is then said.
    """
    done: list[tuple[str, str]] = []
    with DataDirectory(settings) as data:
        for finding in findings:
            if finding.fix is None:
                continue
            try:
                done.append((finding.name, finding.fix(data)))
            except (SearchError, ReindexerError, OSError) as error:
                done.append((finding.name, f"not done: {error}"))
    return done


# -- the machine ----------------------------------------------------------------------------------


def _versions() -> Finding:
    parts = [f"Python {platform.python_version()}"]
    missing = []
    for package in ENGINES:
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    return Finding(
        name="versions",
        state="problem" if missing else "ok",
        found=", ".join(parts),
        advice=f"not installed: {', '.join(missing)}; run `pip install reindexer`"
        if missing
        else "",
    )


def _device(settings: Settings) -> Finding:
    from training.device import resolve_device  # brings torch in

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        device = str(resolve_device(settings.device))
    except TrainingError as error:
        return Finding(
            name="device",
            state="problem",
            found=str(error),
            advice="set encoder.device to auto or cpu; `reindexer settings` shows where it is set",
        )
    return Finding(
        name="device", state="ok", found=f"{device} ({settings.device}), {cores} CPU cores"
    )


# -- the database ---------------------------------------------------------------------------------


def _database(settings: Settings) -> tuple[Finding, bool]:
    """The finding, and whether the data directory can be opened without changing it."""
    path = settings.data_dir / "reindexer.db"
    if settings.database_url is None and not path.exists():
        return Finding(
            name="database",
            state="ok",
            found=f"nothing in {settings.data_dir} yet",
            advice="begin with `reindexer ingest SOURCE` or `reindexer demo`",
        ), False
    if settings.sql_url.startswith("sqlite") and sqlite3.sqlite_version_info < MIN_SQLITE:
        return Finding(
            name="database",
            state="problem",
            found=f"SQLite {sqlite3.sqlite_version}, {'.'.join(map(str, MIN_SQLITE))} is needed",
            advice="run it with a Python that brings a newer SQLite, or use a PostgreSQL: "
            "`reindexer settings` shows where database.url is set",
        ), False
    try:
        database = Database(settings.sql_url)
        try:
            revision = database.revision()
        finally:
            database.close()
    except DatabaseError as error:
        return Finding(
            name="database", state="problem", found=str(error), advice=DATABASE_ADVICE
        ), False
    if revision != SCHEMA_REVISION:
        newer = revision is not None and revision > SCHEMA_REVISION
        return Finding(
            name="database",
            state="problem" if newer else "warning",
            found=f"schema {revision}, this release has {SCHEMA_REVISION}",
            advice="run `pip install --upgrade reindexer`"
            if newer
            else "the next verb that opens it, such as `reindexer status`, brings it up to date; "
            "copy it before",
        ), False
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    return Finding(name="database", state="ok", found=f"{kind}, schema {revision}"), True


# -- models ---------------------------------------------------------------------------------------


def _models(data: DataDirectory) -> Iterator[Finding]:
    needed: dict[str, list[str]] = {}
    for generation in data.catalog.all({"live", "standby", "ready", "building", "catching_up"}):
        needed.setdefault(generation.recipe.model, []).append(generation.name)
    present = {str(version): version for version in data.registry.list()}
    for name, problem in data.registry.damaged().items():
        present.pop(name, None)
        if name not in needed:
            yield Finding(
                name=f"model {name}",
                state="warning",
                found=problem,
                advice=f"no generation needs it: `reindexer models remove {name}`",
            )
    for name, users in needed.items():
        version = present.get(name)
        try:
            if version is None:
                data.registry.resolve(name)
            else:
                version.verify()
        except TrainingError as error:
            yield Finding(
                name=f"model {name}",
                state="problem",
                found=f"{error}",
                advice=f"{', '.join(users)} cannot answer without it. Bring its files back to "
                f"{data.registry.root / name} and run `reindexer models verify {name}`; where they "
                "are lost, `reindexer upgrade ANOTHER`",
            )
    healthy = len(present)
    yield Finding(name="models", state="ok", found=f"{healthy} registered, {len(needed)} in use")


# -- processes ------------------------------------------------------------------------------------


def _service(data: DataDirectory) -> Finding:
    address = ServiceAddress.read(data.path)
    if address is not None:
        return Finding(
            name="service",
            state="ok",
            found=f"{describe_process(address.process)} at {address.url}",
        )
    elsewhere = ServiceAddress.elsewhere(data.path)
    if elsewhere is not None:
        seen = {process.name for process in data.catalog.processes.seen()}
        lives = "answers there" if elsewhere in seen else "is gone"
        return Finding(
            name="service",
            state="ok",
            found=f"none runs on this machine; {describe_process(elsewhere)} {lives}",
        )
    if (data.path / SERVICE_FILE).exists():
        return Finding(
            name="service",
            state="warning",
            found=f"{SERVICE_FILE} was left by a process that is gone",
            advice="harmless: the other verbs see that, and the next `reindexer serve` replaces it",
        )
    return Finding(name="service", state="ok", found="none runs")


def _leases(data: DataDirectory) -> Finding:
    held: list[str] = []
    for name in (BUILD_LEASE, SYNC_LEASE, CUT_OVER_LEASE):
        holder = data.journal.holder(name)
        if holder is not None:
            held.append(f"{name} by {describe_process(holder)}")
    return Finding(name="leases", state="ok", found="; ".join(held) or "none held")
