"""The catalog: generations, and the pointer to the live one.

The pointer is the state column itself: a partial unique index allows one `live` and one `standby`
row, and `cut_over` moves both in one transaction from the expected value.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import sqlalchemy as sa

from search import tables
from search.database import Database
from search.errors import (
    CutOverRefused,
    GenerationNotFound,
    LeaseLost,
    TargetBehind,
    WrongState,
)
from search.events import EventLog, record_event
from search.recipe import FusionRecipe, Recipe
from search.serving_processes import ServingProcesses
from training.kill_points import reached

State = Literal[
    "building",
    "catching_up",
    "verifying",
    "ready",
    "live",
    "standby",
    "retired",
    "failed",
    "pruned",
]

# What may follow what. `live` and `standby` change in `Catalog.cut_over` only.
_NEXT: Mapping[str, frozenset[str]] = {
    "building": frozenset({"catching_up", "failed"}),
    "catching_up": frozenset({"verifying", "failed"}),
    "verifying": frozenset({"catching_up", "ready", "failed"}),
    "ready": frozenset({"verifying", "catching_up", "retired", "failed"}),
    "standby": frozenset({"retired"}),
    "retired": frozenset({"pruned"}),
    "failed": frozenset({"building", "pruned"}),
}
UNFINISHED: frozenset[str] = frozenset({"building", "catching_up", "verifying"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One complete searchable copy of the corpus, as the catalog knows it."""

    name: str  # docs@7
    state: State
    recipe: Recipe
    collection: str  # physical name in the dense store
    watermark: int  # last seq applied to the dense collection
    created_at: float  # Unix seconds
    state_at: float  # Unix seconds of the last change of state
    verified: Mapping[str, Any] | None  # the last verification, as `verify --json` prints it


@dataclass(frozen=True, kw_only=True, slots=True)
class CutOverRequest:
    """A switch under way: every serving process is to prepare `target`."""

    target: str
    expected_live: str | None
    token: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointers:
    """What a serving process follows; one cheap read."""

    live: str | None
    standby: str | None
    request: CutOverRequest | None
    recipes: Mapping[str, str] = field(default_factory=dict)  # as stored, of live and standby


_GENERATION = sa.select(tables.generations).where(tables.generations.c.name == sa.bindparam("name"))
_WATERMARK = _GENERATION.with_only_columns(tables.generations.c.watermark)
_REQUESTED = "requested"
_POINTERS = sa.union_all(
    sa.select(
        tables.generations.c.state,
        tables.generations.c.name,
        tables.generations.c.recipe,
        sa.null().label("expected_live"),
        sa.cast(sa.null(), sa.BigInteger).label("token"),
        sa.cast(sa.null(), sa.Float).label("expires_at"),
    ).where(tables.generations.c.state.in_([sa.literal("live"), sa.literal("standby")])),
    sa.select(
        sa.literal(_REQUESTED),
        tables.cutover.c.target,
        sa.null(),
        tables.cutover.c.expected_live,
        tables.cutover.c.token,
        tables.cutover.c.expires_at,
    ),
)


