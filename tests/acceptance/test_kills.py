"""SIGKILL at random moments of ingest, build, cut-over and sync; then everything is equal."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reindexer.build_job import BuildJob
from reindexer.cutover import cut_over
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.ingest import ingest
from reindexer.journal import BUILD_LEASE, SYNC_LEASE
from reindexer.opening import Opener
from reindexer.recipes import find_model, recipe_for
from reindexer.settings import Settings
from reindexer.sources.opening import open_source
from reindexer.verify import verify_structure
from tests import warm_processes
from tests.acceptance.conftest import text_of, write_jsonl

N_DOCUMENTS = 400
WINDOW = 16
# A build that is to be killed encodes this many batches and stands still, so that it cannot
# end before: with four kills a generation there are batches left for each.
BATCHES_BEFORE_A_KILL = 5
LONGER_THAN_A_KILL_S = 60.0
KILLS = {"ingest": 10, "build": 8, "cut_over": 6, "sync": 8}
SEED = 4


def _settings(data_dir: Path) -> Settings:
    return Settings(data_dir=data_dir, window=WINDOW)


def _ingest(data_dir: Path, source: Path) -> None:
    with open_data_directory(_settings(data_dir)) as data:
        ingest(data.corpus, open_source(str(source), name="default"), batch=50)


def _build(data_dir: Path, generation: str, token: int, batches: int | None = None) -> None:
    """batches: stand still before the next one, and wait to be killed."""
    from reindexer.build import run_job
    from training.static_encoder import StaticEncoder
    from training.tokenizer import TokenizedTexts

    encode = StaticEncoder.encode_tokenized

    left = itertools.count() if batches is None else iter(range(batches))

    def counted(encoder: StaticEncoder, tokenized: TokenizedTexts, **options: Any) -> Any:
        if next(left, None) is None:
            time.sleep(LONGER_THAN_A_KILL_S)
        with _encoded_log(data_dir, generation).open("a") as log:
            log.write(f"{len(tokenized)}\n")
        return encode(encoder, tokenized, **options)

    StaticEncoder.encode_tokenized = counted  # type: ignore[method-assign]
    settings = {"data_dir": str(data_dir), "window": WINDOW}
    run_job(BuildJob(generation=generation, token=token, settings=settings))


def _encoded_log(data_dir: Path, generation: str) -> Path:
    """One line for each batch of passages that was given to the model, killed or not."""
    return data_dir / f"encoded-{generation}.log"


def _cut_over(data_dir: Path, target: str) -> None:
    with open_data_directory(_settings(data_dir)) as data:
        cut_over(data, target)


def _sync(data_dir: Path) -> None:
    from reindexer.sync import sync_once

    with open_data_directory(_settings(data_dir)) as data, data.journal.lease(SYNC_LEASE) as lease:
        sync_once(data, lease)


class Killer:
    """Runs something in a process of its own and kills it at a random moment of its life."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.kills = 0

    def run_and_kill(
        self,
        target: Callable[..., None],
        *args: Any,
        longest_s: float,
        once: Callable[[], bool] = lambda: True,
    ) -> None:
        """once: do not kill before this is true."""
        process = warm_processes.start(target, *args)
        while process.is_alive() and not once():
            process.join(0.005)
        process.join(self._random.uniform(0.0, longest_s))
        if process.is_alive():
            process.kill()
            self.kills += 1
        process.join()

    def run(self, target: Callable[..., None], *args: Any) -> None:
        """To the end."""
        process = warm_processes.start(target, *args)
        process.join()
        assert process.exitcode == 0, f"{target.__name__} ended with {process.exitcode}"

    def until(self, kills: int) -> Iterator[int]:
        """Attempt after attempt until so many of them hit a living process."""
        wanted = self.kills + kills
        for attempt in itertools.count(1):
            if self.kills >= wanted:
                return
            assert attempt <= 5 * kills, "the processes end too quickly to be killed"
            yield attempt


