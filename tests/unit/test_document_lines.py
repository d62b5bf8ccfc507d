"""Lines of a stream come out whole, however it was cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.document_lines import LineSplitter

LIMIT = 8


def split(pieces: list[bytes]) -> list[tuple[int, bytes | None]]:
    splitter = LineSplitter(LIMIT)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + list(splitter.end())


@given(st.lists(st.text("ab\n", max_size=30).map(str.encode), max_size=6))
def test_lines_do_not_depend_on_the_pieces(pieces: list[bytes]) -> None:
    *ends, rest = b"".join(pieces).split(b"\n")
    whole = ends + ([rest] if rest else [])

    assert split(pieces) == [
        (number, line if len(line) <= LIMIT else None) for number, line in enumerate(whole, 1)
    ]


def test_a_line_that_is_too_long_is_not_kept() -> None:
    splitter = LineSplitter(LIMIT)

    for _ in range(1_000):
        assert list(splitter.feed(b"x" * LIMIT)) == []
        assert sum(map(len, splitter._rest)) <= LIMIT

    assert list(splitter.feed(b"\nok\n")) == [(1, None), (2, b"ok")]
