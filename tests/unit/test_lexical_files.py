"""A lexical index on disk: saved whole or not at all, and damage is found."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.documents import Change, Document
from search.errors import LexicalDamaged, SearchError
from search.lexical import LexicalIndex
from search.lexical_files import ArrayFile, Arrays, map_arrays
from search.recipe import AnalyzerRecipe

RECIPE = AnalyzerRecipe(language="none")  # it needs no stop words, whose import takes 0.5 s


def put(seq: int, doc_id: str, text: str) -> Change:
    document = Document.of(doc_id=doc_id, text=text, metadata={"seq": seq})
    return Change(seq=seq, doc_id=doc_id, content_hash=document.content_hash, document=document)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved index of 30 documents, 10 of them changed since the compaction."""
    path = tmp_path / "lexical"
    index = LexicalIndex.open(path, RECIPE)
    index.apply([put(seq, f"doc-{seq}", f"red word{seq}") for seq in range(1, 21)])
    index.compact()
    index.apply([put(seq, f"doc-{seq}", f"red word{seq}") for seq in range(21, 31)])
    index.save()
    index.close()
    return path


def data_files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix == ".bin")


def test_a_saved_index_opens_as_it_was(path: Path) -> None:
    index = LexicalIndex.open(path, RECIPE)
    assert (index.watermark, index.documents, index.pending) == (30, 30, 10)
    assert [hit.doc_id for hit in index.search("word7", 5)] == ["doc-7"]
    assert [hit.doc_id for hit in index.search("word27", 5)] == ["doc-27"]
    index.apply([put(31, "doc-3", "blue")])
    assert index.search("word3", 5) == []


def test_nothing_saved_opens_empty(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path / "nothing" / "here", RECIPE)
    assert (index.watermark, index.documents) == (0, 0)
    assert list(tmp_path.iterdir()) == []
    index.save()
    assert LexicalIndex.open(tmp_path / "nothing" / "here", RECIPE).watermark == 0


def test_a_save_of_few_changes_leaves_the_base_alone(path: Path) -> None:
    (base,) = (file for file in data_files(path) if file.name.startswith("base"))
    before = base.stat()
    index = LexicalIndex.open(path, RECIPE)
    index.apply([put(31, "doc-31", "red")])
    index.save()
    assert base.stat().st_mtime_ns == before.st_mtime_ns
    assert LexicalIndex.open(path, RECIPE).watermark == 31


def test_saves_do_not_pile_up_files(path: Path) -> None:
    index = LexicalIndex.open(path, RECIPE)
    for seq in range(31, 41):
        index.apply([put(seq, f"doc-{seq}", "red")])
        index.compact()
        index.save()
    assert len(data_files(path)) <= 4  # these and those before
    index.save()
    assert LexicalIndex.open(path, RECIPE).documents == 40


def test_an_index_goes_on_answering_after_its_files_were_replaced(path: Path) -> None:
    reader, writer = (
        LexicalIndex.open(path, RECIPE, writable=False),
        LexicalIndex.open(path, RECIPE),
    )
    for seq in range(31, 35):
        writer.apply([put(seq, f"doc-{seq}", "red")])
        writer.compact()
        writer.save()
    assert len(reader.search("red", 100)) == 30
    assert LexicalIndex.open(path, RECIPE, writable=False).documents == 34


def test_an_index_whose_files_are_replaced_while_it_is_opened_is_opened_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_to_map(folder: Path, file: ArrayFile, *, check: bool = True) -> Arrays:
        monkeypatch.undo()
        index = LexicalIndex.open(path, RECIPE)
        for seq in range(31, 35):
            index.apply([put(seq, f"doc-{seq}", "red")])
            index.compact()
            index.save()
        return map_arrays(folder, file, check=check)

    monkeypatch.setattr("search.lexical_files.map_arrays", slow_to_map)
    assert LexicalIndex.open(path, RECIPE, writable=False).documents == 34


def test_a_writer_whose_base_was_removed_by_another_writes_it_again(path: Path) -> None:
    first, second = LexicalIndex.open(path, RECIPE), LexicalIndex.open(path, RECIPE)
    for seq in range(31, 35):
        second.apply([put(seq, f"doc-{seq}", "red")])
        second.compact()
        second.save()
    first.apply([put(31, "doc-31", "red")])
    first.save()
    assert LexicalIndex.open(path, RECIPE).documents == 31


