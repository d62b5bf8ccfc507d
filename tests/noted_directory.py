"""A data directory whose processes leave a note of what they encode. Quick to import: actors do."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from reindexer.settings import Settings
from search.dense import FloatMatrix
from tests.word_directory import WordDirectory
from tests.word_encoder import WordEncoder
from training.tokenizer import TokenizedTexts

SLOW_S = 0.02  # a call of the encoder
HOLD = "hold"  # while a file of this name is there, nothing comes out of the model
UNENCODABLE, DEADLY = "unencodable", "deadly"  # words: an error; the end of the process


class NotedEncoder(WordEncoder):
    """Slow enough to be killed; writes down how many passages it encodes, and who it is."""

    notes: Path

    def _encode(self, tokenized: TokenizedTexts) -> FloatMatrix:
        with (self.notes / str(os.getpid())).open("a") as note:
            note.write(f"{len(tokenized)}\n")
        (deadly,) = self.tokenize_documents([DEADLY]).ids[1:]
        if deadly in tokenized.ids:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(SLOW_S)
        while (self.notes.parent / HOLD).exists():
            time.sleep(SLOW_S)
        return super()._encode(tokenized)


class NotedDirectory(WordDirectory):
    def __init__(self, settings: Settings) -> None:
        values = {item.name: getattr(settings, item.name) for item in fields(settings)}
        super().__init__(values.pop("data_dir"), **values)

    def load_encoder(self, model: str) -> Any:
        encoder = NotedEncoder(int(model.partition("@")[2]))
        encoder.fails_on = UNENCODABLE
        encoder.notes = self.path / "notes"
        encoder.notes.mkdir(exist_ok=True)
        return encoder