class Catalog:
    """Reads and moves the rows that every process agrees on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.processes = ServingProcesses(database)
        self.events = EventLog(database)
        # What is asked many times a second:
        self._select_generation = database.prepare(_GENERATION)
        self._select_watermark = database.prepare(_WATERMARK)
        self._select_pointers = database.prepare(_POINTERS)

    # -- generations -------------------------------------------------------------------------

    def record(self, recipe: Recipe) -> Generation:
        """A new generation in state `building`, with the next number."""
        now = time.time()
        highest = sa.select(sa.func.coalesce(sa.func.max(tables.generations.c.id), 0))
        with self._database.write() as connection:
            name: str | None = None
            while name is None:  # another process may take the same number first
                number = connection.execute(highest).scalar_one() + 1
                name = connection.execute(
                    self._database.upsert(tables.generations)
                    .values(
                        id=number,
                        name=f"docs@{number}",
                        state="building",
                        recipe=recipe.to_json(),
                        collection=f"docs-{number}",
                        watermark=0,
                        created_at=now,
                        state_at=now,
                    )
                    .on_conflict_do_nothing()
                    .returning(tables.generations.c.name)
                ).scalar()
            record_event(connection, "generation_recorded", name, {"model": recipe.model})
        reached("generation.recorded")
        return self.get(name)

    def get(self, name: str) -> Generation:
        """Raises GenerationNotFound, naming what there is."""
        for row in self._select_generation.rows(name=name):
            return _generation(row)
        raise self._not_found(name)

    def watermark(self, name: str) -> int:
        """The last seq that was applied to a generation. Raises GenerationNotFound."""
        for row in self._select_watermark.rows(name=name):
            return int(row.watermark)
        raise self._not_found(name)

    def _not_found(self, name: str) -> GenerationNotFound:
        known = ", ".join(g.name for g in self.all()) or "none yet"
        return GenerationNotFound(
            f"no generation {name!r}; there are: {known}. Run `reindexer generations`"
        )

    def all(self, states: Collection[str] | None = None) -> list[Generation]:
        """All generations that still have something on disk, oldest first; or those in `states`."""
        query = sa.select(tables.generations).order_by(tables.generations.c.id)
        if states is None:
            query = query.where(tables.generations.c.state != "pruned")
        else:
            query = query.where(tables.generations.c.state.in_(list(states)))
        with self._database.read() as connection:
            return [_generation(row) for row in connection.execute(query)]

    def live(self) -> Generation | None:
        return next(iter(self.all({"live"})), None)

    def standby(self) -> Generation | None:
        return next(iter(self.all({"standby"})), None)

    def pointers(self) -> Pointers:
        """Live, standby and the requested switch, from one snapshot."""
        rows = {row.state: row for row in self._select_pointers.rows()}
        live, standby, request = (rows.get(state) for state in ("live", "standby", _REQUESTED))
        return Pointers(
            live=live.name if live is not None else None,
            standby=standby.name if standby is not None else None,
            request=None
            if request is None or request.expires_at < time.time()
            else CutOverRequest(
                target=request.name, expected_live=request.expected_live, token=request.token
            ),
            recipes={row.name: row.recipe for row in (live, standby) if row is not None},
        )

    def move(self, name: str, to: State, *, reason: str | None = None) -> None:
        """Change a generation's state. Raises WrongState when `to` cannot follow its state."""
        with self._database.write() as connection:
            allowed = [state for state, following in _NEXT.items() if to in following]
            changed = connection.execute(
                sa.update(tables.generations)
                .where(tables.generations.c.name == name, tables.generations.c.state.in_(allowed))
                .values(state=to, state_at=time.time())
            ).rowcount
            if changed:
                record_event(connection, f"generation_{to}", name, {"reason": reason})
        if changed:
            reached("generation.moved")
            return
        found = self.get(name).state
        if found != to:
            how = f"only from {', '.join(allowed)}" if allowed else "only by a cut-over"
            raise WrongState(f"{name} is {found}; it can become {to} {how}")

    def advance(self, name: str, watermark: int, *, lease: str, token: int) -> None:
        """Move the watermark forward after the write was acknowledged.

        Raises LeaseLost when the lease has changed hands: a late process cannot move it. Raises
        WrongState when the watermark would go back.
        """
        with self._database.write() as connection:
            move_watermark(connection, name, watermark, lease=lease, token=token)
        reached("watermark.commit")

    def overrule(self, name: str, *, reason: str, who: str | None = None) -> None:
        """Let a generation that its gate refused go live all the same; who and why is recorded."""
        with self._database.write() as connection:
            changed = connection.execute(
                sa.update(tables.generations)
                .where(tables.generations.c.name == name, tables.generations.c.state == "failed")
                .values(state="ready", state_at=time.time())
            ).rowcount
            if changed:
                record_event(connection, "gate_overruled", name, {"reason": reason}, who)
        if not changed:
            raise WrongState(f"{name} was not refused by its gate; there is nothing to overrule")

    def set_fusion(self, name: str, fusion: FusionRecipe) -> None:
        """Fuse in another way from now on; serving processes follow. The rest of the recipe stays.

        Raises GenerationNotFound, WrongState when nothing will ever be asked of the generation.
        """
        found = self.get(name)
        if found.state in ("retired", "failed", "pruned"):
            raise WrongState(
                f"{name} is {found.state}, so nothing is asked of it any more; "
                "see `reindexer generations` for those that answer"
            )
        with self._database.write() as connection:
            stored = connection.execute(
                sa.select(tables.generations.c.recipe)
                .where(tables.generations.c.name == name)
                .with_for_update()
            ).scalar_one()
            recipe = replace(Recipe.from_json(stored), fusion=fusion)
            connection.execute(
                sa.update(tables.generations)
                .where(tables.generations.c.name == name)
                .values(recipe=recipe.to_json())
            )
            record_event(connection, "fusion_set", name, asdict(fusion))

    def keep_verification(self, name: str, report: Mapping[str, Any]) -> None:
        """Store what `verify` found, for `generations show` and the switch."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(tables.generations)
                .where(tables.generations.c.name == name)
                .values(verified=json.dumps(report))
            )
        reached("verification.kept")

    # -- the switch --------------------------------------------------------------------------

    def request_cut_over(
        self, target: str, expected_live: str | None, *, token: int, seconds: float
    ) -> None:
        """Ask every serving process to prepare `target`. Replaces an older request."""
        values = {
            "target": target,
            "expected_live": expected_live,
            "token": token,
            "expires_at": time.time() + seconds,
        }
        with self._database.write() as connection:
            connection.execute(sa.delete(tables.cutover))
            connection.execute(sa.insert(tables.cutover).values(id=1, **values))
        reached("cutover.requested")

    def withdraw_cut_over(self, token: int) -> None:
        with self._database.write() as connection:
            connection.execute(sa.delete(tables.cutover).where(tables.cutover.c.token == token))

    def cut_over(
        self,
        target: str,
        *,
        expected_live: str | None,
        kind: str,
        token: int,
        detail: Mapping[str, Any] | None = None,
        who: str | None = None,
    ) -> None:
        """The switch: compare-and-swap of the pointer, in one transaction.

        `target` becomes live, the live generation becomes standby, an earlier standby is retired.
        Raises CutOverRefused, and changes nothing, when another generation than expected is live,
        when target is neither ready nor standby, when it is behind the live one, or when the
        request was withdrawn or replaced, or is too old for the serving processes to follow.
        """
        generations = tables.generations
        now = time.time()
        with self._database.write() as connection:
            rows = {
                row.name: row
                for row in connection.execute(
                    sa.select(generations.c.name, generations.c.state, generations.c.watermark)
                    .order_by(generations.c.id)  # two of these lock in one order
                    .with_for_update()
                )
            }
            live = next((row for row in rows.values() if row.state == "live"), None)
            found_live = live.name if live is not None else None
            if found_live != expected_live:
                raise CutOverRefused(
                    f"expected {expected_live or 'nothing'} to be live, found "
                    f"{found_live or 'nothing'}; look at `reindexer status` and try again"
                )
            request = connection.execute(sa.select(tables.cutover)).one_or_none()
            if request is None or request.token != token or request.target != target:
                raise CutOverRefused(
                    f"the request to switch to {target} was withdrawn or replaced by another one; "
                    "look at `reindexer status` and try again"
                )
            if request.expires_at < now:
                raise CutOverRefused(
                    f"the request to switch to {target} has expired, so serving processes no "
                    "longer keep it prepared; try again"
                )
            next_row = rows.get(target)
            if next_row is None or next_row.state not in ("ready", "standby"):
                raise CutOverRefused(
                    f"{target} is {next_row.state if next_row else 'not there'}, expected ready or "
                    f"standby; run `reindexer verify {target}`"
                )
            if live is not None and next_row.watermark < live.watermark:
                raise TargetBehind(
                    f"{target} is at seq {next_row.watermark}, behind {live.name} at "
                    f"{live.watermark}; it has to catch up first"
                )
            for name, row in rows.items():
                if row.state == "standby" and name != target:
                    _set_state(connection, name, "retired", now)
            _set_state(connection, target, "moving", now)  # frees the one-standby slot
            if live is not None:
                _set_state(connection, live.name, "standby", now)
            _set_state(connection, target, "live", now)
            connection.execute(sa.delete(tables.cutover))
            record_event(
                connection,
                kind,
                target,
                {"from": expected_live, **(dict(detail) if detail else {})},
                who,
            )
            reached("cutover.swap")
        reached("cutover.swapped")


def move_watermark(
    connection: sa.Connection, generation: str, watermark: int, *, lease: str, token: int
) -> None:
    """Move a generation's watermark within a transaction that writes.

    Raises LeaseLost unless the lease is still the one with this token (a fence against late
    writers), WrongState when the watermark would go back.
    """
    leases, generations = tables.leases, tables.generations
    # The lock keeps the lease from changing hands until this transaction ends: whoever takes it
    # next reads the watermark that is written here.
    held = connection.execute(
        sa.select(leases.c.token).where(leases.c.name == lease).with_for_update(read=True)
    ).scalar()
    if held != token:
        raise LeaseLost(
            f"the watermark of {generation} was not moved to {watermark}: the lease {lease!r} is "
            "held by another process now, and this one stops. Look at `reindexer status`"
        )
    moved = connection.execute(
        sa.update(generations)
        .where(generations.c.name == generation, generations.c.watermark <= watermark)
        .values(watermark=watermark)
    ).rowcount
    if not moved:
        found = connection.execute(
            sa.select(generations.c.watermark).where(generations.c.name == generation)
        ).scalar()
        raise WrongState(
            f"the watermark of {generation} is {found}; it cannot go back to {watermark}"
        )


def _set_state(connection: sa.Connection, name: str, state: str, now: float) -> None:
    connection.execute(
        sa.update(tables.generations)
        .where(tables.generations.c.name == name)
        .values(state=state, state_at=now)
    )


def _generation(row: Any) -> Generation:
    return Generation(
        name=row.name,
        state=row.state,
        recipe=Recipe.from_json(row.recipe),
        collection=row.collection,
        watermark=row.watermark,
        created_at=row.created_at,
        state_at=row.state_at,
        verified=json.loads(row.verified) if row.verified else None,
    )
