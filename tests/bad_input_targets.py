"""What bad input is given to, and what must not come of it.

Each target raises AssertionError, or whatever escapes, when a promise is broken: that no error
reaches a user which is not one of ours, that no request is answered with 5xx, and that what is
refused leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from reindexer.backup_folder import FORMAT, Backup
from reindexer.service import PROBLEMS, ReindexerService
from reindexer.settings import Settings, environment_variable, read_settings
from search.app import create_app
from search.documents import filter_from_json, parse_filter
from search.searcher import SearchRequest
from tests import bad_commands, bad_sources
from tests import bad_inputs as bad
from tests.bad_sources import OURS, Check
from tests.word_directory import WordDirectory
from training.clicks import ClickLog, ClickRules
from training.model_description import describe
from training.model_files import files_to_keep
from training.model_version import ModelFile, ModelVersion, fingerprint, parse_manifest
from training.pair_sources import open_pairs

WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that takes input, the input, and its share of the inputs of a benchmark."""

    name: str
    inputs: st.SearchStrategy[Any]
    opened: Callable[[Path], Any]  # a context manager that gives the check
    share: int  # of 100, of all targets together


@contextmanager
def _pairs(folder: Path) -> Iterator[Check]:
    def check(item: tuple[str, bytes]) -> None:
        path = folder / f"pairs{item[0]}"
        path.write_bytes(item[1])
        with suppress(*OURS):
            for row in open_pairs(path):
                getattr(row, "pair", row).to_json()

    yield check


@contextmanager
def _clicks(folder: Path) -> Iterator[Check]:
    path = folder / "clicks.jsonl"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with suppress(*OURS):
            log = ClickLog(
                path, rules=ClickRules(min_clicks=1), texts_of=lambda ids: dict.fromkeys(ids, "t")
            )
            list(log)

    yield check


@contextmanager
def _filters(_folder: Path) -> Iterator[Check]:
    def check(value: Any) -> None:
        with suppress(*OURS):
            for condition in filter_from_json(value):
                condition.matches({condition.field: 1})
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            with suppress(*OURS):
                SearchRequest(query="q", where=parse_filter(value))

    yield check


@contextmanager
def _settings(folder: Path) -> Iterator[Check]:
    path = folder / "reindexer.toml"
    settings = [item["key"] for item in Settings().rows()]

    def check(item: tuple[bytes, int, str]) -> None:
        content, number, text = item
        path.write_bytes(content)
        with suppress(*OURS):
            read_settings({}, config=path, environment={}).rows()
        variable = environment_variable(settings[number % len(settings)])
        with suppress(*OURS):
            read_settings({}, environment={variable: text}).rows()

    yield check


@contextmanager
def _models(folder: Path) -> Iterator[Check]:
    model = folder / "model"
    for name, value in bad.MODEL_FILES.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(bad.to_json(value))
    for name in ("model-00001.safetensors", "2_Dense/model.safetensors"):
        (model / name).write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert describe(model, trust_remote_code=False).dim == 4  # the example is right

    def check(item: tuple[str, bytes]) -> None:
        name, content = item
        (model / name).write_bytes(content)
        try:
            with suppress(*OURS):
                describe(model, trust_remote_code=False)
                for file in files_to_keep(model, trust_remote_code=False):
                    assert file.resolve().is_relative_to(model.resolve())
        finally:
            (model / name).write_bytes(bad.to_json(bad.MODEL_FILES[name]))

    yield check


def manifest() -> dict[str, Any]:
    """A right manifest of a model version."""
    version = ModelVersion(
        name="support", number=1, base="b", fingerprint="", dim=4, max_tokens=8, query_prompt="",
        document_prompt="", pooling="mean", normalize=True, truncate_dim=None, similarity="cosine",
        created_at="", path=Path("x"),
        files={"config.json": ModelFile(sha256="0" * 64, size_bytes=1)},
    )  # fmt: skip
    value = version.to_json()
    value["fingerprint"] = fingerprint(version)
    found: dict[str, Any] = json.loads(json.dumps(value))
    return found


def backup_manifest() -> dict[str, Any]:
    """A right manifest of a backup."""
    file = {"path": "model.safetensors", "sha256": "a" * 64, "n_bytes": 3}
    rows = {"path": "documents/000000000001", "sha256": "b" * 64, "n_bytes": 3}
    return {
        "format": FORMAT, "made_at": "2026-01-01T00:00:00.000000+00:00", "made_by": "reindexer",
        "schema_revision": "0002", "head_seq": 1, "documents": 1, "corpus_digest": "0",
        "live": None, "tables": {"documents": {"columns": ["a"], "n_rows": 1, "files": [rows]}},
        "collections": {"docs@1": {"watermark": 1, "n_points": 0, "digest": "", "files": [rows]}},
        "lexical": {"english-1": [file]}, "models": {"m@1": [file]}, "removed_models": ["m@2"],
    }  # fmt: skip


@contextmanager
def _manifests(folder: Path) -> Iterator[Check]:
    parse_manifest(bad.to_json(manifest()), folder)
    Backup.from_bytes(bad.to_json(backup_manifest()))

    def check(content: bytes) -> None:
        with suppress(*OURS):
            version = parse_manifest(content, folder)
            for name in version.files:
                assert (folder / name).resolve().is_relative_to(folder.resolve())
        with suppress(*OURS):
            backup = Backup.from_bytes(content)
            names = [*backup.models, *backup.lexical, *backup.removed_models]
            names += [file.sha256 for file in backup.files()]
            for name in names:
                assert (folder / name).resolve().parent == folder.resolve(), name
            for files in (*backup.models.values(), *backup.lexical.values()):
                for file in files:
                    inside = (folder / file.path).resolve()
                    assert inside.is_relative_to(folder.resolve()), file.path

    yield check


