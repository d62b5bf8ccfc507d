"""The doctor on what is really full, gone or too old: a disk of its own, a server over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installed import Installed
from tests.qdrant_server import QdrantServer
from tests.small_disk import SmallDisk, small_disk
from tests.word_directory import WordDirectory

VERB_S = 120.0


def doctor(folder: Path) -> dict[str, dict[str, Any]]:
    """The verb in a process of its own: what it finds wrong, by name."""
    done = subprocess.run(
        [sys.executable, "-m", "reindexer", "--data-dir", str(folder), "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=VERB_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    findings = json.loads(done.stdout)["findings"]
    return {found["name"]: found for found in findings if found["state"] != "ok"}


# -- a disk that is full to the last byte ----------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


def test_a_full_disk_is_found_on_a_full_disk(disk: SmallDisk) -> None:
    with WordDirectory(disk.folder / "data") as directory:
        Installed(directory)
    disk.fill()

    problems = doctor(disk.folder / "data")

    assert problems["disk"]["found"].startswith("0 B free at ")
    assert "a file could not be written: No space left on device" in problems["disk"]["found"]
    assert "`reindexer prune`" in problems["disk"]["advice"]
    assert all("`" in problem["advice"] for problem in problems.values()), problems
    disk.make_room()
    assert not {"database", "generation docs@2"} & set(doctor(disk.folder / "data"))


# -- a server --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as started:
        yield started


@pytest.fixture
def installed(server: QdrantServer, tmp_path: Path) -> Iterator[Installed]:
    server.clear()
    settings = {"store_kind": "qdrant", "store_url": server.url, "store_patience_s": 0.0}
    with WordDirectory(tmp_path / "data", **settings) as directory:
        yield Installed(directory)


def test_a_stale_alias_of_a_server_is_found_and_moved(installed: Installed) -> None:
    assert set(installed.problems()) <= {"alias"}
    installed.directory.store.set_alias("docs-1")

    found = installed.problems()["alias"]
    done = installed.repair()

    assert found.found == "it points at docs-1, live is docs@2 in docs-2"
    assert done == {"alias": "the alias points at docs-2"}
    assert installed.problems() == {}


def test_a_server_of_an_old_release_is_found(installed: Installed, server: QdrantServer) -> None:
    server.pretend("1.15.9")

    found = installed.problems()["store"]

    assert "is version 1.15.9; 1.16 or newer is needed" in found.found
    assert "`reindexer settings`" in found.advice


def test_a_server_that_is_gone_is_found(installed: Installed, server: QdrantServer) -> None:
    server.refuse(5.0)

    found = installed.problems()["store"]

    assert server.url in found.found
    assert "`reindexer settings`" in found.advice
