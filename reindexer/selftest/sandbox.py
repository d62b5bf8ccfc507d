"""A data directory of the selftest's own, and its removal."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from reindexer.data_directory import DataDirectory
from reindexer.errors import ReindexerError
from reindexer.settings import Settings
from search.database import Database
from search.errors import SearchError

log = logging.getLogger(__name__)

WINDOW = 64  # documents that may be encoded again after a kill
CUT_OVER_TIMEOUT_S = 20.0
PREFIX = ".selftest-"


class SandboxFailed(ReindexerError):
    """The store or database that was named cannot hold a selftest."""


@contextlib.contextmanager
def sandbox(own: Settings | None = None) -> Iterator[Settings]:
    """Settings of a fresh, empty data directory that is gone at the end.

    own: an installation's settings; then its store and database are used, under a name that
    nothing else has, and its disk. Its documents and generations are not looked at. Without it
    everything is embedded, in the system's temporary folder.

    Raises SandboxFailed, StoreError, DatabaseUnavailable.
    """
    name = f"selftest_{secrets.token_hex(4)}"
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_disk_of(own)))
    settings = replace(
        own if own is not None else Settings(),
        data_dir=folder,
        window=WINDOW,
        language="none",
        device="cpu",
        cut_over_timeout_s=CUT_OVER_TIMEOUT_S,
        hold_over_h=24.0,
        store_prefix=f"{own.store_prefix}{name}-" if own is not None else "",
        database_url=None,
        origins={},
    )
    try:
        with contextlib.ExitStack() as stack:
            if own is not None and own.database_url and not own.sql_url.startswith("sqlite"):
                stack.enter_context(_schema(own.database_url, name))
                settings = replace(settings, database_url=_in_schema(own.database_url, name))
            try:
                yield settings
            finally:
                if settings.store_kind != "edge":
                    _empty_store(settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _disk_of(own: Settings | None) -> Path | None:
    """A folder on the installation's disk; None for the system's own choice."""
    if own is None:
        return None
    place = own.data_dir.absolute()
    while not place.is_dir():
        place = place.parent
    return place


@contextlib.contextmanager
def _schema(url: str, name: str) -> Iterator[None]:
    """A PostgreSQL schema for the tables, apart from the installation's."""
    assert re.fullmatch(r"\w+", name)
    database = Database(url)
    try:
        try:
            with database.write() as connection:
                connection.execute(sa.text(f'CREATE SCHEMA "{name}"'))
        except SearchError as error:
            raise SandboxFailed(
                f"the selftest may not make a schema of its own in the database ({error}); grant "
                "CREATE on it to this user, or run without --store own"
            ) from error
        try:
            yield
        finally:
            with database.write() as connection:
                connection.execute(sa.text(f'DROP SCHEMA "{name}" CASCADE'))
    finally:
        database.close()


def _in_schema(url: str, name: str) -> str:
    found = sa.make_url(url)
    options = f"{found.query.get('options', '')} -csearch_path={name}".strip()
    return found.update_query_dict({"options": options}).render_as_string(hide_password=False)


def _empty_store(settings: Settings) -> None:
    """Drop what carries this sandbox's prefix, and nothing else."""
    data = DataDirectory(replace(settings, database_url=None))
    try:
        data.store.clear_alias()
        for name in data.store.names():
            data.store.drop(name)
    except SearchError as error:
        log.warning(
            "the selftest could not clean up after itself (%s); collections whose names begin "
            "with %s are its own",
            error,
            settings.store_prefix,
        )
    finally:
        data.close()
