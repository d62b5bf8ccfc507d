"""A fusion fitted to judged queries: stored with the generation, and taken up while it serves."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from reindexer.generation_scores import score_generation
from reindexer.opening import Opener
from reindexer.operations import DirectoryOperations
from reindexer.progress import Progress
from reindexer.quality import check_quality
from reindexer.recipes import recipe_for, same_recipe
from reindexer.running_service import RunningService
from reindexer.service_address import ServiceAddress
from reindexer.tuning import MIN_QUERIES, TooFewJudgments, reset, tune, with_clicks
from search.access import Access
from search.api_limits import ApiLimits
from search.app import create_app
from search.drain import Drain
from search.errors import WrongState
from search.feedback import FeedbackLog
from search.fusion import PLAIN_RRF
from search.keys import ApiKeys
from search.processes import process_name
from search.searcher import SearchRequest
from search.serving import SearcherManager
from search.telemetry import Telemetry
from tests.tiny_models import make_tiny_model
from tests.word_directory import WordDirectory
from training.judgments import Judgments, read_judgments

N_DOCUMENTS = 70
TOKEN = "of this test"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each query is a document's own rare word: BM25 is always right, and vectors rarely."""
    folder = tmp_path_factory.mktemp("given") / "judged"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"q{n}", "text": f"about rare{n}"}) + "\n"
            for n in range(N_DOCUMENTS)
        )
    )
    for split, numbers in (("train", range(60)), ("test", range(60, N_DOCUMENTS))):
        rows = "".join(f"q{n}\td{n}\t1\n" for n in numbers)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture
def train(judged: Path) -> Judgments:
    return read_judgments(judged, "train")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WordDirectory]:
    """docs@1 is live, docs@2 of another model is ready."""
    with WordDirectory(tmp_path_factory.mktemp("tuning") / "data") as directory:
        for n in range(N_DOCUMENTS):
            words = f"word{n % 7} and word{n % 5} and word{n % 3}"
            directory.put(f"d{n}", f"all about rare{n} and {words}")
        directory.go_live(directory.build("word@1"))
        directory.build("word@2")
        yield directory


@pytest.fixture
def live(built: WordDirectory) -> WordDirectory:
    """The same with nothing fitted."""
    for name in ("docs@1", "docs@2"):
        built.catalog.set_fusion(name, PLAIN_RRF)
    return built


