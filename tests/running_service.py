"""The service of a data directory in a thread of this process, answering over a real socket."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from reindexer.data_directory import DataDirectory
from reindexer.service import ReindexerService

WAIT_S = 90.0  # to start, and to drain


class RunningService:
    """Serves on a free port while the `with` block runs; the data directory stays open."""

    def __init__(self, data: DataDirectory) -> None:
        self.data = data
        self.service = ReindexerService(data, host="127.0.0.1", port=0)
        self.url = self.service.url
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=self.service.run, kwargs={"on_ready": lambda _url: self._ready.set()}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_S), "the service did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.service.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the service did not end"