def test_kills_at_random_moments_lose_and_repeat_nothing(
    tmp_path: Path, two_models: tuple[Path, Path]
) -> None:
    data_dir, killer, rng = tmp_path / "data", Killer(SEED), random.Random(SEED)
    source = tmp_path / "docs.jsonl"
    documents: dict[str, str] = {}
    for attempt in killer.until(KILLS["ingest"]):
        documents = {f"d{number}": text_of(number, attempt) for number in range(N_DOCUMENTS)}
        write_jsonl(source, documents)
        killer.run_and_kill(_ingest, data_dir, source, longest_s=0.4)
    killer.run(_ingest, data_dir, source)

    with open_data_directory(_settings(data_dir)) as data:
        _assert_corpus_is(data, documents)
        for path in two_models:
            target = _new_generation(data, str(path))
            before = killer.kills
            encoded_twice = _build_with_kills(data, killer, target, KILLS["build"] // 2)
            assert encoded_twice <= WINDOW * (killer.kills - before)
            if data.catalog.live() is None:
                killer.run(_cut_over, data_dir, target)

        for _ in killer.until(KILLS["cut_over"]):
            live = data.catalog.live()
            target = "docs@1" if live is not None and live.name == "docs@2" else "docs@2"
            killer.run_and_kill(_cut_over, data_dir, target, longest_s=0.2)
            pointers = data.catalog.pointers()
            assert pointers.live in ("docs@1", "docs@2")
        if data.catalog.standby() is None:
            killer.run(_cut_over, data_dir, "docs@2")

        for attempt in killer.until(KILLS["sync"]):
            _change_some(data, rng, documents, attempt)
            killer.run_and_kill(_sync, data_dir, longest_s=1.0)
        _change_some(data, rng, documents, 0)
        killer.run(_sync, data_dir)

        assert killer.kills >= 30
        _assert_corpus_is(data, documents)
        _assert_equal_both_ways(data, ["docs@1", "docs@2"])


def _new_generation(data: DataDirectory, model: str) -> str:
    generation = data.catalog.record(recipe_for(data, find_model(data, model)))
    data.journal.record_build(
        generation.name, start_head=data.corpus.head(), docs_total=data.corpus.count()
    )
    return generation.name


def _build_with_kills(data: DataDirectory, killer: Killer, target: str, kills: int) -> int:
    """Returns how many passages were given to the model more often than once."""
    log = _encoded_log(data.path, target)
    with data.journal.lease(BUILD_LEASE) as lease:
        for _ in killer.until(kills):
            seen = _lines(log)
            killer.run_and_kill(
                _build,
                data.path,
                target,
                lease.token,
                BATCHES_BEFORE_A_KILL,
                longest_s=0.05,
                once=lambda: _lines(log) > seen,  # noqa: B023 - called before the next round
            )
        killer.run(_build, data.path, target, lease.token)
    assert data.catalog.get(target).state == "ready"
    return sum(map(int, log.read_text().split())) - N_DOCUMENTS


def _lines(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def _assert_corpus_is(data: DataDirectory, documents: dict[str, str]) -> None:
    found = {
        change.doc_id: change.document.text
        for change in data.corpus.get_many(list(documents)).values()
        if change.document is not None
    }
    assert found == documents
    assert data.corpus.count() == len(documents)


def _change_some(
    data: DataDirectory, rng: random.Random, documents: dict[str, str], round_number: int
) -> None:
    from search.documents import Document

    for _ in range(20):
        doc_id = f"d{rng.randrange(N_DOCUMENTS + 50)}"
        if rng.random() < 0.3:
            documents.pop(doc_id, None)
            data.corpus.delete([doc_id])
        else:
            documents[doc_id] = text_of(rng.randrange(1_000), version=round_number)
            data.corpus.put([Document.of(doc_id=doc_id, text=documents[doc_id])])


def _assert_equal_both_ways(data: DataDirectory, names: list[str]) -> None:
    opener = Opener(data, writable=False)
    for name in names:
        opened = opener.open(name)
        watermark = data.catalog.watermark(name)
        assert watermark == data.corpus.head()
        checks = verify_structure(data.corpus, opened, watermark=watermark)
        opened.close()
        assert [check for check in checks if not check.passed] == []
    opener.close()
