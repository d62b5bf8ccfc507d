"""A stand-in for servers of embeddings: a word encoder over the protocols of OpenAI and of
text-embeddings-inference, with faults that are switched on."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from typing import Any

import numpy as np

from tests.local_server import LocalHandler, LocalServer
from tests.word_encoder import WordEncoder


class EmbeddingServer(LocalServer):
    """Embeddings of a word encoder over both protocols; each fault is switched on by a test."""

    def __init__(self) -> None:
        self.seed, self.dim, self.scale = 1, 16, 1.0
        self.faults: list[tuple[int, dict[str, str], bytes]] = []  # answered first, one each
        self.slow_s = 0.0
        self.longest_bytes = 10_000  # of one text
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.body: bytes | None = None  # instead of vectors
        self.under_way = self.most_under_way = 0
        super().__init__(type("Handler", (_Handler,), {"stand_in": self}))

    def reset(self) -> None:
        self.__dict__.update(
            seed=1, dim=16, scale=1.0, faults=[], slow_s=0.0, longest_bytes=10_000, body=None,
            asked=[], keys=set(), under_way=0, most_under_way=0,
        )  # fmt: skip

    def vectors(self, texts: list[str]) -> list[list[float]]:
        rows = WordEncoder(self.seed, dim=self.dim, max_tokens=10_000).encode_documents(texts)
        return [[float(number) * self.scale for number in row] for row in rows]


class _Handler(LocalHandler):
    stand_in: EmbeddingServer

    def do_GET(self) -> None:
        info = {"model_id": "org/word", "max_input_length": 128, "max_client_batch_size": 4}
        self._answer(200, {}, json.dumps(info).encode())

    def do_POST(self) -> None:
        server = self.stand_in
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.asked.append({"path": self.path, **body})
        server.keys.add(self.headers.get("authorization"))
        server.under_way += 1
        server.most_under_way = max(server.most_under_way, server.under_way)
        time.sleep(server.slow_s)
        server.under_way -= 1
        if server.faults:
            self._answer(*server.faults.pop(0))
            return
        if server.body is not None:
            self._answer(200, {}, server.body)
            return
        texts = body["input"] if self.path == "/v1/embeddings" else body["inputs"]
        too_long = any(len(text.encode()) > server.longest_bytes for text in texts)
        if too_long or not all(texts):
            status = 400 if self.path == "/v1/embeddings" else 413
            self._answer(status, {}, b'{"error": "input is too long"}')
            return
        rows = server.vectors(texts)
        if self.path == "/embed":
            self._answer(200, {}, json.dumps(rows).encode())
            return
        is_packed = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": at, "embedding": _packed(row) if is_packed else row}
            for at, row in enumerate(rows)
        ][::-1]
        used = {"prompt_tokens": 1, "total_tokens": 1}
        told = {"object": "list", "data": data, "model": body["model"], "usage": used}
        self._answer(200, {}, json.dumps(told).encode())

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)


def _packed(row: list[float]) -> str:
    return base64.b64encode(np.array(row, "<f4").tobytes()).decode()
