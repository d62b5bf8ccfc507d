"""`benchmarks/fuzz.py` reports a promise that is broken: a fuzzer that finds nothing proves nothing
unless it could have."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HAS_ATHERIS = importlib.util.find_spec("atheris") is not None


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(["--random"], id="random"),
        pytest.param(
            [],
            id="guided",
            marks=pytest.mark.skipif(not HAS_ATHERIS, reason="atheris is not installed"),
        ),
    ],
)
def test_a_broken_promise_is_reported(how: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--of", "tests.broken_target"]
    command += ["--inputs", "2000", *how]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    said = done.stdout + done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["broken"].endswith("BROKEN"), said
    assert lines["sound"].endswith("holds"), said
    assert "planted: " in done.stderr, said
    assert "2,000 inputs" in said
    assert done.stdout.endswith("broken: broken\n"), said
    assert done.returncode == 1, said
