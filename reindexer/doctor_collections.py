"""The doctor's look at the store: engine, alias, generations, every vector, and leftovers."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from reindexer.data_directory import DataDirectory
from reindexer.errors import LeaseHeld, ReindexerError
from reindexer.findings import Finding
from reindexer.prune import plan_prune, prune
from reindexer.running_service import RunningService
from reindexer.sync import repair_alias
from reindexer.terminal import count
from reindexer.verify import verify_stored
from search.dense import DenseCollection
from search.errors import (
    CollectionMissing,
    SearchError,
    SpaceMismatch,
    StoreError,
    StoreLocked,
)
from search.generations import Generation

LOOKED_THROUGH = 250_000  # vectors of a generation that are looked through unless asked for all
DEEP_SAMPLE = 1_000  # documents that are encoded again when asked to look deep
_INTERRUPTED = frozenset({"collection", "leftover files"})  # of what prune drops

OnStep = Callable[[str], None]


def look_at_store(data: DataDirectory, *, deep: bool, on_step: OnStep) -> Iterator[Finding]:
    """deep: look through any number of vectors, and encode a sample again."""
    try:
        version = data.store.version()
        names = set(data.store.names())
    except StoreError as error:
        yield Finding(
            name="store",
            state="problem",
            found=str(error),
            advice="check store.url in `reindexer settings`, and that the server runs in a "
            "version that will do",
        )
        return
    yield Finding(
        name="store",
        state="ok",
        found=f"{data.settings.store_kind} {version}, {count(len(names), 'collection')}",
    )
    yield from _alias(data)
    with contextlib.ExitStack() as stack:
        service: RunningService | None = None
        info: dict[str, Any] = {}
        try:
            service = stack.enter_context(RunningService.found(data))
            info = service.info() if service is not None else {}
        except LeaseHeld as error:  # on another machine
            yield Finding(name="owner", state="ok", found=str(error))
        except ReindexerError as error:
            yield Finding(
                name="service",
                state="problem",
                found=str(error),
                advice="end it, and start it again: `reindexer serve`",
            )
        for generation in data.catalog.all():
            if generation.state in ("retired", "failed"):
                continue
            on_step(generation.name)
            if generation.name in info.get("open", ()):
                assert service is not None
                problem = info["problem"] if generation.name == info["generation"] else None
                yield _open_elsewhere(data, generation, service if deep else None, problem)
            else:
                yield from _generation(data, generation, deep=deep, on_step=on_step)
    yield from _leftovers(data, names)


def _alias(data: DataDirectory) -> Iterator[Finding]:
    live = data.catalog.live()
    alias = data.store.alias() if data.store.shared else None
    if live is None or not data.store.shared or alias == live.collection:
        return
    yield Finding(
        name="alias",
        state="problem",
        found=f"it points at {alias or 'nothing'}, live is {live.name} in {live.collection}",
        advice="search here does not ask it, but others may: run `reindexer doctor --fix`, or "
        "`reindexer sync`",
        fix=_move_alias,
    )


def _move_alias(data: DataDirectory) -> str:
    repair_alias(data)
    return f"the alias points at {data.store.alias()}"


# -- generations ----------------------------------------------------------------------------------


def _open_elsewhere(
    data: DataDirectory,
    generation: Generation,
    service: RunningService | None,
    problem: str | None,
) -> Finding:
    """service: to be asked to look through its own collection. problem: that it tells of itself."""
    name, about = f"generation {generation.name}", _about(data, generation)
    if problem is not None:
        return Finding(
            name=name,
            state="problem",
            found=f"the service that has it open says: {problem}",
            advice="its log says more; start it again (`reindexer serve`), or "
            f"{_rebuild(generation)}",
        )
    if service is None:
        return Finding(
            name=name,
            state="ok",
            found=f"{about}, open in the service; `reindexer doctor --deep` has that look at its "
            "vectors",
        )
    report = service.verify(generation.name)
    failed = [check for check in report["checks"] if not check["passed"]]
    if not failed:
        return Finding(name=name, state="ok", found=f"{about}, looked through by the service")
    found = "; ".join(_in_words(c["name"], c["found"], c["detail"]) for c in failed)
    return Finding(
        name=name,
        state="problem",
        found=found,
        advice=_remedy(generation, {check["name"] for check in failed}),
    )


def _generation(
    data: DataDirectory, generation: Generation, *, deep: bool, on_step: OnStep
) -> Iterator[Finding]:
    name, about = f"generation {generation.name}", _about(data, generation)
    try:
        collection = data.store.open(
            generation.collection, generation.recipe.fingerprint, wait_s=0.0
        )
    except StoreLocked:
        yield Finding(name=name, state="ok", found=f"{about}, open in another process")
        return
    except CollectionMissing as error:
        if generation.state == "building" and not generation.watermark:
            yield Finding(name=name, state="ok", found=f"{about}, nothing written yet")
            return
        yield Finding(name=name, state="problem", found=str(error), advice=_rebuild(generation))
        return
    except SpaceMismatch as error:
        yield Finding(
            name=name,
            state="problem",
            found=f"its collection is of another model than the catalog says: {error}",
            advice=_rebuild(generation),
        )
        return
    except (StoreError, SearchError) as error:
        yield Finding(name=name, state="problem", found=str(error), advice=_rebuild(generation))
        return
    try:
        yield _collection(data, generation, collection, about, deep=deep, on_step=on_step)
    finally:
        collection.close()
    if deep and generation.state in ("live", "standby", "ready"):
        yield _encoded_again(data, generation)


def _collection(
    data: DataDirectory,
    generation: Generation,
    collection: DenseCollection,
    about: str,
    *,
    deep: bool,
    on_step: OnStep,
) -> Finding:
    """Every vector, where there are not too many of them."""
    name, n_vectors = f"generation {generation.name}", collection.count()
    if generation.state not in ("live", "standby", "ready"):
        return Finding(name=name, state="ok", found=f"{about}; its build verifies it")
    if n_vectors > LOOKED_THROUGH and not deep:
        found = f"{about}; its {n_vectors:,} vectors were not looked at"
        return Finding(
            name=name, state="ok", found=found, advice="`reindexer doctor --deep` looks at them"
        )
    checks = verify_stored(
        data.corpus,
        collection,
        generation.recipe,
        watermark=generation.watermark,
        on_progress=lambda n: on_step(f"{generation.name}, vector {n:,} of {n_vectors:,}"),
    )
    failed = [check for check in checks if not check.passed]
    if failed:
        found = "; ".join(_in_words(check.name, check.found, check.detail) for check in failed)
        return Finding(
            name=name,
            state="problem",
            found=f"{about}; {found}",
            advice=_remedy(generation, {check.name for check in failed}),
        )
    lag_docs = data.corpus.lag(generation.watermark)
    if generation.state != "ready" and lag_docs > data.settings.max_lag_docs:
        return Finding(name=name, state="warning", found=about, advice="run `reindexer sync`")
    return Finding(
        name=name, state="ok", found=f"{about}, {n_vectors:,} vectors fit their texts and model"
    )


def _encoded_again(data: DataDirectory, generation: Generation) -> Finding:
    """Only this shows an encoder that has the right fingerprint and computes something else."""
    from reindexer.live import opened_here  # brings torch in
    from reindexer.verify import verify_structure

    name = f"sample of {generation.name}"
    try:
        with opened_here(data, generation.name) as opened:
            checks = verify_structure(
                data.corpus, opened, watermark=opened.generation.watermark, sample=DEEP_SAMPLE
            )
    except (SearchError, OSError) as error:
        return Finding(name=name, state="problem", found=str(error), advice=_rebuild(generation))
    failed = [check for check in checks if not check.passed]
    found = "; ".join(_in_words(check.name, check.found, check.detail) for check in failed)
    sample = next(check.found for check in checks if check.name == "sample")
    return Finding(
        name=name,
        state="problem" if failed else "ok",
        found=found or sample,
        advice=_rebuild(generation) if failed else "",
    )


def _about(data: DataDirectory, generation: Generation) -> str:
    return f"{generation.state}, {count(data.corpus.lag(generation.watermark), 'change')} behind"


def _rebuild(generation: Generation) -> str:
    return f"build it again: `reindexer upgrade {generation.recipe.model} --anew`"


def _remedy(generation: Generation, failed: set[str]) -> str:
    """failed: names of the checks."""
    if failed == {"metadata"} and generation.state == "live":
        return (
            "run `reindexer compact`: it builds the generation again from the vectors that it has, "
            "with the corpus's metadata"
        )
    return _rebuild(generation)


def _in_words(name: str, found: str, detail: str) -> str:
    return f"{name}: {found}" + (f" ({detail})" if detail else "")


# -- leftovers ------------------------------------------------------------------------------------


def _leftovers(data: DataDirectory, names: set[str]) -> Iterator[Finding]:
    """Half-deleted generations, and vectors that no generation owns; on a shared server those may
    be somebody else's."""
    items = [item for item in plan_prune(data).items if item.kind in _INTERRUPTED]
    if items:
        yield Finding(
            name="leftovers",
            state="warning",
            found="; ".join(f"{item.name}: {item.reason}" for item in items),
            advice="`reindexer doctor --fix`, or `reindexer prune`, finishes what was interrupted",
            fix=_finish_pruning,
        )
    pruned = {generation.collection for generation in data.catalog.all({"pruned"})}
    owned = {generation.collection for generation in data.catalog.all()}
    if not data.store.shared and (foreign := sorted(names - owned - pruned)):
        yield Finding(
            name="collections",
            state="warning",
            found=f"{', '.join(foreign)}: belong to no generation of this catalog",
            advice="nothing here reads or drops them. Where nobody needs them: "
            f"`rm -r {shlex.join(str(data.path / 'collections' / name) for name in foreign)}`",
        )


def _finish_pruning(data: DataDirectory) -> str:
    """What an interrupted prune had begun, by prune's own rules, and nothing else."""
    plan = plan_prune(data)
    begun = type(plan)(
        items=tuple(item for item in plan.items if item.kind in _INTERRUPTED), kept=plan.kept
    )
    try:
        dropped = prune(data, begun)
    except LeaseHeld as error:
        return f"nothing yet: {error}"
    return f"dropped {', '.join(item.name for item in dropped) or 'nothing'}"
