"""Points on disk by the part of the backup that they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from search.dense import FloatMatrix, Point
from search.stored_points import from_frames, to_frame
from search.table_rows import DOCUMENTS_A_PART

SPOOL_POINTS = 20_000  # in memory at a time


class PointSpool:
    """A part holds the points of some seqs, so it changes only when its documents do. A store gives
    them in an order of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[int, list[tuple[Point, FloatMatrix]]] = defaultdict(list)
        self._n_waiting = 0

    def add(self, points: Sequence[Point], vectors: FloatMatrix) -> None:
        for row, point in enumerate(points):
            self._waiting[point.seq // DOCUMENTS_A_PART].append((point, vectors[row : row + 1]))
        self._n_waiting += len(points)
        if self._n_waiting >= SPOOL_POINTS:
            self._write()

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Each part with its number, its points in one order whatever order they came in."""
        self._write()
        for file in sorted(self._folder.iterdir()):
            points: list[Point] = []
            rows: list[FloatMatrix] = []
            for some, vectors in from_frames([file.read_bytes()]):
                points += some
                rows.append(vectors)
            file.unlink()
            order = sorted(
                range(len(points)), key=lambda at: (points[at].doc_id, points[at].number)
            )
            yield (
                int(file.name),
                to_frame([points[at] for at in order], np.concatenate(rows)[order]),
            )

    def _write(self) -> None:
        for part, found in self._waiting.items():
            frame = to_frame(
                [point for point, _ in found], np.concatenate([vector for _, vector in found])
            )
            with (self._folder / f"{part:012d}").open("ab") as file:
                file.write(frame)
        self._waiting.clear()
        self._n_waiting = 0
