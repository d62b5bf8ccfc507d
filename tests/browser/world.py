"""A small help centre to look at: documents worth reading, real tiny models, a real service."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reindexer.build import BuildRun, run_to_its_end
from reindexer.build_job import BuildJob
from reindexer.build_process import build_of
from reindexer.cutover import cut_over
from reindexer.data_directory import DataDirectory
from reindexer.journal import BUILD_LEASE
from reindexer.recipes import generation_for, recipe_for
from reindexer.settings import Settings
from search.documents import Document
from tests.embedding_server import EmbeddingServer
from tests.running_service import RunningService
from tests.tiny_models import WORD_LIST, make_tiny_model
from training.remote_ref import RemoteAccess

if TYPE_CHECKING:
    from training.model_version import ModelVersion

WAIT_S = 90.0
N_NOTES = 400
WINDOW = 16  # documents; a build is seen to get on, checkpoint by checkpoint
HOSTED_S = 0.5  # that each request to the hosted model takes, so that its build can be watched
_SEEDS = {1: 2, 2: 1, 3: 3}  # of the models; the second answers better than the first
HOSTILE = "<script>document.title = 'broken'</script>"

ARTICLES = [
    json.loads(line)
    for line in (Path(__file__).parent / "help_centre.jsonl").read_text("utf-8").splitlines()
]
QUERIES = (
    "how do I reset my password",
    "charged twice on my card",
    "clean the filter with warm water",
    "export every document",
    "search shows an old page",
)


class World(RunningService):
    """A data directory, the service on it, and the server that has the model `hosted`."""

    def __init__(self, data: DataDirectory, hosted: EmbeddingServer) -> None:
        super().__init__(data)
        self.hosted = hosted

    def live(self) -> str | None:
        live = self.data.catalog.live()
        return live.name if live is not None else None


@contextlib.contextmanager
def running(folder: Path, *, is_empty: bool = False, **settings: Any) -> Iterator[World]:
    """docs@2 is live and docs@1 standby; help@3 and hosted@1, which takes its time, wait to be
    built. is_empty: nothing is there."""
    data = DataDirectory(
        Settings(
            data_dir=folder / "data",
            evaluation_dir=str(folder / "judged"),
            feedback_enabled=True,
            window=WINDOW,
            **settings,
        )
    )
    with EmbeddingServer() as hosted, data:
        if not is_empty:
            _fill(data, folder)
            data.registry.register(f"openai:{hosted.url}/v1#hosted", remote=RemoteAccess())
            hosted.slow_s = HOSTED_S
        with World(data, hosted) as world:
            if not is_empty:
                until(lambda: len(world.service.manager.opened()) == 2)
            yield world


def until(what: Callable[[], Any]) -> Any:
    """What it gives, as soon as it gives something."""
    deadline = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return found


def _documents(n_notes: int) -> list[Document]:
    """The articles, and notes that nobody asks for."""
    draw = random.Random(7)
    words = WORD_LIST.split()
    notes = [
        Document.of(
            doc_id=f"note/{number}",
            title=f"Note {number}",
            text=" ".join(draw.choices(words, k=draw.randrange(20, 80))).capitalize() + ".",
            metadata={"topic": "notes", "year": 2015 + number % 8},
            source="notes",
        )
        for number in range(n_notes)
    ]
    return [Document.of(**article, source="help-centre") for article in ARTICLES] + notes


def _fill(data: DataDirectory, folder: Path) -> None:
    data.corpus.put(_documents(N_NOTES))
    _write_judgments(folder / "judged" / "faq")
    for number in (1, 2, 3):
        _register(data, folder, number)
    for model in ("help@1", "help@2"):
        cut_over(data, _build(data, model, folder / "judged" / "faq"))
    data.catalog.events.record("evaluation", "docs@2", {"queries": len(QUERIES)})


def _build(data: DataDirectory, model: str, judged: Path) -> str:
    """What the child process of a build does, in this one."""
    with data.journal.lease(BUILD_LEASE) as lease:
        generation = generation_for(data, recipe_for(data, data.registry.resolve(model)))
        data.journal.start_run(build_of(data, generation))
        job = BuildJob(
            generation=generation.name, token=lease.token, settings={}, eval_dir=str(judged)
        )
        code = run_to_its_end(data, BuildRun(data, job), generation.name)
    assert code == 0, data.journal.build_of(generation.name).reason
    return generation.name


def _register(data: DataDirectory, folder: Path, number: int) -> ModelVersion:
    """help@1 is a base, the others look like versions that were trained from it."""
    path = make_tiny_model(folder / f"model-{number}", kind="static", seed=_SEEDS[number], dim=64)
    if number == 1:
        return data.registry.register(str(path), name="help")
    gain = 0.021 * number
    metrics = {
        "base": {"ndcg@10": 0.652, "recall@10": 0.781, "mrr@10": 0.618, "map@100": 0.604},
        "tuned": {
            "ndcg@10": 0.652 + gain,
            "recall@10": 0.781 + gain / 2,
            "mrr@10": 0.618 + gain,
            "map@100": 0.598,
        },
        "difference": {
            "ndcg@10": {"mean": gain, "low": gain - 0.02, "high": gain + 0.022},
            "recall@10": {"mean": gain / 2, "low": gain / 2 - 0.04, "high": gain / 2 + 0.03},
            "mrr@10": {"mean": gain, "low": gain - 0.03, "high": gain + 0.03},
            "map@100": {"mean": -0.006, "low": -0.02, "high": 0.009},
        },
        "dims": {
            str(dim): {"base": 0.652 - lost, "tuned": 0.652 + gain - lost / 3}
            for dim, lost in ((64, 0.0), (32, 0.03), (16, 0.1), (8, 0.24))
        },
    }
    lineage = {
        "base": "help@1",
        "pairs": 1_840,
        "pairs_sha256": "4f8a0c1e" * 8,
        "gate": "passed",
        "gate_reason": f"nDCG@10 is {gain:+.3f} above the base, the interval leaves out 0",
        "seed": 12,
        "code_version": "0.1.0",
        "settings": {"loss": "mnrl", "epochs": 2, "batch_size": 32, "matryoshka": [64, 32, 16, 8]},
        "command": "reindexer train pairs.jsonl --base help@1 --name help --eval judged/faq",
        "report": "report.html",
    }
    return data.registry.register(
        str(path), name="help", metrics=metrics, lineage=lineage, document=_report
    )


def _report(version: ModelVersion, folder: Path) -> None:
    (folder / "report.html").write_text(
        "<!doctype html><html lang=en><title>Report</title>"
        "<meta name=viewport content='width=device-width'><style>h1{color:teal}</style>"
        f"<h1>{version} is better</h1><script>document.title = 'broken'</script>"
    )


def _write_judgments(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    relevant = (1, 3, 9, 5, 6)
    lines = [json.dumps({"_id": f"q{n}", "text": text}) for n, text in enumerate(QUERIES)]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    rows = [f"q{n}\thelp/{doc}\t1" for n, doc in enumerate(relevant)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows))
