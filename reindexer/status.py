"""What is going on: live, standby, builds, serving processes. Read without heavy imports.

`reindexer status` is typed often and by impatient people, so this module reads the few rows it
needs through the plain database driver; SQLAlchemy, torch and the engines stay out of it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from reindexer.settings import Settings
from search.errors import DatabaseUnavailable
from search.processes import process_may_live

SEARCHER_LEASE_S = 5.0  # as in search.serving_processes
RECENT_BUILDS = 5
RECENT_EVENTS = 5
_UNFINISHED = ("building", "catching_up", "verifying")


class _Rows(Protocol):
    def __call__(self, sql: str) -> Sequence[dict[str, Any]]: ...


def read_status(settings: Settings, *, n_builds: int = RECENT_BUILDS) -> dict[str, Any]:
    """The status as `status --json` prints it, with the newest n_builds. Raises
    DatabaseUnavailable."""
    url = settings.sql_url
    if url.startswith("sqlite"):
        path = Path(unquote(url.removeprefix("sqlite:///").partition("?")[0]))
        if not path.exists():
            return _empty(settings)
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10
            )
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"database {path}: {error}") from error
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("BEGIN")
            return _status(
                settings, lambda sql: [dict(row) for row in connection.execute(sql)], n_builds
            )
        except sqlite3.Error as error:
            if str(error).startswith("no such"):
                if not _is_made(connection):
                    return _empty(settings)
                from search.database import other_schema  # brings SQLAlchemy in

                raise DatabaseUnavailable(other_schema(str(path), str(error))) from error
            raise DatabaseUnavailable(
                f"database {path}: {error}; run `reindexer doctor`"
            ) from error
        finally:
            connection.close()
    return _postgres_status(settings, n_builds)


def _is_made(connection: sqlite3.Connection) -> bool:
    """Whether a release has ever made its tables here."""
    with contextlib.suppress(sqlite3.Error):
        return bool(connection.execute("SELECT 1 FROM alembic_version").fetchone())
    return False


def _postgres_status(settings: Settings, n_builds: int) -> dict[str, Any]:
    try:
        import psycopg
        from psycopg.rows import dict_row
    except ImportError as error:
        raise DatabaseUnavailable(
            "PostgreSQL needs the psycopg driver, which is not installed; "
            "run: pip install 'reindexer[postgres]'"
        ) from error

    url = settings.sql_url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        with psycopg.connect(url, row_factory=dict_row, connect_timeout=10) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # one snapshot
            connection.read_only = True
            return _status(settings, lambda sql: list(connection.execute(sql.encode())), n_builds)
    except psycopg.errors.UndefinedTable:
        return _empty(settings)
    except psycopg.errors.UndefinedColumn as error:
        from search.database import other_schema  # brings SQLAlchemy in

        raise DatabaseUnavailable(other_schema("PostgreSQL", f"{error}".splitlines()[0])) from error
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"database: {str(error).strip()}") from error


def _empty(settings: Settings) -> dict[str, Any]:
    return {
        "live": None,
        "standby": None,
        "builds": [],
        "searchers": [],
        "workers": [],
        "jobs": {},
        "switches": {},
        "events": [],
        "corpus": {"documents": 0, "head_seq": 0},
        "data_dir": str(settings.data_dir),
    }


def _status(settings: Settings, rows: _Rows, n_builds: int) -> dict[str, Any]:
    now = time.time()
    head = rows("SELECT seq FROM corpus_head")[0]["seq"]
    documents = _count(rows, head)
    generations = {
        row["name"]: row for row in rows("SELECT * FROM generations WHERE state <> 'pruned'")
    }
    leases = {
        row["name"]: row["expires_at"] > now and process_may_live(row["holder"])
        for row in rows("SELECT * FROM leases ORDER BY name")
    }
    builds = rows(f"SELECT * FROM builds ORDER BY id DESC LIMIT {int(n_builds)}")
    running = _running(rows) if leases.get("build") else None
    return {
        "live": _pointer(rows, generations, "live"),
        "standby": _pointer(rows, generations, "standby"),
        "builds": [
            _build(rows, build, generations[build["generation"]], running)
            for build in builds
            if build["generation"] in generations
        ],
        "searchers": [
            {
                "name": row["name"],
                "address": row["address"],
                "generation": row["generation"],
                "prepared": row["prepared"],
                "problem": row["problem"],
                "seen_at": _iso(row["seen_at"]),
                "queries_per_s": _rounded(row["queries_per_s"]),
                "p50_ms": _rounded(row["p50_ms"]),
                "p99_ms": _rounded(row["p99_ms"]),
            }
            for row in rows("SELECT * FROM searchers ORDER BY name")
            if row["seen_at"] > now - SEARCHER_LEASE_S and process_may_live(row["name"])
        ],
        "jobs": _counts(rows("SELECT state AS name, count(*) AS n FROM jobs GROUP BY state")),
        "switches": _counts(
            rows(
                "SELECT kind AS name, count(*) AS n FROM events "
                "WHERE kind IN ('cut_over', 'rollback') GROUP BY kind"
            )
        ),
        "events": [
            {
                "at": _iso(row["at"]),
                "kind": row["kind"],
                "generation": row["generation"],
                "who": row["who"],
            }
            for row in rows(f"SELECT * FROM events ORDER BY id DESC LIMIT {RECENT_EVENTS}")
        ],
        "workers": [name.removeprefix("worker/") for name in leases if _is_worker(name, leases)],
        "corpus": {"documents": documents, "head_seq": head},
        "data_dir": str(settings.data_dir),
    }


def _is_worker(lease: str, leases: dict[str, bool]) -> bool:
    """A lease that a process which does queued work holds."""
    return lease.startswith("worker/") and leases[lease]


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {row["name"]: int(row["n"]) for row in rows}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _pointer(
    rows: _Rows, generations: dict[str, dict[str, Any]], state: str
) -> dict[str, Any] | None:
    row = next((row for row in generations.values() if row["state"] == state), None)
    if row is None:
        return None
    recipe = json.loads(row["recipe"])
    return {
        "generation": row["name"],
        "model": recipe["model"],
        "fingerprint": recipe["fingerprint"],
        "documents": _count(rows, row["watermark"]),
        "watermark": row["watermark"],
        "lag_docs": _lag(rows, row["watermark"]),
        "lag_s": _lag_s(rows, row["watermark"]),
        "since": _iso(row["state_at"]),
    }


def _running(rows: _Rows) -> int | None:
    """The build that the holder of the lease is at: the last one that was touched. Others that
    say `running` lost their process."""
    found = rows("SELECT id FROM builds WHERE state = 'running' ORDER BY updated_at DESC LIMIT 1")
    return int(found[0]["id"]) if found else None


def _build(
    rows: _Rows, build: dict[str, Any], generation: dict[str, Any], running: int | None
) -> dict[str, Any]:
    state, reason = build["state"], build["reason"]
    if state == "running" and generation["state"] not in _UNFINISHED:
        state = "done"
    if state == "running" and build["id"] != running:
        state, reason = "stopped", "its process is gone; go on with `reindexer resume`"
    is_running = state == "running"
    is_encoding = is_running and generation["state"] == "building"
    left = max(0, build["docs_total"] - build["docs_done"])
    rate = build["docs_per_s"]
    return {
        "build_id": build["id"],
        "generation": build["generation"],
        "model": json.loads(generation["recipe"])["model"],
        "state": state,
        "step": generation["state"],
        "wanted": build["wanted"],
        "docs_done": build["docs_done"],
        "docs_total": build["docs_total"],
        "docs_per_s": round(rate, 1),
        "eta_s": round(left / rate, 1) if is_encoding and rate > 0 else None,
        "lag_docs": _lag(rows, generation["watermark"]),
        "passages": build["passages"],
        "encoded": build["encoded"],
        "reused": build["reused"],
        "tokens": build["tokens"] or 0,
        "batches": build["batches"] or 0,
        "stages": json.loads(build["stages"] or "{}"),
        "pace": build["pace"] if is_running else None,
        "pace_reason": build["pace_reason"] if is_running else None,
        "retries": build["retries"],
        "reason": reason,
        "started_at": _iso(build["started_at"]),
        "updated_at": _iso(build["updated_at"]),
    }


def _count(rows: _Rows, watermark: int) -> int:
    """Documents up to a seq, from the index alone."""
    sql = f"SELECT count(*) AS n FROM documents WHERE seq <= {int(watermark)} AND NOT deleted"
    return int(rows(sql)[0]["n"])


def _lag(rows: _Rows, watermark: int) -> int:
    sql = f"SELECT count(*) AS n FROM documents WHERE seq > {int(watermark)}"
    return int(rows(sql)[0]["n"])


def _lag_s(rows: _Rows, watermark: int) -> float:
    """Age of the oldest change that is still to be applied."""
    sql = f"SELECT changed_at FROM documents WHERE seq > {int(watermark)} ORDER BY seq LIMIT 1"
    found = rows(sql)
    if not found or found[0]["changed_at"] is None:
        return 0.0
    return round(max(0.0, time.time() - float(found[0]["changed_at"])), 1)


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
