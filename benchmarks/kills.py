"""`kill -9` of service, worker and build at random moments, while clients write and read.

    python benchmarks/kills.py [--kills 30] [--documents 300] [--seed 1]

Service and worker are started again as an init system would; nobody else helps. Afterwards the
corpus, and both legs of the live and the standby generation, are compared with what the service had
acknowledged.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.report import Report, percentile, read_arguments
from tests.acceptance.conftest import text_of
from tests.acceptance.supervised import Readers, Supervised, Writers, losses, wait_for
from tests.tiny_models import make_tiny_model

VICTIMS = ["serve", "serve", "worker", "build"]
BUILDS = 8  # one after the other, each of another model
LONGEST_S = 3.0  # from one kill to the next, once the service answers again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = read_arguments(parser)
    report = Report(
        f"kills: {arguments.kills} times, {arguments.documents:,} documents", path=arguments.report
    )
    with tempfile.TemporaryDirectory() as temporary:
        _measure(report, Path(temporary), arguments)
    return report.exit_code()


def _measure(report: Report, folder: Path, arguments: argparse.Namespace) -> None:
    rng = random.Random(arguments.seed)
    models = [
        make_tiny_model(folder / f"model-{n}", kind="static", seed=n) for n in range(2 + BUILDS)
    ]
    documents = {f"d{number}": text_of(number) for number in range(arguments.documents)}
    installation = Supervised(folder)
    to_build = installation.prepare(documents, models)
    kills = dict.fromkeys(VICTIMS, 0)
    back_s: list[float] = []
    with installation:
        wait_for(installation.is_ready)
        with (
            Writers(installation.url, documents, count=2, seed=arguments.seed) as writers,
            Readers(installation.url, count=1) as readers,
        ):
            while sum(kills.values()) < arguments.kills:
                if to_build and not installation.is_building():
                    installation.ask_for_a_build(to_build.pop())
                time.sleep(rng.uniform(0.0, LONGEST_S))
                victim = rng.choice(VICTIMS)
                if victim == "build" and not installation.kill_build(after_docs=0):
                    continue  # it is between two attempts, or done
                if victim != "build":
                    installation.kill(victim)
                kills[victim] += 1
                killed_at = time.monotonic()
                wait_for(installation.is_ready)
                if victim == "serve":
                    back_s.append(time.monotonic() - killed_at)
        wait_for(lambda: not installation.is_building(), 600.0)
        wait_for(installation.is_in_step)
    for victim, count in kills.items():
        report.figure(f"kills of {victim}", count, digits=0)
    report.figure("kills", sum(kills.values()), digits=0, at_least=arguments.kills)
    report.figure("writes acknowledged meanwhile", writers.acknowledged, digits=0)
    report.figure("answers meanwhile", readers.answers, digits=0)
    report.figure("the service answers again, median", percentile(back_s, 0.5), "s", digits=1)
    refused = len(writers.refused) + len(readers.wrong)
    report.figure("requests that failed otherwise", refused, digits=0, exactly=0)
    found = list(losses(installation.settings, writers.truth))
    for line in found[:10]:
        print(line)
    report.figure("acknowledged writes not as they were", len(found), digits=0, exactly=0)


if __name__ == "__main__":
    sys.exit(main())
