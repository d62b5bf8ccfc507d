"""Doctor: looks at everything an installation stands on and says what to do. Changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from reindexer.data_directory import DataDirectory
from reindexer.errors import ReindexerError
from reindexer.journal import BUILD_LEASE, CUT_OVER_LEASE, SYNC_LEASE
from reindexer.live import RunningService
from reindexer.service_address import SERVICE_FILE, ServiceAddress
from reindexer.settings import Settings
from search.database import SCHEMA_REVISION, Database
from search.errors import (
    CollectionMissing,
    DatabaseError,
    SearchError,
    StoreError,
    StoreLocked,
)
from search.generations import Generation
from search.processes import describe_process
from training.errors import TrainingError

FREE_DISK_BYTES = 2_000_000_000  # less than this is worth a warning
ENGINES = ("torch", "sentence-transformers", "qdrant-edge-py", "qdrant-client", "bm25s")

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "advice": self.advice,
        }


def diagnose(
    settings: Settings, *, on_step: Callable[[str], None] = lambda _step: None
) -> list[Finding]:
    """Everything there is to say about this installation, in the order it builds on itself."""
    on_step("versions and hardware")
    findings = [_versions(), _device(settings), _disk(settings)]
    on_step("database")
    database, is_usable = _database(settings)
    findings.append(database)
    if not is_usable:
        return findings
    data = DataDirectory(settings)
    try:
        on_step("models")
        findings += _models(data)
        on_step("collections")
        findings += _generations(data)
        findings += _foreign_collections(data)
        findings += [_service(data), _leases(data)]
    except (SearchError, ReindexerError, TrainingError, OSError) as error:
        findings.append(
            Finding(name="diagnosis", state="problem", found=f"it could not go on: {error}")
        )
    finally:
        data.close()
    return findings


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
        advice=f"not installed: {', '.join(missing)}; run: pip install reindexer"
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
            advice="set encoder.device to auto or cpu",
        )
    return Finding(
        name="device", state="ok", found=f"{device} ({settings.device}), {cores} CPU cores"
    )


def _disk(settings: Settings) -> Finding:
    place = settings.data_dir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    state: State = "ok"
    advice = ""
    if not writable:
        state, advice = "problem", f"{place} cannot be written to; check its permissions"
    elif free < FREE_DISK_BYTES:
        state, advice = "warning", "a build needs room for a second copy; `reindexer plan MODEL`"
    return Finding(
        name="disk", state=state, found=f"{free / 1e9:,.1f} GB free at {place}", advice=advice
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
    try:
        database = Database(settings.sql_url)
        try:
            revision = database.revision()
        finally:
            database.close()
    except DatabaseError as error:
        return Finding(name="database", state="problem", found=str(error)), False
    if revision != SCHEMA_REVISION:
        newer = revision is not None and revision > SCHEMA_REVISION
        return Finding(
            name="database",
            state="problem" if newer else "warning",
            found=f"schema {revision}, this release has {SCHEMA_REVISION}",
            advice="upgrade reindexer"
            if newer
            else "the next verb that opens it brings it up to date; make a backup before",
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
            yield Finding(name=f"model {name}", state="warning", found=problem)
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
                advice=f"{', '.join(users)} cannot answer without it",
            )
    healthy = len(present)
    yield Finding(name="models", state="ok", found=f"{healthy} registered, {len(needed)} in use")


# -- generations ----------------------------------------------------------------------------------


def _generations(data: DataDirectory) -> Iterator[Finding]:
    try:
        names = set(data.store.names())
    except StoreError as error:
        yield Finding(
            name="store",
            state="problem",
            found=str(error),
            advice="check store.url in `reindexer settings`, and that the server runs",
        )
        return
    yield Finding(
        name="store",
        state="ok",
        found=f"{data.settings.store_kind}, {len(names)} collections",
    )
    service = RunningService.find(data)
    open_there: set[str] = set()
    if service is not None:
        with service:
            try:
                open_there = set(service.info().get("open", ()))
            except ReindexerError as error:
                yield Finding(
                    name="service", state="problem", found=str(error), advice="start it again"
                )
    for generation in data.catalog.all():
        if generation.state not in ("retired", "failed"):
            yield _generation(data, generation, generation.name in open_there)


def _generation(data: DataDirectory, generation: Generation, is_open: bool) -> Finding:
    name = f"generation {generation.name}"
    lag_docs = data.corpus.lag(generation.watermark)
    about = f"{generation.state}, {lag_docs:,} changes behind"
    rebuild = f"build it again: `reindexer upgrade {generation.recipe.model}`"
    if not is_open:
        try:
            data.store.open(
                generation.collection, generation.recipe.fingerprint, wait_s=0.0
            ).close()
        except StoreLocked:
            about += ", open in another process"
        except CollectionMissing as error:
            if generation.state == "building" and not generation.watermark:
                return Finding(name=name, state="ok", found=f"{about}, nothing written yet")
            return Finding(name=name, state="problem", found=str(error), advice=rebuild)
        except (StoreError, SearchError) as error:
            return Finding(name=name, state="problem", found=str(error), advice=rebuild)
    kept_in_step = generation.state in ("live", "standby")
    if kept_in_step and lag_docs > data.settings.max_lag_docs and not is_open:
        return Finding(name=name, state="warning", found=about, advice="run `reindexer sync`")
    return Finding(name=name, state="ok", found=about)


def _foreign_collections(data: DataDirectory) -> Iterator[Finding]:
    """Vectors that no generation owns. On a shared server they may be somebody else's."""
    try:
        names = set(data.store.names())
    except StoreError:
        return  # said before
    pruned = {generation.collection for generation in data.catalog.all({"pruned"})}
    owned = {generation.collection for generation in data.catalog.all()}
    if leftover := sorted(names & pruned):
        yield Finding(
            name="collections",
            state="warning",
            found=f"{', '.join(leftover)}: of generations that are pruned",
            advice="`reindexer prune` finishes what was interrupted",
        )
    if not data.store.shared and (foreign := sorted(names - owned - pruned)):
        yield Finding(
            name="collections",
            state="warning",
            found=f"{', '.join(foreign)}: belong to no generation of this catalog",
            advice="nothing here reads or drops them; move them away if nobody needs them",
        )


# -- processes ------------------------------------------------------------------------------------


def _service(data: DataDirectory) -> Finding:
    address = ServiceAddress.read(data.path)
    if address is not None:
        return Finding(
            name="service",
            state="ok",
            found=f"{describe_process(address.process)} at {address.url}",
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
