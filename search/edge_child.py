"""The process that has an embedded collection open for another one; see `search/edge_process.py`.

    python -m search.edge_child ROOT NAME FINGERPRINT WAIT_S bulk|search OWNER FD...

It answers on every descriptor in a thread of its own, and ends when it is told to or when nobody is
at the other end any more.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from search.dense_edge import EdgeStore
from search.edge_collection import EdgeCollection
from search.errors import SearchError, StoreError


class _Answers:
    """What is asked of the collection."""

    def __init__(self, collection: EdgeCollection) -> None:
        self._collection = collection
        self._numbers = itertools.count()
        self._pages: dict[int, Iterator[Any]] = {}
        self.over = threading.Event()

    def serve(self, connection: Connection) -> None:
        try:
            while True:
                method, arguments = connection.recv()
                try:
                    answer = self._answer(method, arguments)
                except SearchError as error:
                    connection.send(("error", type(error).__name__, str(error)))
                except Exception as error:  # a fault of ours, to be seen at the other end
                    connection.send(
                        ("error", StoreError.__name__, f"{type(error).__name__}: {error}")
                    )
                else:
                    connection.send(("answer", answer))
                if method == "close":
                    return
        except (EOFError, OSError):
            pass
        finally:  # whatever it was, nobody is to wait for an answer
            self.over.set()

    def _answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        match method:
            case "search":
                vector, k, where, exact = arguments
                return tuple(
                    zip(*self._collection.search(vector, k, where, exact=exact), strict=True)
                )
            case "begin_scan" | "begin_scan_points":
                number = next(self._numbers)
                pages = getattr(self._collection, method.removeprefix("begin_"))(*arguments)
                self._pages[number] = iter(pages)
                return number
            case "next_page":
                return next(self._pages[arguments[0]], None)
            case "end_pages":
                self._pages.pop(arguments[0], None)
                return None
            case "close":
                return self._collection.close(ends=True)
            case _:
                return getattr(self._collection, method)(*arguments)


def main() -> None:
    root, name, fingerprint, wait_s, how, owner, *descriptors = sys.argv[1:]
    for ours in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ours, signal.SIG_IGN)  # whoever started this process ends it
    connections = [Connection(int(descriptor)) for descriptor in descriptors]
    try:
        store = EdgeStore(Path(root), owner=int(owner))
        collection = store.open(name, fingerprint, wait_s=float(wait_s), bulk=how == "bulk")
    except SearchError as error:
        with contextlib.suppress(OSError):  # it was killed meanwhile
            connections[0].send(("error", type(error).__name__, str(error)))
        return
    with contextlib.suppress(OSError):
        connections[0].send(("answer", collection.spec))
        answers = _Answers(collection)
        for connection in connections:
            threading.Thread(target=answers.serve, args=(connection,), daemon=True).start()
        if how == "search":
            collection.read_ahead()
        answers.over.wait()
    collection.close(ends=True)
    os._exit(0)


if __name__ == "__main__":
    main()
