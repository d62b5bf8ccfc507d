"""A million bad inputs: no traceback reaches a user, no 5xx, nothing is stored half.

    python -m benchmarks.fuzz --inputs 1000000
    python -m benchmarks.fuzz --inputs 20000 --targets api,queries --seed 7

The inputs are divided over the targets of `tests/bad_input_targets.py` by their shares; each target
has a process of its own, as many at a time as there are cores. Where atheris can be imported
(`pip install -c constraints.txt -e '.[dev,fuzz]'`), coverage guides the choice of inputs: it feeds
bytes into the same Hypothesis tests. Otherwise, or with --random, Hypothesis chooses, lot by lot
with a seed of its own each. Prints a line for each target, and exits with 1 when a promise was
broken; the input that breaks it is shown.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.bad_input_targets import Target, in_new_folder

LOT = 2_000  # inputs that Hypothesis remembers, so as not to draw one twice


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--targets", help="names, with commas between; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="without atheris")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # target of a child
    parser.add_argument("--of", default="tests.bad_input_targets", help=argparse.SUPPRESS)
    options = parser.parse_args()
    targets: tuple[Target, ...] = importlib.import_module(options.of).TARGETS
    is_guided = not options.random and importlib.util.find_spec("atheris") is not None
    if options.one is not None:
        warnings.simplefilter("ignore")
        run = _guided if is_guided else _random
        return run(_named(targets, options.one)[0], options.inputs, options.seed)
    chosen = _named(targets, options.targets) if options.targets else targets
    shares = sum(target.share for target in chosen)
    counts = [max(1, options.inputs * target.share // shares) for target in chosen]
    print(f"inputs chosen by {'atheris (coverage)' if is_guided else 'Hypothesis'}", flush=True)
    began = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = partial(_in_child, of=options.of, seed=options.seed, is_guided=is_guided)
        held = list(pool.map(work, chosen, counts))
    broken = [target.name for target, holds in zip(chosen, held, strict=True) if not holds]
    verdict = f"broken: {', '.join(broken)}" if broken else "all promises hold"
    print(f"{sum(counts):,} inputs in {time.monotonic() - began:,.0f} s; {verdict}")
    return 1 if broken else 0


def _in_child(target: Target, n_inputs: int, *, of: str, seed: int, is_guided: bool) -> bool:
    """Whether the promises hold. atheris ends the process that it runs in."""
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.fuzz", "--of", of, "--one", target.name]
    command += ["--inputs", str(n_inputs), "--seed", str(seed)]
    command += [] if is_guided else ["--random"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    holds = done.returncode == 0
    if not holds:
        sys.stderr.write(done.stdout[-4_000:] + done.stderr[-8_000:])
    rate = n_inputs / (time.monotonic() - began)
    outcome = "holds" if holds else "BROKEN"
    print(f"{target.name:10} {n_inputs:>9,} inputs {rate:>7,.0f}/s  {outcome}", flush=True)
    return holds


def _named(targets: Sequence[Target], names: str) -> list[Target]:
    found = [target for target in targets if target.name in names.split(",")]
    if not found:
        raise SystemExit(f"no such target; there are {', '.join(t.name for t in targets)}")
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


def _random(target: Target, n_inputs: int, first_seed: int) -> int:
    """Inputs that Hypothesis draws; the exit code."""
    done = 0
    with in_new_folder(target) as check:
        while done < n_inputs:
            n_lot = min(LOT, n_inputs - done)
            try:
                seed(first_seed * 1_000_003 + done)(_test(target, check, n_lot))()
            except Exception as error:
                traceback.print_exception(error, limit=-3)
                return 1
            done += n_lot
    return 0


def _guided(target: Target, n_inputs: int, first_seed: int) -> NoReturn:
    """Inputs that coverage leads to; ends this process."""
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
    raise AssertionError("atheris returned")


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