class Service:
    """The whole API over a real corpus, store and database, called without a network."""

    def __init__(self, directory: WordDirectory) -> None:
        self.directory = directory
        directory.put_many(f"d{number}" for number in range(20))
        generation = directory.build("word@1")
        directory.go_live(generation)
        self.service = ReindexerService(directory, host="127.0.0.1", port=0)
        assert self.service.manager.wait_until_open(generation, WAIT_S)
        self.service.manager.follow()
        self.app = create_app(self.service, problems=PROBLEMS)
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        self.loop.close()
        self.service.close()

    def ask(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the answer."""
        status, _, content = self.call(method, url, body, headers)
        return status, content

    def call(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        return self.loop.run_until_complete(self._ask(method, url, body, dict(headers or {})))

    async def _ask(
        self, method: str, url: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        from urllib.parse import unquote

        path, _, query = url.partition("?")
        kind = "application/x-ndjson" if (method, path) == ("POST", "/documents") else ""
        sent = {"host": "127.0.0.1", "content-type": kind or "application/json", **headers}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": unquote(path), "raw_path": path.encode(),
            "query_string": query.encode(), "root_path": "", "client": ("127.0.0.1", 9),
            "server": ("127.0.0.1", 8321),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
        }  # fmt: skip
        pieces, status = [], 0
        told: dict[str, str] = {}
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told.update((k.decode(), v.decode("latin-1")) for k, v in message["headers"])
            else:
                pieces.append(message.get("body", b""))

        await self.app(scope, receive, send)
        return status, told, b"".join(pieces)


@contextmanager
def service(folder: Path, **settings: Any) -> Iterator[Service]:
    """A service in a new data directory."""
    with WordDirectory(
        folder / "data", run_worker=False, feedback_enabled=True, **settings
    ) as directory:
        running = Service(directory)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def _api(folder: Path) -> Iterator[Check]:
    with service(folder) as running:
        corpus = running.directory.corpus

        def check(call: bad.Call) -> None:
            method, url, body = call
            before = corpus.head()
            status, told, content = running.call(method, url, body)
            assert 200 <= status < 500, (status, call, content)
            if not told.get("content-type", "").startswith("text/"):  # a page, or the metrics
                json.loads(content or b"null")
            if status >= 400:
                assert corpus.head() == before, (status, call)

        yield check


@contextmanager
def _queries(folder: Path) -> Iterator[Check]:
    with service(folder) as running:

        def check(body: bytes) -> None:
            status, content = running.ask("POST", "/search", body)
            assert status in (200, 400, 404, 422), (status, body, content)
            if status == 200:
                assert json.loads(content)["degraded"] == [], (body, content)

        yield check


_manifest_bytes = st.one_of(
    bad.json_of(bad.almost(manifest()), bad.to_json(manifest())),
    bad.json_of(bad.almost(backup_manifest()), bad.to_json(backup_manifest())),
)
_pair_files = st.one_of(
    st.tuples(st.just(".jsonl"), bad.pairs),
    st.tuples(st.just(".csv"), bad.tables),
    st.tuples(st.just(".csv"), bad.near(b"anchor,positive,score\na,b,0.5\nc,d,1\n")),
    st.tuples(st.just(".parquet"), bad.parquet_files),
)

TARGETS = tuple(
    Target(name=name, inputs=inputs, opened=opened, share=share)
    for name, inputs, opened, share in (
        # What takes 5 ms and more has a smaller share: a million takes half an hour on two cores.
        ("jsonl", bad.documents, partial(bad_sources.a_file, ending=".jsonl"), 4),
        ("csv", bad.tables, partial(bad_sources.a_file, ending=".csv"), 8),
        ("parquet", bad.parquet_files, partial(bad_sources.a_file, ending=".parquet"), 5),
        ("folder", bad_sources.folders, bad_sources.a_folder, 1),
        ("beir", bad_sources.judged, bad_sources.a_judged_folder, 2),
        ("sqlite", bad_sources.table_rows, bad_sources.a_database, 1),
        ("commands", bad_commands.arguments, bad_commands.a_terminal, 1),
        ("filters", st.one_of(bad.filters, bad.conditions), _filters, 34),
        ("settings", st.tuples(bad.settings_files, st.integers(0, 999), bad.texts), _settings, 4),
        ("queries", bad.query_bodies, _queries, 7),
        ("api", bad.calls, _api, 5),
        ("pairs", _pair_files, _pairs, 12),
        ("clicks", bad.clicks, _clicks, 3),
        ("models", bad.model_file, _models, 3),
        ("manifests", _manifest_bytes, _manifests, 10),
    )
)


@contextmanager
def in_new_folder(target: Target) -> Iterator[Check]:
    """The check of a target, over files of its own."""
    folder = Path(tempfile.mkdtemp(prefix="reindexer-fuzz-"))
    try:
        with target.opened(folder) as check:
            yield check
    finally:
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["OURS", "TARGETS", "Target", "in_new_folder", "service"]
