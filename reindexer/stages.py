"""Where the time of a build goes: seconds for each of its stages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from search import traces

if TYPE_CHECKING:
    from search.splitter import DocumentTokenizer
    from training.tokenizer import TokenizedTexts

# In the order that a document goes through them. Reading, encoding and writing run side by side,
# so that together they may be longer than the build; `yield` is the time it gave to queries.
STAGES = ("read", "split", "tokenize", "encode", "yield", "write", "finish", "verify")


class StageClock:
    """Adds up. Safe to use from several threads."""

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        """before: seconds of earlier runs."""
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = dict(before or {})
        self._parent = traces.here()  # threads that do a stage have no span of their own

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def add_yield(self, seconds: float) -> None:
        """Time given to queries, inside encoding, which is timed as a whole."""
        self.add("yield", seconds)
        self.add("encode", -seconds)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            with traces.span(stage, parent=self._parent):
                yield
        finally:
            self.add(stage, time.perf_counter() - began)

    def seconds(self) -> dict[str, float]:
        """Those that took any time, in order."""
        with self._lock:
            return {name: round(self._seconds[name], 3) for name in STAGES if name in self._seconds}


class TimedTokenizer:
    """The tokenizer that a splitter is given, with its time counted apart from the splitter's."""

    def __init__(self, tokenizer: DocumentTokenizer, clock: StageClock) -> None:
        self._tokenizer = tokenizer
        self._clock = clock

    def tokenize_documents(self, texts: Sequence[str], /) -> TokenizedTexts:
        began = time.perf_counter()
        tokenized = self._tokenizer.tokenize_documents(texts)
        took_s = time.perf_counter() - began
        self._clock.add("tokenize", took_s)
        self._clock.add("split", -took_s)  # it runs inside splitting, which is timed as a whole
        return tokenized
