"""What an upgrade will do, cost and take, measured on a sample. Changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reindexer.build_process import Evaluation
from reindexer.data_directory import DataDirectory
from reindexer.headroom import HEADROOM, disk_bytes
from reindexer.journal import BUILD_LEASE
from reindexer.recipes import recipe_for, same_recipe
from reindexer.terminal import size
from reindexer.vector_copy import copy_source
from search.documents import Document
from search.generations import UNFINISHED, Generation
from training.errors import ModelNotFound
from training.registry import ModelRegistry, ModelVersion

if TYPE_CHECKING:
    from search.recipe import Recipe
    from training.version_encoder import VersionEncoder

Strategy = Literal["encode", "copy", "none"]

SAMPLE_DOCUMENTS = 512
SAMPLE_PLACES = 16  # in the log; the sample is cut from so many stretches of it
FIRST_DOCUMENTS = 16  # encoded to warm up and to see how many more can be afforded
ENCODE_S = 4.0  # time for the measured part
INDEX_S_PER_PASSAGE = 0.0008  # HNSW with m=16, 384 dimensions, one core; measured
COPY_S_PER_PASSAGE = 0.0002  # 384 dimensions, one core; 0.00012 was measured, without the HNSW step
_SEED = 20_080_729


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An upgrade that has not begun."""

    model: str  # a version, as `upgrade` would register it where `registered` is false
    registered: bool
    live_generation: str | None
    documents: int
    passages: int  # estimated from the sample, as are the figures below
    tokens: int
    strategy: Strategy
    docs_per_s: float
    estimated_s: float
    disk_bytes: int
    free_disk_bytes: int
    memory_bytes: int
    dim: int
    device: str
    dtype: str
    sample_documents: int
    copies_from: str | None  # the generation whose vectors are taken, strategy copy
    takes_up: str | None  # the unfinished, ready or standby generation that it goes on with
    documents_left: int
    warnings: tuple[str, ...]

    @property
    def from_nothing_s(self) -> float:
        """Of a build of the whole corpus, whatever is there already."""
        if not self.documents or not self.docs_per_s:
            return 0.0
        return self.documents / self.docs_per_s + _index_s(self.passages, self.dim)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": list(self.warnings)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """What the sample showed."""

    documents: int
    passages_per_doc: float
    tokens_per_doc: float
    docs_per_s: float


def plan_upgrade(
    data: DataDirectory,
    model: str,
    *,
    evaluation: Evaluation | None = None,
    anew: bool = False,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Plan:
    """Measure a sample of the corpus with the real encoder and say what the upgrade comes to.

    A model that is not registered is looked at in a temporary place. anew: as in `upgrade`.
    Raises ModelNotFound, ModelDamaged, ModelUnsafe, ModelUnsupported, EncodingFailed.
    """
    on_step(f"looking at {model}")
    with _version(data, model) as (version, registry, registered):
        recipe = recipe_for(data, version)
        live = data.catalog.live()
        documents = data.corpus.count()
        there = None if anew else _there_already(data, recipe)
        is_live = not anew and live is not None and same_recipe(live.recipe, recipe)
        is_done = is_live or (there is not None and there.state == "standby")
        left = 0 if is_done else data.corpus.lag(there.watermark) if there else documents
        is_begun = there is not None and there.watermark > 0
        is_new = not (anew or is_done or is_begun)
        source = copy_source(data, recipe, version) if is_new else None
        on_step(f"loading {model}")
        encoder = _load(data, registry, version)
        on_step("encoding a sample")
        sample = _sample(data)
        measured = _measure(encoder, recipe, sample)
        passages = round(measured.passages_per_doc * documents)
        needed_bytes = 0 if is_done else disk_bytes(passages, recipe)
        plan = Plan(
            model=str(version if registered else _as_registered(data, version)),
            registered=registered,
            live_generation=live.name if live is not None else None,
            documents=documents,
            passages=passages,
            tokens=round(measured.tokens_per_doc * documents),
            strategy="none" if is_done else "encode" if source is None else "copy",
            docs_per_s=round(measured.docs_per_s, 1),
            estimated_s=round(
                _estimated_s(measured, left, passages, recipe.dim)
                if source is None
                else _copied_s(data, source, measured, passages, recipe.dim),
                1,
            ),
            disk_bytes=needed_bytes,
            free_disk_bytes=data.free_disk_bytes(),
            memory_bytes=_peak_memory_bytes() + passages * recipe.dim * 4,
            dim=recipe.dim,
            device=encoder.device,
            dtype=encoder.dtype,
            sample_documents=measured.documents,
            copies_from=source.name if source is not None else None,
            takes_up=there.name if there is not None and not is_live else None,
            documents_left=left,
            warnings=(),
        )
    return _with_warnings(data, plan, live, evaluation)


@contextlib.contextmanager
def _version(data: DataDirectory, model: str) -> Iterator[tuple[ModelVersion, ModelRegistry, bool]]:
    """The model version, the registry it is in, and whether that is the real one."""
    try:
        yield data.registry.resolve(model), data.registry, True
        return
    except ModelNotFound:
        if "@" in model:
            raise
    with _own_folder(data) as folder:
        registry = ModelRegistry(folder)
        version = registry.register(model, remote=data.remote_access())
        # The same weights may be registered under this name already.
        for known in data.registry.list():
            if known.name == version.name and known.fingerprint == version.fingerprint:
                yield known, data.registry, True
                return
        yield version, registry, False


def _as_registered(data: DataDirectory, version: ModelVersion) -> ModelVersion:
    """A version that was looked at in a temporary place, as `upgrade` would name it."""
    return replace(version, number=data.registry.next_number(version.name))


@contextlib.contextmanager
def _own_folder(data: DataDirectory) -> Iterator[Path]:
    """A folder on the data directory's disk that is gone afterwards. Its lock says that it is in
    use, so that `prune` drops only what a killed process left."""
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=data.path) as folder:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield Path(folder).absolute()
        finally:
            os.close(handle)


def _load(data: DataDirectory, registry: ModelRegistry, version: ModelVersion) -> VersionEncoder:
    from training.encoder_opening import open_encoder

    return open_encoder(registry.resolve(str(version)), **data.encoder_options())


def _there_already(data: DataDirectory, recipe: Recipe) -> Generation | None:
    """The generation that `upgrade` would go on with."""
    standby = data.catalog.standby()
    found = data.catalog.all(UNFINISHED | {"ready"}) + ([standby] if standby is not None else [])
    return next((item for item in reversed(found) if same_recipe(item.recipe, recipe)), None)


def _sample(data: DataDirectory) -> list[Document]:
    """Documents from random places of the log, in random order."""
    head, rng = data.corpus.head(), random.Random(_SEED)
    places = sorted({rng.randrange(max(1, head)) for _ in range(SAMPLE_PLACES)} | {0})
    found: dict[str, Document] = {}
    for place in places:
        for change in data.corpus.changes(place, SAMPLE_DOCUMENTS // SAMPLE_PLACES):
            if change.document is not None:
                found[change.doc_id] = change.document
    documents = list(found.values())
    rng.shuffle(documents)
    return documents[:SAMPLE_DOCUMENTS]


def _measure(encoder: VersionEncoder, recipe: Recipe, sample: Sequence[Document]) -> _Measured:
    from search.splitter import Splitter

    if not sample:
        return _Measured(documents=0, passages_per_doc=0.0, tokens_per_doc=0.0, docs_per_s=0.0)
    began = time.perf_counter()
    splitter = Splitter(recipe.splitter, encoder)
    texts = [[passage.text for passage in splitter.split(document)] for document in sample]
    n_passages = sum(map(len, texts))
    tokenized = encoder.tokenize_documents([text for some in texts for text in some])
    tokens = int(tokenized.lengths.sum())
    prepared_per_s = len(sample) / (time.perf_counter() - began)

    first, rest = texts[:FIRST_DOCUMENTS], texts[FIRST_DOCUMENTS:]
    first_s = _encode_s(encoder, first)
    first_s = min(first_s, _encode_s(encoder, first[: max(1, len(first) // 2)]) * 2)
    affordable = int(ENCODE_S / max(first_s, 1e-3) * len(first))
    chosen = rest[: max(affordable, 0)]
    if len(chosen) > len(first):
        docs_per_s = len(chosen) / _encode_s(encoder, chosen)
    else:
        docs_per_s = len(first) / first_s
    return _Measured(
        documents=len(sample),
        passages_per_doc=n_passages / len(sample),
        tokens_per_doc=tokens / len(sample),
        docs_per_s=min(docs_per_s, prepared_per_s),  # a build does both side by side
    )


def _encode_s(encoder: VersionEncoder, texts: Sequence[Sequence[str]]) -> float:
    began = time.perf_counter()
    encoder.encode_documents([text for some in texts for text in some])
    return time.perf_counter() - began


def _estimated_s(measured: _Measured, documents_left: int, passages: int, dim: int) -> float:
    """Encoding and then the HNSW index over everything."""
    if not documents_left or not measured.docs_per_s:
        return 0.0
    return documents_left / measured.docs_per_s + _index_s(passages, dim)


def _copied_s(
    data: DataDirectory, source: Generation, measured: _Measured, passages: int, dim: int
) -> float:
    """Copying, encoding what the source has not seen, and then the HNSW index over everything."""
    behind = data.corpus.lag(source.watermark)
    behind_s = behind / measured.docs_per_s if measured.docs_per_s else 0.0
    return passages * COPY_S_PER_PASSAGE * max(dim, 64) / 384 + behind_s + _index_s(passages, dim)


def _index_s(passages: int, dim: int) -> float:
    return passages * INDEX_S_PER_PASSAGE * max(dim, 64) / 384


def _peak_memory_bytes() -> int:
    """Of this process, which has loaded and used the model by now."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _with_warnings(
    data: DataDirectory, plan: Plan, live: Generation | None, evaluation: Evaluation | None
) -> Plan:
    warnings = []
    if not plan.documents:
        warnings.append("the corpus is empty; bring documents in first: reindexer ingest SOURCE")
    if HEADROOM * plan.disk_bytes > plan.free_disk_bytes and not data.store.shared:
        warnings.append(
            f"the new generation takes about {size(plan.disk_bytes)}, {HEADROOM:g} times that "
            f"while it is built, and {size(plan.free_disk_bytes)} are free; the build would be "
            "refused"
        )
    if live is not None and (lag_docs := data.corpus.lag(live.watermark)):
        warnings.append(f"{live.name} is {lag_docs:,} changes behind; run reindexer sync")
    if (holder := data.journal.holder(BUILD_LEASE)) is not None:
        warnings.append(f"another build is running now ({holder}); this one would be refused")
    if plan.strategy != "none":
        if live is not None and evaluation is None:
            warnings.append(
                "no --eval DIR: the gate checks that the copy is whole, not that it is better"
            )
            if live.recipe.fusion.fitted is not None:
                warnings.append(
                    f"the fusion of {live.name} was fitted and fits no other model: the new "
                    "generation begins with plain rank fusion. Give --eval DIR, or run "
                    "`reindexer tune DIR` afterwards"
                )
        standby = data.catalog.standby()
        if standby is not None:
            warnings.append(
                f"the cut-over retires {standby.name}; the way back is to {plan.live_generation}"
            )
    return replace(plan, warnings=tuple(warnings))


def describe(plan: Plan) -> Mapping[str, str]:
    """The steps of the upgrade in words, by name."""
    if plan.strategy == "none":
        if plan.takes_up is None:
            return {"nothing to do": f"{plan.live_generation} was made with {plan.model} already"}
        return {"cut over": f"to the standby {plan.takes_up}, which was made with {plan.model}"}
    work = "all" if plan.documents_left == plan.documents else f"{plan.documents_left:,} of"
    build = (
        f"copy the vectors of {plan.copies_from} and encode nothing that they hold already"
        if plan.copies_from is not None
        else f"encode {work} {plan.documents:,} documents"
    )
    steps = {
        "build": build + (f", going on with {plan.takes_up}" if plan.takes_up else ""),
        "verify": "compare the copy with the corpus",
        "cut over": f"from {plan.live_generation}; it becomes the standby"
        if plan.live_generation
        else "the first generation goes live",
    }
    return steps
