"""A serving process inside this one: the service's threads, without its HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from reindexer.data_directory import DataDirectory
from reindexer.errors import ReindexerError
from reindexer.journal import SYNC_LEASE
from reindexer.opening import Opener
from reindexer.sync import sync_opened
from search.errors import SearchError
from search.lexical import warm
from search.processes import process_name
from search.serving import FOLLOW_S, SearcherManager
from training.errors import TrainingError

REPLAY_S = 0.02  # between two looks for changes
WAIT_S = 60.0


class Serving:
    """Follows the catalog and replays the log, until the end of the `with` block."""

    def __init__(self, data: DataDirectory) -> None:
        self._data = data
        self._opener = Opener(data, writable=True, apart=True)
        self.manager = SearcherManager(
            data.catalog, self._opener.open, name=process_name(), address="this selftest"
        )
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(self.manager.follow, FOLLOW_S)),
            threading.Thread(target=self._repeat, args=(self._replay, REPLAY_S)),
        ]

    def __enter__(self) -> Self:
        warm()  # what is compiled once on a machine counts against nobody's time-out
        self._lease = self._data.journal.lease(SYNC_LEASE, wait_s=5.0)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.manager.close()
        for index in self._opener.lexicals():
            index.save()
        self._opener.close()
        self._lease.release()

    def wait_until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not done():
            if time.monotonic() > deadline:
                self.problems.append(f"{what}: not within {WAIT_S:.0f} s")
                return
            time.sleep(REPLAY_S)

    def is_in_step(self) -> bool:
        """Live, standby and their lexical index have all that is written."""
        head = self._data.corpus.head()
        pointers = self._data.catalog.pointers()
        names = [name for name in (pointers.live, pointers.standby) if name is not None]
        return all(self._data.catalog.watermark(name) >= head for name in names) and all(
            index.watermark >= head for index in self._opener.lexicals()
        )

    def _repeat(self, step: Callable[[], object], every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                step()
            except (SearchError, TrainingError, ReindexerError) as error:
                if str(error) not in self.problems:
                    self.problems.append(str(error))

    def _replay(self) -> None:
        sync_opened(self._data, self.manager, self._opener, self._lease).raise_failure()
