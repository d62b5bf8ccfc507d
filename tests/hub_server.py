"""A stand-in for the Hugging Face hub: the few requests a push and a pull consist of."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.local_server import LocalHandler, LocalServer

TOKEN = "hf_the-right-token"


@dataclass(kw_only=True)
class Repository:
    """Commits by name, newest last, and tags."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"c" * 40: {}})
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, revision: str) -> str | None:
        named = {"main": self.head, **self.tags}.get(revision, revision)
        return named if named in self.commits else None


class HubServer(LocalServer):
    """Keeps repositories by name."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.writes = 0  # commits
        server = self

        class Handler(LocalHandler):
            def do_GET(self) -> None:
                server._get(self)

            def do_HEAD(self) -> None:
                server._get(self)

            def do_POST(self) -> None:
                server._post(self)

        super().__init__(Handler)

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(handler.path.partition("?")[0])
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or file
        assert match is not None, path
        repository = self.repositories.get(match[1])
        if repository is None or (repository.private and not _is_logged_in(handler)):
            return _send(handler, 401, {}, {"X-Error-Code": "RepoNotFound"})
        commit = repository.commit(match[2] or "main")
        if commit is None:
            return _send(handler, 404, {}, {"X-Error-Code": "RevisionNotFound"})
        files = repository.commits[commit]
        if info:
            siblings = [{"rfilename": name} for name in files]
            value = {"id": match[1], "sha": commit, "private": repository.private}
            return _send(handler, 200, {**value, "siblings": siblings})
        content = files.get(match[3])
        if content is None:
            return _send(handler, 404, {}, {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(content).hexdigest()
        _send(handler, 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path = unquote(handler.path.partition("?")[0])
        if path == "/api/validate-yaml":
            return _send(handler, 200, {"errors": [], "warnings": []})
        if not _is_logged_in(handler):
            return _send(handler, 401, {"error": "Invalid user token."})
        if path == "/api/repos/create":
            value = json.loads(body)
            known = f"{value['organization']}/{value['name']}"
            if known in self.repositories:
                return _send(handler, 409, {"error": "exists", "url": f"{self.url}/{known}"})
            private = value.get("private", value.get("visibility") == "private")
            self.repositories[known] = Repository(private=private)
            return _send(handler, 200, {"url": f"{self.url}/{known}"})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|tag)/(.+)", path)
        assert match is not None, path
        repository = self.repositories[match[1]]
        if match[2] == "preupload":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": item["path"], **modes} for item in json.loads(body)["files"]]
            return _send(handler, 200, {"files": files})
        if match[2] == "tag":
            repository.tags.setdefault(json.loads(body)["tag"], match[3])
            return _send(handler, 200, {})
        self._commit(repository, [json.loads(line) for line in body.splitlines()])
        url = f"{self.url}/{match[1]}/commit/{repository.head}"
        _send(handler, 200, {"commitUrl": url, "commitOid": repository.head})

    def _commit(self, repository: Repository, lines: list[dict[str, Any]]) -> None:
        files = dict(repository.commits[repository.head])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.writes += 1
        name = hashlib.sha1(json.dumps([sorted(files), self.writes]).encode()).hexdigest()
        repository.commits[name] = files


def _is_logged_in(handler: BaseHTTPRequestHandler) -> bool:
    return handler.headers.get("Authorization") == f"Bearer {TOKEN}"


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    value: dict[str, Any] | bytes,
    headers: dict[str, str] | None = None,
) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, text in (headers or {}).items():
        handler.send_header(name, text)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
