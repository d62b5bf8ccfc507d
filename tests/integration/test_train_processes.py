"""Training in several processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.judged_world import make_judged_world
from tests.tiny_models import make_tiny_model


def test_two_processes_train_one_version_and_speak_with_one_voice(tmp_path: Path) -> None:
    world = make_judged_world(tmp_path, documents=200, tested=20)
    base = make_tiny_model(tmp_path / "base")
    finished = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                "2",
            ),
            *("-m", "reindexer", "--data-dir", str(tmp_path / "data"), "train", str(world.pairs)),
            *("--base", str(base), "--name", "tuned", "--epochs", "1", "--batch-size", "8"),
            *("--set", "encoder.device=cpu", "--set", "encoder.dtype=fp32", "--json"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)  # one document, though both processes ran the command
    assert report["model"] == "tuned@1"
    assert report["steps"] == report["pairs"] // 16, "a step takes a batch of each process"
    assert sorted(path.name for path in (tmp_path / "data" / "models").glob("*@*")) == [
        "base@1", "tuned@1",
    ]  # fmt: skip
