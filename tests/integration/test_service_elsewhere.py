"""A data directory that lies on a volume of several machines: what a service on another one wrote
there is not asked, nor does it stand in the way once that service is gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from reindexer.cli_documents import _sync_here
from reindexer.compaction import wear
from reindexer.doctor import diagnose
from reindexer.errors import LeaseHeld
from reindexer.journal import SYNC_LEASE
from reindexer.live import open_live
from reindexer.restore import _alone
from reindexer.running_service import RunningService
from reindexer.service import ReindexerService
from reindexer.service_address import SERVICE_FILE, ServiceAddress
from search.dense_edge import EdgeStore
from tests.word_directory import WordDirectory

ELSEWHERE = "serve-1/4026531836:1:77"


@pytest.fixture
def on_a_volume(directory: WordDirectory, monkeypatch: pytest.MonkeyPatch) -> WordDirectory:
    """With a live generation, and the file of a service in another container."""
    monkeypatch.setattr("search.serving_processes.SEARCHER_LEASE_S", 600.0)  # one heartbeat will do
    directory.put_many(f"d{number}" for number in range(5))
    directory.go_live(directory.build("word@1"))
    written = ServiceAddress(url="http://127.0.0.1:9", token="t", process=ELSEWHERE)
    written.write(directory.path)
    return directory


@pytest.fixture
def shared(on_a_volume: WordDirectory, monkeypatch: pytest.MonkeyPatch) -> WordDirectory:
    """Likewise, with collections that any process may open."""
    monkeypatch.setattr(EdgeStore, "shared", True)
    return on_a_volume


@pytest.fixture
def owned(on_a_volume: WordDirectory, monkeypatch: pytest.MonkeyPatch) -> Iterator[WordDirectory]:
    """Embedded, and the service lives: it holds the lease and was heard of just now."""
    _heard_of(on_a_volume)
    monkeypatch.setattr("reindexer.journal.process_name", lambda: ELSEWHERE)
    with on_a_volume.journal.lease(SYNC_LEASE):
        yield on_a_volume


def _heard_of(directory: WordDirectory) -> None:
    directory.catalog.processes.heartbeat(
        ELSEWHERE, address="http://serve-1:8321", generation=None, prepared=None, problem=None
    )


def test_with_a_shared_store_a_verb_opens_the_generation_itself(shared: WordDirectory) -> None:
    _heard_of(shared)

    assert ServiceAddress.read(shared.path) is None
    assert RunningService.find(shared) is None
    with open_live(shared) as answers:
        assert answers.runs(["d1"], mode="hybrid", depth=3)["generation"] == "docs@1"


def test_with_a_shared_store_sync_waits_for_whoever_replays(shared: WordDirectory) -> None:
    head = shared.put("late", "giraffe")
    with shared.journal.lease(SYNC_LEASE) as lease:

        def replay() -> None:
            time.sleep(0.3)
            shared.catalog.advance("docs@1", head, lease=SYNC_LEASE, token=lease.token)

        thread = threading.Thread(target=replay)
        thread.start()
        report = _sync_here(shared, quiet=True)
        thread.join()

    assert report["generations"] == {"docs@1": {"watermark": head}}
    assert report["seconds"] >= 0.2


def test_an_embedded_store_that_is_owned_on_another_machine_is_refused_at_once(
    owned: WordDirectory,
) -> None:
    began = time.monotonic()
    for verb in (lambda: RunningService.find(owned), lambda: wear(owned)):
        with pytest.raises(LeaseHeld, match=r"process 1 on serve-1; run the verb there"):
            verb()
    assert time.monotonic() - began < 5


def test_an_embedded_store_is_free_again_once_the_service_elsewhere_is_gone(
    on_a_volume: WordDirectory,
) -> None:
    with open_live(on_a_volume) as answers:
        assert answers.runs(["d1"], mode="hybrid", depth=3)["generation"] == "docs@1"


def test_a_restore_is_refused_while_a_service_elsewhere_is_heard_of_and_no_longer(
    on_a_volume: WordDirectory,
) -> None:
    with _alone(on_a_volume):
        pass
    _heard_of(on_a_volume)
    with pytest.raises(LeaseHeld, match="process 1 on serve-1"), _alone(on_a_volume):
        pass


def test_the_doctor_tells_of_a_service_elsewhere_and_goes_on(owned: WordDirectory) -> None:
    found = {finding.name: finding for finding in diagnose(owned.settings)}

    assert "diagnosis" not in found
    assert found["service"].state == "ok"
    assert found["service"].found == (
        "none runs on this machine; process 1 on serve-1 answers there"
    )
    assert "process 1 on serve-1" in found["owner"].found
    assert "generation docs@1" in found


def test_a_service_removes_its_own_file_and_not_that_of_another(shared: WordDirectory) -> None:
    mine = ServiceAddress(url="http://127.0.0.1:8321", token="mine", process="here:1:1")
    mine.remove(shared.path)

    assert (shared.path / SERVICE_FILE).exists()


@pytest.mark.parametrize(
    ("host", "here", "for_others"),
    [
        ("0.0.0.0", "127.0.0.1", socket.gethostname()),
        ("::", "[::1]", socket.gethostname()),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]", "[::1]"),
    ],
)
def test_a_process_on_a_wildcard_gives_others_the_name_of_its_machine(
    directory: WordDirectory, host: str, here: str, for_others: str
) -> None:
    service = ReindexerService(directory, host=host, port=0, insecure=True)
    try:
        port = service.url.rpartition(":")[2]
        assert service.url == f"http://{here}:{port}"
        service.manager.follow()
        (seen,) = directory.catalog.processes.seen()
        assert seen.address == f"http://{for_others}:{port}"
    finally:
        service.close()
