"""Long documents become passages that the model can read whole, with overlap."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from semantic_text_splitter import TextSplitter

from search.documents import Document, Passage
from search.recipe import SplitterRecipe

if TYPE_CHECKING:
    from training.tokenizer import TokenizedTexts

MAX_PASSAGE_TOKENS = 512  # by default, also for a model that reads more: one vector, one topic
JOINER = " "  # between title and text, as in BEIR and MTEB, which most models were trained by
MAX_TITLE_SHARE = 0.25  # of a passage; a longer title is cut like text and not repeated
FILL = 0.9  # of a passage that a cut aims at: tokens are not spread evenly over characters
SLACK = 1.15  # over passages of equal length, so that ending at a sentence does not add one
BLOCK_PASSAGES = 16  # cut at a time: the library's time grows with the square of what it is given


class DocumentTokenizer(Protocol):
    """The side of a `training.version_encoder.VersionEncoder` that a splitter needs."""

    def tokenize_documents(self, texts: Sequence[str], /) -> TokenizedTexts: ...


def default_splitter_recipe(max_tokens: int) -> SplitterRecipe:
    """As long as the model reads, 512 tokens at most; an eighth shared with the next passage."""
    max_tokens = min(max_tokens, MAX_PASSAGE_TOKENS)
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
        fitting: list[_Piece] = []
        cut: list[_Piece] = []
        for row, (document, n_tokens) in enumerate(
            zip(documents, tokenized.lengths.tolist(), strict=True)
        ):
            whole = _Piece(row, document.title, document.text, 0, row)
            if n_tokens <= self.max_tokens:
                fitting.append(whole)
            else:
                cut += self._cut(self._with_usable_title(whole), n_tokens)
        while cut:
            first_row = len(tokenized)
            counted = self._tokenizer.tokenize_documents([piece.whole for piece in cut])
            tokenized = tokenized.extended(counted)
            too_long: list[_Piece] = []
            for row, (piece, n_tokens) in enumerate(
                zip(cut, counted.lengths.tolist(), strict=True), first_row
            ):
                if n_tokens <= self.max_tokens or len(piece.text) < 2:
                    fitting.append(piece._replace(row=row))
                else:
                    too_long += self._cut(piece, n_tokens)
            cut = too_long
        fitting.sort(key=lambda piece: (piece.document, piece.start))
        return _passages(documents, fitting), tokenized.select([piece.row for piece in fitting])

    def _with_usable_title(self, piece: _Piece) -> _Piece:
        """A title that would fill much of every passage is cut as if it began the text."""
        room = self.max_tokens - self._frame_tokens
        if not piece.title or self._title_tokens(piece.title) <= room * MAX_TITLE_SHARE:
            return piece
        start = -len(piece.title) - len(JOINER)
        return piece._replace(title="", text=piece.whole, start=start)

    def _cut(self, piece: _Piece, n_tokens: int) -> list[_Piece]:
        """Shorter pieces of one that has n_tokens, title and frame included."""
        beside = self._frame_tokens + (self._title_tokens(piece.title) if piece.title else 0)
        text_tokens = max(1, n_tokens - beside)
        characters_per_token = len(piece.text) / text_tokens
        aim = max(2.0, FILL * (self.max_tokens - beside))  # tokens
        overlap = min(self._recipe.overlap_tokens, aim / 2)
        n_pieces = max(2, math.ceil((text_tokens - overlap) / (aim - overlap)))
        even = (text_tokens + (n_pieces - 1) * overlap) / n_pieces
        characters = int(characters_per_token * min(aim, SLACK * even))
        characters = max(1, min(characters, len(piece.text) - 1))
        overlap_characters = min(characters // 2, int(characters_per_token * overlap))
        pieces = [
            piece._replace(text=text, start=piece.start + at)
            for at, text in _chunks(piece.text, characters, overlap_characters)
        ]
        return pieces or [piece._replace(text="")]  # nothing but white space

    def _title_tokens(self, title: str) -> int:
        """Of the title beside a text; joining may cost one more."""
        return self._count(title) - self._frame_tokens + 1

    def _count(self, text: str) -> int:
        return int(self._tokenizer.tokenize_documents([text]).lengths[0])


class _Piece(NamedTuple):
    """Part of a document on its way to be a passage."""

    document: int  # which of the documents
    title: str  # repeated in every piece
    text: str
    start: int  # first character in Document.text; negative inside a title that is cut like text
    row: int  # of its tokens

    @property
    def whole(self) -> str:
        return _joined(self.title, self.text)


def _chunks(text: str, characters: int, overlap: int) -> Iterator[tuple[int, str]]:
    """(first character, chunk) of at most so many characters, without white space around it."""
    library = TextSplitter(characters, overlap)
    start = 0
    while start < len(text):
        block = text[start : start + BLOCK_PASSAGES * characters]
        chunks = library.chunk_indices(block)
        following = start + len(block)
        if following < len(text) and chunks and chunks[-1][0] > 0:
            # The end of the block cut the last chunk short: cut it again with what follows.
            following = start + chunks.pop()[0]
        for at, chunk in chunks:
            if chunk.strip():
                yield start + at, chunk
        start = following


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
                end=max(0, piece.start + len(piece.text)),
                text=piece.whole,
            )
            for number, piece in enumerate(of_document)
        ]
    return passages


def _joined(title: str, text: str) -> str:
    return f"{title}{JOINER}{text}" if title and text else title or text
