"""Docstrings as documents: read from source files, importing nothing."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from reindexer.sources import DocstringSource, Row
from search.documents import Document

LONG = "It explains at some length what it is for, so that it is worth being found by somebody."


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    for path, text in {
        "alpha/__init__.py": f'"""Alpha. {LONG}"""\nraise RuntimeError("imported")\n',
        "alpha/tools.py": f'''
class Saw:
    """Cuts.

    {LONG}
        Indented.
    """

    def cut(self):
        """Cut. {LONG}"""

        def inner():
            """Inner. {LONG}"""

    def cut(self, twice):
        """Cut again. {LONG}"""

    def _private(self):
        """Private. {LONG}"""

    async def wait(self):
        """Wait. {LONG}"""

def short():
    """Too short."""

def drill():
    """Drill. {LONG}"""
''',
        "alpha/_hidden.py": f'"""Hidden. {LONG}"""',
        "alpha/tests/test_it.py": f'"""A test. {LONG}"""',
        "alpha/broken.py": f'"""Broken. {LONG}"""\ndef (:\n',
        "alpha/latin.py": f'"""Latin caf\xe9. {LONG}"""'.encode("latin-1"),
        "alpha/escape.py": f'"""Escape \\d. {LONG}"""\nx = 1 is 1\n',
        "beta.py": f'"""Beta. {LONG}"""\n\ndef one():\n    """One. {LONG}"""\n',
        "_gamma.py": f'"""Gamma. {LONG}"""',
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path


def documents(source: DocstringSource) -> dict[str, Document]:
    rows = list(source)
    assert all(isinstance(row, Row) for row in rows)
    found = {row.document.doc_id: row.document for row in rows if isinstance(row, Row)}
    assert len(found) == len(rows)
    return found


def test_public_docstrings_become_documents(packages: Path) -> None:
    found = documents(DocstringSource(roots={packages: False}, name="code"))

    assert set(found) == {
        "alpha",
        "alpha.escape",
        "alpha.tools.Saw",
        "alpha.tools.Saw.cut",
        "alpha.tools.Saw.wait",
        "alpha.tools.drill",
        "beta",
        "beta.one",
    }
    assert found["alpha.tools.Saw"] == Document.of(
        doc_id="alpha.tools.Saw",
        title="alpha.tools.Saw",
        text=f"Cuts.\n\n{LONG}\n    Indented.",
        metadata={
            "package": "alpha",
            "module": "alpha.tools",
            "kind": "class",
            "stdlib": False,
        },
        source="code",
    )
    assert found["alpha.tools.Saw.cut"].text.startswith("Cut. ")
    assert {doc_id: document.metadata["kind"] for doc_id, document in found.items()} == {
        "alpha": "module",
        "alpha.escape": "module",
        "alpha.tools.Saw": "class",
        "alpha.tools.Saw.cut": "method",
        "alpha.tools.Saw.wait": "method",
        "alpha.tools.drill": "function",
        "beta": "module",
        "beta.one": "function",
    }


def test_packages_take_turns(packages: Path) -> None:
    found = documents(DocstringSource(roots={packages: False}, limit=4))

    assert list(found) == ["alpha", "beta", "alpha.escape", "beta.one"]


def test_long_ones_are_left_out_and_do_not_count(packages: Path) -> None:
    lengths = {
        doc_id: len(document.text)
        for doc_id, document in documents(DocstringSource(roots={packages: False})).items()
    }
    longest = max(lengths.values())

    short = DocstringSource(roots={packages: False}, max_characters=longest - 1)
    assert set(documents(short)) == {key for key, value in lengths.items() if value < longest}
    few = DocstringSource(roots={packages: False}, max_characters=longest - 1, limit=4)
    assert len(documents(few)) == 4


def test_nothing_is_imported_and_nobody_is_warned(packages: Path) -> None:
    before = set(sys.modules)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        documents(DocstringSource(roots={packages: False}))

    assert not {name for name in set(sys.modules) - before if name.startswith(("alpha", "beta"))}
    assert caught == []


def test_this_environment_has_many_real_documents() -> None:
    source = DocstringSource(limit=300)

    found = documents(source)

    assert len(found) == 300
    again = [row.document.doc_id for row in islice(source, 30) if isinstance(row, Row)]
    assert again == list(found)[:30]
    packages = Counter(document.metadata["package"] for document in found.values())
    assert len(packages) > 50
    assert {document.metadata["stdlib"] for document in found.values()} == {True, False}
    assert min(len(document.text) for document in found.values()) >= 80
