"""Ask the service of the data directory ./.reindexer the same questions until it is gone.

Writes answers.csv: when, how long, which generation answered, or what went wrong.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import sys
import time
import urllib.request
from pathlib import Path

ADDRESS = Path(".reindexer/service.json")
QUESTIONS = (
    "read a file line by line",
    "run a command and capture its output",
    "temporary directory that is removed afterwards",
    "serialize an object to JSON",
)
EVERY_S = 0.05
GONE_AFTER_S = 15.0


def main() -> None:
    url = _ready_url()
    n_failed = n_asked = 0
    with Path("answers.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["at_s", "took_ms", "generation"])
        for question in itertools.cycle(QUESTIONS):
            at = time.time()
            generation = _ask(url, question)
            if generation is None and _is_gone():
                break
            n_asked += 1
            n_failed += generation is None
            rows.writerow([f"{at:.3f}", f"{(time.time() - at) * 1e3:.1f}", generation or "failed"])
            file.flush()
            time.sleep(EVERY_S)
    sys.stdout.write(f"{n_asked:,} questions asked, {n_failed} without an answer\n")


def _ready_url() -> str:
    """Where the service is, once it has opened what is live."""
    while True:
        with contextlib.suppress(OSError, ValueError):
            url = str(json.loads(ADDRESS.read_text())["url"])
            with urllib.request.urlopen(f"{url}/readyz", timeout=10):
                return url
        time.sleep(0.1)


def _is_gone() -> bool:
    """Whether the service was ended on purpose: it then takes its address away."""
    until = time.monotonic() + GONE_AFTER_S
    while ADDRESS.exists() and time.monotonic() < until:
        time.sleep(0.05)
    return not ADDRESS.exists()


def _ask(url: str, question: str) -> str | None:
    body = json.dumps({"query": question, "k": 5}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(f"{url}/search", body, headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(json.load(response)["generation"])
    except OSError:
        return None


if __name__ == "__main__":
    main()
