"""The order a parent process gives to the process that builds."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reindexer.logs import LogFormat
from reindexer.settings import Settings

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from reindexer.journal import Build, BuildState

KILLED_BY = "its process was ended by"  # begins the reason of a build that a signal ended
# What the system sends where memory runs out, and how libraries end that find none.
OF_SHORT_MEMORY = (signal.SIGKILL, signal.SIGABRT)
EXIT_PAUSED = 10  # of the child process: stopped at a checkpoint because somebody asked


def ended_by(number: int) -> str:
    """What a signal that ended the process says to people."""
    name = f"{KILLED_BY} {signal.Signals(number).name}"
    return f"{name} (memory may be short)" if number in OF_SHORT_MEMORY else name


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildJob:
    """What the parent asks for."""

    generation: str
    token: int  # of the build lease, which the parent holds
    settings: Mapping[str, Any]
    eval_dir: str | None = None
    eval_split: str = "test"
    log_level: int = logging.WARNING

    log_format: LogFormat = "console"

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> BuildJob:
        return cls(**json.loads(text))

    def read_settings(self) -> Settings:
        values = dict(self.settings)
        values["data_dir"] = Path(values["data_dir"])
        return Settings(**values)


def record_stop(data: DataDirectory, build: Build, wanted: str) -> None:
    """The build has stopped because somebody asked for it; its checkpoint stays. One that was
    resumed while it came to its end stays queued."""
    if wanted == "cancel":
        data.journal.update_build(build.build_id, state="cancelled", wanted=None)
        data.catalog.move(build.generation, "failed", reason="cancelled")
        return
    found = data.journal.build_of(build.generation)
    is_to_go_on = found.wanted == "resume" or found.state == "queued"
    state: BuildState = "queued" if is_to_go_on else "paused"
    data.journal.update_build(build.build_id, state=state, wanted=None)
