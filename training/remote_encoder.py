"""A model version that is loaded elsewhere: texts go out, rows come back, and probes say whether
they still belong into the same space. Without torch."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np

from training import byte_tokens
from training.endpoint import Endpoint
from training.errors import (
    EncodingFailed,
    EndpointRefused,
    EndpointUnavailable,
    RequestFailed,
)
from training.model_version import ModelVersion
from training.remote_model import RemoteModel, check_probes, embed, of_length_1
from training.remote_ref import RemoteAccess
from training.tokenizer import TokenizedTexts
from training.version_encoder import FloatMatrix, Turn, VersionEncoder

log = logging.getLogger(__name__)

MAX_BATCH_TOKENS = 16_384  # of one request, by our own count
CHECK_EVERY_S = 300.0  # a server may be given another model at any time
QUERY_TRIES = 2  # a person waits; search answers from the words alone meanwhile


class RemoteEncoder(VersionEncoder):
    """A registered remote model; tokens are counted our own way."""

    device = "remote"
    dtype = "fp32"  # as its answers are read

    def __init__(
        self,
        version: ModelVersion,
        *,
        access: RemoteAccess | None = None,
        max_batch_tokens: int | None = None,
    ) -> None:
        """Compare what the server makes of the probes with what was kept. A server that does not
        answer at all is compared before its first vectors are used.

        Raises ModelDamaged, ModelChanged, EndpointRefused, ModelUnsupported.
        """
        version.verify()
        self.version = version
        self._remote = RemoteModel.of(version)
        self._access = RemoteAccess.from_environment() if access is None else access
        self._budget = max_batch_tokens or MAX_BATCH_TOKENS
        for prompt in (version.query_prompt, version.document_prompt):
            self._check_prompt(prompt, byte_tokens.count(prompt))
        self._endpoint = Endpoint(self._access.url or self._remote.ref.url, self._access)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="remote-encoder")
        self._checking = threading.Lock()
        self._checked_until = 0.0  # on the monotonic clock
        try:
            self._check()
        except EndpointUnavailable as error:
            log.warning("%s is checked when it answers: %s", version, error)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """Requests under way at once."""
        return self._access.concurrency

    def close(self) -> None:
        self._pool.shutdown()
        self._endpoint.close()

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        return self._encode(
            self._cut(self.version.query_prompt, texts), cuts=True, tries=QUERY_TRIES
        )

    def encode_documents(self, texts: Sequence[str]) -> FloatMatrix:
        return self._encode(self._cut(self.version.document_prompt, texts), cuts=True)

    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokens of our own, since the model's are not known here: three bytes each."""
        prompt = self.version.document_prompt
        return byte_tokens.tokenize([prompt + text for text in texts])

    def _encode_whole(self, tokenized: TokenizedTexts, turn: Turn = nullcontext) -> FloatMatrix:
        """A text that the server finds too long all the same is an EncodingFailed too."""
        return self._encode(byte_tokens.texts_of(tokenized), cuts=False, turn=turn)

    def _cut(self, prompt: str, texts: Sequence[str]) -> list[str]:
        return [byte_tokens.cut(prompt + text, self.max_tokens) for text in texts]

    # -- is it still the same model? ---------------------------------------------------------------

    def _check(self, tries: int | None = None) -> None:
        """Raises ModelChanged, EndpointRefused, EndpointUnavailable."""
        with self._checking:
            if time.monotonic() < self._checked_until:
                return
            try:
                raw = embed(self._endpoint, self._remote.ref, self._remote.probes, tries=tries)
            except RequestFailed as error:
                raise EndpointRefused(str(error)) from error
            check_probes(self.version, self._remote, raw, self._endpoint.url)
            self._checked_until = time.monotonic() + CHECK_EVERY_S

    # -- batches -----------------------------------------------------------------------------------

    def _encode(
        self, texts: list[str], *, cuts: bool, tries: int | None = None, turn: Turn = nullcontext
    ) -> FloatMatrix:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        try:
            if time.monotonic() >= self._checked_until:
                self._check(tries)
        except (EndpointRefused, EndpointUnavailable) as error:
            raise EncodingFailed(f"{self.version}: {error}") from error

        def work(rows: list[int]) -> None:
            with turn():
                vectors[rows] = self._rows(texts, rows, cuts, tries)

        batches = self._batches(texts)
        if len(batches) == 1:
            work(batches[0])
            return vectors
        under_way = [self._pool.submit(work, rows) for rows in batches]
        try:
            for future in under_way:
                future.result()
        finally:
            for future in under_way:
                future.cancel()
        return vectors

    def _batches(self, texts: Sequence[str]) -> list[list[int]]:
        """Positions, in the order of the texts: as many as one request may have."""
        batches: list[list[int]] = []
        n_tokens = 0
        for at, text in enumerate(texts):
            length = byte_tokens.count(text)
            is_full = batches and (
                n_tokens + length > self._budget
                or len(batches[-1]) >= self._remote.texts_per_request
            )
            if not batches or is_full:
                batches.append([])
                n_tokens = 0
            batches[-1].append(at)
            n_tokens += length
        return batches

    def _rows(
        self, texts: list[str], rows: list[int], cuts: bool, tries: int | None
    ) -> FloatMatrix:
        """(len(rows), dim). A batch that the server does not take is halved, down to the text that
        is to blame."""
        try:
            raw = embed(
                self._endpoint,
                self._remote.ref,
                [texts[at] or " " for at in rows],  # some servers refuse what is empty
                truncate=cuts,
                max_dim=self._remote.rows.shape[1],
                tries=tries,
            )
        except RequestFailed as error:
            if len(rows) > 1:
                half = len(rows) // 2
                return np.concatenate(
                    [self._rows(texts, part, cuts, tries) for part in (rows[:half], rows[half:])]
                )
            return self._alone(texts, rows[0], cuts, tries, error)
        except (EndpointRefused, EndpointUnavailable) as error:
            raise EncodingFailed(f"{self.version}: {error}") from error
        dim = self._remote.rows.shape[1]
        if raw.shape[1] != dim:
            raise EncodingFailed(
                f"{self.version} gave rows of {raw.shape[1]} dimensions, expected {dim}; register "
                "the model again"
            )
        return of_length_1(raw[:, : self.dim])

    def _alone(
        self, texts: list[str], at: int, cuts: bool, tries: int | None, error: RequestFailed
    ) -> FloatMatrix:
        if cuts and len(texts[at]) > 1:  # it may be longer than it looks from here
            texts[at] = texts[at][: len(texts[at]) // 2]
            return self._rows(texts, [at], cuts, tries)
        raise EncodingFailed(
            f"text {at} is not taken by {self.version}: {error}. If it is too long, register the "
            "model with a lower --max-tokens",
            index=at,
        ) from error
