"""Errors of `training/`. Each message says what was found, what was expected and what to run next.

TrainingError
├── ModelNotFound          no such name, version, folder or package
├── ModelDamaged           files are missing or are not the ones that were registered
├── ModelUnsafe            pickled weights, or code of its own without permission
├── EncodingFailed         a text could not be encoded; carries the doc_id where there is one
└── JudgmentsInvalid       queries or qrels that cannot be used
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of everything `training/` raises on purpose."""


class ModelNotFound(TrainingError):
    """No such model version, folder, hub id or package."""


class ModelDamaged(TrainingError):
    """Files of a model version are missing or differ from what was registered."""


class ModelUnsafe(TrainingError):
    """Weights are pickled, or the model brings its own code and that was not allowed."""


class EncodingFailed(TrainingError):
    """A text could not be encoded."""


class JudgmentsInvalid(TrainingError):
    """Queries or relevance judgments that cannot be used."""
