"""Server-sent events: lines in, events out. https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

from typing import Any

import httpx
import orjson

from search.client.errors import AnswerInvalid
from search.client.values import Event, read

QUIET_S = 35.0  # the service says every 10 s that it is still there
CONNECT_S = 5.0


class EventLines:
    """Reads the lines of one stream, or of several that go on where the last one ended."""

    def __init__(self, after: int | None) -> None:
        """after: the event to go on from; None for what happens from now on."""
        self.last_id = after
        self._data: list[str] = []

    def begin(self) -> dict[str, Any]:
        """How httpx is asked for the next stream; half an event of the last one is dropped."""
        self._data = []
        headers = {"accept": "text/event-stream"}
        if self.last_id is not None:
            headers["last-event-id"] = str(self.last_id)
        timeout = httpx.Timeout(QUIET_S, connect=CONNECT_S)
        return {"method": "GET", "url": "/events", "headers": headers, "timeout": timeout}

    def feed(self, line: str) -> Event | None:
        """An event, when this line ends one. Raises AnswerInvalid."""
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        if not self._data:
            return None
        text, self._data = "\n".join(self._data), []
        try:
            event = read(Event, orjson.loads(text))
        except ValueError:
            raise AnswerInvalid(f"an event that is not JSON: {text[:80]!r}") from None
        self.last_id = event.id
        return event
