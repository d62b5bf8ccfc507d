"""The kill matrix keeps quiet where all is well, and finds every fault that is planted for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, get_args

import pytest

from reindexer.selftest import child
from reindexer.selftest import kill as kills
from reindexer.selftest.static_model import write_pairs, write_static_model
from tests.selftest_promises import broken, promise
from training.kill_points import KillPoint

ROOT = Path(__file__).parents[2]
LOSES_NOTHING = "nothing lost, nothing twice"
LITTLE_AGAIN = "no more than a window encoded again"
TRAINING_KILLS = 2
WITH_TORCH = ("accelerate", "datasets", "training.finetune", "training.trainer")


def test_kills_between_any_two_writes_change_nothing() -> None:
    proof = kills.prove_kills(kills=40, seed=5)

    assert broken(proof) == set()
    assert proof.figures["kills"] == 40
    assert len(proof.figures["by_point"]) >= 15
    assert set(proof.figures["not_hit"]).isdisjoint(proof.figures["by_point"])
    assert proof.repeat == "reindexer selftest kill --kills 40 --seed 5"


@pytest.fixture
def torch_imported_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Children are forked from a process that has imported it; others are not, before and after."""
    server = forkserver._forkserver  # type: ignore[attr-defined]
    server._stop()
    monkeypatch.setattr(child, "_PRELOADED", [*child._PRELOADED, *WITH_TORCH])
    yield
    server._stop()
    monkeypatch.undo()
    child.prepare_children()


@pytest.mark.usefixtures("torch_imported_once")
def test_a_training_that_is_killed_at_its_checkpoints_comes_to_the_same_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steps(matrix: Any, number: int) -> Iterator[kills._Step]:
        folder = matrix._calm.data_dir
        model = write_static_model(folder / "static", number)
        yield kills._Step(verb="register", argument=str(model))
        yield kills._Step(verb="train", argument=str(write_pairs(folder / "pairs.jsonl", number)))

    monkeypatch.setattr(kills._Matrix, "_steps", steps)
    monkeypatch.setattr(
        kills._Matrix, "_moments", at("training.checkpoint", kills_a_step=TRAINING_KILLS)
    )

    proof = kills.prove_kills(kills=TRAINING_KILLS)

    assert proof.figures["by_point"] == {"training.checkpoint": TRAINING_KILLS}
    assert promise(proof, LOSES_NOTHING).kept, promise(proof, LOSES_NOTHING).detail


# -- faults, each planted inside the process that is killed ------------------------------------


def checkpoint_before_the_write() -> None:
    """What the checkpoint promises is not there yet."""
    from reindexer import replay

    write = replay._Writer._write

    def unsafe(writer: Any, unit: Any, vectors: Any) -> None:
        checkpoint = writer._checkpoint
        checkpoint(writer.progress(unit.watermark))
        writer._checkpoint = lambda _progress: None
        try:
            write(writer, unit, vectors)
        finally:
            writer._checkpoint = checkpoint

    replay._Writer._write = unsafe  # type: ignore[method-assign]


def a_window_without_an_end() -> None:
    """Nothing is acknowledged before everything is encoded."""
    from reindexer import replay

    init = replay.Replay.__init__

    def wide(self: Any, **arguments: Any) -> None:
        init(self, **arguments | {"window": 100_000})

    replay.Replay.__init__ = wide  # type: ignore[method-assign]


def a_swap_without_a_transaction() -> None:
    """Every generation's state is committed by itself."""
    from search import generations
    from training.kill_points import reached

    set_state = generations._set_state

    def at_once(connection: Any, name: str, state: Any, now: float) -> None:
        set_state(connection, name, state, now)
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if state == "moving":
            reached("cutover.swap")

    generations._set_state = at_once


def a_lexical_manifest_before_its_arrays() -> None:
    """CURRENT names files that are written after it."""
    from search import lexical

    write_arrays, write_manifest = lexical.write_arrays, lexical.write_manifest
    held: list[tuple[Path, bytes]] = []

    def later(folder: Path, kind: str, arrays: Any) -> Any:
        file = write_arrays(folder, kind, arrays)
        held.append((folder / file.name, (folder / file.name).read_bytes()))
        (folder / file.name).unlink()
        return file

    def first(folder: Path, manifest: Any) -> None:
        write_manifest(folder, manifest)
        while held:
            path, content = held.pop()
            path.write_bytes(content)

    lexical.write_arrays, lexical.write_manifest = later, first


def a_model_named_before_it_is_copied() -> None:
    """The version is listed while its files are still on their way."""
    from training import registry
    from training.kill_points import reached

    store = registry.ModelRegistry._store

    def hasty(self: Any, version: Any, folder: Path, added: Any, **more: Any) -> Any:
        stored = store(self, version, folder, added, **more)
        table = stored.path / "model.safetensors"
        content = table.read_bytes()
        table.unlink()
        reached("model.copied")
        table.write_bytes(content)
        return stored

    registry.ModelRegistry._store = hasty  # type: ignore[method-assign]


def at(
    point: str, *, kills_a_step: int = 1, nth: int = 1, passes: int = 1
) -> Callable[..., Iterator[kills.KillAt]]:
    """Kills there. passes: only in a step that comes by so often when nobody is killed."""

    def moments(_matrix: Any, calm: Any, _seconds: float) -> Iterator[kills.KillAt]:
        if calm.reached[point] >= passes:
            for _ in range(kills_a_step):
                yield kills.KillAt(point=point, nth=nth)

    return moments


@pytest.mark.parametrize(
    ("sabotage", "moments", "name"),
    [
        (checkpoint_before_the_write, at("upsert.begin", passes=2), LOSES_NOTHING),
        (
            a_window_without_an_end,
            at("upsert.begin", passes=2),
            "no more than a window encoded again",
        ),
        (a_swap_without_a_transaction, at("cutover.swap"), LOSES_NOTHING),
        (a_lexical_manifest_before_its_arrays, at("lexical.saved"), LOSES_NOTHING),
        (a_model_named_before_it_is_copied, at("model.copied", nth=2), LOSES_NOTHING),
    ],
)
def test_a_write_that_no_kill_may_hit_is_found(
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[], None],
    moments: Callable[..., Iterator[kills.KillAt]],
    name: str,
) -> None:
    monkeypatch.setattr(kills._Matrix, "_moments", moments)

    proof = kills.prove_kills(kills=1, seed=1, sabotage=sabotage)

    assert name in broken(proof)
    assert promise(proof, name).detail


def immortal() -> None:
    child.kill_here = lambda: None  # type: ignore[assignment, return-value]


def test_kills_that_hit_nobody_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "RANDOM_SHARE", 0.0)

    proof = kills.prove_kills(kills=20, sabotage=immortal)

    assert not any(promise.kept for promise in proof.promises)
    assert promise(proof, "every kill hit").found == "0 of 20"
    assert promise(proof, "first new write after the restart").found == "nothing was measured"


def test_every_kill_point_has_its_place_in_the_code() -> None:
    places = re.findall(
        r'reached\("([a-z.]+)"\)',
        "".join(
            path.read_text()
            for package in ("training", "search", "reindexer")
            for path in (ROOT / package).rglob("*.py")
        ),
    )

    assert set(places) == set(get_args(KillPoint))
