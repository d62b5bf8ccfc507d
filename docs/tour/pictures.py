"""Draw the two pictures of the tour: what the new model gained, and who answered when.

Reads answers.csv and the registry of the data directory ./.reindexer; writes gain.svg and
answers.svg. Needs matplotlib, which comes with the extra `train`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

OLD, NEW, INK = "#8a6d1f", "#1f5fa8", "#333333"
BIN_S = 2.0  # one point stands for so long: the slowest answer in it


def main() -> None:
    plt.rcParams.update(
        {
            "svg.hashsalt": "tour",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "figure.facecolor": "white",
        }
    )
    draw_gain(Path("gain.svg"))
    draw_answers(Path("answers.svg"))


def draw_gain(path: Path) -> None:
    """nDCG@10 of base and tuned model at each length of their vectors."""
    shown = subprocess.run(
        ["reindexer", "models", "show", "docstrings@1", "--json"],
        capture_output=True,
        check=True,
        text=True,
    )
    dims: dict[str, Any] = json.loads(shown.stdout)["metrics"]["dims"]
    lengths = sorted(int(dim) for dim in dims)
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    for name, color, marker in (("base", OLD, "s"), ("tuned", NEW, "o")):
        values = [dims[str(dim)][name] for dim in lengths]
        axes.plot(lengths, values, color=color, marker=marker, label=name)
        above = 8 if name == "tuned" else -16
        for dim, value in zip(lengths, values, strict=True):
            axes.annotate(
                f"{value:.3f}",
                (dim, value),
                xytext=(0, above),
                textcoords="offset points",
                ha="center",
                color=color,
            )
    axes.set(xscale="log", xlabel="dimensions kept", ylabel="nDCG@10 on unseen modules")
    axes.set_xticks(lengths, [str(dim) for dim in lengths])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.2)
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def draw_answers(path: Path) -> None:
    """How long the slowest answer of each moment took, and which generation gave it."""
    with Path("answers.csv").open() as file:
        answers = [row for row in csv.DictReader(file) if row["generation"] != "failed"]
    began = float(answers[0]["at_s"])
    slowest: dict[tuple[int, str], float] = {}
    for row in answers:
        key = int((float(row["at_s"]) - began) / BIN_S), row["generation"]
        slowest[key] = max(slowest.get(key, 0.0), float(row["took_ms"]))
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    for generation, color, marker in (("docs@1", OLD, "s"), ("docs@2", NEW, "o")):
        points = [(at * BIN_S, ms) for (at, name), ms in slowest.items() if name == generation]
        if points:
            axes.scatter(*zip(*points, strict=True), s=9, color=color, marker=marker, lw=0)
        axes.scatter([], [], s=30, color=color, marker=marker, label=f"answered by {generation}")
    axes.set(yscale="log", xlabel="seconds since the first question", ylabel="slowest answer, ms")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("{x:,.0f}")
    axes.tick_params(axis="y", which="minor", labelsize=8)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    sys.stdout.write(f"{path}: {path.stat().st_size / 1e3:.0f} kB\n")


if __name__ == "__main__":
    main()
