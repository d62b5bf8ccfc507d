"""A million bad inputs: no traceback reaches a user, no 5xx, nothing is stored half.

    python -m benchmarks.fuzz --inputs 1000000
    python -m benchmarks.fuzz --inputs 20000 --targets api,queries --seed 7

The inputs are divided over the targets of `tests/bad_input_targets.py` by their shares. Where
atheris can be imported, coverage guides the choice of inputs: it feeds bytes into the same
Hypothesis tests. Otherwise Hypothesis chooses, lot by lot with a seed of its own each. Prints a
line for each target, and exits with 1 when a promise was broken; the input that breaks it is shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.bad_input_targets import TARGETS, Target, in_new_folder

LOT = 2_000  # inputs that Hypothesis remembers, so as not to draw one twice


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--targets", help="names, with commas between; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # target of a child that atheris guides
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.one is not None:
        _guided(_named(options.one)[0], options.inputs, options.seed)
    chosen = _named(options.targets) if options.targets else TARGETS
    is_guided = importlib.util.find_spec("atheris") is not None
    shares = sum(target.share for target in chosen)
    print(f"inputs chosen by {'atheris (coverage)' if is_guided else 'Hypothesis'}")
    broken, n_all, began = [], 0, time.monotonic()
    for target in chosen:
        n_inputs = max(1, options.inputs * target.share // shares)
        since = time.monotonic()
        run: Callable[[Target, int, int], bool] = _in_child if is_guided else _random
        holds = run(target, n_inputs, options.seed)
        seconds = time.monotonic() - since
        n_all += n_inputs
        outcome = "holds" if holds else "BROKEN"
        rate = n_inputs / seconds
        print(f"{target.name:10} {n_inputs:>9,} inputs {rate:>7,.0f}/s  {outcome}", flush=True)
        if not holds:
            broken.append(target.name)
    verdict = f"broken: {', '.join(broken)}" if broken else "all promises hold"
    print(f"{n_all:,} inputs in {time.monotonic() - began:,.0f} s; {verdict}")
    return 1 if broken else 0


def _named(names: str) -> list[Target]:
    found = [target for target in TARGETS if target.name in names.split(",")]
    if not found:
        raise SystemExit(f"no such target; there are {', '.join(t.name for t in TARGETS)}")
    return found


def _test(target: Target, check: Callable[[Any], None], n_inputs: int) -> Any:
    @settings(
        max_examples=n_inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(target.inputs)
    def holds(value: Any) -> None:
        check(value)

    return holds


def _random(target: Target, n_inputs: int, first_seed: int) -> bool:
    """Whether the promises hold for inputs that Hypothesis draws."""
    done = 0
    with in_new_folder(target) as check:
        while done < n_inputs:
            n_lot = min(LOT, n_inputs - done)
            try:
                seed(first_seed * 1_000_003 + done)(_test(target, check, n_lot))()
            except Exception as error:
                traceback.print_exception(error, limit=-3)
                return False
            done += n_lot
    return True


# -- guided by coverage ----------------------------------------------------------------------------


def _in_child(target: Target, n_inputs: int, first_seed: int) -> bool:
    """A process for each target: atheris ends the one it runs in."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--one", target.name]
    command += ["--inputs", str(n_inputs), "--seed", str(first_seed)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        sys.stderr.write(done.stdout[-4_000:] + done.stderr[-8_000:])
    return done.returncode == 0


def _guided(target: Target, n_inputs: int, first_seed: int) -> None:
    import atheris

    with in_new_folder(target) as check:
        test = _test(target, check, n_inputs)
        for function in _instrumented():
            atheris.instrument_func(function)
        kept = f"-artifact_prefix={tempfile.gettempdir()}/reindexer-fuzz-{target.name}-"
        arguments = ["fuzz", kept, f"-runs={n_inputs}", f"-seed={first_seed + 1}", "-max_len=8192"]
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        atheris.Setup([*arguments, "-print_final_stats=0"], test.hypothesis.fuzz_one_input)
        atheris.Fuzz()


def _instrumented() -> list[Any]:
    """Our own functions that are loaded: coverage of them guides, of libraries it only slows."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("search", "training", "reindexer") and module is not None:
            found += [
                item
                for item in vars(module).values()
                if getattr(item, "__module__", "") == name and hasattr(item, "__code__")
            ]
    return found


if __name__ == "__main__":
    raise SystemExit(main())
