"""docs/tour.md as a person walks it: every command, in order, with a tiny model."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from reindexer.sources import DocstringSource, Row
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.timeout(960)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tour.md"
DOCUMENTS = 1_500
EPOCHS = 5  # of a model that is quick to train, and knows nothing
DIM = 256
TIMEOUT_S = 900.0  # of a machine that others keep busy; a quiet one takes a minute at most


def commands() -> str:
    """What is in the page's `sh` blocks."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))


def _bag_of_words(path: Path) -> Path:
    """A static model of the corpus' own words with random vectors, all words equally important:
    training has something to find out in seconds."""
    words = Counter(
        word
        for row in itertools.islice(DocstringSource(), DOCUMENTS)
        if isinstance(row, Row)
        for word in re.findall(r"[a-z]+", row.document.text.lower())
    )
    ids = {word: at for at, word in enumerate(["[UNK]", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = 0.1 * torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(0))
    table[0] = 0.0
    make_tiny_model(path, kind="static", dim=DIM)
    tokenizer.save(str(path / "tokenizer.json"))
    save_file({"embedding.weight": table}, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the commands print, and the folder that they leave."""
    folder = tmp_path_factory.mktemp("tour")
    (folder / "walk").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(folder / "walk"),
        "MODEL": str(_bag_of_words(folder / "words")),
        "DOCUMENTS": str(DOCUMENTS),
        "EPOCHS": str(EPOCHS),
        "REINDEXER_GOVERNOR_ENABLED": "false",  # nobody waits for the asker's answers
    }
    with (
        (folder / "output").open("w") as output,
        subprocess.Popen(
            ["bash", "-e", "-c", commands()],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as walk,
    ):
        try:
            code = walk.wait(TIMEOUT_S)
        finally:  # a walk that stops in the middle leaves its service and its asker behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(walk.pid, signal.SIGKILL)
    text = (folder / "output").read_text()
    assert code == 0, text
    (left,) = (path.parent for path in (folder / "walk").glob("*/answers.csv"))
    return text, left


def test_every_command_of_the_tour_works(walked: tuple[str, Path]) -> None:
    output, _ = walked
    assert "docs@2 (docstrings@1) is live" in output
    assert "The gate passed it" in output


def test_the_asker_of_the_tour_is_always_answered(walked: tuple[str, Path]) -> None:
    output, left = walked
    assert re.search(r"[1-9][\d,]* questions asked, 0 without an answer", output), output
    answered_by = [line.rpartition(",")[2] for line in (left / "answers.csv").read_text().split()]
    assert list(dict.fromkeys(answered_by)) == ["generation", "docs@1", "docs@2"]
    assert answered_by[-1] == "docs@1", "after the rollback"


def test_the_tour_finds_its_note_before_and_after_the_rollback(walked: tuple[str, Path]) -> None:
    output, _ = walked
    assert output.count("house-rule") == 2


def test_the_tour_draws_its_pictures(walked: tuple[str, Path]) -> None:
    _, left = walked
    committed = PAGE.parent / "tour"
    for path in (left / "gain.svg", left / "answers.svg", *committed.glob("*.svg")):
        assert path.read_text().startswith("<?xml")
        assert path.stat().st_size < 100_000
