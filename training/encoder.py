"""A loaded model version: texts in, normalised rows out."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from training.batch_budget import BudgetCache, choose_budget
from training.batches import cut_batches, flat_features, padded_features
from training.cores import CorePool
from training.device import is_out_of_memory, resolve_device
from training.errors import EncodingFailed
from training.model_loading import backend_tokenizer, load_model
from training.model_version import EncoderDtype
from training.precision import PROBE_TEXTS, choose_dtype
from training.registry import ModelVersion
from training.tokenizer import TokenizedTexts
from training.unpadding import first_position, packed_features, packs_texts
from training.version_encoder import FloatMatrix, LocalEncoder, Turn

__all__ = ["Encoder", "TokenizedTexts"]

log = logging.getLogger(__name__)

Arriving = Callable[[], FloatMatrix]  # gives the rows of a batch that has begun

BATCHES_AHEAD = 2  # begun on a GPU before the first of them is waited for
PROBE_TOKENS = 128  # of a text, while the size of batches is probed
PROBE_BATCHES = 6
MAX_BATCH_TOKENS = {"cpu": 1_024, "mps": 8_192, "cuda": 65_536}  # padded tokens


class Encoder(LocalEncoder):
    """A model version on a device."""

    def __init__(
        self,
        version: ModelVersion,
        *,
        device: str = "auto",
        dtype: Literal["auto"] | EncoderDtype = "auto",
        max_batch_tokens: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """Verify the files, load them, and choose the number format by measurement, unless it is
        given.

        max_batch_tokens: padded tokens of one batch; halved whenever the memory is not enough.
        cache_dir: where the outcome of the measurement is kept for the next start.

        Raises ModelDamaged, ModelUnsupported, EncodingFailed, ExtraMissing.
        """
        version.verify()
        self.version = version
        self._device = resolve_device("cpu" if (device, dtype) == ("auto", "int8") else device)
        self._cores = CorePool() if self._device.type == "cpu" else None
        self._model = load_model(version)
        self._is_static = version.is_static
        tokenizer = backend_tokenizer(self._model, version)
        wrapper = self._model.tokenizer
        self._read_with(
            tokenizer,
            special_tokens=not self._is_static,
            truncation_side=getattr(wrapper, "truncation_side", "right"),
        )
        self._pad_id = getattr(wrapper, "pad_token_id", None) or 0
        self._budget = max_batch_tokens or MAX_BATCH_TOKENS.get(self._device.type, 8_192)
        self._packs = False  # while number formats are compared
        self._budget_lock = threading.Lock()
        self._model.eval()
        self.dtype: EncoderDtype = "fp32"  # while it is measured
        if dtype == "int8":
            self._compute_in_int8(cache_dir)
        else:
            self.dtype = choose_dtype(
                self._model,
                version.fingerprint,
                device=self._device,
                wanted="fp32" if self._is_static and dtype == "auto" else dtype,
                probe=self._probe,
                cache_dir=cache_dir,
            )
        self._packs = not self._is_static and packs_texts(self._model, self._device, self.dtype)
        if max_batch_tokens is None and self._device.type == "cuda" and not self._is_static:
            self._budget = self._probed_budget(cache_dir)

    def _probe(self, texts: Sequence[str]) -> FloatMatrix:
        return self._encode_whole(self._documents.tokenize(texts, truncate=True))

    def _compute_in_int8(self, cache_dir: Path | None) -> None:
        from training.int8 import to_int8

        if self._device.type != "cpu":
            raise EncodingFailed(
                f"int8 is computed on a CPU, not on {self._device}; use --device cpu, or another "
                "encoder.dtype"
            )
        self.dtype = "int8"
        to_int8(
            self._model,
            self.version,
            threads=max(1, torch.get_num_threads() // self.workers),
            probe=lambda: self._probe(PROBE_TEXTS),
            cache_dir=cache_dir,
        )

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def workers(self) -> int:
        return self._cores.workers if self._cores is not None else 1

    def _probed_budget(self, cache_dir: Path | None) -> int:
        cache = BudgetCache(cache_dir, self.fingerprint, self._device, self.dtype)
        found = cache.read()
        if found is None:
            found = choose_budget(self._rate)
            cache.write(found)
        return found

    def _rate(self, budget: int) -> float | None:
        """Tokens per second of batches with so many padded tokens; None when they do not fit."""
        width = min(PROBE_TOKENS, self.max_tokens)
        n_rows = max(1, PROBE_BATCHES * budget // width)
        ids = np.random.default_rng(0).integers(
            0, self._documents.whole.get_vocab_size(), (n_rows, width)
        )
        tokenized = TokenizedTexts(
            ids=ids.astype(np.int32).ravel(), offsets=np.arange(n_rows + 1) * width
        )
        self._budget = budget
        took_s = float("inf")
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            self._encode_whole(tokenized)
            took_s = min(took_s, time.perf_counter() - began)
            if self._budget < budget:
                return None
        return len(tokenized.ids) / took_s

    # -- batches -----------------------------------------------------------------------------

    def _encode_whole(self, tokenized: TokenizedTexts, turn: Turn = nullcontext) -> FloatMatrix:
        """Longest texts first: neighbours are of one length, so hardly anything is padded, and a
        batch that does not fit in memory shows at once."""
        vectors = np.zeros((len(tokenized), self.dim), dtype=np.float32)
        lengths = tokenized.lengths
        rows = np.argsort(-lengths, kind="stable")
        rows = rows[: np.count_nonzero(lengths)]  # a text without any token keeps a row of zeros
        while len(rows):
            budget = self._budget
            padded = 1 if self.dtype == "int8" else budget  # which takes texts one by one
            even = self._device.type == "cuda" and not self._packs
            batches = cut_batches(rows, lengths[rows], padded, even=even)
            begin = partial(self._take_turn, turn, tokenized, budget)
            begun = self._cores.map(begin, batches) if self._cores else map(begin, batches)
            missed = []
            for batch, arrived in zip(batches, _ahead(begun, self._batches_ahead), strict=True):
                if arrived is None:
                    missed.append(batch)
                else:
                    vectors[batch] = self._arrived(arrived, tokenized, batch)
            rows = np.concatenate(missed) if missed else rows[:0]
        return vectors

    def _take_turn(
        self,
        turn: Turn,
        tokenized: TokenizedTexts,
        budget: int,
        rows: NDArray[np.int64],
    ) -> Arriving | None:
        with turn():
            return self._try_batch(tokenized, budget, rows)

    @property
    def _batches_ahead(self) -> int:
        """A GPU gets the next batches while it works; on a CPU a batch is done when it is begun."""
        return BATCHES_AHEAD if self._device.type == "cuda" else 0

    def _arrived(
        self, arriving: Arriving, tokenized: TokenizedTexts, rows: NDArray[np.int64]
    ) -> FloatMatrix:
        try:
            vectors = arriving()
        except Exception as error:
            raise self._failure(tokenized, rows, error) from error
        self._check(vectors, rows)
        return vectors

    def _try_batch(
        self, tokenized: TokenizedTexts, budget: int, rows: NDArray[np.int64]
    ) -> Arriving | None:
        """Gives (len(rows), dim); None when the budget was too large for the memory."""
        if self._budget < budget and len(rows) > 1:
            return None  # another batch did not fit meanwhile
        try:
            return self._begin(tokenized, rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise self._failure(tokenized, rows, error) from error
            if len(rows) == 1:
                index = int(rows[0])
                raise EncodingFailed(
                    f"text {index} with {tokenized.lengths[index]:,} tokens does not fit in the "
                    f"memory of {self._device} by itself; register the model with a lower "
                    "--max-tokens, or use another device",
                    index=index,
                ) from error
            self._halve(budget, error)
            return None

    def _halve(self, budget: int, error: Exception) -> None:
        with self._budget_lock:
            if self._budget == budget:  # another thread may have halved it already
                self._budget = max(1, budget // 2)
                log.warning(
                    "out of memory on %s with %s tokens in a batch; going on with %s (%s)",
                    self._device,
                    f"{budget:,}",
                    f"{self._budget:,}",
                    type(error).__name__,
                )
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, vectors: FloatMatrix, rows: NDArray[np.int64]) -> None:
        if vectors.shape != (len(rows), self.dim):
            raise EncodingFailed(
                f"{self.version} gave {vectors.shape[0]} rows of {vectors.shape[1]} dimensions for "
                f"{len(rows)} texts, expected {self.dim}; register the model again"
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            index = int(rows[np.flatnonzero(~finite)[0]])
            raise EncodingFailed(
                f"text {index} got a vector that is not finite in {self.dtype}; try --dtype fp32",
                index=index,
            )

    def _failure(
        self, tokenized: TokenizedTexts, rows: NDArray[np.int64], error: Exception
    ) -> EncodingFailed:
        """Which text is to blame: the first one that fails by itself."""
        index: int | None = int(rows[0]) if len(rows) == 1 else None
        for row in rows if len(rows) > 1 else ():
            try:
                self._run(tokenized, np.array([row]))
            except Exception as alone:
                index, error = int(row), alone
                break
        what = f"a batch of {len(rows)} texts" if index is None else f"text {index}"
        return EncodingFailed(
            f"{what} could not be encoded by {self.version} on {self._device} in {self.dtype}: "
            f"{type(error).__name__}: {error}",
            index=index,
        )

    # -- one batch ---------------------------------------------------------------------------

    def _run(self, tokenized: TokenizedTexts, rows: NDArray[np.int64]) -> FloatMatrix:
        return self._begin(tokenized, rows)()

    def _begin(self, tokenized: TokenizedTexts, rows: NDArray[np.int64]) -> Arriving:
        """Start a batch; the result waits for it where the device works by itself."""
        if self._is_static:
            features = flat_features(tokenized, rows, self._device)
        elif self._packs:
            features = packed_features(
                tokenized, rows, self._device, first=first_position(self._model)
            )
        else:
            features = padded_features(tokenized, rows, self._device, pad_id=self._pad_id)
        with torch.inference_mode():
            output: torch.Tensor = self._model(features)["sentence_embedding"]
            output = output.to(torch.float32)
            if self.version.truncate_dim is not None:
                output = output[:, : self.version.truncate_dim]
            output = torch.nn.functional.normalize(output, p=2, dim=1)
            if output.device.type != "cuda":
                done: FloatMatrix = output.cpu().numpy()
                return lambda: done
            host = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
            host.copy_(output, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()

        def arrive() -> FloatMatrix:
            copied.synchronize()
            return host.numpy()

        return arrive


def _ahead(begun: Iterator[Arriving | None], n: int) -> Iterator[Arriving | None]:
    """The same, with n more begun than asked for."""
    waiting: deque[Arriving | None] = deque()
    for arriving in begun:
        waiting.append(arriving)
        if len(waiting) > n:
            yield waiting.popleft()
    yield from waiting
