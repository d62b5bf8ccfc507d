"""A small server that speaks the chat-completions protocol, with the weaknesses real ones have."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.local_server import LocalHandler, LocalServer

KEY = "the-right-key"
DOCUMENT = "Document:\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What to send back: an answer of the model, or whatever a broken server sends."""

    status: int = 200
    answer: str | None = None
    finish_reason: str = "stop"
    usage: Mapping[str, int] | None = field(
        default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    )
    body: str | None = None  # instead of a chat completion
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


def queries_of(document: str) -> str:
    """Three queries in the words of the document."""
    words = document.split()
    return json.dumps([" ".join(words[at : at + 3]) for at in (0, 1, 2)])


@dataclass(kw_only=True)
class Request:
    """What a client asked for."""

    at_s: float
    value: Mapping[str, Any]

    @property
    def document(self) -> str:
        content: str = self.value["messages"][-1]["content"]
        return content.removeprefix(DOCUMENT)


Answer = Callable[[int, str], Reply]  # number of the request from 0, document


class CompletionServer(LocalServer):
    """Answers what a test says, and remembers what it was asked."""

    def __init__(self, answer: Answer | None = None, *, key: str | None = None) -> None:
        """key: what clients must send; anybody is served without one."""
        self.answer = answer or (lambda _number, document: Reply(answer=queries_of(document)))
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(LocalHandler):
            def do_POST(self) -> None:
                server._serve(self, key)

        super().__init__(Handler)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def documents(self) -> list[str]:
        """Of each request, in order."""
        return [request.document for request in self.requests]

    def _serve(self, handler: BaseHTTPRequestHandler, key: str | None) -> None:
        value = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        request = Request(at_s=time.monotonic(), value=value)
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            given = handler.headers["Authorization"].removeprefix("Bearer ")
            if handler.path != "/v1/chat/completions":
                reply = Reply(status=404, body='{"error": {"message": "no such path"}}')
            elif key is not None and given != key:
                told = f"Incorrect API key provided: {given}"
                reply = Reply(status=401, body=json.dumps({"error": {"message": told}}))
            else:
                reply = self.answer(number, request.document)
            time.sleep(reply.delay_s)
        finally:
            with self._lock:
                self._at_once -= 1
        _send(handler, reply, value["model"])


def _send(handler: BaseHTTPRequestHandler, reply: Reply, model: str) -> None:
    body = (reply.body if reply.body is not None else _completion(reply, model)).encode()
    try:
        handler.send_response(reply.status)
        handler.send_header("Content-Type", reply.content_type)
        handler.send_header("Content-Length", str(len(body)))
        for name, text in reply.headers.items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(body)
    except OSError:
        handler.close_connection = True  # the client has gone, as after a time-out


def _completion(reply: Reply, model: str) -> str:
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": reply.finish_reason,
                "message": {"role": "assistant", "content": reply.answer},
            }
        ],
    }
    return json.dumps(value | ({"usage": dict(reply.usage)} if reply.usage is not None else {}))
