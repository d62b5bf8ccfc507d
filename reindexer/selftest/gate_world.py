"""Where `selftest gate` makes its generations: a corpus, judged queries, a live one, candidates."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from reindexer.journal import BUILD_LEASE
from reindexer.opening import Opener
from reindexer.quality import check_quality
from reindexer.replay import Replay
from reindexer.selftest import verbs
from reindexer.selftest.gate_models import TurnedEncoder
from reindexer.selftest.proof import Stopwatch
from reindexer.selftest.texts import documents, text_of
from reindexer.selftest.word_directory import WordDirectory
from reindexer.selftest.word_encoder import WordEncoder
from reindexer.verify import Check, verify_structure
from search.dense import CollectionSpec
from search.serving import OpenGeneration
from search.splitter import Splitter

DIM = 32
REPLAY_WINDOW = 2_048
_LIVE = "turned@0"


class World:
    """A corpus, judged queries, a live generation, and a workshop for candidates."""

    def __init__(self, data: WordDirectory, n_documents: int, n_queries: int, seed: int) -> None:
        self.data = data
        self.n_documents = n_documents
        self.rng = random.Random(seed)
        self.seed = seed
        self.seconds: list[float] = []  # of each verification of a healthy generation
        self._turn = 0
        for start in range(0, n_documents, 5_000):
            numbers = range(start, min(start + 5_000, n_documents))
            data.corpus.put(list(documents(numbers, version=seed)))
        self.judged = _write_judgments(data.path / "judged", n_documents, n_queries, seed)
        data.models[_LIVE] = TurnedEncoder(0, dim=DIM)
        live = self.build(_LIVE)
        data.catalog.keep_verification(live, {"passed": True})
        verbs.go_live(data, live)

    # -- candidates ----------------------------------------------------------------------------

    def model(self, encoder: Callable[[int], Any]) -> tuple[str, Any]:
        """A name and the encoder that it stands for, of a vector space that nothing else has."""
        self._turn += 1
        name = f"turned@{self._turn}"
        self.data.models[name] = encoder(self._turn)
        return name, self.data.models[name]

    def build(
        self,
        model: str,
        *,
        writer: Any = None,
        spec: Callable[[CollectionSpec], CollectionSpec] = lambda spec: spec,
        finish: bool = True,
    ) -> str:
        """A generation that is ready. writer: the encoder that makes the vectors, if that is not
        the model's own. spec: what the collection is made with, if that is not the recipe's."""
        data = self.data
        generation = data.record(model)
        name, recipe = generation.name, generation.recipe
        encoder = writer if writer is not None else data.load_encoder(model)
        collection = data.store.create(generation.collection, spec(recipe.collection_spec(name)))
        head = data.corpus.head()
        with data.journal.lease(BUILD_LEASE) as lease:
            Replay(
                corpus=data.corpus,
                collection=collection,
                encoder=cast(Any, _Under(encoder, recipe.fingerprint)),
                splitter=Splitter(recipe.splitter, encoder),
                window=REPLAY_WINDOW,
                checkpoint=lambda progress: data.catalog.advance(
                    name, progress.watermark, lease=BUILD_LEASE, token=lease.token
                ),
            ).run(0, head, fresh_until=head)
        if finish:
            collection.finish()
        collection.close()
        for state in ("catching_up", "verifying", "ready"):
            data.catalog.move(name, cast(Any, state))
        return name

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[OpenGeneration]:
        """Open, and dropped afterwards."""
        with self._opener(name) as opener, contextlib.closing(opener.open(name)) as opened:
            yield opened

    @contextlib.contextmanager
    def opened_unchecked(self, name: str) -> Iterator[OpenGeneration]:
        """The same for one that no searcher takes."""
        generation = self.data.catalog.get(name)
        collection = self.data.store.open(generation.collection, generation.recipe.fingerprint)
        with self._opener(name) as opener, contextlib.closing(collection):
            yield OpenGeneration(
                generation=generation,
                encoder=opener.encoder(generation),
                collection=collection,
                lexical=opener.half(generation, collection),
                searcher=cast(Any, None),
            )

    @contextlib.contextmanager
    def _opener(self, name: str) -> Iterator[Opener]:
        """The generation is dropped afterwards."""
        opener = Opener(self.data, writable=False)
        try:
            yield opener
        finally:
            opener.close()
            self.data.catalog.move(name, "retired")
            self.data.store.drop(self.data.catalog.get(name).collection)
            self.data.catalog.move(name, "pruned")

    def verify(self, opened: OpenGeneration) -> list[Check]:
        watermark = self.data.catalog.watermark(opened.name)
        return verify_structure(self.data.corpus, opened, watermark=watermark)

    def quality(self, opened: OpenGeneration) -> Check:
        check, _ = check_quality(self.data, opened, self.judged, "test")
        return check

    def healthy(self, number: int) -> list[Check]:
        del number
        model, _ = self.model(lambda turn: TurnedEncoder(turn, dim=DIM))
        with self.opened(self.build(model)) as opened:
            watch = Stopwatch()
            checks = [*self.verify(opened), self.quality(opened)]
            self.seconds.append(watch.seconds)
        return checks

    # -- ways to plant a fault -----------------------------------------------------------------

    def written_by(self, kind: Callable[..., WordEncoder]) -> list[Check]:
        """The vectors are made by a model that differs, under the fingerprint of the right one."""
        model, encoder = self.model(lambda turn: TurnedEncoder(turn, dim=DIM))
        turn = int(model.partition("@")[2])
        with self.opened(self.build(model, writer=kind(turn, dim=DIM))) as opened:
            del encoder
            return self.verify(opened)

    def changed(self, change: Callable[[OpenGeneration, list[str]], None], share: float) -> Any:
        """Some documents of a healthy generation are changed in the store."""
        model, _ = self.model(lambda turn: TurnedEncoder(turn, dim=DIM))
        with self.opened(self.build(model)) as opened:
            n = max(1, round(share * self.n_documents))
            chosen = self.rng.sample(range(self.n_documents), n)
            change(opened, [f"d{number}" for number in chosen])
            return self.verify(opened)


class _Under:
    """An encoder that claims another fingerprint."""

    def __init__(self, encoder: Any, fingerprint: str) -> None:
        self._encoder = encoder
        self.fingerprint = fingerprint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def _write_judgments(folder: Path, n_documents: int, n_queries: int, seed: int) -> Path:
    """Each query is some words of one document among some of another."""
    rng = random.Random(seed)
    (folder / "qrels").mkdir(parents=True)
    asked = rng.sample(range(n_documents), min(n_queries, n_documents // 2))
    with (
        (folder / "queries.jsonl").open("w", encoding="utf-8") as queries,
        (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as qrels,
    ):
        qrels.write("query-id\tcorpus-id\tscore\n")
        for number in asked:
            words = text_of(number, seed).split()[:5]
            words += text_of((number + 1) % n_documents, seed).split()[:3]
            queries.write(json.dumps({"_id": f"q{number}", "text": " ".join(words)}) + "\n")
            qrels.write(f"q{number}\td{number}\t1\n")
    return folder
