"""The child process that does a job: started, watched, asked to stop, or taken over.

It is the verb that a person would type, in a session of its own, so it goes on when its worker is
killed; the worker that takes the job over finds it by name. What it prints goes to files in the
data directory's `logs/`: a JSON document on success, and everything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from reindexer.job_kinds import command
from reindexer.jobs import Job
from reindexer.settings import Settings, as_environment
from search.processes import is_on_this_machine, process_may_live, process_name, run_module

POLL_S = 0.1
LAST_LINE_CHARS = 500


class JobProcess:
    """A running child, started here or left by another worker of this host."""

    def __init__(self, job: Job, name: str, log: Path, child: subprocess.Popen[bytes] | None):
        self.job = job
        self.name = name  # host:pid:start
        self.log = log
        self._child = child  # None: another process started it, so its exit code is not known

    @classmethod
    def start(cls, job: Job, settings: Settings) -> Self:
        """Settings travel in the environment: a command line can be read by everybody."""
        logs = settings.data_dir / "logs"
        logs.mkdir(exist_ok=True, mode=0o700)
        log = logs / f"job-{job.job_id}.log"
        with log.open("ab") as said, log.with_suffix(".json").open("wb") as answer:
            child = subprocess.Popen(
                command_line(job, settings),
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=said,
                start_new_session=True,
                env=_environment(settings),
            )
        return cls(job, process_name(child.pid), log, child)

    @classmethod
    def left_behind(cls, job: Job) -> Self | None:
        """The child that an earlier worker on this host has started for this job, if it still
        works."""
        if job.child is None or job.log is None or not is_on_this_machine(job.child):
            return None
        return cls(job, job.child, Path(job.log), None) if process_may_live(job.child) else None

    def wait(self, timeout_s: float) -> bool:
        """True when it has ended."""
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout_s)
            return self._child.poll() is not None
        if process_may_live(self.name):
            time.sleep(timeout_s)
        return not process_may_live(self.name)

    def stop(self, within_s: float) -> None:
        """Ask it to stop at a checkpoint; kill it when that takes too long. Its own children die
        with it."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + within_s
        while not self.wait(POLL_S):
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                self.wait(POLL_S)
                return

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and when another process started it."""
        return self._child.poll() if self._child is not None else None

    def answer(self) -> Mapping[str, Any] | None:
        """The JSON document that it ended with; None when it did not get so far."""
        try:
            value = json.loads(self.log.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def last_line(self) -> str:
        """Why it ended, in its own words."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        said = next((line for line in reversed(lines) if line.strip()), "")
        return said.removeprefix("Error:").strip()[:LAST_LINE_CHARS]

    def _signal(self, number: signal.Signals) -> None:
        if not process_may_live(self.name):
            return
        pid = int(self.name.split(":")[1])
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)


def command_line(job: Job, settings: Settings) -> list[str]:
    """What does the job. The settings file is left out: the environment has what was read."""
    reindexer = run_module("reindexer", "--config", os.devnull)
    return [*reindexer, "--data-dir", str(settings.data_dir.absolute()), *command(job)]


def _environment(settings: Settings) -> dict[str, str]:
    """Ours without what we read settings from, and with what we made of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REINDEXER_")}
    return {**kept, **as_environment(settings)}
