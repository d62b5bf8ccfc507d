"""The folder of a training under way: what a kill leaves, and the same command goes on from.

<root>/<run id>/run.json      what is trained, with which settings
               /pairs.jsonl   what is left to train on, negatives mined
               /dev.json      what is watched
               /prepared.json written last of the three
               /checkpoints/  weights, optimizer, random numbers
               /model/        the tuned model, when tuned.json is there
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.dev_set import DevSet
from training.errors import TrainingBusy
from training.pairs import Pair, read_pairs, write_pairs
from training.processes import is_main_process
from training.whole_file import write_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What training begins with."""

    pairs: list[Pair]
    dev: DevSet | None
    facts: Mapping[str, Any]  # what preparing found out, for lineage and report

    def write(self, folder: Path) -> None:
        write_pairs(folder / "pairs.jsonl", self.pairs)
        if self.dev is not None:
            self.dev.write(folder / "dev.json")
        _write_json(folder / "prepared.json", {"facts": self.facts, "dev": self.dev is not None})

    @classmethod
    def read(cls, folder: Path) -> Prepared | None:
        """None when nothing has been prepared to its end."""
        if not (folder / "prepared.json").exists():
            return None
        value = json.loads((folder / "prepared.json").read_text())
        dev = DevSet.read(folder / "dev.json") if value["dev"] else None
        return cls(pairs=read_pairs(folder / "pairs.jsonl"), dev=dev, facts=value["facts"])


@contextmanager
def open_run(root: Path, settings: Mapping[str, Any], *, fresh: bool) -> Iterator[Path]:
    """The folder of the training with these settings, held by this process; the same settings give
    the same folder. fresh: begin again. Raises TrainingBusy."""
    text = json.dumps(settings, sort_keys=True, default=str)
    path = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not is_main_process():
        yield path
        return
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / f".{path.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingBusy(
                f"another process is doing this training in {path}; wait for it, or train with "
                "other settings"
            ) from None
        if fresh:
            shutil.rmtree(path, ignore_errors=True)
        path.mkdir(exist_ok=True)
        _write_json(path / "run.json", settings)
        yield path
    finally:
        os.close(handle)


def close_run(path: Path) -> None:
    """It is done and registered; nothing has to be gone on with."""
    shutil.rmtree(path)


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, default=str))
