"""One lexical index for many search nodes: published whole or not at all, fetched likewise."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from search.documents import Change, Document
from search.lexical import LexicalIndex
from search.lexical_publishing import PublishedIndex
from search.recipe import AnalyzerRecipe
from tests.word_directory import WordDirectory
from training.errors import TransferFailed
from training.remote_folder import RemoteFolder

RECIPE = AnalyzerRecipe(language="none")
HEAD = 1_000


class Killed(BaseException):
    """The process was killed here."""


class DyingFolder(RemoteFolder):
    """Dies at the n-th write, half of which has arrived."""

    def __init__(self, url: str, at: int) -> None:
        super().__init__(url)
        self._left = at

    def upload(self, path: Path, name: str) -> None:
        self._die(name, path.read_bytes())
        super().upload(path, name)

    def write(self, name: str, content: bytes) -> None:
        self._die(name, content)
        super().write(name, content)

    def _die(self, name: str, content: bytes) -> None:
        self._left -= 1
        if self._left < 0:
            super().write(name, content[: len(content) // 2])
            raise Killed


def put(seq: int, text: str) -> Change:
    document = Document.of(doc_id=f"d{seq}", text=text)
    return Change(seq=seq, doc_id=f"d{seq}", content_hash=document.content_hash, document=document)


def grow(path: Path, until: int, *, change: int | None = None) -> None:
    """Apply and compact up to a seq, and save; with one more change after that."""
    index = LexicalIndex.open(path, RECIPE)
    index.apply([put(seq, f"red word{seq}") for seq in range(index.watermark + 1, until + 1)])
    index.compact()
    if change is not None:
        index.apply([put(change, f"red word{change}")])
    index.save()
    index.close()


def fetched(url: str, path: Path, until: int = HEAD) -> tuple[int, int]:
    """Watermark and documents of the index that another node starts with."""
    PublishedIndex(RemoteFolder(url)).fetch_newer(path, until=until)
    index = LexicalIndex.open(path, RECIPE, writable=False)
    found = (index.watermark, index.documents)
    assert len(index.search("red", HEAD)) == index.documents
    index.close()
    return found


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared" if request.param == "file" else f"memory://{uuid.uuid4()}"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "lexical"
    grow(path, 20)
    return path


def test_another_node_starts_with_what_was_published(url: str, saved: Path, tmp_path: Path) -> None:
    assert PublishedIndex(RemoteFolder(url)).publish(saved)
    assert fetched(url, tmp_path / "node") == (20, 20)


def test_only_a_compaction_is_worth_publishing(url: str, saved: Path) -> None:
    published = PublishedIndex(RemoteFolder(url))
    assert published.publish(saved)
    index = LexicalIndex.open(saved, RECIPE)
    index.apply([put(21, "blue")])
    index.save()
    assert not published.publish(saved)
    index.compact()
    index.save()
    assert published.publish(saved)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_kill_between_two_files_leaves_the_snapshot_before(
    url: str, saved: Path, tmp_path: Path, at: int
) -> None:
    PublishedIndex(RemoteFolder(url)).publish(saved)
    grow(saved, 40, change=41)  # base, changes and snapshot are all new
    with pytest.raises(Killed):
        PublishedIndex(DyingFolder(url, at)).publish(saved)
    assert fetched(url, tmp_path / "node") == (20, 20)

    assert PublishedIndex(RemoteFolder(url)).publish(saved)
    assert fetched(url, tmp_path / "node") == (41, 41)


def test_a_damaged_file_is_never_opened(url: str, saved: Path, tmp_path: Path) -> None:
    folder = RemoteFolder(url)
    PublishedIndex(folder).publish(saved)
    grow(saved, 40)
    PublishedIndex(folder).publish(saved)
    newest = next(PublishedIndex(folder).snapshots())
    name = f"{newest.objects[newest.manifest.base.name]}.bin"
    content = folder.read(name)
    assert content is not None
    folder.write(name, content[:-1] + bytes([content[-1] ^ 1]))
    assert fetched(url, tmp_path / "node") == (20, 20)


def test_two_snapshots_are_kept_with_their_files(url: str, saved: Path) -> None:
    published = PublishedIndex(RemoteFolder(url))
    for until in (30, 40, 50, 60):
        grow(saved, until)
        published.publish(saved)
    assert [snapshot.manifest.watermark for snapshot in published.snapshots()] == [60, 50]
    assert len(RemoteFolder(url).names()) <= 6


def test_what_is_saved_is_not_replaced_by_less_nor_by_another_corpus(
    url: str, saved: Path, tmp_path: Path
) -> None:
    PublishedIndex(RemoteFolder(url)).publish(saved)
    grow(tmp_path / "ahead", 50)
    assert fetched(url, tmp_path / "ahead") == (50, 50)
    assert fetched(url, tmp_path / "new", until=19) == (0, 0)


def test_a_node_replays_only_what_came_after_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/shared"
    with WordDirectory(tmp_path / "data", lexical_publish_url=url) as directory:
        from reindexer.opening import Opener

        directory.put_many(f"d{number}" for number in range(50))
        analyzer = directory.word_recipe("word@1").analyzer
        replaying = Opener(directory, writable=True, warm=False)
        replaying.lexical(analyzer)
        replaying.save_lexicals()
        directory.put("late", "written after the snapshot")

        monkeypatch.setattr(directory, "lexical_path", lambda _analyzer: tmp_path / "another node")
        node = Opener(directory, writable=False, warm=False)
        index = node.lexical(analyzer)
        assert (node.lexical_changes, index.documents) == (1, 51)
        node.close()
        replaying.close()


def test_a_place_that_cannot_be_reached_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("no folder")
    url = f"file://{tmp_path}/shared"
    with WordDirectory(tmp_path / "data", lexical_publish_url=url) as directory:
        from reindexer.opening import Opener

        directory.put("a", "red")
        opener = Opener(directory, writable=True, warm=False)
        assert opener.lexical(directory.word_recipe("word@1").analyzer).documents == 1
        opener.save_lexicals()
        opener.close()
        with pytest.raises(TransferFailed):
            RemoteFolder(url).write("x", b"x")
