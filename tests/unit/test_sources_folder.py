"""Folders of texts: ids, titles, links, and files that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reindexer.errors import SourceInvalid
from reindexer.sources import Rejected, Row, open_source
from search.documents import MAX_TEXT_BYTES, Document

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture
def write(folder: Path) -> Write:
    def write(name: str, content: str | bytes = "text") -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rejected(folder: Path) -> dict[str, tuple[str, str | None]]:
    return {
        row.where: (row.reason, row.doc_id)
        for row in open_source(folder)
        if isinstance(row, Rejected)
    }


def ids(folder: Path) -> list[str]:
    return [row.document.doc_id for row in open_source(folder) if isinstance(row, Row)]


def test_each_file_is_a_document(folder: Path, write: Write) -> None:
    write("guides/set up.md", "# Set *up*  #\r\n\r\nFirst.\n")
    write("readme.txt", "# no heading in plain text")

    assert list(open_source(folder, name="notes")) == [
        Row(
            where="guides/set up.md",
            document=Document.of(
                doc_id="guides/set up.md",
                title="Set *up*",
                text="# Set *up*  #\n\nFirst.\n",
                metadata={"folder": "guides"},
                source="notes",
            ),
        ),
        Row(
            where="readme.txt",
            document=Document.of(
                doc_id="readme.txt",
                title="readme",
                text="# no heading in plain text",
                metadata={"folder": "."},
                source="notes",
            ),
        ),
    ]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## Second level\n", "Second level"),
        ("Underlined\n==========\n", "Underlined"),
        ("---\ntitle: x\n# a comment\n---\n# Real\n", "Real"),
        ("```sh\n# a comment\n```\n# Real\n", "Real"),
        ("#hashtag\n", "page"),
        ("---\nnever closed\n", "page"),
        ("\n\n---\n\ntext\n", "page"),
        ("- item\n- item\n", "page"),
    ],
)
def test_the_title_is_the_first_heading_or_the_name(
    folder: Path, write: Write, text: str, title: str
) -> None:
    write("page.md", text)

    (row,) = open_source(folder)

    assert isinstance(row, Row)
    assert row.document.title == title


def test_files_come_in_order_of_their_paths_without_hidden_ones(folder: Path, write: Write) -> None:
    names = ["a/z.md", "a.txt", "a b.md", "A.MD", "b/c/d.markdown", "a/b.txt"]
    for name in [*names, ".hidden.md", ".git/x.md", "b/.cache/y.txt", "code.py", "c/image.png"]:
        write(name)

    assert ids(folder) == sorted(names)


def test_links_out_of_the_folder_are_not_followed(folder: Path, write: Write) -> None:
    write("in.md")
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    (folder / "file.md").symlink_to(outside / "secret.md")
    (folder / "up").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "same.md").symlink_to(folder / "in.md")
    (folder / "ring.md").symlink_to(folder / "ring.md")

    assert ids(folder) == ["in.md"]
    reason = "a link that leads out of the folder is not followed"
    assert {where: row[0][: len(reason)] for where, row in rejected(folder).items()} == {
        "file.md": reason,
        "up": reason,
    }


def test_a_folder_reached_through_a_link_is_read(folder: Path, write: Write) -> None:
    write("in.md")
    link = folder.parent / "link"
    link.symlink_to(folder)

    assert ids(link) == ["in.md"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"caf\xe9", "not UTF-8: byte 0xe9 at byte 4 of the file; save it as UTF-8"),
        ("text".encode("utf-16"), "the file is UTF-16, expected UTF-8"),
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"a\x00b", "the text contains a NUL character"),
        (b"x" * (MAX_TEXT_BYTES + 1), "10,000,001 bytes, at most 10,000,000"),
    ],
    ids=["latin-1", "utf-16", "empty", "blank", "nul", "huge"],
)
def test_a_bad_file_is_rejected_with_its_id_and_the_others_go_in(
    folder: Path, write: Write, content: bytes, reason: str
) -> None:
    write("a.md")
    write("b.md", content)
    write("c.md")

    assert ids(folder) == ["a.md", "c.md"]
    ((found, doc_id),) = rejected(folder).values()
    assert reason in found
    assert doc_id == "b.md"


def test_a_file_that_vanishes_is_rejected(folder: Path, write: Write) -> None:
    write("a.md")
    gone = write("b.md")
    rows = iter(open_source(folder))
    next(rows)
    gone.unlink()

    (row,) = rows

    assert isinstance(row, Rejected)
    assert row.reason == "the file cannot be read: No such file or directory"
    assert row.doc_id == "b.md"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_rejected(folder: Path, write: Write) -> None:
    write("a.md")
    write("b.md").chmod(0)
    write("c/d.md").parent.chmod(0)
    try:
        assert rejected(folder) == {
            "b.md": ("the file cannot be read: Permission denied", "b.md"),
            "c": ("the folder cannot be read: Permission denied", None),
        }
    finally:
        (folder / "c").chmod(0o700)


def test_a_pipe_is_not_waited_for(folder: Path, write: Write) -> None:
    write("a.md")
    os.mkfifo(folder / "pipe.md")

    assert ids(folder) == ["a.md"]


def test_a_name_that_is_not_utf8_is_rejected_readably(folder: Path, write: Write) -> None:
    write("a.md")
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.md")).write_text("text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")

    ((where, (reason, doc_id)),) = rejected(folder).items()

    assert where == "caf\\xe9.md"
    assert "the name of the file is not UTF-8" in reason
    assert doc_id is None


def test_a_folder_without_texts_says_what_it_found(folder: Path, write: Write) -> None:
    with pytest.raises(SourceInvalid, match=r"holds no \.txt or \.md file \(it is empty"):
        open_source(folder)
    write("a.pdf")
    write("b.PDF")
    write("Makefile")
    with pytest.raises(SourceInvalid, match=r"found: 2 \.pdf, 1 without an ending"):
        open_source(folder)


def test_field_names_do_not_fit_a_folder(folder: Path, write: Write) -> None:
    write("a.md")

    with pytest.raises(SourceInvalid, match="which have no fields; leave out --id-field"):
        open_source(folder, id_field="key")
