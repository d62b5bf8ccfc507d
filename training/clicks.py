"""Pairs from a click log: what people chose, corrected for where it was shown.

A click says less the higher the document stood: people look there anyway. So clicks are divided by
how often the document was looked at (inverse propensities, Joachims, Swaminathan, Schnabel 2017),
which `training.examination` estimates. Negatives are what stood above a click and was passed over
(skip-above, Joachims 2002).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.errors import PairsInvalid
from training.examination import examination
from training.pairs import Pair, PairRow, RejectedRow, text_key
from training.record_values import unix_time
from training.records import Record, jsonl_records

TextsOf = Callable[[Sequence[str]], Mapping[str, str]]  # full texts by doc_id, of those there are

PAGE_S = 1_800.0  # a visitor's same query after so long is a new page of results
MAX_POSITION = 100
_TEXTS_AT_ONCE = 500
_VISITOR_FIELDS = ("user", "user_id", "session", "session_id")


@dataclass(frozen=True, kw_only=True)
class ClickRules:
    """What a click has to be like to count."""

    min_clicks: int = 2  # of different pages, on one document for one query
    min_attraction: float = 0.5  # of the query's most attractive document
    max_negatives: int = 5  # a pair
    bot_clicks_per_hour: int = 200  # of one visitor
    bot_min_shown: int = 50  # a visitor who was shown so many and clicked nearly all is a bot
    bot_click_share: float = 0.9

    def __post_init__(self) -> None:
        if self.min_clicks < 1 or not 0 <= self.min_attraction <= 1:
            raise PairsInvalid(
                f"min_clicks {self.min_clicks}, min_attraction {self.min_attraction:g}: expected "
                "at least 1, and 0 to 1"
            )


@dataclass(kw_only=True)
class ClickFacts:
    """What was in the log and what became of it."""

    events: int = 0  # usable lines, those of bots included
    bots: int = 0  # visitors left out
    bot_events: int = 0
    pages: int = 0
    queries: int = 0
    clicked: int = 0  # queries and documents with a click
    too_few_clicks: int = 0
    too_unattractive: int = 0
    gone: int = 0  # documents that were clicked and are no longer there
    examination: dict[int, float] = field(default_factory=dict)  # by position, at most 1
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Event:
    query: str
    doc_id: str
    clicked: bool
    position: int  # from 1
    time_s: float | None
    visitor: str | None


@dataclass(slots=True)
class _Seen:
    """One document of one query, over all pages."""

    shown: Counter[int] = field(default_factory=Counter)  # pages by position
    clicks: Counter[int] = field(default_factory=Counter)  # pages by position
    skips: int = 0  # pages where it stood above a click and was passed over
    last_click_s: float | None = None

    def attraction(self, examination: Mapping[int, float]) -> float:
        looked_at = sum(n * examination[position] for position, n in self.shown.items())
        return self.clicks.total() / looked_at


@dataclass(slots=True)
class _Page:
    began_s: float | None
    documents: dict[str, tuple[int, bool]] = field(default_factory=dict)  # position, clicked
    last_click_s: float | None = None


class ClickLog:
    """A JSON Lines log with a line for each document shown or clicked: `query`, `doc_id`,
    `clicked`, `position` (from 1), and where known `time` and a `user` or `session` id.

    Iterating yields the pairs, and a RejectedRow for each line that cannot be used; `facts` is
    complete when it ends. The log is read twice, and what it says of each query and document is
    kept in memory. Raises PairsInvalid when the file cannot be read.
    """

    def __init__(self, path: Path, texts_of: TextsOf, rules: ClickRules | None = None) -> None:
        self._path = path
        self._texts_of = texts_of
        self._rules = rules or ClickRules()
        self.facts = ClickFacts()

    def __iter__(self) -> Iterator[PairRow | RejectedRow]:
        self.facts = ClickFacts()
        bots = self._find_bots()
        seen: defaultdict[str, defaultdict[str, _Seen]] = defaultdict(lambda: defaultdict(_Seen))
        spelling: dict[str, str] = {}
        pages: dict[tuple[str, str | None], _Page] = {}
        for event in self._events():
            if isinstance(event, RejectedRow):
                yield event
                continue
            self.facts.events += 1
            if event.visitor in bots:
                self.facts.bot_events += 1
                continue
            key = text_key(event.query)
            spelling.setdefault(key, event.query)
            page = pages.get((key, event.visitor))
            if page is None or _begins_page(event, page):
                if page is not None:
                    self._count(seen[key], page)
                page = pages[key, event.visitor] = _Page(event.time_s)
            _put(event, page)
        for (key, _visitor), page in pages.items():
            self._count(seen[key], page)
        self.facts.queries = len(seen)
        if not any(found.shown - found.clicks for own in seen.values() for found in own.values()):
            self.facts.notes.append(
                "the log has clicks only; log what was shown too, and positions can be weighed"
            )
        self.facts.examination = examination(
            [(found.shown, found.clicks) for own in seen.values() for found in own.values()]
        )
        yield from self._pairs(seen, spelling)

    def _find_bots(self) -> set[str | None]:
        rules = self._rules
        shown: Counter[str] = Counter()
        clicks: Counter[str] = Counter()
        by_hour: Counter[tuple[str, int]] = Counter()
        for event in self._events():
            if isinstance(event, RejectedRow) or event.visitor is None:
                continue
            shown[event.visitor] += 1
            if event.clicked:
                clicks[event.visitor] += 1
                if event.time_s is not None:
                    by_hour[event.visitor, int(event.time_s // 3_600)] += 1
        bots = {visitor for (visitor, _), n in by_hour.items() if n > rules.bot_clicks_per_hour}
        # Where only clicks are logged, everybody clicks all there is.
        if clicks.total() < rules.bot_click_share * shown.total():
            bots |= {
                visitor
                for visitor, n in shown.items()
                if n >= rules.bot_min_shown and clicks[visitor] >= rules.bot_click_share * n
            }
        self.facts.bots = len(bots)
        return set(bots)

    def _events(self) -> Iterator[_Event | RejectedRow]:
        for row in jsonl_records(self._path):
            if isinstance(row, RejectedRow):
                yield row
                continue
            where, record = row
            try:
                yield _event(record)
            except PairsInvalid as error:
                yield RejectedRow(where=where, reason=str(error))

    def _count(self, seen: Mapping[str, _Seen], page: _Page) -> None:
        self.facts.pages += 1
        lowest = max((at for at, clicked in page.documents.values() if clicked), default=0)
        for doc_id, (position, clicked) in page.documents.items():
            found = seen[doc_id]
            found.shown[position] += 1
            if clicked:
                found.clicks[position] += 1
                if page.last_click_s is not None:
                    found.last_click_s = max(page.last_click_s, found.last_click_s or 0.0)
            elif position < lowest:
                found.skips += 1

    def _pairs(
        self, seen: Mapping[str, Mapping[str, _Seen]], spelling: Mapping[str, str]
    ) -> Iterator[PairRow]:
        chosen = [
            (spelling[key], doc_id, own)
            for key, own in seen.items()
            for doc_id in self._attractive(own)
        ]
        for start in range(0, len(chosen), _TEXTS_AT_ONCE):
            batch = chosen[start : start + _TEXTS_AT_ONCE]
            skipped = [self._skipped(own) for _, _, own in batch]
            wanted = dict.fromkeys(doc_id for _, doc_id, _ in batch)
            wanted |= dict.fromkeys(doc_id for ids in skipped for doc_id in ids)
            texts = self._texts_of(list(wanted))
            for (query, doc_id, own), negatives in zip(batch, skipped, strict=True):
                if not texts.get(doc_id, "").strip():
                    self.facts.gone += 1
                    continue
                pair = Pair(
                    anchor=query,
                    positive=texts[doc_id],
                    negatives=tuple(texts[name] for name in negatives if texts.get(name)),
                    doc_id=doc_id,
                    time_s=own[doc_id].last_click_s,
                )
                yield PairRow(where=f"{self._path.name} query {query!r}", pair=pair)

    def _attractive(self, own: Mapping[str, _Seen]) -> list[str]:
        """The documents of a query that were clicked often enough for where they stood."""
        attraction = {
            doc_id: found.attraction(self.facts.examination)
            for doc_id, found in own.items()
            if found.clicks
        }
        self.facts.clicked += len(attraction)
        enough = {
            doc_id: value
            for doc_id, value in attraction.items()
            if own[doc_id].clicks.total() >= self._rules.min_clicks
        }
        self.facts.too_few_clicks += len(attraction) - len(enough)
        least = self._rules.min_attraction * max(enough.values(), default=0.0)
        kept = [doc_id for doc_id, value in enough.items() if value >= least]
        self.facts.too_unattractive += len(enough) - len(kept)
        return kept

    def _skipped(self, own: Mapping[str, _Seen]) -> list[str]:
        """The documents passed over most often that nobody ever clicked for this query."""
        skips = {
            doc_id: found.skips
            for doc_id, found in own.items()
            if not found.clicks and found.skips >= self._rules.min_clicks
        }
        return sorted(skips, key=lambda doc_id: (-skips[doc_id], doc_id))[
            : self._rules.max_negatives
        ]


def _begins_page(event: _Event, page: _Page) -> bool:
    """A page shows a document once, and of strangers a second click is another person's."""
    if event.time_s is not None and event.time_s - (page.began_s or event.time_s) > PAGE_S:
        return True
    before = page.documents.get(event.doc_id)
    if before is None:
        return False
    return not event.clicked or (before[1] and event.visitor is None)


