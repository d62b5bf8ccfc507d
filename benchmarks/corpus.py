"""Made-up documents, queries and vectors: the same on every machine, with nothing to download.

Words are as frequent as in natural language (Zipf-Mandelbrot: share of rank r ~ 1 / (r + 10)), so
posting lists have the lengths that real ones have. Document n is the same however many are asked
for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from search.corpus import Corpus
from search.documents import Document
from tests.tiny_models import make_tiny_model

N_WORDS = 200_000  # in the vocabulary
MEAN_WORDS = 60  # in a document
KINDS = 10
YEARS = range(2000, 2025)

_PAGE = 1_000  # documents made at a time
_PUT = 2_000  # documents written at a time
_TOPICS = 1_000
_DIRECTIONS = 48
_SAMPLE = 20_000  # documents that pieces of words are learned from
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def documents(count: int, *, version: int = 0) -> Iterator[Document]:
    """`count` documents. Another version has the same ids and metadata, and other texts."""
    for page in range(0, count, _PAGE):
        texts = _texts(_PAGE, MEAN_WORDS, seed=(version, page))
        for number, text in enumerate(texts[: count - page], page):
            words = text.split(" ", 6)
            yield Document.of(
                doc_id=doc_id(number),
                title=" ".join(words[:5]),
                text=text,
                metadata={
                    "kind": f"kind-{number % KINDS}",
                    "year": YEARS[number // KINDS % len(YEARS)],
                },
            )


def doc_id(number: int) -> str:
    return f"doc-{number:07d}"


def queries(count: int) -> list[str]:
    """Distinct queries of three to nine words, drawn as the documents' words are."""
    found: dict[str, None] = {}
    for seed in range(10):
        found.update(dict.fromkeys(_texts(count, 6, seed=(999, seed))))
        if len(found) >= count:
            break
    return list(islice(found, count))


def vectors(count: int, dim: int, *, seed: int = 7) -> NDArray[np.float32]:
    """(count, dim) rows of length 1 that lie as embeddings of text do: around a thousand topics,
    and mostly within 48 directions, which is what makes them searchable. Rows of another seed lie
    around the same topics."""
    world = np.random.default_rng(0)
    topics = world.standard_normal((_TOPICS, _DIRECTIONS), dtype=np.float32)
    directions = world.standard_normal((_DIRECTIONS, dim), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    places = topics[rng.integers(_TOPICS, size=count)]
    places += rng.standard_normal((count, _DIRECTIONS), dtype=np.float32)
    rows = places @ directions
    rows += 0.1 * rng.standard_normal((count, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def static_model(path: Path, dim: int) -> Path:
    """A sentence-transformers folder with a table of token vectors as such models have them: 30,522
    pieces of words learned from the documents' text, vectors mostly within 48 directions, and short
    ones for frequent pieces (a / (a + share of all text) with a = 0.001, Arora et al. 2017)."""
    make_tiny_model(path, kind="static", dim=dim)
    sample = [document.full_text for document in documents(_SAMPLE)]
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.train_from_iterator(
        sample, WordPieceTrainer(vocab_size=30_522, special_tokens=["[PAD]", "[UNK]"])
    )
    tokenizer.save(str(path / "tokenizer.json"))
    counts = np.zeros(tokenizer.get_vocab_size())
    for encoding in tokenizer.encode_batch(sample):
        np.add.at(counts, encoding.ids, 1)
    weights = 0.001 / (0.001 + counts / counts.sum())
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((_DIRECTIONS, dim))
    table = rng.standard_normal((len(counts), _DIRECTIONS)) @ directions
    table += 0.1 * rng.standard_normal(table.shape)
    rows = (weights[:, None] * table).astype(np.float32)
    save_file({"embedding.weight": rows}, path / "model.safetensors")
    return path


def fill(corpus: Corpus, of: Iterable[Document]) -> int:
    """Put documents into a corpus; returns its head."""
    rest = iter(of)
    while batch := list(islice(rest, _PUT)):
        corpus.put(batch)
    return corpus.head()


def _texts(count: int, mean_words: int, *, seed: tuple[int, int]) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(mean_words // 2, mean_words * 3 // 2, count, endpoint=True)
    drawn = np.searchsorted(_shares(), rng.random(int(lengths.sum())))
    texts = []
    start = 0
    for length in lengths.tolist():
        texts.append(" ".join(map(_word, drawn[start : start + length].tolist())))
        start += length
    return texts


def _shares() -> NDArray[np.float64]:
    """(N_WORDS,) how much of all text the words up to each rank make up."""
    shares = np.cumsum(1 / (np.arange(1, N_WORDS + 1) + 10))
    return shares / shares[-1]


def _word(rank: int) -> str:
    """Two to four syllables; frequent words are short."""
    rank += len(_SYLLABLES)
    syllables = []
    while rank:
        rank, syllable = divmod(rank, len(_SYLLABLES))
        syllables.append(_SYLLABLES[syllable])
    return "".join(syllables)
