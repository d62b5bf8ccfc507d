"""The service: one process that answers queries, takes documents and keeps generations in step."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from reindexer.access import access_of
from reindexer.data_directory import DataDirectory
from reindexer.errors import GateRefused, LeaseHeld, ReindexerError, SourceInvalid
from reindexer.feedback import feedback_of
from reindexer.http_server import HttpServer, listen
from reindexer.journal import SYNC_LEASE, Lease
from reindexer.logs import Complaint
from reindexer.opening import Opener
from reindexer.operations import DirectoryOperations
from reindexer.service_address import ServiceAddress, url_for_others, url_here
from reindexer.status import read_status
from reindexer.sync import repair_alias, sync_opened
from reindexer.verify import Verification, verify_structure
from reindexer.visibility import Visibility
from reindexer.worker import Worker
from search.api_limits import ApiLimits
from search.app import create_app
from search.drain import Drain
from search.errors import LeaseLost, SearchError, StoreError, WrongState
from search.file_cache import read_ahead_apart
from search.lexical import warm as warm_lexical
from search.operations import Operations
from search.processes import process_name
from search.query_batches import QueryBatches
from search.serving import FOLLOW_S, OpenGeneration, SearcherManager
from search.telemetry import Telemetry
from training.errors import TrainingError

log = logging.getLogger(__name__)

LEXICAL_SAVE_S = 30.0  # at the most so much is applied again after a kill
RETRY_S = 1.0
OPEN_S = 120.0  # what is live may take so long to open before the service answers without it

# Of errors that `search` does not know: what the API answers to them.
PROBLEMS: Mapping[type[Exception], tuple[int, str]] = {
    GateRefused: (409, "Verification found a reason not to switch"),
    LeaseHeld: (409, "Another process is doing this right now"),
    SourceInvalid: (422, "The source cannot be read"),
    ReindexerError: (500, "The request failed"),
}


class ReindexerService:
    """Threads around one HTTP server: one follows the catalog, one replays the log."""

    def __init__(
        self,
        data: DataDirectory,
        *,
        host: str,
        port: int,
        insecure: bool = False,
        opener: Opener | None = None,
    ) -> None:
        """opener: writable and apart; one that has begun to open what is live.

        Raises LeaseHeld when another process owns this embedded data directory, AddressInUse,
        KeysMissing."""
        self._data = data
        self.corpus = data.corpus
        settings = data.settings
        self.limits = ApiLimits(
            max_query_chars=settings.max_query_chars,
            max_k=settings.max_k,
            max_batch=settings.max_batch,
            max_body_bytes=settings.max_body_bytes,
            max_concurrent=settings.max_concurrent,
            deadline_s=settings.deadline_s,
        )
        self.drain = Drain()
        self._worker = Worker(data) if settings.run_worker else None
        self.operations: Operations = DirectoryOperations(data, on_asked=self._asked)
        self.telemetry = Telemetry(lambda: read_status(settings), is_open=settings.metrics_open)
        self.token = secrets.token_urlsafe(32)
        self.access = access_of(
            data.database, data.settings, host=host, token=self.token, insecure=insecure
        )
        self._socket = listen(host, port)
        port = self._socket.getsockname()[1]
        self.url = url_here(host, port)
        self._lease = self._take_lease()
        self.feedback = feedback_of(data.database, data.settings)
        self._opener = opener or Opener(data, writable=True, apart=True)
        self._opener.on_query_batch = self.telemetry.encoded_together
        self.manager = SearcherManager(
            data.catalog,
            self._opener.open,
            name=process_name(),
            address=url_for_others(host, port),
            load=self.telemetry.query_times.load,
        )
        self.telemetry.queries_waiting.set_function(self._queries_waiting)
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._visibility = Visibility(self.manager, data.catalog)
        self._problem: str | None = None
        self._server: HttpServer | None = None

    def _asked(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    # -- what the API asks for -------------------------------------------------------------------

    def wrote(self, seq: int) -> None:
        del seq  # replay reads the head itself
        self._wake.set()

    def wait_until_visible(self, seq: int, timeout_s: float) -> bool:
        return self._visibility.wait(seq, timeout_s)

    def _queries_waiting(self) -> float:
        encoders = [opened.searcher.encoder for opened in self.manager.opened()]
        return float(sum(item.waiting for item in encoders if isinstance(item, QueryBatches)))

    def not_ready(self) -> str | None:
        try:
            self.corpus.head()
            with self.manager.acquire() as searcher:
                searcher.collection.count()
        except SearchError as error:
            return str(error)
        return None

    def info(self) -> Mapping[str, Any]:
        current = self.manager.current
        head = self.corpus.head()
        if current is None:
            return {"generation": None, "model": None, "head_seq": head, "problem": self._problem}
        recipe = current.generation.recipe
        indexed, unreadable = _indexed(current)
        return {
            "generation": current.name,
            "model": recipe.model,
            "fingerprint": recipe.fingerprint,
            "dim": recipe.dim,
            "watermark": self._data.catalog.watermark(current.name),
            "lexical_watermark": current.lexical.watermark,
            "head_seq": head,
            "indexed": indexed,
            "device": str(current.encoder.device),
            "problem": self._problem or unreadable,
        }

    def verify(self, generation: str) -> Mapping[str, Any]:
        for opened in self.manager.opened():
            if opened.name == generation:
                with self.manager.acquire_named(generation) as held:
                    if held is None:
                        break  # closed meanwhile
                    watermark = self._data.catalog.watermark(generation)
                    checks = verify_structure(self.corpus, opened, watermark=watermark)
                return Verification(generation=generation, checks=tuple(checks)).to_json()
        found = self._data.catalog.get(generation)  # GenerationNotFound
        raise WrongState(
            f"{generation} is {found.state} and not open in the service; `reindexer verify "
            f"{generation}` opens it by itself"
        )

    # -- life ------------------------------------------------------------------------------------

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain and give everything back. on_ready is told the
        address once requests are answered there; other verbs find it from then on."""
        settings = self._data.settings
        origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
        address = ServiceAddress(url=self.url, token=self.token, process=process_name())

        def tell() -> None:
            address.write(self._data.path)
            if self._worker is not None:  # its jobs ask this service
                self._worker.start()
            on_ready(self.url)

        self._server = server = HttpServer(
            create_app(self, problems=PROBLEMS, cors_origins=origins),
            self.drain,
            drain_s=settings.serve_drain_s,
            notice_s=settings.drain_notice_s,
            on_started=tell,
        )
        threads = [
            threading.Thread(target=self._follow, name="follow", daemon=True),
            threading.Thread(target=self._replay, name="replay", daemon=True),
        ]
        try:
            if self._data.catalog.live() is None and settings.lexical_kind == "bm25s":
                # The first switch should not wait for what is compiled once on a machine.
                threads.append(threading.Thread(target=warm_lexical, name="warm", daemon=True))
            if (file := self._data.database.file) is not None:  # titles and texts of the hits
                ahead = ([file], self._stop)
                threads.append(
                    threading.Thread(target=read_ahead_apart, args=ahead, name="read", daemon=True)
                )
            self.manager.wait_until_live(OPEN_S)
            for thread in threads:
                thread.start()
            server.run(sockets=[self._socket])
        finally:
            if self._worker is not None:
                self._worker.stop()
            self._stop.set()
            self._wake.set()
            for thread in threads:
                if thread.is_alive():
                    thread.join()
            address.remove(self._data.path)
            self.close()

    def stop(self) -> None:
        """Let `run` drain and end, as SIGTERM does. Does nothing before `run` is ready."""
        if self._server is not None:
            self.drain.begin()
            self._server.should_exit = True

    def close(self) -> None:
        """Give everything back that opening took; `run` ends with it."""
        self.manager.close()
        self.feedback.close()
        if self._lease is not None:
            self._opener.save_lexicals()
        self._opener.close()
        self._give_lease_back()
        self._socket.close()

    def _take_lease(self) -> Lease | None:
        """Embedded collections have one owner, so the lease is a must; with a server it is taken
        when it is free."""
        try:
            return self._data.journal.lease(SYNC_LEASE, wait_s=0.0 if self._shared else 10.0)
        except LeaseHeld as error:
            if self._shared:
                return None
            self._socket.close()
            other = ServiceAddress.read(self._data.path)
            at = f"; it answers at {other.url}" if other is not None else ""
            raise LeaseHeld(
                f"the data directory {self._data.path} is owned by another process{at}. {error}"
            ) from error

    @property
    def _shared(self) -> bool:
        return self._data.store.shared

    # -- threads -----------------------------------------------------------------------------------

    def _follow(self) -> None:
        pause_s = FOLLOW_S
        complaint = Complaint(log, "cannot follow the catalog")
        while not self._stop.wait(pause_s):
            try:
                pause_s = self.manager.follow()
                complaint.end()
            except SearchError as error:
                complaint.tell(error)
                self._stop.wait(RETRY_S)

    def _replay(self) -> None:
        saved_at = time.monotonic()
        while not self._stop.is_set():
            self._wake.wait(self._data.settings.sync_interval_s)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                if self._step() and time.monotonic() - saved_at > LEXICAL_SAVE_S:
                    self._opener.save_lexicals()
                    saved_at = time.monotonic()
                self._problem = None
            except LeaseLost as error:  # this process was asleep; it may take the lease again
                log.warning("%s", error)
                self._give_lease_back()
            except (SearchError, TrainingError, ReindexerError) as error:
                if str(error) != self._problem:
                    log.warning("replay waits: %s", error)
                self._problem = str(error)
                self._stop.wait(RETRY_S)

    def _give_lease_back(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _step(self) -> bool:
        """Replay to the head; True when this process may save what it applied."""
        if self._lease is None:
            try:
                self._lease = self._data.journal.lease(SYNC_LEASE)
            except LeaseHeld:
                self._opener.sync_lexicals()
                self._visibility.refresh()  # another process replays
                return False
        synced = sync_opened(self._data, self.manager, self._opener, self._lease)
        for progress in synced.done.values():
            self.telemetry.encoded(progress.encoded, progress.tokens)
        for name in synced.failed:
            self.telemetry.sync_failed(name)
        self._visibility.refresh()
        repair_alias(self._data)
        keep = {opened.generation.recipe.fingerprint for opened in self.manager.opened()}
        self._opener.forget_encoders(keep)
        synced.raise_failure()
        return True


def _indexed(opened: OpenGeneration) -> tuple[float | None, str | None]:
    """Share of the passages in the ANN index, or why the store cannot tell."""
    try:
        return round(opened.collection.indexed(), 4), None
    except StoreError as error:
        return None, str(error)
