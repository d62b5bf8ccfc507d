"""network.allowed_hosts: nothing that a person, a file or a server names is asked elsewhere."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing import Pipe
from pathlib import Path

import pytest
from click.testing import CliRunner

from reindexer.cli import cli
from reindexer.data_directory import open_data_directory
from reindexer.errors import SourceInvalid
from reindexer.settings import Settings, as_environment
from reindexer.sources import open_source
from reindexer.watch import ServiceStatus
from tests.embedding_server import EmbeddingServer
from tests.local_server import LocalHandler, LocalServer
from training.endpoint import Endpoint
from training.errors import EndpointRefused, HostRefused
from training.hub_repository import HubRepository
from training.llm_calls import Endpoint as LanguageModel
from training.llm_calls import EndpointCalls
from training.measurement import _measure_and_send
from training.model_sources import find_model
from training.outgoing import AllowedHosts, check_address, limited_to
from training.pair_sources import _dataset
from training.registry import ModelRegistry
from training.remote_folder import RemoteFolder
from training.remote_ref import RemoteAccess

ROWS = b'{"id": "a", "text": "one"}\n'
METADATA = "169.254.169.254"


class Web(LocalServer):
    """Sends the same file for every path, or leads elsewhere; remembers what it was asked."""

    def __init__(self) -> None:
        self.content = ROWS
        self.elsewhere: str | None = None
        self.leads = ("HEAD", "GET", "POST")  # the methods that are led elsewhere
        self.asked: list[str] = []
        web = self

        class Handler(LocalHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                web.asked.append(f"{self.command} {self.path}")
                if web.elsewhere and self.command in web.leads:
                    self.send_response(307)
                    self.send_header("Location", web.elsewhere + self.path)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(web.content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(web.content)

            do_HEAD = do_POST = do_GET

        super().__init__(Handler)

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]


@pytest.fixture
def web() -> Iterator[Web]:
    """The one that may be asked."""
    with Web() as server, limited_to(AllowedHosts.parse(server.host)):
        yield server


@pytest.fixture
def other() -> Iterator[Web]:
    """One that may not."""
    with Web() as server:
        yield server
    assert server.asked == []


def run(data: Path, hosts: str, *arguments: str) -> tuple[int, str]:
    limit = ["--data-dir", str(data), "--set", f"network.allowed_hosts={hosts}"]
    done = CliRunner().invoke(cli, [*limit, *arguments])
    return done.exit_code, done.output + done.stderr


# -- commands --------------------------------------------------------------------------------------


def test_a_command_asks_the_hosts_of_the_list_alone(tmp_path: Path, web: Web, other: Web) -> None:
    assert run(tmp_path, web.host, "ingest", f"{web.url}/docs.jsonl")[0] == 0

    for arguments in (
        ["ingest", f"{other.url}/docs.jsonl"],
        ["ingest", f"{other.url}#docs", "--format", "qdrant"],
        ["models", "pull", f"{other.url}/x@1"],
        ["models", "register", f"tei:{other.url}"],
        ["backup", f"{other.url}/backups"],
        ["status", "--url", other.url],
    ):
        code, told = run(tmp_path, web.host, *arguments)
        assert code == 2, told
        assert f"{other.host} is not asked: network.allowed_hosts allows only {web.host}" in told


def test_a_command_without_a_list_asks_any_host(tmp_path: Path) -> None:
    with Web() as anyone:
        assert run(tmp_path, "", "ingest", f"{anyone.url}/docs.jsonl")[0] == 0
    assert anyone.asked


def test_the_list_holds_where_a_data_directory_is_opened(tmp_path: Path) -> None:
    """As the processes of a build do, and whoever works without the commands."""
    settings = Settings(data_dir=tmp_path, network_allowed_hosts="hub.example")

    assert as_environment(settings)["REINDEXER_NETWORK_ALLOWED_HOSTS"] == "hub.example"
    with limited_to(AllowedHosts()), open_data_directory(settings), pytest.raises(HostRefused):
        check_address("http://evil.example")


def test_the_list_holds_in_a_process_that_measures(tmp_path: Path) -> None:
    """A version that was pulled says itself where it is asked."""
    receiver, sender = Pipe(duplex=False)
    with EmbeddingServer() as server:
        version = ModelRegistry(tmp_path).register(f"tei:{server.url}", name="remote")
        server.asked.clear()
        with limited_to(AllowedHosts()):
            hosts = AllowedHosts.parse("hub.example")
            _measure_and_send(sender, hosts, "remote", version, tmp_path, "test", None, {})
    assert isinstance(receiver.recv(), HostRefused)
    assert server.asked == []


# -- whatever opens an address ---------------------------------------------------------------------

OPENED: dict[str, Callable[[str], object]] = {
    "a file": lambda host: open_source(f"http://{host}/docs.jsonl"),
    "files": lambda host: open_source(f"http://{host}/*.jsonl"),
    "a collection": lambda host: open_source(f"http://{host}#docs", format="qdrant"),
    "a database": lambda host: open_source(f"postgresql://{host}/shop", table="docs"),
    "an object": lambda host: open_source(f"s3://{host}/docs.jsonl"),
    "a chain": lambda host: open_source(f"zip://a.jsonl::http://{host}/a.zip"),
    "a folder": lambda host: RemoteFolder(f"https://{host}/models"),
    "a bucket": lambda host: RemoteFolder(f"gs://{host}/models"),
    "an encoder": lambda host: Endpoint(f"http://{host}", RemoteAccess()),
    "a language model": lambda host: EndpointCalls(
        LanguageModel(base_url=f"http://{host}/v1", model="m")
    ),
    "a service": lambda host: ServiceStatus(f"http://{host}", None),
    "a data set": lambda _: open_source("organisation/name", format="hf"),
    "pairs": lambda _: _dataset("organisation/name", None),
    "a model of the hub": lambda _: find_model("organisation/name"),
    "a repository": lambda _: HubRepository("hf://organisation/name"),
    "a file of the hub": lambda _: RemoteFolder("hf://datasets/organisation/name"),
}


@pytest.mark.parametrize("kind", OPENED)
@pytest.mark.parametrize("host", [METADATA, "[fd00:ec2::254]", "evil.example"])
def test_nothing_is_opened_that_is_not_in_the_list(
    kind: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _socket, to: opened.append(to))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **_: opened.append(asked) or [])

    with limited_to(AllowedHosts.parse("hub.example, s3://docs")), pytest.raises(HostRefused):
        OPENED[kind](host)
    assert opened == []


def test_the_hub_is_where_its_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with limited_to(AllowedHosts.parse("huggingface.co")):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")
        HubRepository("hf://organisation/name")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://mirror.example/hub")
        with pytest.raises(HostRefused, match=r"mirror\.example is not asked"):
            HubRepository("hf://organisation/name")


# -- led elsewhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [("HEAD", "GET"), ("GET",)])
@pytest.mark.parametrize("name", ["docs.jsonl", "docs.parquet"])
def test_a_source_that_leads_elsewhere_is_refused(
    web: Web, other: Web, tmp_path: Path, leads: tuple[str, ...], name: str
) -> None:
    """At once, or in the middle of the file."""
    web.elsewhere, web.leads = other.url, leads

    code, told = run(tmp_path, web.host, "ingest", f"{web.url}/{name}")

    assert code == 2, told
    assert f"{other.host} is not asked" in told
    assert web.asked


def test_a_source_may_lead_to_a_host_of_the_list(web: Web) -> None:
    with Web() as second, limited_to(AllowedHosts.parse(f"{web.host}, {second.host}")):
        web.elsewhere = second.url
        assert len(list(open_source(f"{web.url}/docs.jsonl"))) == 1


def test_a_page_that_names_files_elsewhere_is_not_followed(web: Web, other: Web) -> None:
    web.content = f'<a href="{other.url}/x.jsonl">x</a>'.encode()

    with pytest.raises(SourceInvalid, match="no file matches"):
        open_source(f"{web.url}/*.jsonl")


def test_a_model_that_leads_elsewhere_is_refused(web: Web, other: Web) -> None:
    web.elsewhere = other.url
    folder = RemoteFolder(f"{web.url}/models/x@1")

    for ask in (folder.read, folder.size_bytes):
        with pytest.raises(HostRefused):
            ask("manifest.json")


def test_an_encoder_that_leads_elsewhere_is_refused(web: Web, other: Web) -> None:
    web.elsewhere = other.url

    with ExitStack() as stack:
        endpoint = Endpoint(web.url, RemoteAccess())
        stack.callback(endpoint.close)
        stack.enter_context(pytest.raises(EndpointRefused, match="points elsewhere"))
        endpoint.ask("/embed", {"inputs": ["a"]}, max_bytes=1_000)


def test_a_language_model_that_leads_elsewhere_is_refused(web: Web, other: Web) -> None:
    """It would take the documents along."""
    pytest.importorskip("openai")
    web.elsewhere = other.url

    async def ask() -> None:
        async with EndpointCalls(LanguageModel(base_url=f"{web.url}/v1", model="m")) as calls:
            await calls.ask([{"role": "user", "content": "private"}])

    with pytest.raises(HostRefused, match=other.host):
        asyncio.run(ask())
    assert web.asked == ["POST /v1/chat/completions"]


def test_a_collection_that_leads_elsewhere_is_not_followed(web: Web, other: Web) -> None:
    web.elsewhere = other.url

    with pytest.raises(SourceInvalid, match="307"):
        open_source(f"{web.url}#docs", format="qdrant")


@pytest.mark.usefixtures("web")
def test_a_data_set_whose_card_names_files_elsewhere_is_refused(other: Web, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    card = {"configs": [{"config_name": "default", "data_files": f"{other.url}/docs.jsonl"}]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")

    with pytest.raises(HostRefused, match=other.host):
        list(open_source(str(tmp_path), format="hf"))
