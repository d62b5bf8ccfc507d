"""What an encoder is worth on a judged folder and what it costs: quality, speed and memory.

Each model is measured in a process of its own, so that the memory is its own and no model runs on
what another one left behind.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from training.encoder_opening import open_encoder
from training.errors import EncodingFailed
from training.evaluation import Matrix, TextEncoder, evaluate_dims
from training.metrics import Scores
from training.model_version import ModelVersion
from training.outgoing import AllowedHosts, allow_only, allowed_hosts
from training.tokenizer import TokenizedTexts

EXIT_S = 10.0  # that a process gets to end by itself

# A new process costs no import of torch where one that has it already can be forked.
_START = "forkserver" if sys.platform == "linux" else "spawn"


class MeasuredEncoder(TextEncoder, Protocol):
    """What is asked of an encoder; `training.encoder.Encoder` is one."""

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def max_tokens(self) -> int: ...

    def tokenize_documents(self, texts: Sequence[str], /) -> TokenizedTexts: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measurement:
    """One model on one folder, with every dimension scored from one encoding."""

    model: str  # and the number format, where a model is measured in several
    scores: Mapping[int, Scores]  # by dimension, the full one first
    n_documents: int
    n_tokens: int  # of the documents, prompt and special tokens included, as far as they are read
    encode_s: float  # for the documents
    memory_bytes: int  # the most that the process held, model and libraries
    device_memory_bytes: int | None  # the most on the accelerator; None without one
    device: str
    dtype: str  # numbers it computed in

    @property
    def docs_per_s(self) -> float:
        return self.n_documents / self.encode_s if self.encode_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.n_tokens / self.encode_s if self.encode_s else 0.0


def measure(
    model: str,
    encoder: MeasuredEncoder,
    folder: Path,
    split: str,
    dims: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Evaluate an encoder as `evaluate_dims` does, with the time that its documents took.

    The memory is that of this process. Raises what evaluate_dims raises.
    """
    timed = _Timed(encoder)
    evaluations = evaluate_dims(timed, folder, split, dims, on_progress)
    return Measurement(
        model=model,
        scores={dim: evaluation.scores for dim, evaluation in evaluations.items()},
        n_documents=timed.n_documents,
        n_tokens=timed.n_tokens,
        encode_s=timed.seconds,
        memory_bytes=_peak_bytes(),
        device_memory_bytes=_device_peak_bytes(encoder.device),
        device=encoder.device,
        dtype=encoder.dtype,
    )


def measure_apart(
    version: ModelVersion,
    folder: Path,
    split: str,
    dims: Sequence[int] | None = None,
    *,
    name: str = "",
    encoder_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Measurement:
    """The same in a new process, which loads the version itself and ends with the measurement.

    name: in place of the version's own. encoder_options: keyword arguments of open_encoder.

    Raises what loading and `measure` raise, and EncodingFailed when the process was ended from
    outside.
    """
    context: Any = multiprocessing.get_context(_START)
    if _START == "forkserver":
        context.set_forkserver_preload(["training.encoder"])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=_measure_and_send,
        args=(
            sender,
            allowed_hosts(),
            *(name or str(version), version, folder, split, dims, encoder_options or {}),
        ),
        daemon=True,
    )
    child.start()
    sender.close()
    try:
        while True:
            message = receiver.recv()
            if isinstance(message, Measurement):
                child.join(EXIT_S)  # one that is killed leaves semaphores behind
                return message
            if isinstance(message, Exception):
                raise message
            if on_progress is not None:
                on_progress(message)
    except EOFError:
        child.join()
        raise EncodingFailed(
            f"the process that measured {version} ended early (exit code {child.exitcode}); when "
            "that is -9 the memory was not enough: set encoder.max_batch_tokens lower, or compare "
            "fewer queries"
        ) from None
    finally:
        child.kill()
        child.join()
        receiver.close()


def _measure_and_send(
    sender: Connection,
    hosts: AllowedHosts,
    name: str,
    version: ModelVersion,
    folder: Path,
    split: str,
    dims: Sequence[int] | None,
    encoder_options: Mapping[str, Any],
) -> None:
    """Sends the number of documents done, again and again, and at last a Measurement or an
    exception."""
    allow_only(hosts)
    try:
        encoder = open_encoder(version, **encoder_options)
        sender.send(measure(name, encoder, folder, split, dims, sender.send))
    except Exception as error:
        sender.send(error)


class _Timed:
    """An encoder whose work on documents is counted."""

    def __init__(self, encoder: MeasuredEncoder) -> None:
        self._encoder = encoder
        self.n_documents = self.n_tokens = 0
        self.seconds = 0.0

    def encode_queries(self, texts: Sequence[str]) -> Matrix:
        return self._encoder.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> Matrix:
        began = time.perf_counter()
        rows = self._encoder.encode_documents(texts)
        self.seconds += time.perf_counter() - began
        lengths = self._encoder.tokenize_documents(texts).lengths
        self.n_tokens += int(lengths.clip(max=self._encoder.max_tokens).sum())
        self.n_documents += len(texts)
        return rows


def _peak_bytes() -> int:
    """Not of the process that this one was forked from, which ru_maxrss would be."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1_024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_peak_bytes(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
