"""Training in several processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.judged_world import make_judged_world
from tests.tiny_models import make_tiny_model

UNEVEN = """
import os, time
from training import trainer

if os.environ["RANK"] == "1":
    trainer.SECONDS_PER_CHECKPOINT = 0.0  # a clock of its own
    load_best = trainer._Trainer._load_best_model
    save_rng = trainer._Trainer._save_rng_state
    trainer._Trainer._load_best_model = lambda self: (time.sleep(3), load_best(self))
    trainer._Trainer._save_rng_state = lambda self, folder: (time.sleep(1), save_rng(self, folder))
else:
    def complete(point):
        last = sorted(trainer.Path(os.environ["WORK"]).glob("*/checkpoints/checkpoint-*"))[-1]
        assert (last / "rng_state_1.pth").exists(), "marked before it was whole"
    trainer.reached = complete

from reindexer.cli import main

main()
"""


def test_two_processes_train_one_version_and_speak_with_one_voice(tmp_path: Path) -> None:
    world = make_judged_world(tmp_path, documents=200, tested=20)
    base = make_tiny_model(tmp_path / "base")
    uneven = tmp_path / "uneven.py"
    uneven.write_text(UNEVEN)
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
            *(str(uneven), "--data-dir", str(tmp_path / "data"), "train", str(world.pairs)),
            *("--base", str(base), "--name", "tuned", "--epochs", "1", "--batch-size", "8"),
            *("--set", "encoder.device=cpu", "--set", "encoder.dtype=fp32", "--json"),
        ],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "WORK": str(tmp_path / "data" / "training"),
        },
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
