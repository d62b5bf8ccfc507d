"""A client of the service, as a user's program would be one."""

from __future__ import annotations

from reindexer.running_service import RunningService
from reindexer.selftest.word_directory import WordDirectory
from search.searcher import SearchRequest


class Asker:
    """Asks over one connection for as long as it holds."""

    def __init__(self, data: WordDirectory) -> None:
        self._data = data
        self._service: RunningService | None = None

    def ask(self, text: str) -> str | None:
        """Why it was not answered; None when it was."""
        self._service = self._service or RunningService.find(self._data)
        if self._service is None:
            return "no service was found"
        try:
            answer = self._service.search(SearchRequest(query=text, k=5))
        except Exception as error:  # whatever it is, a user would have seen it
            self.close()
            return f"{type(error).__name__}: {error}"
        return f"degraded: {answer['degraded']}" if answer["degraded"] else None

    def close(self) -> None:
        if self._service is not None:
            self._service.__exit__()
            self._service = None
