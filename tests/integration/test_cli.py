"""The verbs as a user types them: what is printed where, and which exit code comes back."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reindexer.cli import EXIT_CODES, cli
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.errors import GateRefused, LeaseHeld, ReindexerError
from reindexer.journal import BUILD_LEASE, CUT_OVER_LEASE
from reindexer.service_address import ServiceAddress
from reindexer.settings import Settings
from search.documents import Document
from search.errors import SearchError, StoreLocked
from search.processes import process_name
from tests.tiny_models import make_tiny_model
from training.errors import TrainingError

N_DOCUMENTS = 60
ENGINES = ["torch", "sentence_transformers", "transformers", "bm25s", "numba", "qdrant_client"]
LIBRARIES = ["qdrant_edge", "sqlalchemy", "numpy", "httpx", "rich"]  # quick, but not for nothing
SUBJECTS = ("apple", "river", "engine", "metal", "village", "music", "winter", "market", "horse")


@dataclass(frozen=True)
class Installation:
    """A data directory and the command in this process."""

    data_dir: Path

    def run(self, *args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["--data-dir", str(self.data_dir), *args])
        assert result.exit_code == code, f"{args}: {result.exit_code}\n{result.output}"
        return result

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self.run(*args, "--json", code=code).stdout)

    def open(self) -> DataDirectory:
        return open_data_directory(Settings(data_dir=self.data_dir))

    def process(self, *args: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "reindexer", "--data-dir", str(self.data_dir), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("REINDEXER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def empty(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and a BEIR folder of one subject a query."""
    folder = tmp_path_factory.mktemp("given")
    for number, name in enumerate(("alpha", "beta"), 1):
        make_tiny_model(folder / name, kind="static", seed=number)
    judged = folder / "judged"
    (judged / "qrels").mkdir(parents=True)
    documents = [
        {"_id": f"d{n}", "title": "", "text": _text(n), "metadata": {"n": n, "lang": "en"}}
        for n in range(N_DOCUMENTS)
    ]
    _write_lines(judged / "corpus.jsonl", documents)
    _write_lines(judged / "queries.jsonl", [{"_id": s, "text": s} for s in SUBJECTS])
    qrels = [f"{SUBJECTS[n % len(SUBJECTS)]}\td{n}\t1" for n in range(N_DOCUMENTS)]
    (judged / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "\n".join(qrels) + "\n", encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def installed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """docs@1 of model alpha is live; the upgrade's own report is checked on the way."""
    installation = Installation(tmp_path_factory.mktemp("installed") / "data")
    report = installation.json("ingest", str(folder / "judged"))
    assert (report["added"], report["rejected"]) == (N_DOCUMENTS, [])
    upgrade = installation.json("upgrade", str(folder / "alpha"), "--yes")
    assert upgrade["verify"]["passed"]
    assert (upgrade["live_before"], upgrade["live_after"]) == (None, "docs@1")
    assert (upgrade["documents"], upgrade["encoded"]) == (N_DOCUMENTS, upgrade["passages"])
    return installation


def _text(number: int) -> str:
    return f"{SUBJECTS[number % len(SUBJECTS)]} and some more words about number {number}"


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# -- quick, and quiet where it should be ----------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "not_loaded"),
    [
        (["--help"], [*ENGINES, *LIBRARIES]),
        (["status"], [*ENGINES, *LIBRARIES]),
        (["status", "--json"], [*ENGINES, *LIBRARIES]),
        (["settings"], [*ENGINES, *LIBRARIES]),
        (["completion", "zsh"], [*ENGINES, *LIBRARIES]),
        (["models"], [*ENGINES, "qdrant_edge"]),
        (["generations"], ENGINES),  # asks the embedded engine for disk sizes: 20 ms
    ],
    ids=lambda value: " ".join(value) if "-" in value[0] or len(value) < 3 else "",
)
def test_a_light_verb_loads_nothing_heavy(
    installed: Installation, args: list[str], not_loaded: list[str]
) -> None:
    script = (
        "import sys; from reindexer.cli import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"sys.stderr.write(' '.join({set(not_loaded)!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--data-dir", str(installed.data_dir), *args],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout
    assert done.stderr == "", "these were loaded"


def test_status_is_one_json_document_with_the_contract_s_fields(installed: Installation) -> None:
    status = installed.json("status")
    assert status["live"].keys() >= {"generation", "model", "documents", "watermark", "lag_docs"}
    assert status["live"]["generation"] == "docs@1"
    assert status["builds"][-1].keys() >= {
        "build_id", "generation", "model", "state", "docs_done", "docs_total", "docs_per_s",
        "eta_s", "lag_docs", "retries", "reason", "started_at", "updated_at",
    }  # fmt: skip
    screen = installed.run("status").output
    assert "live     docs@1 (alpha@1), 60 documents" in screen
    assert all(
        len(line) <= 80 for line in screen.splitlines() if str(installed.data_dir) not in line
    )


def test_quiet_leaves_out_hints(installed: Installation) -> None:
    assert "Next:" in installed.run("status").output
    assert "Next:" not in installed.run("status", "--quiet").output


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((kind("what was found; what to do"), code) for kind, code in EXIT_CODES),
        (KeyError("surprise"), 1),
        (OSError(28, "No space left on device", "/data/x"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_error_is_one_line_and_an_exit_code(
    empty: Installation, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(_settings: Settings) -> None:
        raise error

    monkeypatch.setattr("reindexer.status.read_status", fail)
    result = empty.run("status", code=code)
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
    if not isinstance(error, KeyboardInterrupt):
        assert len(lines) == 1
        assert "Traceback" in empty.run("status", "-v", code=code).stderr


def test_the_contract_s_exit_codes() -> None:
    def code_of(error: type[Exception]) -> int:
        return next(code for kind, code in EXIT_CODES if issubclass(error, kind))

    assert code_of(GateRefused) == 3
    assert code_of(LeaseHeld) == code_of(StoreLocked) == 4
    assert {code_of(kind) for kind in (ReindexerError, SearchError, TrainingError)} == {1}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["serach"], "did you mean `reindexer search`?"),
        (["ingest"], "Missing argument 'SOURCE'"),
        (["search", "x", "--filter", "year"], "write field=value"),
        (["search", " "], "the query is empty"),
        (["search", "x", "-k", "0"], "'-k'"),
        (["upgrade", "model"], "add --yes"),
        (["evaluate", "x", "--mode", "magic"], "expected lexical, dense, hybrid"),
        (["serve", "--host", "0.0.0.0"], "--insecure"),
        (["status", "--set", "build.windw=3"], "reindexer settings"),
        (["status", "--set", "build.window=many"], "a whole number"),
        (["status", "--watch", "--json"], "--watch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_2_and_says_what_is_right(
    empty: Installation, args: list[str], says: str
) -> None:
    result = empty.run(*args, code=2)
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("args", [["search", "x"], ["generations"], ["prune"], ["rollback"]])
def test_a_mistyped_data_directory_is_not_made(empty: Installation, args: list[str]) -> None:
    assert "--data-dir" in empty.run(*args, code=1).stderr
    assert not empty.data_dir.exists()


def test_doctor_changes_nothing(empty: Installation) -> None:
    assert empty.json("doctor")["healthy"]
    assert not empty.data_dir.exists()


# -- settings -------------------------------------------------------------------------------------


def test_settings_name_their_origin_and_mask_secrets(
    empty: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("reindexer.toml").write_text("[build]\nwindow = 7\n", encoding="utf-8")
    monkeypatch.setenv("REINDEXER_STORE_API_KEY", "s3cret")
    monkeypatch.setenv("REINDEXER_DATABASE_URL", "postgresql://me:s3cret@host/db")
    result = empty.run("settings", "--json", "--set", "build.hnsw_m=8")
    assert "s3cret" not in result.output
    rows = {row["key"]: row for row in json.loads(result.stdout)}
    assert (rows["build.window"]["value"], rows["build.window"]["origin"]) == (7, "reindexer.toml")
    assert (rows["build.hnsw_m"]["value"], rows["build.hnsw_m"]["origin"]) == (8, "flag")
    assert rows["store.api_key"]["origin"] == "environment REINDEXER_STORE_API_KEY"


def test_the_data_directory_may_be_named_after_the_verb(installed: Installation) -> None:
    result = CliRunner().invoke(cli, ["status", "--json", "--data-dir", str(installed.data_dir)])
    assert json.loads(result.stdout)["live"]["generation"] == "docs@1"


# -- ingest ---------------------------------------------------------------------------------------


def test_rejected_rows_are_named_and_the_rest_goes_in(empty: Installation, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text('{"_id": "a", "text": "good"}\n{broken\n{"text": "no id"}\n')
    result = empty.run("ingest", str(source), "--json", code=1)
    report = json.loads(result.stdout)
    assert report["added"] == 1
    assert [row["where"] for row in report["rejected"]] == ["bad.jsonl:2", "bad.jsonl:3"]
    assert "2 rows rejected" in result.stderr
    assert empty.json("ingest", str(source), code=1)["unchanged"] == 1


# -- search and evaluate --------------------------------------------------------------------------


def test_search_answers_as_the_contract_says(installed: Installation) -> None:
    answer = installed.json("search", "river", "-k", "3", "--filter", "n<30")
    assert answer.keys() >= {"query", "mode", "generation", "model", "degraded", "took_ms", "hits"}
    assert (answer["generation"], answer["model"]) == ("docs@1", "alpha@1")
    assert len(answer["hits"]) == 3
    assert all(hit["metadata"]["n"] < 30 for hit in answer["hits"])
    assert "river" in answer["hits"][0]["snippet"]
    screen = installed.run("search", "river", "-k", "1", "--explain").output
    assert screen.startswith("docs@1 (alpha@1), hybrid, ")
    assert "BM25" in screen


def test_evaluate_scores_each_mode(installed: Installation, folder: Path) -> None:
    report = installed.json("evaluate", str(folder / "judged"), "--mode", "lexical,hybrid")
    assert (report["queries"], report["generation"]) == (len(SUBJECTS), "docs@1")
    assert list(report["metrics"]) == ["lexical", "hybrid"]
    assert report["metrics"]["lexical"]["ndcg@10"] == pytest.approx(1.0)
    assert report["metrics"]["lexical"].keys() >= {"recall@100", "mrr@10", "map@100", "ndcg@1"}
    alone = installed.json("evaluate", str(folder / "judged"), "--model", "alpha@1")
    assert (alone["generation"], list(alone["metrics"])) == (None, ["dense"])


def test_evaluate_warns_about_judged_documents_that_are_missing(
    installed: Installation, folder: Path
) -> None:
    with installed.open() as data:
        document = data.corpus.get("d3")
        assert document is not None
        data.corpus.delete(["d3"])
        result = installed.run("evaluate", str(folder / "judged"), "--json")
        data.corpus.put([document])
    assert json.loads(result.stdout)["missing_documents"] == 1
    assert "1 relevant document" in result.stderr


def test_search_brings_in_a_few_changes_and_warns_of_many(installed: Installation) -> None:
    with installed.open() as data:
        data.corpus.put([Document.of(doc_id="late", text="zebra", source="late")])
    result = installed.run("search", "zebra", "--mode", "dense", "--json", "--set",
                           "search.max_lag_docs=0")  # fmt: skip
    assert "behind the corpus; run `reindexer sync`" in result.stderr
    assert "late" not in [hit["doc_id"] for hit in json.loads(result.stdout)["hits"]]
    hits = installed.json("search", "zebra", "--mode", "dense", "-k", "60")["hits"]
    assert "late" in [hit["doc_id"] for hit in hits]
    assert installed.json("status")["live"]["lag_docs"] == 0


# -- the service that other verbs find ------------------------------------------------------------


@pytest.fixture
def address(installed: Installation) -> Iterator[ServiceAddress]:
    """A service file of a process that lives (this one) and an HTTP server that knows nothing."""

    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(404)

        do_GET = do_POST

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Stranger)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = ServiceAddress(
        url=f"http://127.0.0.1:{server.server_port}", token="t", process=process_name()
    )
    address.write(installed.data_dir)
    yield address
    address.remove(installed.data_dir)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_service_of_another_version_is_named_as_such(
    installed: Installation, address: ServiceAddress
) -> None:
    error = installed.run("search", "x", code=1).stderr
    assert address.url in error
    assert "another version" in error


def test_a_service_that_does_not_answer_is_named(installed: Installation) -> None:
    silent = ServiceAddress(url="http://127.0.0.1:9", token="t", process=process_name())
    silent.write(installed.data_dir)
    try:
        error = installed.run("search", "x", code=1).stderr
    finally:
        silent.remove(installed.data_dir)
    assert "the service at http://127.0.0.1:9 does not answer" in error


# -- from one generation to the next --------------------------------------------------------------


def test_plan_measures_and_changes_nothing(installed: Installation, folder: Path) -> None:
    before = sorted(path.name for path in (installed.data_dir / "models").iterdir())
    plan = installed.json("plan", str(folder / "beta"))
    assert plan.keys() >= {
        "model", "live_generation", "documents", "passages", "tokens", "strategy", "docs_per_s",
        "estimated_s", "disk_bytes", "memory_bytes", "warnings",
    }  # fmt: skip
    assert (plan["model"], plan["strategy"], plan["live_generation"], plan["registered"]) == (
        "beta@1", "encode", "docs@1", False,
    )  # fmt: skip
    assert plan["documents"] <= plan["passages"] <= plan["tokens"]
    assert plan["docs_per_s"] > 0
    assert sorted(path.name for path in (installed.data_dir / "models").iterdir()) == before
    assert not list(installed.data_dir.glob(".plan-*"))
    again = installed.json("plan", str(folder / "alpha"))
    assert (again["strategy"], again["model"], again["disk_bytes"]) == ("none", "alpha@1", 0)


def test_upgrade_to_what_is_live_does_nothing(installed: Installation, folder: Path) -> None:
    report = installed.json("upgrade", str(folder / "alpha"), "--yes")
    assert (report["live_before"], report["live_after"]) == ("docs@1", "docs@1")
    assert [item["generation"] for item in installed.json("generations")] == ["docs@1"]


def test_an_upgrade_in_the_background_tells_where_it_is_and_ends_live(
    empty: Installation, folder: Path
) -> None:
    empty.run("ingest", str(folder / "judged"))

    verb = empty.process("upgrade", str(folder / "alpha"), "--yes", "--detach", "--json")
    stdout, stderr = verb.communicate(timeout=120)

    assert verb.returncode == 0, stderr
    report = json.loads(stdout)
    log = Path(report["log"])
    assert log.parent == empty.data_dir / "logs"
    assert (report["build_id"], report["generation"]) == (1, "docs@1")
    deadline = time.monotonic() + 60
    while empty.json("status")["live"] is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_an_upgrade_in_the_background_that_ends_at_once_says_why(empty: Installation) -> None:
    result = empty.run("upgrade", "nobody@7", "--yes", "--detach", code=1)

    assert "nobody@7" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_held_lease_exits_4_and_names_the_holder(installed: Installation, folder: Path) -> None:
    with installed.open() as data, data.journal.lease(BUILD_LEASE):
        error = installed.run("build", str(folder / "beta"), code=4).stderr
    assert f"process {os.getpid()}" in error


def test_ctrl_c_pauses_and_resume_goes_on(installed: Installation, folder: Path) -> None:
    process = installed.process("build", str(folder / "beta"))
    with installed.open() as data:
        deadline = time.monotonic() + 60
        while not data.journal.builds({"running"}):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "reindexer resume" in stderr
    assert "Traceback" not in stderr
    assert installed.json("status")["builds"][0]["state"] in ("paused", "stopped")

    resumed = installed.json("resume", "--eval", str(folder / "judged"))
    assert (resumed["generation"], resumed["state"]) == ("docs@2", "ready")
    assert resumed["live_after"] == "docs@1"
    assert "quality" in [check["name"] for check in resumed["verify"]["checks"]]


def test_a_generation_that_lost_a_document_is_refused(installed: Installation) -> None:
    assert installed.json("verify", "docs@2")["passed"]
    with installed.open() as data:
        generation = data.catalog.get("docs@2")
        collection = data.store.open(generation.collection, generation.recipe.fingerprint)
        collection.remove_older({"d7": data.corpus.head() + 1})
        collection.close()
    result = installed.run("verify", "docs@2", "--json", code=3)
    report = json.loads(result.stdout)
    assert [check["name"] for check in report["checks"] if not check["passed"]] == ["documents"]
    assert "did not pass: documents" in result.stderr
    show = installed.run("generations", "show", "docs@2").output
    assert "docs@2       failed" in show
    assert "1 missing" in show
    assert "'d7'" in show
    assert "--override" in installed.run("cutover", "docs@2", code=3).stderr
    assert installed.json("status")["live"]["generation"] == "docs@1"


def test_a_person_may_overrule_the_gate_and_go_back(installed: Installation) -> None:
    switched = installed.json("cutover", "docs@2", "--override", "d7 is not needed")
    assert (switched["live_before"], switched["live_after"]) == ("docs@1", "docs@2")
    with installed.open() as data:
        reasons = [event.get("reason") for event in data.catalog.events.newest()]
    assert "d7 is not needed" in reasons
    assert "docs@2 is live already" in installed.run("cutover", "docs@2", code=1).stderr
    assert installed.json("search", "river")["generation"] == "docs@2"
    back = installed.json("rollback")
    assert (back["live_after"], back["standby"]) == ("docs@1", "docs@2")
    plan = installed.json("plan", "beta")
    assert (plan["strategy"], plan["takes_up"], plan["disk_bytes"]) == ("none", "docs@2", 0)


def test_models_that_a_generation_needs_are_not_removed(installed: Installation) -> None:
    error = installed.run("models", "remove", "alpha@1", "--yes", code=1).stderr
    assert "alpha@1 is needed by docs@1" in error
    listed = {row["model"]: row["generations"] for row in installed.json("models", "list")}
    assert listed == {"alpha@1": ["docs@1"], "beta@1": ["docs@2"]}


# -- through the service --------------------------------------------------------------------------


def test_verbs_go_through_the_service_and_sigterm_gives_everything_back(
    installed: Installation,
) -> None:
    process = installed.process("serve", "--port", "0")
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving docs@1 at http://127.0.0.1:")
        address = ServiceAddress.read(installed.data_dir)
        assert address is not None
        answer = installed.json("search", "river", "--filter", "n>=10", "--filter", "n<30")
        assert {hit["metadata"]["n"] for hit in answer["hits"]} <= set(range(10, 30))
        assert installed.json("search", "river", "--generation", "docs@2")["generation"] == "docs@2"
        with installed.open() as data:
            data.corpus.put([Document.of(doc_id="fresh", text="giraffe", source="late")])
        assert installed.json("sync")["service"] == address.url
        assert installed.json("search", "giraffe", "--mode", "lexical")["hits"]
        assert installed.json("verify", "docs@1")["passed"]
        assert address.url in installed.run("serve", "--port", "0", code=4).stderr
    finally:
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert not (installed.data_dir / "service.json").exists()
    assert installed.json("search", "giraffe")["hits"][0]["doc_id"] == "fresh"


# -- prune: last, because it drops ----------------------------------------------------------------


def test_prune_keeps_live_and_the_standby_within_its_hold_over(installed: Installation) -> None:
    plan = installed.json("prune", "--yes")
    assert plan["dropped"] == []
    assert [row["generation"] for row in plan["kept"]] == ["docs@1", "docs@2"]
    over = installed.json("prune", "--set", "prune.hold_over_h=0")
    assert [item["name"] for item in over["items"]] == ["docs@2"]
    assert over["dropped"] == [], "without --yes nothing is dropped"


def test_prune_asks(installed: Installation) -> None:
    assert "add --yes" in installed.run("prune", "--standby", code=2).stderr


def test_prune_waits_for_no_switch(installed: Installation) -> None:
    with installed.open() as data, data.journal.lease(CUT_OVER_LEASE):
        installed.run("prune", "--standby", "--yes", code=4)
    assert installed.json("status")["standby"]["generation"] == "docs@2"


def test_a_killed_prune_is_finished_by_the_next(
    installed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.dense_edge import EdgeStore

    drop = EdgeStore.drop
    monkeypatch.setattr(EdgeStore, "drop", lambda *_args: (_ for _ in ()).throw(SystemExit(137)))
    installed.run("prune", "--standby", "--yes", code=137)
    monkeypatch.setattr(EdgeStore, "drop", drop)
    with installed.open() as data:
        assert "docs-2" in data.store.names()
        assert data.catalog.get("docs@2").state == "pruned"
    (installed.data_dir / "models" / ".incoming-left").mkdir()

    plan = installed.json("prune", "--yes")
    assert plan["dropped"] == ["docs-2", "models/.incoming-left"]
    with installed.open() as data:
        assert data.store.names() == ["docs-1"]
        assert data.catalog.events.newest(1)[0]["dropped"] == plan["dropped"]
    assert installed.json("search", "river")["generation"] == "docs@1"
    assert "was pruned" in installed.run("search", "x", "--generation", "docs@2", code=1).stderr
    installed.run("models", "remove", "beta@1", "--yes")
    assert installed.json("doctor")["healthy"]
