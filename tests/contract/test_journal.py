"""What the journal promises about builds and leases, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from reindexer import journal as journal_module
from reindexer.errors import LeaseHeld
from reindexer.journal import LEASE_S, Journal
from search import tables
from search.database import Database, open_database, sqlite_url
from search.errors import GenerationNotFound, LeaseLost, WrongState
from search.generations import Catalog
from search.processes import process_name
from search.recipe import Recipe, SplitterRecipe

RECIPE = Recipe(
    model="support@1",
    fingerprint="f" * 64,
    dim=8,
    splitter=SplitterRecipe(max_tokens=128, overlap_tokens=16),
)
ELSEWHERE = "another-host/1:10:99"


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database)


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LEASE_S", 0.5)


def set_lease(database: Database, **values: object) -> None:
    with database.write() as connection:
        connection.execute(sa.update(tables.leases).values(**values))


def held_in_another_process(database: Database) -> subprocess.Popen[bytes]:
    """A process that has taken the lease `build` and keeps it."""
    program = (
        "import sys, time\n"
        "from reindexer.journal import Journal\n"
        "from search.database import open_database\n"
        "lease = Journal(open_database(sys.argv[1])).lease('build')\n"
        "print(lease.token, flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, database.url], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"1"
    return child


# -- leases ----------------------------------------------------------------------------------------


def test_a_lease_is_held_until_it_is_released(journal: Journal) -> None:
    assert journal.holder("sync") is None

    with journal.lease("sync") as lease:
        assert journal.holder("sync") == process_name()
        lease.check()

    assert journal.holder("sync") is None
    with journal.lease("sync"):
        pass


def test_a_lease_is_released_by_an_error_too(journal: Journal) -> None:
    with pytest.raises(RuntimeError), journal.lease("sync"):
        raise RuntimeError

    assert journal.holder("sync") is None


def test_leases_of_other_names_are_free(journal: Journal) -> None:
    with journal.lease("sync"), journal.lease("build"):
        assert journal.holder("cutover") is None


def test_the_token_grows_with_every_change_of_hands(journal: Journal) -> None:
    tokens = []
    for _ in range(3):
        with journal.lease("sync") as lease:
            tokens.append(lease.token)

    assert tokens == [1, 2, 3]


@pytest.mark.parametrize("taken_before", [False, True])
def test_of_many_threads_one_gets_the_lease(database: Database, taken_before: bool) -> None:
    """Also the very first time, when there is no row to lock."""
    if taken_before:
        Journal(database).lease("sync").release()
    n_threads = 6
    gate = threading.Barrier(n_threads)
    taken: list[int] = []
    all_tried = threading.Barrier(n_threads)

    def take(_: int) -> None:
        gate.wait()
        try:
            lease = Journal(database).lease("sync")
        except LeaseHeld:
            all_tried.wait()
            return
        taken.append(lease.token)
        all_tried.wait()
        lease.release()

    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(take, range(n_threads)))

    assert taken == [2 if taken_before else 1]


def test_work_under_a_lease_never_overlaps(database: Database) -> None:
    busy = threading.Lock()
    tokens: list[int] = []

    def work(_: int) -> None:
        with Journal(database).lease("sync", wait_s=30) as lease:
            assert busy.acquire(blocking=False)
            tokens.append(lease.token)
            time.sleep(0.01)
            busy.release()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(8)))

    assert tokens == list(range(1, 9))


def test_a_lease_that_is_held_elsewhere_is_refused_with_the_name_of_its_holder(
    database: Database, journal: Journal
) -> None:
    with held_in_another_process(database) as child:
        with pytest.raises(LeaseHeld, match=f"lease 'build' is held by process {child.pid} on "):
            journal.lease("build")
        holder = journal.holder("build")
        child.kill()

    assert holder is not None
    assert f":{child.pid}:" in holder


def test_the_lease_of_a_killed_process_is_taken_over_at_once(
    database: Database, journal: Journal
) -> None:
    with held_in_another_process(database) as child:
        child.kill()
        child.wait()
        began = time.monotonic()

        with journal.lease("build") as lease:
            assert lease.token == 2

    assert time.monotonic() - began < LEASE_S / 3


def test_the_lease_of_a_process_on_another_host_is_taken_over_when_it_has_run_out(
    database: Database, journal: Journal
) -> None:
    journal.lease("build").release()
    set_lease(database, holder=ELSEWHERE, expires_at=time.time() + 5)
    with pytest.raises(LeaseHeld, match="process 10 on another-host; wait until it is done"):
        journal.lease("build")

    set_lease(database, holder=ELSEWHERE, expires_at=time.time() - 0.01)

    with journal.lease("build") as lease:
        assert lease.token == 2


def test_waiting_for_a_lease_ends_when_it_is_released(journal: Journal) -> None:
    held = journal.lease("sync")
    threading.Timer(0.3, held.release).start()

    with journal.lease("sync", wait_s=20) as lease:
        assert lease.token == held.token + 1


@pytest.mark.usefixtures("short_leases")
def test_a_lease_is_renewed_for_as_long_as_it_is_held(journal: Journal) -> None:
    with journal.lease("sync") as lease:
        time.sleep(1.2)
        lease.check()
        with pytest.raises(LeaseHeld):
            journal.lease("sync")


@pytest.mark.usefixtures("short_leases")
def test_a_process_notices_that_its_lease_has_passed_on(
    database: Database, journal: Journal
) -> None:
    """As after a stop of the process that was longer than the lease."""
    lost = journal.lease("sync")
    set_lease(database, holder=ELSEWHERE, expires_at=time.time() - 1)
    with Journal(database).lease("sync") as lease:
        time.sleep(0.5)
        with pytest.raises(LeaseLost, match="the lease 'sync' was lost"):
            lost.check()
        lost.release()  # takes nothing away from the new holder
        lease.check()
        assert journal.holder("sync") == process_name()


@pytest.mark.usefixtures("short_leases")
def test_a_lease_that_cannot_be_renewed_counts_as_lost(tmp_path: Path) -> None:
    database = open_database(sqlite_url(tmp_path / "gone.db"))
    lease = Journal(database).lease("sync")
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE leases RENAME TO hidden"))
    time.sleep(0.8)

    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()
    database.close()


def test_a_clock_that_went_back_an_hour_does_not_keep_a_lease_for_an_hour(
    database: Database, journal: Journal
) -> None:
    journal.lease("sync").release()
    set_lease(database, holder=ELSEWHERE, expires_at=time.time() + 3_600)

    with journal.lease("sync") as lease:
        assert lease.token == 2


# -- builds ----------------------------------------------------------------------------------------


def test_a_build_comes_back_as_it_was_recorded(database: Database, journal: Journal) -> None:
    name = Catalog(database).record(RECIPE).name

    build = journal.record_build(name, start_head=100, docs_total=90)

    assert build == journal.build_of(name)
    assert (build.state, build.start_head, build.docs_total) == ("running", 100, 90)
    assert (build.docs_done, build.retries, build.reason, build.wanted) == (0, 0, None, None)


def test_builds_are_listed_newest_first(database: Database, journal: Journal) -> None:
    names = [Catalog(database).record(RECIPE).name for _ in range(3)]
    builds = [journal.record_build(name, start_head=0, docs_total=0) for name in names]
    journal.update_build(builds[1].build_id, state="paused", reason="asked")

    assert [build.generation for build in journal.builds()] == names[::-1]
    assert [build.generation for build in journal.builds({"running"})] == [names[2], names[0]]
    assert journal.build_of(names[1]).reason == "asked"


def test_an_unknown_build_names_the_next_command(journal: Journal) -> None:
    with pytest.raises(GenerationNotFound, match=r"no build of 'docs@9'; run `reindexer status`"):
        journal.build_of("docs@9")


def test_a_checkpoint_moves_watermark_and_progress_together(
    database: Database, journal: Journal
) -> None:
    catalog = Catalog(database)
    name = catalog.record(RECIPE).name
    build = journal.record_build(name, start_head=100, docs_total=90)

    with journal.lease("build") as lease:
        journal.checkpoint(build, 40, lease="build", token=lease.token, docs_done=38, encoded=50)

    found = journal.build_of(name)
    assert catalog.watermark(name) == 40
    assert (found.docs_done, found.encoded, found.passages) == (38, 50, 0)
    assert found.updated_at >= build.updated_at


def test_the_checkpoint_of_a_late_process_is_refused_whole(
    database: Database, journal: Journal
) -> None:
    catalog = Catalog(database)
    name = catalog.record(RECIPE).name
    build = journal.record_build(name, start_head=100, docs_total=90)
    journal.lease("build").release()

    with journal.lease("build") as lease:
        journal.checkpoint(build, 40, lease="build", token=lease.token, docs_done=38)
        with pytest.raises(LeaseLost, match="watermark of docs@1 was not moved to 80"):
            journal.checkpoint(build, 80, lease="build", token=lease.token - 1, docs_done=76)
        with pytest.raises(WrongState, match="cannot go back to 39"):
            journal.checkpoint(build, 39, lease="build", token=lease.token, docs_done=37)

    assert catalog.watermark(name) == 40
    assert journal.build_of(name).docs_done == 38


def test_a_stopped_holder_that_goes_on_is_fenced(database: Database, journal: Journal) -> None:
    """SIGSTOP for longer than the lease, then SIGCONT: its next checkpoint does not count."""
    catalog = Catalog(database)
    name = catalog.record(RECIPE).name
    journal.record_build(name, start_head=100, docs_total=90)
    program = (
        "import sys\n"
        "from reindexer.journal import Journal\n"
        "from search.database import open_database\n"
        "from search.errors import LeaseLost\n"
        "journal = Journal(open_database(sys.argv[1]))\n"
        "lease = journal.lease('build')\n"
        "print('taken', flush=True)\n"
        "sys.stdin.readline()\n"
        "build = journal.build_of(sys.argv[2])\n"
        "try:\n"
        "    journal.checkpoint(build, 80, lease='build', token=lease.token, docs_done=80)\n"
        "except LeaseLost:\n"
        "    print('fenced', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, database.url, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"taken\n"
        os.kill(child.pid, signal.SIGSTOP)
        set_lease(database, expires_at=time.time() - 1)
        with journal.lease("build") as lease:
            assert lease.token == 2
            os.kill(child.pid, signal.SIGCONT)
            out, _ = child.communicate(b"\n", timeout=30)

    assert out == b"fenced\n"
    assert catalog.watermark(name) == 0
    assert journal.build_of(name).docs_done == 0


def test_a_build_that_starts_tells_that_others_are_not_running(
    database: Database, journal: Journal
) -> None:
    catalog = Catalog(database)
    killed, done, next_one = (
        journal.record_build(catalog.record(RECIPE).name, start_head=0, docs_total=0)
        for _ in range(3)
    )
    journal.update_build(done.build_id, state="done")
    journal.update_build(next_one.build_id, state="paused", wanted="pause", busy_s=2.0)

    journal.start_run(journal.build_of(next_one.generation))

    assert journal.build_of(killed.generation).state == "failed"
    assert journal.build_of(killed.generation).reason == "its process was gone"
    assert journal.build_of(done.generation).state == "done"
    running = journal.build_of(next_one.generation)
    assert (running.state, running.wanted, running.retries) == ("running", None, 1)
    assert journal.builds({"running"}) == [running]
