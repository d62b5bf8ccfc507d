"""What the HTTP API needs of the process it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from search.access import Access
from search.api_limits import ApiLimits
from search.corpus import Corpus
from search.drain import Drain
from search.feedback import FeedbackLog
from search.operations import Operations
from search.serving import SearcherManager
from search.telemetry import Telemetry


class Service(Protocol):
    """One serving process, as the parts of the API see it; `reindexer.service` has the real one.

    Its methods may block; the API calls them outside the event loop.
    """

    access: Access
    feedback: FeedbackLog
    manager: SearcherManager
    corpus: Corpus
    limits: ApiLimits
    drain: Drain
    operations: Operations
    telemetry: Telemetry
    token: str  # of this process; who knows it may read the data directory

    def wrote(self, seq: int) -> None:
        """The corpus has a new head; replay soon."""
        ...

    def wait_until_visible(self, seq: int, timeout_s: float) -> bool:
        """True when both legs of the live generation have applied the corpus up to seq."""
        ...

    def info(self) -> Mapping[str, Any]:
        """What this process answers from: generation, model, fingerprint, watermarks, head_seq."""
        ...

    def not_ready(self) -> str | None:
        """Why queries should not be sent here: the database or the store does not answer."""
        ...

    def verify(self, generation: str) -> Mapping[str, Any]:
        """The structural checks of a generation that is open here. Raises WrongState."""
        ...
