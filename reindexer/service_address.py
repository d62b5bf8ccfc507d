"""Where the running service is: a file in the data directory that only its user can read."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from search.processes import is_on_this_machine, process_may_live

SERVICE_FILE = "service.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceAddress:
    """How verbs in other processes of this machine reach the service of the data directory."""

    url: str
    token: str
    process: str  # host:pid:start

    def write(self, data_dir: Path) -> None:
        path = data_dir / SERVICE_FILE
        partial = path.with_suffix(".tmp")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(self), file)
        partial.replace(path)

    def remove(self, data_dir: Path) -> None:
        if ServiceAddress.read(data_dir) == self:
            with contextlib.suppress(FileNotFoundError):
                (data_dir / SERVICE_FILE).unlink()

    @classmethod
    def read(cls, data_dir: Path) -> ServiceAddress | None:
        """None when no service runs on this machine; a file left by a dead process is recognised as
        such. What a service on another machine wrote here says nothing: where it listens means
        something else on this one, and whether it lives is in the catalog."""
        address = cls._written(data_dir)
        if address is None or not is_on_this_machine(address.process):
            return None
        return address if process_may_live(address.process) else None

    @classmethod
    def elsewhere(cls, data_dir: Path) -> str | None:
        """The process on another machine that wrote the file last, whether or not it lives."""
        address = cls._written(data_dir)
        if address is None or is_on_this_machine(address.process):
            return None
        return address.process

    @classmethod
    def _written(cls, data_dir: Path) -> ServiceAddress | None:
        try:
            return cls(**json.loads((data_dir / SERVICE_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def url_here(host: str, port: int) -> str:
    """Where this machine reaches a service that listens on host: on a wildcard by loopback."""
    if _is_wildcard(host):
        host = "::1" if ":" in host else "127.0.0.1"
    return _url(host, port)


def url_for_others(host: str, port: int) -> str:
    """What tells it from the services of other machines: on a wildcard by this machine's name."""
    return _url(socket.gethostname() if _is_wildcard(host) else host, port)


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
