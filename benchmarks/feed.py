"""How many passages one process can feed to a model that takes no time, and take from it.

    python benchmarks/feed.py [--passages 20000]

Everything of a build but the model: reading, splitting, tokenizing to 128 tokens a passage, points,
marks, writing to the embedded store with acknowledgement. A card that encodes faster than this is
starved by one process; `--processes` gives it several.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

import numpy as np

from benchmarks import fanout
from benchmarks.report import Report, read_arguments
from reindexer.replay import Replay
from reindexer.settings import Settings
from reindexer.stages import StageClock
from search.documents import Document
from search.recipe import Recipe, SplitterRecipe
from search.splitter import Splitter
from tests.tiny_models import WORD_LIST, wordpiece_tokenizer
from training.tokenizer import TextTokenizer, TokenizedTexts

TOKENS = 128  # of a passage, [CLS] and [SEP] included
WINDOW = 8_192


class InstantEncoder(fanout.SleepingEncoder):
    """A real tokenizer, and a model that takes no time."""

    def __init__(self) -> None:
        tokenizer = wordpiece_tokenizer()
        self._tokenizer = TextTokenizer(
            tokenizer, prompt="", max_tokens=TOKENS, special_tokens=True
        )

    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        return self._tokenizer.tokenize(texts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=20_000)
    arguments = read_arguments(parser)
    n = arguments.passages
    fanout.PASSAGE_S = 0.0
    report = Report(
        f"feeding a model that takes no time: {n:,} passages of {TOKENS} tokens",
        path=arguments.report,
    )
    words = WORD_LIST.split()
    drawn = np.random.default_rng(0).integers(0, len(words), (n, TOKENS - 2))
    with (
        tempfile.TemporaryDirectory() as folder,
        fanout.SleepingDirectory(Settings(data_dir=Path(folder))) as data,
    ):
        data.corpus.put(
            [
                Document.of(doc_id=f"d{number}", text=" ".join(words[at] for at in row))
                for number, row in enumerate(drawn)
            ]
        )
        encoder = InstantEncoder()
        generation = data.catalog.record(
            Recipe(
                model="instant@1",
                fingerprint=encoder.fingerprint,
                dim=encoder.dim,
                splitter=SplitterRecipe(max_tokens=512, overlap_tokens=64),
            )
        )
        collection = data.store.create(
            generation.collection, generation.recipe.collection_spec(generation.name)
        )
        clock = StageClock()
        replay = Replay(
            corpus=data.corpus,
            collection=collection,
            encoder=encoder,  # type: ignore[arg-type]
            splitter=Splitter(generation.recipe.splitter, encoder),
            window=WINDOW,
            checkpoint=lambda _progress: None,
            clock=clock,
        )
        began, began_cpu = time.perf_counter(), time.process_time()
        progress = replay.run(0, n, fresh_until=n)
        took_s, took_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        assert progress.passages == collection.count() == n
        collection.close()
    report.figure("one process", n / took_s, "passages/s", digits=0)
    report.figure("of a core", took_cpu_s / n * 1e6, "µs a passage", digits=0)
    for stage, stage_s in clock.seconds().items():
        report.figure(f"  {stage}", stage_s / n * 1e6, "µs a passage", digits=0)
    return report.exit_code()


if __name__ == "__main__":
    sys.exit(main())
