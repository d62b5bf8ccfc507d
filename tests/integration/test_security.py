"""What docs/security.md says is defended, attacked."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from reindexer.cli import cli
from reindexer.data_directory import open_data_directory
from reindexer.settings import Settings
from tests.bad_input_targets import Service, manifest, service
from tests.bad_inputs import MODEL_FILES
from tests.local_server import LocalHandler, LocalServer
from training import audit_sheet
from training.endpoint import Endpoint
from training.errors import EndpointRefused, ModelDamaged, ModelNotFound, ModelUnsafe
from training.model_archive import unpack
from training.model_description import describe
from training.model_files import files_to_keep
from training.model_version import parse_manifest
from training.registry import ModelRegistry
from training.remote_ref import RemoteAccess

OUTSIDE = [
    "../secret",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../secret",
    "..",
    "x\0",
    "x" * 5_000,
]
ADDRESSES = [
    "http://169.254.169.254/latest/meta-data", "https://127.0.0.1:1/x", "hf://owner/name",
    "s3://bucket/key", "file:///etc/passwd", "owner/name", "package:os", "/etc",
    "tei:http://169.254.169.254", "openai:http://127.0.0.1:1/v1#embed",
]  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("security")
    (folder / "judged").mkdir()
    (folder / "secret").mkdir()
    with service(folder, evaluation_dir=str(folder / "judged"), max_body_bytes=200_000) as running:
        yield running


# -- names that are paths --------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_in_a_path_leads_out(running: Service, name: str) -> None:
    for place in ("models", "generations", "static", "models/x/report"):
        status, content = running.ask("GET", f"/{place}/{quote(name, safe='')}")
        assert 400 <= status < 500, (place, status)
        assert b"root:" not in content


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_folder_of_judgments_lies_inside_the_one_that_is_allowed(
    running: Service, name: str
) -> None:
    body = json.dumps({"model": "word@1", "evaluation": name}).encode()

    assert running.ask("POST", "/builds", body)[0] in (404, 422)
    assert running.directory.journal.builds() == []


@pytest.mark.parametrize("name", ["..", "a/b", "../x@1", "x@1/../../y", "x@-1", "*@1", "\0@1", ""])
def test_a_registry_gives_nothing_outside_of_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "x@1").mkdir()
    registry = ModelRegistry(tmp_path / "models")

    for ask in (registry.resolve, registry.remove):
        with pytest.raises(ModelNotFound):
            ask(name)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\b", "a\nb", "C:x"])
def test_a_pulled_manifest_names_files_of_the_model_only(tmp_path: Path, name: str) -> None:
    value = manifest()
    value["files"] = {name: {"sha256": "0" * 64, "size_bytes": 1}}

    with pytest.raises(ModelDamaged, match="not inside the model"):
        parse_manifest(json.dumps(value).encode(), tmp_path)


# -- models ----------------------------------------------------------------------------------------


def model_folder(folder: Path) -> Path:
    for name, value in MODEL_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    for name in ("model-00001.safetensors", "2_Dense/model.safetensors"):
        (folder / name).write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


def test_a_link_out_of_a_model_is_not_followed(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (tmp_path / "id_rsa").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "id_rsa")

    with pytest.raises(ModelUnsafe, match="is a link out of the model's folder"):
        files_to_keep(folder, trust_remote_code=False)


def test_links_of_the_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "models--a--b" / "snapshots" / "1234")
    blob = tmp_path / "models--a--b" / "blobs" / "abcd"
    blob.parent.mkdir()
    blob.write_text("vocabulary")
    (folder / "vocab.txt").symlink_to(blob)

    assert folder / "vocab.txt" in files_to_keep(folder, trust_remote_code=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config.json", {"hidden_size": 8, "auto_map": {"AutoModel": "evil.Model"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("modules.json", [{"path": "", "type": "evil.Module"}]),
        ("modules.json", [{"path": "../other", "type": "sentence_transformers.models.Dense"}]),
        ("2_Dense/config.json", {"out_features": 4, "activation_function": "os.system"}),
        ("model.safetensors.index.json", {"weight_map": {"w": "pytorch_model.bin"}}),
        ("model.safetensors.index.json", {"weight_map": {"w": "../../x.safetensors"}}),
    ],
)
def test_code_and_pickles_in_a_model_are_refused(tmp_path: Path, name: str, value: object) -> None:
    folder = model_folder(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / name).write_text(json.dumps(value))

    with pytest.raises(ModelUnsafe):
        describe(folder, trust_remote_code=False)


def archive(name: str, **more: object) -> bytes:
    """One harmless file, and a member that is not."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as files:
        files.addfile(tarfile.TarInfo("x@1/config.json"))
        hostile = tarfile.TarInfo(name)
        for key, value in more.items():
            setattr(hostile, key, value)
        files.addfile(hostile)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("../secret", {}),
        ("x@1/../../secret", {}),
        ("x@1/link", {"type": tarfile.SYMTYPE, "linkname": "../../secret"}),
        ("x@1/link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("x@1/link", {"type": tarfile.LNKTYPE, "linkname": "../secret"}),
        ("x@1/device", {"type": tarfile.CHRTYPE}),
        ("x@1/pipe", {"type": tarfile.FIFOTYPE}),
    ],
)
def test_an_archive_leaves_nothing_outside_of_its_folder(
    tmp_path: Path, name: str, more: dict[str, object]
) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "new"
    folder.mkdir()

    with pytest.raises(ModelDamaged, match="cannot be unpacked"):
        unpack(archive(name, **more), folder)

    assert (tmp_path / "secret").read_text() == "secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "secret"]
    assert [path for path in folder.rglob("*") if path.is_symlink()] == []


