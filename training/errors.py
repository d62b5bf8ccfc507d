"""Errors of `training/`. Each message says what was found, what was expected and what to run next.

TrainingError
├── ModelNotFound          no such name, version, folder or package
├── ModelDamaged           files are missing or are not the ones that were registered
├── ModelUnsafe            pickled weights, or code of its own without permission
├── ModelUnsupported       modules, settings or an architecture that cannot be encoded with here
├── EncodingFailed         a text could not be encoded; carries its position where there is one
│   └── ModelChanged       a remote endpoint serves another model than the registered one
├── JudgmentsInvalid       queries or qrels that cannot be used
├── PairsInvalid           training pairs that cannot be read, or do not fit the loss
├── EndpointRefused        a language model's endpoint refuses whatever is asked: key, name, address
├── EndpointUnavailable    it cannot be reached, or is overloaded for longer than we wait
├── RequestFailed          it could not answer this one request; others may do better
├── TransferFailed         a version could not be pushed or pulled
├── RecipeInvalid          settings of a training that do not go together
├── TrainingFailed         a training cannot go on; its checkpoint is kept
├── TrainingBusy           another process is doing the same training
├── QueriesOverlap         evaluation queries among the training pairs, with --strict
├── HostRefused            an address whose host network.allowed_hosts leaves out   (exit code 2)
└── ExtraMissing           a package that an extra brings is not installed
"""

from __future__ import annotations

import errno

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_FULL_WORDS = ("No space left", "Disk quota exceeded", "PytorchStreamWriter failed writing")


class TrainingError(Exception):
    """Base of everything `training/` raises on purpose."""


class ModelNotFound(TrainingError):
    """No such model version, folder, hub id or package."""


class ModelDamaged(TrainingError):
    """Files of a model version are missing or differ from what was registered."""


class ModelUnsafe(TrainingError):
    """Weights are pickled, or the model brings its own code and that was not allowed."""


class ModelUnsupported(TrainingError):
    """Modules, settings or an architecture that this release cannot encode with."""


class EncodingFailed(TrainingError):
    """A text could not be encoded."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        """index: position of the text among those given, where one text is to blame."""
        super().__init__(message)
        self.index = index


class ModelChanged(EncodingFailed):
    """A remote endpoint serves another model than the one that was registered."""


class JudgmentsInvalid(TrainingError):
    """Queries or relevance judgments that cannot be used."""


class PairsInvalid(TrainingError):
    """Training pairs that cannot be read, or do not fit the loss."""


class EndpointRefused(TrainingError):
    """An endpoint refuses whatever is asked of it: the key, the model's name or the address."""


class EndpointUnavailable(TrainingError):
    """An endpoint cannot be reached, or is overloaded for longer than we wait."""


class RequestFailed(TrainingError):
    """An endpoint could not answer one request; others may do better."""


class TransferFailed(TrainingError):
    """A model version could not be pushed or pulled."""


class RecipeInvalid(TrainingError):
    """Settings of a training that do not go together, or not with the model."""


class TrainingFailed(TrainingError):
    """A training cannot go on; its last checkpoint is kept."""


class TrainingBusy(TrainingError):
    """Another process is doing the same training at this moment."""


class QueriesOverlap(TrainingError):
    """Training pairs ask what the evaluation asks, and that was to be refused."""


class HostRefused(TrainingError):
    """An address leads to a host that is not among those that may be asked."""


class ExtraMissing(TrainingError):
    """A package that an extra brings is not installed; the message says which to install."""


MEMORY_IS_SHORT = "memory is short: give this process more, or end others"


def is_memory_short(error: BaseException) -> bool:
    """Whether Python found none, for an object or for a thread."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and str(error) == "can't start new thread"
    )


MAKE_ROOM = (
    "make room on that disk (`reindexer prune` does on the data directory's) and run the same "
    "command again"
)


def is_disk_full(error: BaseException) -> bool:
    """Whether it, or what it came from, is that a file could not grow; torch and safetensors have
    no class for that."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_FULL:
            return True
        if any(words in str(seen) for words in _DISK_FULL_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
