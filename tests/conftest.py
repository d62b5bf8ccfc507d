"""What holds for every layer of tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Workers share the cores already: one that computes in many threads waits for the others'.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without what others have compiled, every process that a test starts compiles all of it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell's & has Ctrl-C ignored, and every process started from here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that others share is slow at times; that is no finding.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# Files that take the longest go first: one that comes last has a single core to itself.
LONGEST_FIRST = (
    "test_tour",
    "test_selftest_two_minutes",
    "test_house_rules",
    "test_selftest_kill",
    "test_selftest_soak",
    "test_selftest",
    "test_finetune",
    "test_fanout_ray",
    "test_serve_kills",
    "test_fleet",
    "test_cli",
    "test_cli_train",
    "test_pages",
    "test_worker",
    "test_upgrade_under_load",
    "test_kills",
    "test_restore_drill",
    "test_fanout_processes",
    "test_remote_encoder",
    "test_train_processes",
    "test_write_histories",
    "test_api_schema",
    "test_cli_compare",
    "test_dense",
    "test_sandbox",
    "test_store_faults",
    "test_graph_walk",
)


def pytest_configure(config: pytest.Config) -> None:
    """Files are handed out as they were collected; else those with most tests would go first."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _turn(item.path))


def pytest_collection_finish() -> None:
    """What is imported by now stays: collecting garbage, which a training does at its end, need not
    go through it again and again."""
    gc.collect()
    gc.freeze()


def _turn(path: Path) -> int:
    name = path.stem
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """For `-n auto`: two more than there are cores, because much of the time is spent waiting."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    affinity = getattr(os, "sched_getaffinity", None)
    return 2 + (len(affinity(0)) if affinity else os.cpu_count() or 1)


@pytest.fixture
def nothing_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """No schedules but those that a test makes. By default a job is asked for every five minutes of
    the clock on the wall, so also in the middle of a test."""
    monkeypatch.setattr("reindexer.schedule.DEFAULTS", ())
