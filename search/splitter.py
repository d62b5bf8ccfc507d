"""Long documents become passages that the model can read whole, with overlap."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from semantic_text_splitter import TextSplitter

from search.documents import Document, Passage
from search.recipe import SplitterRecipe

if TYPE_CHECKING:
    from training.tokenizer import TokenizedTexts

JOINER = " "  # between title and text
MAX_TITLE_SHARE = 0.25  # of a passage; a longer title is cut like text and not repeated
FILL = 0.9  # of a passage that the first cut aims at: tokens are not spread evenly over characters
BLOCK_CHARACTERS = 20_000  # cut at a time: text without sentences takes the library quadratic time
FILL_AGAIN = 0.85  # the same, for a piece that came out too long


class DocumentTokenizer(Protocol):
    """The side of `training.encoder.Encoder` that a splitter needs."""

    def tokenize_documents(self, texts: Sequence[str], /) -> TokenizedTexts: ...


def default_splitter_recipe(max_tokens: int) -> SplitterRecipe:
    """As long as the model reads, an eighth of it shared with the next passage."""
    return SplitterRecipe(max_tokens=max_tokens, overlap_tokens=max_tokens // 8)


class Splitter:
    """Cuts documents for one model. Every character of a document is in one of its passages.

    Documents are cut at sentence, word or character boundaries by characters, at the document's
    own ratio of characters to tokens, and the pieces are then counted in tokens; counting them
    while cutting would tokenize the text several times over.
    """

    def __init__(self, recipe: SplitterRecipe, tokenizer: DocumentTokenizer) -> None:
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._frame_tokens = self._count("")  # special tokens and prompt

    @property
    def max_tokens(self) -> int:
        """Of one passage, title, prompt and special tokens included."""
        return self._recipe.max_tokens

    def split(self, document: Document) -> list[Passage]:
        """The document's passages in order, one at least."""
        return self.split_all([document])[0]

    def split_all(self, documents: Sequence[Document]) -> tuple[list[Passage], TokenizedTexts]:
        """The passages of all documents in order, and their tokens, one row a passage."""
        tokenized = self._tokenizer.tokenize_documents(
            [_joined(document.title, document.text) for document in documents]
        )
        n_tokens = tokenized.lengths.tolist()
        fitting = [
            _Piece(row, document.title, document.text, 0, len(document.text), row)
            for row, document in enumerate(documents)
            if n_tokens[row] <= self.max_tokens
        ]
        cut = [
            piece
            for row, document in enumerate(documents)
            if n_tokens[row] > self.max_tokens
            for piece in self._first_cut(row, document, n_tokens[row])
        ]
        while cut:
            counted = self._tokenizer.tokenize_documents([piece.whole for piece in cut])
            before = len(tokenized)
            tokenized = tokenized.extended(counted)
            too_long: list[_Piece] = []
            for at, (piece, length) in enumerate(zip(cut, counted.lengths.tolist(), strict=True)):
                if length <= self.max_tokens or len(piece.text) < 2:
                    fitting.append(piece._replace(row=before + at))
                else:
                    too_long += self._cut(piece, length, FILL_AGAIN)
            cut = too_long
        fitting.sort(key=lambda piece: (piece.document, piece.start))
        return _passages(documents, fitting), tokenized.select([piece.row for piece in fitting])

    def _first_cut(self, row: int, document: Document, n_tokens: int) -> list[_Piece]:
        title, text = document.title, document.text
        if title and self._title_tokens(title) > self._room * MAX_TITLE_SHARE:
            # Too long to be repeated: it is cut as if it began the text.
            start = -len(title) - len(JOINER)
            return self._cut(
                _Piece(row, "", _joined(title, text), start, len(text)), n_tokens, FILL
            )
        return self._cut(_Piece(row, title, text, 0, len(text)), n_tokens, FILL)

    def _cut(self, piece: _Piece, n_tokens: int, fill: float) -> list[_Piece]:
        """Smaller pieces of one that has n_tokens, title and frame included."""
        beside = self._frame_tokens + (self._title_tokens(piece.title) if piece.title else 0)
        room = max(1, self.max_tokens - beside)
        characters = max(1, int(len(piece.text) / max(1, n_tokens - beside) * room * fill))
        characters = min(characters, max(1, len(piece.text) - 1))  # smaller each time
        overlap = min(characters // 2, characters * self._recipe.overlap_tokens // room)
        return [
            _Piece(
                piece.document, piece.title, text, piece.start + at, piece.start + at + len(text)
            )
            for base, block in _blocks(piece.text, max(BLOCK_CHARACTERS, 8 * characters))
            for at, text in _chunks(base, block, characters, overlap)
        ]

    @property
    def _room(self) -> int:
        return self.max_tokens - self._frame_tokens

    def _title_tokens(self, title: str) -> int:
        """Of the title beside a text; joining may cost one more."""
        return self._count(title) - self._frame_tokens + 1

    def _count(self, text: str) -> int:
        return int(self._tokenizer.tokenize_documents([text]).lengths[0])


def _chunks(base: int, block: str, characters: int, overlap: int) -> Iterator[tuple[int, str]]:
    for at, text in TextSplitter(characters, overlap).chunk_indices(block):
        if text.strip():
            yield base + at, text


def _blocks(text: str, size: int) -> Iterator[tuple[int, str]]:
    """Parts of a long text, ended at white space where there is some near."""
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            space = max(
                text.rfind(" ", end - size // 10, end), text.rfind("\n", end - size // 10, end)
            )
            end = space + 1 if space > start else end
        yield start, text[start:end]
        start = end


class _Piece(NamedTuple):
    """Part of a document on its way to be a passage."""

    document: int  # which of the documents
    title: str  # repeated in every piece
    text: str
    start: int  # first character in Document.text; negative inside a title that is cut like text
    end: int  # one past the last
    row: int = -1  # of its tokens

    @property
    def whole(self) -> str:
        return _joined(self.title, self.text)


def _passages(documents: Sequence[Document], pieces: Sequence[_Piece]) -> list[Passage]:
    counts = Counter(piece.document for piece in pieces)
    passages: list[Passage] = []
    for document, of_document in itertools.groupby(pieces, key=lambda piece: piece.document):
        passages += [
            Passage(
                doc_id=documents[document].doc_id,
                number=number,
                count=counts[document],
                start=max(0, piece.start),
                end=max(0, piece.end),
                text=piece.whole,
            )
            for number, piece in enumerate(of_document)
        ]
    return passages


def _joined(title: str, text: str) -> str:
    return f"{title}{JOINER}{text}" if title and text else title or text
