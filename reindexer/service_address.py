"""Where the running service is: a file in the data directory that only its user can read."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from search.processes import process_may_live

SERVICE_FILE = "service.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceAddress:
    """How verbs in other processes reach the service that owns the data directory."""

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
        """None when no service runs; a file left by a dead process is recognised as such."""
        try:
            address = cls(**json.loads((data_dir / SERVICE_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return address if process_may_live(address.process) else None
