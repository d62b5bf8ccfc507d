"""Replays the log all the time in a worker: where the store is a server and no service replays."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from reindexer.data_directory import DataDirectory
from reindexer.errors import LeaseHeld, ReindexerError
from reindexer.journal import SYNC_LEASE, Lease
from search.errors import LeaseLost, SearchError
from training.errors import TrainingError

if TYPE_CHECKING:
    from reindexer.opening import Opener

log = logging.getLogger(__name__)

RETRY_S = 1.0
TAKE_S = 1.0  # between two tries to become the one that replays
LEXICAL_SAVE_S = 30.0  # at the most so much is applied again after a kill


class LogFollower:
    """Whoever holds the sync lease replays; the others stand by."""

    def __init__(self, data: DataDirectory, stopping: threading.Event) -> None:
        self._data = data
        self._stopping = stopping

    def run(self) -> None:
        """Until the worker ends."""
        told: str | None = None
        while not self._stopping.is_set():
            try:
                with self._data.journal.lease(SYNC_LEASE) as lease:
                    log.info("this worker replays the log now")
                    self._follow(lease)
            except LeaseHeld:
                self._stopping.wait(TAKE_S)
            except LeaseLost as error:
                log.warning("%s", error)
            except (SearchError, TrainingError, ReindexerError) as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("replay waits: %s", error)
                self._stopping.wait(RETRY_S)

    def _follow(self, lease: Lease) -> None:
        from reindexer.opening import Opener  # brings the engines in
        from reindexer.sync import sync_once

        opener = Opener(self._data, writable=True, warm=False)
        saved_at = time.monotonic()
        try:
            while not self._stopping.wait(self._data.settings.sync_interval_s):
                lease.check()
                if self._is_behind():
                    sync_once(self._data, lease, keep_open=opener)
                if time.monotonic() - saved_at > LEXICAL_SAVE_S:
                    self._save_lexical(opener)
                    saved_at = time.monotonic()
            self._save_lexical(opener)
        finally:
            opener.close()

    def _is_behind(self) -> bool:
        catalog, head = self._data.catalog, self._data.corpus.head()
        pointers = catalog.pointers()
        target = pointers.request.target if pointers.request is not None else None
        names = {pointers.live, pointers.standby, target} - {None}
        return any(catalog.watermark(str(name)) < head for name in names)

    def _save_lexical(self, opener: Opener) -> None:
        """Those of this machine, so that a service that starts here has little to catch up with."""
        opener.sync_lexicals()
        opener.save_lexicals()
