"""The order a parent process gives to the process that builds."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reindexer.settings import Settings

EXIT_PAUSED = 10  # of the child process: stopped at a checkpoint because somebody asked


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildJob:
    """What the parent asks for."""

    generation: str
    token: int  # of the build lease, which the parent holds
    settings: Mapping[str, Any]
    eval_dir: str | None = None
    eval_split: str = "test"
    log_level: int = logging.WARNING

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> BuildJob:
        return cls(**json.loads(text))

    def read_settings(self) -> Settings:
        values = dict(self.settings)
        values["data_dir"] = Path(values["data_dir"])
        return Settings(**values)
