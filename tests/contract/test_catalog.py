"""What the catalog promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reindexer.journal import Journal
from search import tables
from search.database import Database, open_database
from search.errors import CutOverRefused, GenerationNotFound, LeaseLost, SearchError, WrongState
from search.generations import Catalog, Generation, State, move_watermark
from search.processes import process_name
from search.recipe import FittedOn, FusionRecipe, Recipe, SplitterRecipe

RECIPE = Recipe(
    model="support@1",
    fingerprint="f" * 64,
    dim=8,
    splitter=SplitterRecipe(max_tokens=128, overlap_tokens=16),
    filter_fields={"year": "number"},
)
TOKEN = 7


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database)


def ready(catalog: Catalog, *, watermark: int = 0) -> str:
    """A generation that may go live."""
    name = catalog.record(RECIPE).name
    for state in ("catching_up", "verifying", "ready"):
        catalog.move(name, state)
    if watermark:
        set_watermark(catalog, name, watermark)
    return name


def set_watermark(catalog: Catalog, name: str, watermark: int) -> None:
    with catalog._database.write() as connection:
        connection.execute(
            sa.update(tables.generations)
            .where(tables.generations.c.name == name)
            .values(watermark=watermark)
        )


def switch(catalog: Catalog, target: str, *, token: int = TOKEN, kind: str = "cut_over") -> None:
    """A whole cut-over from whatever is live."""
    live = catalog.pointers().live
    catalog.request_cut_over(target, live, token=token, seconds=60)
    catalog.cut_over(target, expected_live=live, kind=kind, token=token)


def states(catalog: Catalog) -> dict[str, State]:
    return {generation.name: generation.state for generation in catalog.all()}


# -- generations -----------------------------------------------------------------------------------


def test_a_generation_comes_back_as_it_was_recorded(catalog: Catalog) -> None:
    recorded = catalog.record(RECIPE)

    assert recorded == catalog.get("docs@1")
    assert (recorded.name, recorded.collection) == ("docs@1", "docs-1")
    assert (recorded.state, recorded.watermark, recorded.verified) == ("building", 0, None)
    assert recorded.recipe == RECIPE


def test_names_are_never_used_again(catalog: Catalog) -> None:
    catalog.record(RECIPE)
    last = catalog.record(RECIPE).name
    for state in ("failed", "pruned"):
        catalog.move(last, state)

    assert catalog.record(RECIPE).name == "docs@3"
    assert [generation.name for generation in catalog.all()] == ["docs@1", "docs@3"]
    assert catalog.get(last).state == "pruned"


def test_generations_recorded_side_by_side_have_numbers_of_their_own(database: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        names = list(threads.map(lambda _: Catalog(database).record(RECIPE).name, range(12)))

    assert sorted(names) == sorted(f"docs@{number}" for number in range(1, 13))


def test_a_fusion_is_changed_alone_and_recorded(catalog: Catalog) -> None:
    name = ready(catalog)
    switch(catalog, name)
    before = catalog.pointers().recipes[name]
    fitted = FittedOn(
        queries=60, judgments_sha256="a" * 64, at=1.0, ndcg_at_10=0.7, rrf_ndcg_at_10=0.6
    )
    fusion = FusionRecipe(
        method="convex", lexical_weight=0.4, dense_weight=0.6, dense_span=0.3, fitted=fitted
    )
    catalog.set_fusion(name, fusion)

    assert catalog.get(name).recipe == replace(RECIPE, fusion=fusion)
    assert (catalog.get(name).state, catalog.watermark(name)) == ("live", 0)
    after = catalog.pointers().recipes[name]
    assert after != before  # what a serving process notices
    assert Recipe.from_json(after).fusion == fusion
    event = catalog.events.newest(1)[0]
    assert (event["kind"], event["generation"]) == ("fusion_set", name)
    assert event["fitted"]["queries"] == 60


@pytest.mark.parametrize("state", ["failed", "retired"])
def test_the_fusion_of_a_generation_that_nobody_asks_stays(catalog: Catalog, state: State) -> None:
    name = ready(catalog)
    catalog.move(name, state)
    with pytest.raises(WrongState, match=f"{name} is {state}"):
        catalog.set_fusion(name, FusionRecipe())
    with pytest.raises(GenerationNotFound):
        catalog.set_fusion("docs@9", FusionRecipe())


def test_an_unknown_generation_is_answered_with_those_there_are(catalog: Catalog) -> None:
    with pytest.raises(GenerationNotFound, match=r"no generation 'docs@9'; there are: none yet"):
        catalog.get("docs@9")
    catalog.record(RECIPE)
    with pytest.raises(GenerationNotFound, match=r"there are: docs@1\. Run `reindexer gen"):
        catalog.get("docs@9")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), "ready"),
        ((), "verifying"),
        ((), "pruned"),
        ((), "standby"),
        ((), "live"),
        (("catching_up",), "ready"),
        (("catching_up", "verifying", "ready"), "live"),
        (("catching_up", "verifying", "ready"), "building"),
        (("failed", "pruned"), "building"),
    ],
)
def test_a_state_that_cannot_follow_is_refused(
    catalog: Catalog, before: tuple[State, ...], after: State
) -> None:
    name = catalog.record(RECIPE).name
    for state in before:
        catalog.move(name, state)
    found = catalog.get(name).state

    with pytest.raises(WrongState, match=f"{name} is {found}; it can become {after} only"):
        catalog.move(name, after)

    assert catalog.get(name).state == found


@pytest.mark.parametrize("after", ["standby", "retired", "failed", "building", "ready", "pruned"])
def test_the_live_generation_is_moved_by_nothing_but_a_cut_over(
    catalog: Catalog, after: State
) -> None:
    name = ready(catalog)
    switch(catalog, name)

    with pytest.raises(WrongState):
        catalog.move(name, after)

    assert states(catalog) == {name: "live"}


def test_moving_to_the_state_it_has_changes_nothing(catalog: Catalog) -> None:
    name = ready(catalog)
    before = catalog.get(name)

    catalog.move(name, "ready")

    assert catalog.get(name) == before


def test_moves_and_switches_are_recorded_as_events(catalog: Catalog) -> None:
    name = ready(catalog)
    catalog.request_cut_over(name, None, token=TOKEN, seconds=60)
    catalog.cut_over(
        name, expected_live=None, kind="cut_over", token=TOKEN, detail={"override": "a demo"}
    )
    other = catalog.record(RECIPE).name
    catalog.move(other, "failed", reason="the disk is full")

    events = catalog.events.newest()

    assert [(event["kind"], event["generation"]) for event in events] == [
        ("generation_failed", other),
        ("generation_recorded", other),
        ("cut_over", name),
        ("generation_ready", name),
        ("generation_verifying", name),
        ("generation_catching_up", name),
        ("generation_recorded", name),
    ]
    assert events[0]["reason"] == "the disk is full"
    assert events[2]["override"] == "a demo"
    assert all("@" in event["who"] for event in events)
    assert len(catalog.events.newest(limit=2)) == 2


def test_a_gate_is_overruled_only_where_it_refused(catalog: Catalog) -> None:
    name = catalog.record(RECIPE).name
    with pytest.raises(WrongState, match="nothing to overrule"):
        catalog.overrule(name, reason="because")
    catalog.move(name, "failed", reason="recall 0.8")

    catalog.overrule(name, reason="the judgments are wrong")

    assert catalog.get(name).state == "ready"
    assert catalog.events.newest(1)[0]["kind"] == "gate_overruled"
    assert catalog.events.newest(1)[0]["reason"] == "the judgments are wrong"


def test_a_verification_is_kept_with_its_generation(catalog: Catalog) -> None:
    name = catalog.record(RECIPE).name

    catalog.keep_verification(name, {"passed": False, "checks": [{"name": "sample"}]})

    assert catalog.get(name).verified == {"passed": False, "checks": [{"name": "sample"}]}


# -- the watermark ---------------------------------------------------------------------------------


def test_the_watermark_moves_under_the_lease(catalog: Catalog, database: Database) -> None:
    name = catalog.record(RECIPE).name
    with Journal(database).lease("sync") as lease:
        catalog.advance(name, 10, lease="sync", token=lease.token)
        catalog.advance(name, 10, lease="sync", token=lease.token)

    assert catalog.watermark(name) == 10


def test_the_watermark_never_goes_back(catalog: Catalog, database: Database) -> None:
    name = catalog.record(RECIPE).name
    with Journal(database).lease("sync") as lease:
        catalog.advance(name, 10, lease="sync", token=lease.token)
        with pytest.raises(WrongState, match=r"watermark of docs@1 is 10; it cannot go back to 9"):
            catalog.advance(name, 9, lease="sync", token=lease.token)

    assert catalog.watermark(name) == 10


def test_a_late_process_cannot_move_the_watermark(catalog: Catalog, database: Database) -> None:
    name = catalog.record(RECIPE).name
    journal = Journal(database)
    with journal.lease("sync") as lost:
        pass
    with (
        journal.lease("sync"),
        pytest.raises(LeaseLost, match=r"not moved to 10: the lease 'sync' is held by another"),
    ):
        catalog.advance(name, 10, lease="sync", token=lost.token)
    with pytest.raises(LeaseLost):
        catalog.advance(name, 10, lease="nobody-has-it", token=1)

    assert catalog.watermark(name) == 0


def test_a_lease_does_not_change_hands_while_a_watermark_is_being_moved(
    database: Database,
) -> None:
    """Whoever takes the lease next reads the watermark that the one before has moved."""
    journal, catalog = Journal(database), Catalog(database)
    name = catalog.record(RECIPE).name
    lease = journal.lease("sync")
    seen: list[int] = []

    def take_over() -> None:
        with journal.lease("sync", wait_s=20):
            seen.append(catalog.watermark(name))

    taker = threading.Thread(target=take_over)
    with database.write() as connection:
        move_watermark(connection, name, 10, lease="sync", token=lease.token)
        with database.read() as other:  # a stopped process: its lease has run out
            assert other.execute(sa.select(tables.leases.c.token)).scalar() == lease.token
        threading.Thread(target=lease.release, daemon=True).start()
        taker.start()
        time.sleep(0.3)
        assert seen == []
    taker.join()

    assert seen == [10]


# -- the switch ------------------------------------------------------------------------------------


def test_the_first_cut_over_makes_a_generation_live(catalog: Catalog) -> None:
    name = ready(catalog)
    assert catalog.live() is None

    switch(catalog, name)

    pointers = catalog.pointers()
    assert (pointers.live, pointers.standby, pointers.request) == (name, None, None)


def test_a_cut_over_leaves_the_live_generation_standby(catalog: Catalog) -> None:
    first, second = ready(catalog), ready(catalog)
    switch(catalog, first)

    switch(catalog, second)

    assert states(catalog) == {first: "standby", second: "live"}


def test_rollback_swaps_live_and_standby(catalog: Catalog) -> None:
    first, second = ready(catalog), ready(catalog)
    switch(catalog, first)
    switch(catalog, second)

    switch(catalog, first, kind="rollback")
    assert states(catalog) == {first: "live", second: "standby"}
    assert catalog.events.newest(1)[0]["kind"] == "rollback"
    assert catalog.events.newest(1)[0]["from"] == second

    switch(catalog, second, kind="rollback")
    assert states(catalog) == {first: "standby", second: "live"}


def test_the_next_upgrade_retires_the_older_standby(catalog: Catalog) -> None:
    first, second, third = ready(catalog), ready(catalog), ready(catalog)
    for name in (first, second, third):
        switch(catalog, name)

    assert states(catalog) == {first: "retired", second: "standby", third: "live"}


def refused(catalog: Catalog, message: str, attempt: Callable[[], None]) -> None:
    """The attempt is refused with this message and has moved nothing."""
    before, events = catalog.all(), len(catalog.events.newest(1_000))
    with pytest.raises(CutOverRefused, match=message):
        attempt()
    assert catalog.all() == before
    assert len(catalog.events.newest(1_000)) == events


def test_a_cut_over_from_another_generation_than_expected_is_refused(catalog: Catalog) -> None:
    first, second = ready(catalog), ready(catalog)
    switch(catalog, first)
    catalog.request_cut_over(second, first, token=TOKEN, seconds=60)

    for expected, message in ((None, "nothing"), (second, second), ("docs@9", "docs@9")):
        refused(
            catalog,
            f"expected {message} to be live, found {first}",
            lambda expected=expected: catalog.cut_over(  # type: ignore[misc]
                second, expected_live=expected, kind="cut_over", token=TOKEN
            ),
        )


@pytest.mark.parametrize(
    "before",
    [
        (),
        ("catching_up",),
        ("catching_up", "verifying"),
        ("failed",),
        ("failed", "pruned"),
        ("catching_up", "verifying", "ready", "retired"),
    ],
)
def test_a_target_that_is_not_ready_is_refused(catalog: Catalog, before: tuple[State, ...]) -> None:
    first, second = ready(catalog), catalog.record(RECIPE).name
    switch(catalog, first)
    for state in before:
        catalog.move(second, state)
    found = catalog.get(second).state

    refused(catalog, f"{second} is {found}, expected ready", lambda: switch(catalog, second))


def test_the_live_generation_is_no_target(catalog: Catalog) -> None:
    first = ready(catalog)
    switch(catalog, first)

    refused(catalog, f"{first} is live, expected ready", lambda: switch(catalog, first))
    refused(catalog, "docs@9 is not there", lambda: switch(catalog, "docs@9"))


def test_a_target_behind_the_live_generation_is_refused(catalog: Catalog) -> None:
    first, second = ready(catalog, watermark=10), ready(catalog, watermark=9)
    switch(catalog, first)

    refused(
        catalog,
        f"{second} is at seq 9, behind {first} at 10",
        lambda: switch(catalog, second),
    )
    set_watermark(catalog, second, 10)
    switch(catalog, second)
    assert states(catalog)[second] == "live"


def test_a_withdrawn_request_is_refused(catalog: Catalog) -> None:
    first = ready(catalog)
    catalog.request_cut_over(first, None, token=TOKEN, seconds=60)
    catalog.withdraw_cut_over(TOKEN)

    refused(
        catalog,
        "withdrawn or replaced",
        lambda: catalog.cut_over(first, expected_live=None, kind="cut_over", token=TOKEN),
    )


def test_a_replaced_request_is_refused(catalog: Catalog) -> None:
    first, second = ready(catalog), ready(catalog)
    catalog.request_cut_over(first, None, token=TOKEN, seconds=60)
    catalog.request_cut_over(second, None, token=TOKEN + 1, seconds=60)

    for target, token in ((first, TOKEN), (second, TOKEN), (first, TOKEN + 1)):
        refused(
            catalog,
            "withdrawn or replaced",
            lambda target=target, token=token: catalog.cut_over(  # type: ignore[misc]
                target, expected_live=None, kind="cut_over", token=token
            ),
        )


def test_a_request_that_has_expired_is_neither_shown_nor_carried_out(catalog: Catalog) -> None:
    first = ready(catalog)
    catalog.request_cut_over(first, None, token=TOKEN, seconds=-1)

    assert catalog.pointers().request is None
    refused(
        catalog,
        "has expired",
        lambda: catalog.cut_over(first, expected_live=None, kind="cut_over", token=TOKEN),
    )


def test_only_its_own_request_is_withdrawn(catalog: Catalog) -> None:
    first = ready(catalog)
    catalog.request_cut_over(first, None, token=TOKEN, seconds=60)

    catalog.withdraw_cut_over(TOKEN - 1)

    request = catalog.pointers().request
    assert request is not None
    assert (request.target, request.expected_live, request.token) == (first, None, TOKEN)


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_cut_overs_at_once_exactly_one_wins(database: Database, attempt: int) -> None:
    """Both passed every check of their own; two connections, at the same moment."""
    del attempt
    catalog = Catalog(database)
    first, second = ready(catalog), ready(catalog)
    switch(catalog, first)
    catalog.request_cut_over(second, first, token=TOKEN, seconds=60)
    other = open_database(database.url)
    gate = threading.Barrier(2)

    def swap(on: Database) -> str:
        gate.wait()
        try:
            Catalog(on).cut_over(second, expected_live=first, kind="cut_over", token=TOKEN)
        except CutOverRefused:
            return "refused"
        return "won"

    with ThreadPoolExecutor(2) as threads:
        outcomes = sorted(threads.map(swap, [database, other]))
    other.close()

    assert outcomes == ["refused", "won"]
    assert states(catalog) == {first: "standby", second: "live"}
    assert [event["kind"] for event in catalog.events.newest()].count("cut_over") == 2


def test_cut_overs_to_different_targets_at_once_leave_one_live(database: Database) -> None:
    catalog = Catalog(database)
    first, *targets = (ready(catalog) for _ in range(5))
    switch(catalog, first)
    gate = threading.Barrier(len(targets))

    def swap(target: str) -> str:
        token = int(target.removeprefix("docs@"))
        gate.wait()
        try:
            catalog.request_cut_over(target, first, token=token, seconds=60)
            catalog.cut_over(target, expected_live=first, kind="cut_over", token=token)
        except SearchError:
            return "refused"
        return "won"

    with ThreadPoolExecutor(len(targets)) as threads:
        outcomes = list(threads.map(swap, targets))

    found = sorted(states(catalog).values())
    assert outcomes.count("won") <= 1
    assert found.count("live") == 1
    assert found.count("standby") == outcomes.count("won")


@given(steps=st.lists(st.tuples(st.sampled_from("msrk"), st.integers(0, 3)), max_size=25))
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_there_is_never_more_than_one_live_and_one_standby(
    database: Database, steps: list[tuple[str, int]]
) -> None:
    catalog = Catalog(database)
    with database.write() as connection:
        connection.execute(sa.delete(tables.generations))
        connection.execute(sa.delete(tables.cutover))
    names = [ready(catalog) for _ in range(4)]

    for what, which in steps:
        name = names[which]
        try:
            if what == "m":
                catalog.move(name, "retired")
            elif what == "r":
                catalog.move(name, "verifying")
                catalog.move(name, "ready")
            elif what == "k":
                catalog.move(name, "failed")
                catalog.overrule(name, reason="for the test")
            else:
                switch(catalog, name)
        except (WrongState, CutOverRefused):
            pass
        found = list(states(catalog).values())
        assert found.count("live") <= 1
        assert found.count("standby") <= 1
        assert set(found) <= {"ready", "verifying", "failed", "retired", "live", "standby"}


# -- serving processes -----------------------------------------------------------------------------


def beat(catalog: Catalog, name: str, *, prepared: str | None = None) -> None:
    catalog.processes.heartbeat(
        name, address="http://127.0.0.1:1", generation="docs@1", prepared=prepared, problem=None
    )


def test_a_serving_process_is_known_by_its_last_heartbeat(catalog: Catalog) -> None:
    me = process_name()
    beat(catalog, me)
    beat(catalog, me, prepared="docs@2")

    (process,) = catalog.processes.seen()

    assert (process.name, process.generation, process.prepared) == (me, "docs@1", "docs@2")
    assert time.time() - process.seen_at < 5
    catalog.processes.leave(me)
    assert catalog.processes.seen() == []


def test_a_process_on_another_host_counts_until_its_lease_ends(
    catalog: Catalog, database: Database
) -> None:
    beat(catalog, "elsewhere/1:10:99")
    assert [process.name for process in catalog.processes.seen()] == ["elsewhere/1:10:99"]

    with database.write() as connection:
        connection.execute(sa.update(tables.searchers).values(seen_at=time.time() - 6))

    assert catalog.processes.seen() == []


def test_a_process_that_was_killed_here_is_gone_at_once(catalog: Catalog) -> None:
    program = (
        "from search.processes import process_name; import time; "
        "print(process_name(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        name = child.stdout.readline().decode().strip()
        beat(catalog, name)
        beat(catalog, process_name())
        assert name in [process.name for process in catalog.processes.seen()]

        child.kill()
        child.wait()

        assert [process.name for process in catalog.processes.seen()] == [process_name()]


def test_a_generation_is_a_value(catalog: Catalog) -> None:
    generation: Generation = catalog.record(RECIPE)
    with pytest.raises(AttributeError):
        generation.state = "live"  # type: ignore[misc]