def test_an_index_opened_to_read_follows_changes_but_is_not_saved(path: Path) -> None:
    index = LexicalIndex.open(path, RECIPE, writable=False)
    index.apply([put(31, "doc-31", "blue")])
    assert [hit.doc_id for hit in index.search("blue", 5)] == ["doc-31"]
    with pytest.raises(SearchError, match="open it with writable=True"):
        index.save()


def test_any_flipped_byte_is_found(path: Path) -> None:
    chance = random.Random(3)
    for file in [path / "CURRENT", *data_files(path)]:
        good = file.read_bytes()
        for _ in range(20):
            bad = bytearray(good)
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
            file.write_bytes(bad)
            with pytest.raises(LexicalDamaged, match=file.name):
                LexicalIndex.open(path, RECIPE)
        file.write_bytes(good)
    assert LexicalIndex.open(path, RECIPE).documents == 30


def test_a_truncated_missing_or_empty_file_is_named_with_what_to_do(path: Path) -> None:
    for file in [path / "CURRENT", *data_files(path)]:
        good = file.read_bytes()
        for bad in (b"", good[:-1], good + b"x"):
            file.write_bytes(bad)
            with pytest.raises(LexicalDamaged, match=rf"{file.name} .*reindexer sync"):
                LexicalIndex.open(path, RECIPE)
        if file.name != "CURRENT":
            file.unlink()
            with pytest.raises(LexicalDamaged, match=rf"{file.name} is missing"):
                LexicalIndex.open(path, RECIPE)
        file.write_bytes(good)


def test_another_analyzer_is_damage(path: Path) -> None:
    for other in (AnalyzerRecipe(), AnalyzerRecipe(language="none", k1=1.2)):
        with pytest.raises(LexicalDamaged, match=r"made with the analyzer .*none.*expected"):
            LexicalIndex.open(path, other)


def test_a_discarded_index_is_empty(path: Path) -> None:
    data_files(path)[0].unlink()
    LexicalIndex.discard(path)
    LexicalIndex.discard(path / "missing")
    index = LexicalIndex.open(path, RECIPE)
    assert (index.watermark, index.documents) == (0, 0)
    index.apply([put(1, "a", "red")])
    index.save()
    assert LexicalIndex.open(path, RECIPE).documents == 1


def test_readers_open_while_a_writer_saves(path: Path) -> None:
    opened = set()
    with writer(path):
        until = time.monotonic() + 30
        while len(opened) < 10 and time.monotonic() < until:
            index = LexicalIndex.open(path, RECIPE, writable=False)
            assert len(index.search("red", 10_000)) == index.documents == index.watermark
            opened.add(index.watermark)
    assert len(opened) == 10


def test_a_killed_writer_leaves_the_old_index_or_the_new(path: Path) -> None:
    chance = random.Random(5)
    watermark = 30
    for _ in range(10):
        with writer(path) as process:
            time.sleep(chance.random() * 0.05)
            process.kill()
            assert process.stdout is not None
            saved = [int(line) for line in process.stdout if line.endswith("\n")]
        index = LexicalIndex.open(path, RECIPE)
        assert index.watermark >= max([watermark, *saved])
        assert len(index.search("red", 10_000)) == index.documents == index.watermark
        watermark = index.watermark
    assert watermark > 30
    index.apply([put(watermark + 1, f"doc-{watermark + 1}", "red")])
    index.save()
    assert len(list(path.iterdir())) <= 6  # what the killed ones left behind is cleared away


_WRITER = """
import sys
from pathlib import Path
from search.documents import Change, Document
from search.lexical import LexicalIndex
from search.recipe import AnalyzerRecipe

index = LexicalIndex.open(Path(sys.argv[1]), AnalyzerRecipe(language="none"))
print("begun", flush=True)
while True:
    seq = index.watermark + 1
    document = Document(doc_id=f"doc-{seq}", text="red")
    index.apply([Change(seq=seq, doc_id=f"doc-{seq}", content_hash="", document=document)])
    if seq % 3 == 0:
        index.compact()
    index.save()
    print(seq, flush=True)
"""


@contextlib.contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to add documents, compact and save, and goes on until it is
    killed."""
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()
