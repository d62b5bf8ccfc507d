"""A model that is loaded elsewhere: its reference, and how it is asked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Literal, Self, get_args
from urllib.parse import urlsplit, urlunsplit

from training.errors import ModelNotFound

Protocol = Literal["openai", "tei"]
KEY_VARIABLE = "REINDEXER_ENCODER_API_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteRef:
    """`openai:https://host/v1#model` or `tei:http://host:8080`."""

    protocol: Protocol
    url: str  # without a slash at the end
    model: str  # empty where a server has only one

    def __str__(self) -> str:
        return f"{self.protocol}:{self.url}" + (f"#{self.model}" if self.model else "")

    @property
    def name(self) -> str:
        """For a folder and a command line: the last part of the model's name, or the host."""
        stem = self.model.rpartition("/")[2] or urlsplit(self.url).hostname or ""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-_") or "remote"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteAccess:
    """How remote models are asked. Nothing of it is stored with a version."""

    api_key: str | None = field(default=None, repr=False)
    url: str | None = None  # instead of the one that a version was registered with
    timeout_s: float = 60.0
    tries: int = 6  # of one request; with waits from 0.5 s, doubled each time
    first_wait_s: float = 0.5
    concurrency: int = 4  # requests at once

    @classmethod
    def from_environment(cls) -> Self:
        return cls(api_key=os.environ.get(KEY_VARIABLE) or None)


def is_remote(ref: str) -> bool:
    return ref.partition(":")[0] in get_args(Protocol)


def parse_ref(ref: str) -> RemoteRef:
    """Raises ModelNotFound when the reference names no address that may be asked."""
    protocol, _, rest = ref.partition(":")
    url, _, model = rest.partition("#")
    checked = check_url(url, ref)
    if protocol == "openai":
        if not model:
            raise ModelNotFound(
                f"{ref!r} names no model; expected openai:URL#MODEL, such as "
                "openai:https://api.example/v1#embed-small"
            )
        return RemoteRef(protocol="openai", url=checked, model=model)
    return RemoteRef(protocol="tei", url=checked, model=model)


def check_url(url: str, ref: str) -> str:
    """The address without a slash at its end. Raises ModelNotFound."""
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host:
        raise ModelNotFound(f"{ref!r} has no address; expected http://HOST or https://HOST")
    if parts.username is not None or parts.password is not None or parts.query:
        raise ModelNotFound(
            f"the address of a remote model is stored, so it may hold no password and no query; "
            f"put the key into {KEY_VARIABLE}"
        )
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