def test_an_archive_that_is_cut_off_or_compressed_is_refused(tmp_path: Path) -> None:
    whole = archive("x@1/model.safetensors")

    for content in (b"", b"no archive", gzip.compress(whole)):
        with pytest.raises(ModelDamaged, match="cannot be unpacked"):
            unpack(content, tmp_path)
    unpack(whole, tmp_path)
    assert (tmp_path / "x@1" / "model.safetensors").is_file()


# -- addresses -------------------------------------------------------------------------------------


def test_a_redirect_of_an_endpoint_is_not_followed() -> None:
    """It would take the key and the texts along."""
    asked: list[str] = []

    class Elsewhere(LocalHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(307)
            self.send_header(
                "Location", f"http://localhost:{self.server.server_address[1]}/private"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()

    with LocalServer(Elsewhere) as server:
        endpoint = Endpoint(server.url, RemoteAccess(api_key="secret"))
        with pytest.raises(EndpointRefused, match="points elsewhere, and that is not followed"):
            endpoint.ask("/embed", {"inputs": ["a"]}, max_bytes=1_000)
        endpoint.close()
    assert asked == ["/embed"]


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_request_makes_the_service_open_an_address(
    running: Service, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _socket, to: opened.append(to))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **_: opened.append(asked) or [])

    body = json.dumps({"model": address, "evaluation": address}).encode()
    assert running.ask("POST", "/builds", body)[0] in (404, 422)
    assert running.ask("GET", f"/models/{quote(address, safe='')}")[0] == 404
    put = json.dumps({"text": address, "source": address}).encode()
    assert running.ask("PUT", "/documents/address", put)[0] in (200, 409)

    assert opened == []


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE documents; --", '" OR 1=1 --', "%", "_", "\\", "{}"]
)
def test_sql_in_an_id_or_a_filter_is_text(running: Service, text: str) -> None:
    head = running.directory.corpus.count()
    document = json.dumps({"text": text, "metadata": {text: text}}).encode()
    where = json.dumps({"query": "all", "filter": {text: text}}).encode()

    assert running.ask("PUT", f"/documents/{quote(text, safe='')}", document)[0] == 200
    status, content = running.ask("GET", f"/documents/{quote(text, safe='')}")
    assert (status, json.loads(content)["metadata"]) == (200, {text: text})
    assert running.ask("POST", "/search", where)[0] == 200
    assert running.ask("DELETE", f"/documents/{quote(text, safe='')}")[0] == 200
    assert running.directory.corpus.count() == head


@pytest.mark.parametrize(
    "body",
    [
        {"query": "a", "k": 10**9},
        {"query": "a", "depth": 10**9},
        {"query": "a " * 100_000},
        {"query": "a", "filter": {f"f{number}": 1 for number in range(33)}},
        {"query": "a", "filter": {"f": list(range(257))}},
        {"queries": [{"query": "a"}] * 2_000},
    ],
    ids=["k", "depth", "query", "conditions", "values", "batch"],
)
def test_a_request_that_asks_for_too_much_is_refused(running: Service, body: object) -> None:
    path = "/search/batch" if "queries" in json.dumps(body)[:12] else "/search"

    assert running.ask("POST", path, json.dumps(body).encode())[0] in (413, 422)


def test_json_nested_without_end_is_refused(running: Service) -> None:
    for path in ("/search", "/builds", "/feedback"):
        assert running.ask("POST", path, b"[" * 100_000)[0] in (400, 422)
        deep = b'{"query": "a", "filter": ' + b'{"a":' * 30_000 + b"1" + b"}" * 30_001
        assert running.ask("POST", path, deep)[0] in (400, 413, 422)


def test_a_document_that_is_a_script_stays_json(running: Service) -> None:
    body = json.dumps({"text": "<script>alert(1)</script> all"}).encode()
    assert running.ask("PUT", "/documents/script", body)[0] == 200

    _, told, _ = running.call("GET", "/documents/script")

    assert told["content-type"] == "application/json"
    assert told["x-content-type-options"] == "nosniff"


# -- what others on the machine see ----------------------------------------------------------------


def test_what_is_written_can_be_read_by_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with open_data_directory(Settings(data_dir=tmp_path / "data")) as data:
            data.corpus.delete(["x"])
            data.registry.root.mkdir()
        found = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    finally:
        os.umask(before)

    assert len(found) > 2
    assert [path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_secret_is_not_taken_from_the_command_line() -> None:
    done = CliRunner().invoke(cli, ["--set", "store.api_key=hunter2", "settings"])

    assert done.exit_code == 2
    assert "set REINDEXER_STORE_API_KEY instead" in done.output + done.stderr
    assert "hunter2" not in done.output + done.stderr


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＠"])  # noqa: RUF001
def test_no_cell_of_a_sheet_is_a_formula(start: str) -> None:
    assert audit_sheet._no_formula(f"{start}cmd|' /C calc'!A0").startswith("'")


def test_nothing_of_ours_loads_pickles_or_runs_strings() -> None:
    """A new call would have to be looked at first."""
    root = Path(__file__).parents[2]
    words = (
        r"pickle\.load|torch\.load\(|joblib|yaml\.load\(|\beval\(|\bexec\(|shell=True|os\.system"
    )
    done = subprocess.run(
        ["grep", "-rnE", "--include=*.py", words, "search", "training", "reindexer"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert [line for line in done.stdout.splitlines() if ".eval()" not in line] == []