@contextlib.contextmanager
def serving(directory: WordDirectory) -> Iterator[SearcherManager]:
    """A service as a verb finds it: over HTTP, following the catalog in a thread of its own."""
    opener = Opener(directory, writable=True)
    manager = SearcherManager(directory.catalog, opener.open, name=process_name(), address="")
    assert manager.wait_until_open("docs@1", timeout_s=60)
    manager.follow()
    service: Any = SimpleNamespace(
        access=Access(ApiKeys(directory.database), token=TOKEN, required=True),
        limits=ApiLimits(),
        drain=Drain(),
        feedback=FeedbackLog(directory.database),
        operations=DirectoryOperations(directory),
        telemetry=Telemetry(),
        manager=manager,
        corpus=directory.corpus,
        token=TOKEN,
        info=lambda: {"generation": "docs@1"},
    )
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="warning"))
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.02):
            manager.follow()

    threads = [threading.Thread(target=server.run), threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        address = ServiceAddress(
            url=f"http://127.0.0.1:{port}", token=TOKEN, process=process_name()
        )
        address.write(directory.path)
        try:
            yield manager
        finally:
            address.remove(directory.path)
    finally:
        server.should_exit = True
        stop.set()
        for thread in threads:
            thread.join()
        manager.close()
        opener.close()


# -- what is stored --------------------------------------------------------------------------------


def test_what_was_fitted_belongs_to_the_generation(live: WordDirectory, train: Judgments) -> None:
    tuning = tune(live, train)

    assert tuning.fit.best_leg == "lexical"
    assert tuning.after.lexical_weight > tuning.after.dense_weight
    means = tuning.fit.means()
    assert means["fitted"] > means["rrf"]
    recipe = live.catalog.get("docs@1").recipe
    assert recipe.fusion == tuning.after
    assert recipe.fusion.fitted is not None
    assert recipe.fusion.fitted.queries == 60
    assert same_recipe(recipe, replace(recipe, fusion=PLAIN_RRF))  # an upgrade builds nothing


def test_a_dry_run_stores_nothing(live: WordDirectory, train: Judgments) -> None:
    before = live.catalog.get("docs@1").recipe
    tuning = tune(live, train, dry_run=True)

    assert (tuning.stored, tuning.before) == (False, PLAIN_RRF)
    assert live.catalog.get("docs@1").recipe == before


def test_fewer_than_fifty_queries_are_refused_unless_forced(
    live: WordDirectory, judged: Path
) -> None:
    few = read_judgments(judged, "test")
    with pytest.raises(TooFewJudgments, match=r"found 10 .* at least 50: 40 more are needed"):
        tune(live, few)
    assert tune(live, few, force=True).after.fitted is not None


def test_queries_without_a_relevant_document_do_not_count(
    live: WordDirectory, train: Judgments
) -> None:
    qrels = {query_id: {"d1": 0} for query_id in list(train.queries)[: 60 - MIN_QUERIES + 1]}
    judgments = Judgments(queries=train.queries, qrels={**train.qrels, **qrels})
    with pytest.raises(TooFewJudgments, match="found 49 judged queries"):
        tune(live, judgments)


def test_reset_goes_back_to_plain_rank_fusion(live: WordDirectory, train: Judgments) -> None:
    tune(live, train)
    assert reset(live, "docs@1").recipe.fusion == PLAIN_RRF
    assert live.catalog.get("docs@1").recipe.fusion == PLAIN_RRF


def test_a_generation_that_nobody_asks_is_not_tuned(live: WordDirectory) -> None:
    gone = live.record("word@3").name
    live.catalog.move(gone, "failed")
    with pytest.raises(WrongState, match=f"{gone} is failed, so nothing is asked of it"):
        live.catalog.set_fusion(gone, PLAIN_RRF)


def test_clicks_count_as_judgments(live: WordDirectory, tmp_path: Path) -> None:
    log_file = tmp_path / "clicks.jsonl"
    with log_file.open("w") as lines:
        for n in range(60):
            for user in ("ann", "bob"):
                for position, shown in enumerate((n + 1, n), 1):
                    event = {
                        "query": f"about rare{n}",
                        "doc_id": f"d{shown}",
                        "clicked": shown == n,
                        "position": position,
                        "user": user,
                    }
                    lines.write(json.dumps(event) + "\n")
    judgments = with_clicks(live, None, log_file)
    assert len(judgments.queries) == 60
    assert all(
        grades == {f"d{text.removeprefix('about rare')}": 1}
        for grades, text in zip(judgments.qrels.values(), judgments.queries.values(), strict=True)
    )
    assert tune(live, judgments).after.lexical_weight > 0.5

    first = next(iter(judgments.queries.values()))
    by_people = Judgments(queries={"q": first}, qrels={"q": {"d9": 1}})
    both = with_clicks(live, by_people, log_file)
    assert len(both.queries) == 60
    assert both.qrels["q"] == {"d9": 1}


# -- serving ---------------------------------------------------------------------------------------


def test_a_running_service_takes_the_fusion_up_and_opens_nothing_again(
    live: WordDirectory, train: Judgments
) -> None:
    with serving(live) as manager, RunningService.found(live) as service:
        assert isinstance(service, RunningService)
        before = manager.current
        assert before is not None
        with manager.acquire() as held:  # a query that is under way meanwhile
            tuning = tune(live, train)  # asks the service, which owns the collection
            deadline = time.monotonic() + 1.0
            while manager.current is before and time.monotonic() < deadline:
                time.sleep(0.01)
            assert held.recipe.fusion == PLAIN_RRF

        after = manager.current
        assert after is not None
        assert after.searcher.recipe.fusion == after.generation.recipe.fusion == tuning.after
        assert after.collection is before.collection
        assert after.searcher.encoder is before.searcher.encoder
        request = SearchRequest(query="about rare3", explain=True)
        weights = service.search(request)["hits"][0]["weights"]
        assert weights == {
            "lexical": tuning.after.lexical_weight,
            "dense": tuning.after.dense_weight,
        }
        assert manager.opened() == [after]
        unknown = httpx.post(f"{service.url}/legs", json={"queries": ["rare3"]})
        assert unknown.status_code == 401


def test_every_query_is_fused_in_one_way_while_the_fusion_changes(
    live: WordDirectory, train: Judgments
) -> None:
    fitted = tune(live, train).after
    reset(live, "docs@1")
    expected: dict[Any, list[float]] = {}
    with serving(live) as manager:
        current = manager.current
        assert current is not None
        request = SearchRequest(query="about rare5 word3", explain=True)
        for fusion in (PLAIN_RRF, fitted):
            answer = current.searcher.with_fusion(fusion).search(request)
            expected[fusion.lexical_weight, fusion.dense_weight] = [
                hit.score for hit in answer.hits
            ]
        seen = set()
        for turn in range(6):
            live.catalog.set_fusion("docs@1", (fitted, PLAIN_RRF)[turn % 2])
            until = time.monotonic() + 0.15
            while time.monotonic() < until:
                with manager.acquire() as searcher:
                    hits = searcher.search(request).hits
                assert hits[0].explanation is not None
                weights = tuple(hits[0].explanation.weights.values())
                assert [hit.score for hit in hits] == expected[weights]
                seen.add(weights)
    assert seen == set(expected)


def test_evaluate_reports_plain_rank_fusion_beside_the_fitted_one(
    live: WordDirectory, judged: Path, train: Judgments
) -> None:
    test = read_judgments(judged, "test")
    plain = score_generation(live, Progress("", quiet=True), test, ["hybrid"])
    assert list(plain["metrics"]) == ["hybrid"]
    assert plain["fusion"]["fitted"] is None

    tune(live, train)
    report = score_generation(live, Progress("", quiet=True), test, ["lexical", "hybrid"])
    assert list(report["metrics"]) == ["lexical", "hybrid", "hybrid-rrf"]
    assert report["metrics"]["hybrid-rrf"] == plain["metrics"]["hybrid"]
    assert report["metrics"]["hybrid"]["ndcg@10"] > plain["metrics"]["hybrid"]["ndcg@10"]
    assert report["fusion"]["fitted"]["on_these_queries"] is False
    again = score_generation(live, Progress("", quiet=True), train, ["hybrid"])
    assert again["fusion"]["fitted"]["on_these_queries"] is True


# -- the next generation ---------------------------------------------------------------------------


def check(live: WordDirectory, name: str, judged: Path) -> tuple[Any, Any]:
    opener = Opener(live, writable=False)
    opened = opener.open(name)
    try:
        return check_quality(live, opened, judged, "train")
    finally:
        opened.close()
        opener.close()


def test_the_next_generation_begins_with_rank_fusion(
    live: WordDirectory, train: Judgments, tmp_path: Path
) -> None:
    """Another model's cosines have another scale."""
    tune(live, train)
    version = live.registry.register(make_tiny_model(tmp_path / "model", kind="static"))
    assert recipe_for(live, version).fusion == PLAIN_RRF


def test_the_gate_fits_the_next_generation_when_the_live_one_is_fitted(
    live: WordDirectory, judged: Path, train: Judgments
) -> None:
    tune(live, train)
    result, metrics = check(live, "docs@2", judged)

    fusion = live.catalog.get("docs@2").recipe.fusion
    assert fusion.fitted is not None
    assert fusion.lexical_weight > 0.5
    assert result.passed
    assert set(metrics) >= {"live", "candidate", "difference", "rrf"}
    assert metrics["candidate"]["ndcg@10"] > metrics["rrf"]["candidate"]["ndcg@10"]
    assert "with plain RRF" in result.found
    assert "fitted on 60 queries, these ones" in result.detail


def test_the_gate_leaves_the_fusion_alone_when_the_live_one_is_not_fitted(
    live: WordDirectory, judged: Path
) -> None:
    _, metrics = check(live, "docs@2", judged)
    assert live.catalog.get("docs@2").recipe.fusion == PLAIN_RRF
    assert "rrf" not in metrics
