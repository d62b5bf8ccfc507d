"""Remote models against a stand-in server that speaks both protocols, with every fault."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from click.testing import CliRunner
from openai.types import CreateEmbeddingResponse

from reindexer.cli import cli
from reindexer.data_directory import open_data_directory
from reindexer.settings import Settings
from search.documents import Document
from search.errors import SpaceMismatch
from search.splitter import Splitter, default_splitter_recipe
from tests.embedding_server import EmbeddingServer
from tests.word_encoder import WordEncoder
from training import byte_tokens
from training.encoder_opening import open_encoder
from training.errors import (
    EncodingFailed,
    EndpointRefused,
    EndpointUnavailable,
    ModelChanged,
    ModelNotFound,
    ModelUnsafe,
    ModelUnsupported,
)
from training.registry import ModelRegistry, ModelVersion
from training.remote_encoder import RemoteEncoder
from training.remote_model import REMOTE_FILE
from training.remote_ref import RemoteAccess, is_remote, parse_ref

ROOT = Path(__file__).parents[2]
TEXTS = ["water is cold", "the moon", "größer als 機械", "", "a b c d e f g"]
KEY = "swordfish"


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as server:
        yield server


@pytest.fixture
def server(running: EmbeddingServer) -> EmbeddingServer:
    running.reset()
    return running


@pytest.fixture(params=["openai", "tei"])
def ref(request: pytest.FixtureRequest, server: EmbeddingServer) -> str:
    return ref_of(server, request.param)


def ref_of(server: EmbeddingServer, protocol: str) -> str:
    return f"openai:{server.url}/v1#word" if protocol == "openai" else f"tei:{server.url}"


QUICK = RemoteAccess(api_key=KEY, timeout_s=20, tries=3, first_wait_s=0.001)


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models")


@pytest.fixture
def opened() -> Iterator[Callable[..., RemoteEncoder]]:
    with contextlib.ExitStack() as stack:

        def open_it(version: ModelVersion, **options: Any) -> RemoteEncoder:
            encoder = RemoteEncoder(version, **{"access": QUICK, **options})
            stack.callback(encoder.close)
            return encoder

        yield open_it


Opened = Callable[..., RemoteEncoder]


# -- registering -----------------------------------------------------------------------------------


def test_a_remote_model_is_a_version_without_weights(
    registry: ModelRegistry, ref: str, server: EmbeddingServer
) -> None:
    version = registry.register(ref, remote=QUICK)

    assert (version.name, version.number, version.base.partition("#")[0]) == (
        "word",
        1,
        ref.partition("#")[0],
    )
    assert version.is_remote
    assert list(version.files) == [REMOTE_FILE]
    assert (version.dim, version.normalize) == (16, True)
    assert version.max_tokens == (128 if ref.startswith("tei") else 512)
    registry.verify("word")
    assert registry.resolve("word@1") == version
    assert server.keys == {f"Bearer {KEY}"}
    for file in version.path.iterdir():
        assert KEY not in file.read_text()


def test_the_same_model_is_the_version_that_is_there(
    registry: ModelRegistry, ref: str, server: EmbeddingServer
) -> None:
    first = registry.register(ref, remote=QUICK)
    server.scale = 1 + 1e-6  # no server gives the same bits twice
    assert registry.register(ref, remote=QUICK) == first

    assert registry.register(ref, remote=QUICK, query_prompt="query: ").number == 2
    server.seed = 2
    other = registry.register(ref, remote=QUICK)
    assert (other.number, other.fingerprint == first.fingerprint) == (3, False)


def test_a_remote_version_is_adopted_by_whom_trusts_the_address(
    registry: ModelRegistry, ref: str, tmp_path: Path
) -> None:
    version = registry.register(ref, remote=QUICK)

    other = ModelRegistry(tmp_path / "other")
    with pytest.raises(ModelUnsafe, match="the key would be sent to"):
        other.adopt(version)
    adopted = other.adopt(version, trust_remote_code=True)

    assert adopted.fingerprint == version.fingerprint
    adopted.verify()


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("openai:ftp://host/v1#m", "http"),
        ("openai:file:///etc/passwd#m", "http"),
        ("tei:host:8080", "http"),
        ("openai:http://host/v1", "names no model"),
        ("openai:https://me:secret@host/v1#m", "no password"),
        ("tei:http://host/?key=secret", "no query"),
        ("tei:http://host:port", "no address"),
    ],
)
def test_an_address_that_may_not_be_asked_is_refused(ref: str, told: str) -> None:
    assert is_remote(ref)
    with pytest.raises(ModelNotFound, match=told):
        parse_ref(ref)


def test_a_server_with_another_model_is_not_registered(
    registry: ModelRegistry, server: EmbeddingServer
) -> None:
    with pytest.raises(ModelUnsupported, match="serves 'org/word', not 'org/other'"):
        registry.register(f"tei:{server.url}#org/other", remote=QUICK)


# -- encoding --------------------------------------------------------------------------------------


def test_texts_become_the_rows_of_the_model(
    registry: ModelRegistry, ref: str, server: EmbeddingServer, opened: Opened
) -> None:
    server.scale = 3.0
    encoder = opened(registry.register(ref, remote=QUICK, document_prompt="passage: "))
    assert not encoder.version.normalize

    expected = WordEncoder(1).encode_documents([text or " " for text in TEXTS])
    assert np.allclose(encoder.encode_queries(TEXTS), expected, atol=1e-5)
    prompted = WordEncoder(1).encode_documents(["passage: " + text for text in TEXTS])
    assert np.allclose(encoder.encode_documents(TEXTS), prompted, atol=1e-5)
    tokenized = encoder.tokenize_documents(TEXTS)
    assert np.allclose(encoder.encode_tokenized(tokenized), prompted, atol=1e-5)
    assert encoder.encode_queries([]).shape == (0, 16)


def test_the_official_openai_client_reads_the_same_vectors(
    registry: ModelRegistry, server: EmbeddingServer, opened: Opened
) -> None:
    """So the stand-in speaks the protocol as others do, and we ask as the client of OpenAI asks."""
    texts = [text for text in TEXTS if text]
    encoder = opened(registry.register(ref_of(server, "openai"), remote=QUICK))
    server.asked.clear()
    ours = encoder.encode_queries(texts)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        asking = client.embeddings.with_raw_response
        answers = [
            asking.create(model="word", input=texts, encoding_format="float"),
            asking.create(model="word", input=texts),  # base64, unless it is told otherwise
        ]

    assert server.asked[0] == server.asked[1]
    of_numbers = answers[0].content
    CreateEmbeddingResponse.model_validate_json(of_numbers, strict=True, extra="forbid")
    for answer in answers:
        rows = sorted(answer.parse().data, key=lambda row: row.index)
        assert np.allclose([row.embedding for row in rows], ours, atol=1e-6)
    assert server.keys == {f"Bearer {KEY}"}


def test_the_first_dimensions_can_be_kept(
    registry: ModelRegistry, ref: str, opened: Opened
) -> None:
    encoder = opened(registry.register(ref, remote=QUICK, truncate_dim=8))

    rows = encoder.encode_queries(TEXTS)
    assert rows.shape == (len(TEXTS), 8)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    with pytest.raises(ModelUnsupported, match="17 cannot be kept"):
        registry.register(ref, remote=QUICK, truncate_dim=17)


def test_many_texts_go_out_in_batches_side_by_side(
    registry: ModelRegistry, server: EmbeddingServer, opened: Opened
) -> None:
    encoder = opened(registry.register(f"tei:{server.url}", remote=QUICK))
    texts = [f"text {number}" for number in range(30)]
    server.asked.clear()
    server.slow_s = 0.05
    n_turns = 0

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        nonlocal n_turns
        n_turns += 1
        yield

    rows = encoder.encode_tokenized(encoder.tokenize_documents(texts), turn=turn)

    assert np.allclose(rows, WordEncoder(1).encode_documents(texts), atol=1e-5)
    assert [len(one["inputs"]) for one in server.asked] == [4] * 7 + [2] or sorted(
        len(one["inputs"]) for one in server.asked
    ) == [2] + [4] * 7
    assert n_turns == 8
    assert 2 <= server.most_under_way <= encoder.workers


def test_what_a_turn_raises_gives_up_the_rest(
    registry: ModelRegistry, server: EmbeddingServer, opened: Opened
) -> None:
    encoder = opened(registry.register(f"tei:{server.url}", remote=QUICK))
    server.asked.clear()

    def stop() -> Any:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        encoder.encode_tokenized(encoder.tokenize_documents(["word"] * 200), turn=stop)
    assert server.asked == []


def test_tokens_are_the_text_and_a_splitter_cuts_to_what_fits(
    registry: ModelRegistry, server: EmbeddingServer, opened: Opened
) -> None:
    encoder = opened(registry.register(f"tei:{server.url}", remote=QUICK))
    text = "größer als 機械学習 ist nur 🌋. " * 100

    assert byte_tokens.texts_of(encoder.tokenize_documents([*TEXTS, text])) == [*TEXTS, text]
    splitter = Splitter(default_splitter_recipe(encoder.max_tokens), encoder)
    passages, tokenized = splitter.split_all([Document.of(doc_id="d", text=text, title="T")])
    assert len(passages) > 5
    assert int(tokenized.lengths.max()) <= 128
    assert len(encoder.encode_tokenized(tokenized)) == len(passages)
    with pytest.raises(EncodingFailed, match="split it first") as failed:
        encoder.encode_tokenized(encoder.tokenize_documents(["short", text]))
    assert failed.value.index == 1


def test_a_text_that_the_server_finds_too_long_is_named_or_cut(
    registry: ModelRegistry, ref: str, server: EmbeddingServer, opened: Opened
) -> None:
    encoder = opened(registry.register(ref, remote=QUICK))
    server.longest_bytes = 80
    texts = ["short", "also short", "0 " * 100, "short again"]

    with pytest.raises(EncodingFailed, match="lower --max-tokens") as failed:
        encoder.encode_tokenized(encoder.tokenize_documents(texts))
    assert failed.value.index == 2
    assert np.isfinite(encoder.encode_documents(texts)).all()
    assert np.linalg.norm(encoder.encode_queries(texts), axis=1) == pytest.approx(1.0, abs=1e-5)


# -- the same model? -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 2}, "other vectors"),
        ({"dim": 24}, "rows of 24 dimensions, expected 16"),
        ({"scale": 2.0}, "normalised otherwise"),
    ],
)
def test_another_model_at_the_address_is_refused_when_it_is_loaded(
    registry: ModelRegistry, ref: str, server: EmbeddingServer, change: dict[str, Any], told: str
) -> None:
    version = registry.register(ref, remote=QUICK)
    server.__dict__.update(change)

    with pytest.raises(ModelChanged, match=rf"{told}.*models register"):
        open_encoder(version, remote=QUICK)


def test_another_model_is_noticed_while_it_is_used(
    registry: ModelRegistry,
    ref: str,
    server: EmbeddingServer,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.remote_encoder.CHECK_EVERY_S", 0.0)
    encoder = opened(registry.register(ref, remote=QUICK))
    encoder.encode_queries(TEXTS)
    server.seed = 2

    with pytest.raises(ModelChanged):
        encoder.encode_queries(TEXTS)
    server.seed = 1
    encoder.encode_queries(TEXTS)


def test_a_server_that_is_away_is_checked_before_its_first_vectors(
    registry: ModelRegistry, ref: str, server: EmbeddingServer, opened: Opened
) -> None:
    version = registry.register(ref, remote=QUICK)
    server.faults = [(503, {}, b"")] * QUICK.tries
    encoder = opened(version)
    server.faults = [(503, {}, b"")] * 2

    with pytest.raises(EncodingFailed, match="gives no answer"):
        encoder.encode_queries(["word"])
    server.seed = 2
    with pytest.raises(ModelChanged):
        encoder.encode_queries(["word"])
    server.seed = 1
    assert len(encoder.encode_queries(["word"])) == 1


def test_a_model_that_moved_is_asked_where_it_is_now(
    registry: ModelRegistry, server: EmbeddingServer, opened: Opened
) -> None:
    version = registry.register(f"tei:{server.url}", remote=QUICK)
    with EmbeddingServer() as other:
        access = RemoteAccess(api_key=None, url=other.url)
        assert opened(version, access=access).fingerprint == version.fingerprint
        assert len(other.asked) == 1
        other.seed = 2
        with pytest.raises(ModelChanged):
            opened(version, access=access)


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_request_that_fails_is_sent_again(
    registry: ModelRegistry, ref: str, server: EmbeddingServer, opened: Opened, status: int
) -> None:
    encoder = opened(registry.register(ref, remote=QUICK))
    server.faults = [(status, {"retry-after": "0"}, b"busy")]

    assert len(encoder.encode_queries(["word"])) == 1
    server.faults = [(status, {}, b"busy")] * 10
    with pytest.raises(EncodingFailed, match=r"gives no answer.*busy"):
        encoder.encode_documents(["word"])
    assert len(server.faults) == 7


def test_a_slow_server_is_left_in_time(
    registry: ModelRegistry, ref: str, server: EmbeddingServer, opened: Opened
) -> None:
    version = registry.register(ref, remote=QUICK)
    encoder = opened(version)
    server.slow_s = 0.5
    hasty = opened(version, access=RemoteAccess(timeout_s=0.05, tries=2, first_wait_s=0.001))
    began = time.monotonic()

    with pytest.raises(EncodingFailed, match="gives no answer"):
        hasty.encode_queries(["word"])
    assert time.monotonic() - began < 5
    assert len(encoder.encode_queries(["word"])) == 1


def test_a_redirect_is_not_followed(
    registry: ModelRegistry, ref: str, server: EmbeddingServer
) -> None:
    with EmbeddingServer() as other:
        server.faults = [(307, {"location": f"{other.url}/embed"}, b"")]
        with pytest.raises(EndpointRefused, match="not followed"):
            registry.register(ref, remote=QUICK)
        assert other.asked == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"x" * 6_000_000, "more than the"),
        (b"<html>", "expected JSON"),
        (b"{}", "one row of numbers for each"),
        (b'{"data": [{"index": 99, "embedding": [1]}]}', "one row of numbers for each"),
        (b"[[1, 2], [3]]", "one row of numbers for each"),
        (json.dumps([[0.0] * 4] * 8).encode(), "zero or not finite|one row of numbers"),
    ],
)
def test_an_answer_that_is_no_vectors_is_refused(
    registry: ModelRegistry, ref: str, server: EmbeddingServer, body: bytes, told: str
) -> None:
    server.body = body

    with pytest.raises(EndpointRefused, match=told):
        registry.register(ref, remote=QUICK)


def test_a_wrong_key_is_told_and_not_shown(
    registry: ModelRegistry, ref: str, server: EmbeddingServer
) -> None:
    server.faults = [(401, {}, f"the key {KEY} is unknown".encode())]

    with pytest.raises(EndpointRefused, match="REINDEXER_ENCODER_API_KEY") as refused:
        registry.register(ref, remote=QUICK)
    assert KEY not in str(refused.value)
    assert KEY not in repr(QUICK)


def test_nobody_at_the_address_is_told(registry: ModelRegistry) -> None:
    with pytest.raises(EndpointUnavailable, match="check that it runs"):
        registry.register("tei:http://127.0.0.1:9", remote=QUICK)


# -- where encoders are used -----------------------------------------------------------------------


def test_a_data_directory_opens_it_and_calls_another_model_a_space_mismatch(
    tmp_path: Path, server: EmbeddingServer
) -> None:
    settings = Settings(data_dir=tmp_path / "data", encoder_api_key=KEY)
    with open_data_directory(settings) as data:
        version = data.registry.register(f"tei:{server.url}", remote=data.remote_access())
        encoder = data.load_encoder(str(version))
        assert encoder.fingerprint == version.fingerprint
        encoder.close()  # type: ignore[attr-defined]
        assert server.keys == {f"Bearer {KEY}"}
        server.seed = 2
        with pytest.raises(SpaceMismatch, match="models register"):
            data.load_encoder(str(version))


def test_the_commands_of_the_documentation_lead_to_answers_from_a_remote_model(
    tmp_path: Path, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "adapters.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [line.partition("  #")[0].strip() for line in block.strip().splitlines()]
    assert lines[0].startswith("export REINDEXER_ENCODER_API_KEY=")
    monkeypatch.setenv("REINDEXER_ENCODER_API_KEY", KEY)
    monkeypatch.setenv("REINDEXER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    with open_data_directory(Settings(data_dir=tmp_path / "data")) as data:
        data.corpus.put(
            [Document.of(doc_id=f"d{number}", text=f"all of d{number}") for number in range(20)]
        )

    for line in [*lines[1:], "reindexer search 'all of d7' -k 1 --mode dense --json"]:
        command = line.replace("http://gpu.example:8080", server.url)
        command = command.replace("https://api.example", server.url)
        name, *arguments = shlex.split(command)
        assert name == "reindexer"
        yes = ["--yes"] if arguments[0] == "upgrade" else []  # there is no terminal to ask on
        result = CliRunner().invoke(cli, [*arguments, *yes])
        assert result.exit_code == 0, f"{line}: {result.output}"

    answer = json.loads(result.stdout)
    assert (answer["model"], answer["degraded"]) == ("small@1", [])
    assert answer["hits"][0]["doc_id"] == "d7"
    assert server.keys == {f"Bearer {KEY}"}
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


def test_it_has_the_shape_of_an_encoder_that_is_loaded_here() -> None:
    from training.encoder import Encoder
    from training.model_loading import load_model

    public = {name for name in dir(Encoder) if not name.startswith("_")}
    assert public <= set(dir(RemoteEncoder))
    version: Any = ModelVersion.__new__(ModelVersion)
    object.__setattr__(version, "pooling", "remote")
    for name in ("name", "number", "base"):
        object.__setattr__(version, name, "x")
    with pytest.raises(ModelUnsupported, match="no weights here"):
        load_model(version)


def test_it_needs_no_torch() -> None:
    code = "import sys, training.remote_encoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
