"""A stand-in for a Qdrant server that several processes can share, and that fails when told to.

    with QdrantServer() as server:
        store = QdrantStore(url=server.url)
        server.fail("status", status=503, times=2)

It is a process of its own (`python -m tests.qdrant_server`), which ends with the process that
started it. A second port takes orders, and answers also while the first one refuses connections.
"""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

Kind = Literal["status", "slow", "cut", "cut_after_write"]
ROOT = Path(__file__).resolve().parents[1]
START_S = 60.0


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with some of the requests to come."""

    kind: Kind
    times: int | None = None  # how many requests; None: until it is healed
    share: float = 1.0  # of the requests that it could befall
    seed: int = 0  # decides which of them
    only: str = ""  # pattern that "METHOD /path" must contain
    status: int = 503
    retry_after_s: int | None = None
    seconds: float = 0.0  # of `slow`: how long the request lies about before it is looked at

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def befalls(self, request: str) -> bool:
        if self.times == 0 or not re.search(self.only, request):
            return False
        if self._random.random() >= self.share:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class QdrantServer:
    """The stand-in, as a test holds it."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.qdrant_server"],
            stdin=subprocess.PIPE,  # its end is the sign to stop
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the stand-in did not start"
        ports = json.loads(line)
        self.url = f"http://127.0.0.1:{ports['port']}"
        self._orders = httpx.Client(
            base_url=f"http://127.0.0.1:{ports['orders']}", timeout=30, trust_env=False
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._orders.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def fail(self, kind: Kind, **options: Any) -> None:
        """Let requests fail from now on; see `Fault` for the options."""
        self._order("fail", asdict(Fault(kind=kind, **options)))

    def refuse(self, seconds: float) -> None:
        """Cut every connection and accept none for so long; then all is as it was."""
        self._order("refuse", {"seconds": seconds})

    def heal(self) -> None:
        """Nothing fails any more."""
        self._order("heal", {})

    def clear(self) -> None:
        """An empty server without faults or counts."""
        self._order("clear", {})

    def pretend(self, version: str) -> None:
        """To be of this release from now on."""
        self._order("pretend", {"version": version})

    def requests(self, pattern: str = "") -> int:
        """How many requests came whose "METHOD /path" contains the pattern, also failed ones."""
        counts: dict[str, int] = self._order("counts", {})
        return sum(count for request, count in counts.items() if re.search(pattern, request))

    def slowest_ms(self) -> float:
        """The longest that a request has taken here since this was last asked."""
        return float(self._order("slowest", {})["ms"])

    def _order(self, order: str, body: dict[str, Any]) -> Any:
        return self._orders.post(f"/{order}", json=body).raise_for_status().json()


# -- the process -----------------------------------------------------------------------------------


class _Server:
    """Two listening sockets: one for requests, which can be shut, and one for orders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._counts: dict[str, int] = {}
        self._slowest_s = 0.0
        self._connections: set[socket.socket] = set()
        self._refuses = False
        self._clear()
        self._http = self._listen(0)
        self.port = int(self._http.server_address[1])
        self._orders = _serving(0, self._order_handler())
        self.orders_port = int(self._orders.server_address[1])

    def _clear(self) -> None:
        from tests.qdrant_rest import QdrantRest

        self.rest = QdrantRest()

    def _listen(self, port: int) -> ThreadingHTTPServer:
        return _serving(port, self._request_handler())

    # -- orders ----------------------------------------------------------------------------------

    def obey(self, order: str, body: dict[str, Any]) -> Any:
        with self._lock:
            match order:
                case "fail":
                    self._faults.append(Fault(**body))
                case "heal":
                    self._faults.clear()
                case "clear":
                    self._faults.clear()
                    self._counts.clear()
                    self._clear()
                case "counts":
                    return dict(self._counts)
                case "slowest":
                    slowest_s, self._slowest_s = self._slowest_s, 0.0
                    return {"ms": slowest_s * 1e3}
                case "pretend":
                    self.rest.version = body["version"]
                case "refuse":
                    self._refuse(body["seconds"])
        return {}

    def _refuse(self, seconds: float) -> None:
        self._refuses = True
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._connections):
            _cut(connection)
        threading.Timer(seconds, self._accept_again).start()

    def _accept_again(self) -> None:
        with self._lock:
            self._refuses = False
            self._http = self._listen(self.port)

    # -- requests --------------------------------------------------------------------------------

    def fault_for(self, request: str) -> Fault | None:
        with self._lock:
            self._counts[request] = self._counts.get(request, 0) + 1
            return next((fault for fault in self._faults if fault.befalls(request)), None)

    def took(self, seconds: float) -> None:
        with self._lock:
            self._slowest_s = max(self._slowest_s, seconds)

    def connected(self, connection: socket.socket, *, gone: bool) -> None:
        with self._lock:
            (self._connections.discard if gone else self._connections.add)(connection)
            if self._refuses and not gone:  # accepted in the last moment
                _cut(connection)

    def _request_handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Requests(_Handler):
            def setup(self) -> None:
                super().setup()
                server.connected(self.connection, gone=False)

            def finish(self) -> None:
                server.connected(self.connection, gone=True)
                super().finish()

            def answer(self, content: bytes) -> None:
                began = time.perf_counter()
                path = self.path.partition("?")[0]
                fault = server.fault_for(f"{self.command} {path}")
                if fault is not None and not self._befallen(fault):
                    return
                status, body = server.rest.answer(self.command, path, content)
                if fault is not None and fault.kind == "cut_after_write":
                    self.cut()
                    return
                if fault is None:
                    server.took(time.perf_counter() - began)
                self.send(status, body)

            def _befallen(self, fault: Fault) -> bool:
                """True when the request is done all the same."""
                if fault.kind == "slow":
                    time.sleep(fault.seconds)
                elif fault.kind == "cut":
                    self.cut()
                    return False
                elif fault.kind == "status":
                    error = {"status": {"error": "told to fail"}, "time": 0.0}
                    after = fault.retry_after_s
                    self.send(fault.status, json.dumps(error).encode(), retry_after_s=after)
                    return False
                return True

        return Requests

    def _order_handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Orders(_Handler):
            def answer(self, content: bytes) -> None:
                answer = server.obey(self.path.strip("/"), json.loads(content))
                self.send(200, json.dumps(answer).encode())

        return Orders


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the other side has gone, or was cut off

    def _any(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _any

    def answer(self, content: bytes) -> None:
        raise NotImplementedError

    def send(self, status: int, body: bytes, *, retry_after_s: int | None = None) -> None:
        head = f"HTTP/1.1 {status} {status}\r\ncontent-type: application/json\r\n"
        if retry_after_s is not None:
            head += f"retry-after: {retry_after_s}\r\n"
        self.wfile.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def cut(self) -> None:
        self.close_connection = True
        _cut(self.connection)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _serving(port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    http = _Http(("127.0.0.1", port), handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    return http


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is gone already


def main() -> None:
    warnings.simplefilter("ignore")  # local mode warns that it is not a server
    server = _Server()
    sys.stdout.write(json.dumps({"port": server.port, "orders": server.orders_port}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