def _put(event: _Event, page: _Page) -> None:
    page.documents[event.doc_id] = (event.position, event.clicked)
    if event.clicked and event.time_s is not None:
        page.last_click_s = max(event.time_s, page.last_click_s or event.time_s)


def _event(record: Record) -> _Event:
    query, doc_id = record.get("query"), record.get("doc_id")
    clicked, position = record.get("clicked"), record.get("position")
    if not isinstance(query, str) or not query.strip():
        raise PairsInvalid("the query is empty")
    if isinstance(doc_id, bool) or not isinstance(doc_id, str | int) or doc_id == "":
        raise PairsInvalid("there is no doc_id")
    if not isinstance(clicked, bool) and clicked not in (0, 1):
        raise PairsInvalid(f"clicked is {clicked!r}, expected true or false")
    if isinstance(position, bool) or not isinstance(position, int) or position < 1:
        raise PairsInvalid(f"the position is {position!r}, expected 1 for the first document")
    visitor = next((record[name] for name in _VISITOR_FIELDS if record.get(name)), None)
    return _Event(
        query=query,
        doc_id=str(doc_id),
        clicked=bool(clicked),
        position=min(position, MAX_POSITION),
        time_s=unix_time(record.get("time", record.get("time_s"))),
        visitor=None if visitor is None else str(visitor),
    )
