"""What one process lets itself be asked: sizes, concurrency, deadlines, and the last drain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiLimits:
    """How much one process lets itself be asked."""

    max_query_chars: int = 10_000
    max_k: int = 1_000
    max_batch: int = 1_000  # queries or documents in one request
    max_body_bytes: int = 16_000_000
    max_concurrent: int = 64  # requests under way; one more is refused with 429
    deadline_s: float = 30.0  # for one request, waiting for visibility included
