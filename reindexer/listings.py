"""Generations and model versions as the verbs and the API list them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reindexer.terminal import count, duration, size, when
from search.errors import GenerationNotFound
from training.errors import TrainingError

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from search.generations import Generation
    from training.registry import ModelVersion


def generations_json(data: DataDirectory) -> list[dict[str, Any]]:
    """Every copy of the corpus that still takes space, oldest first."""
    return [_generation_row(data, generation) for generation in data.catalog.all()]


def generation_json(data: DataDirectory, name: str) -> dict[str, Any]:
    """One generation with its recipe, its last verification, the votes as of now and its build."""
    generation = data.catalog.get(name)
    try:
        build = asdict(data.journal.build_of(name))
    except GenerationNotFound:
        build = None
    return {
        **_generation_row(data, generation),
        "dtype": _dtype(data, generation),
        "recipe": json.loads(generation.recipe.to_json()),
        "verified": generation.verified,
        "votes": votes_json(data, name),
        "build": build,
    }


def generation_facts(generation: Generation, value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One generation for people, line by line. value: as `generation_json` gives it."""
    recipe, build, disk = value["recipe"], value["build"], value["disk_bytes"]
    in_rows = ", rows in 8-bit integers" if value["dtype"] == "int8" else ""
    facts = [
        (generation.name, f"{value['state']} since {when(generation.state_at)}"),
        ("model", f"{recipe['model']}, {recipe['dim']} dimensions"),
        ("fingerprint", recipe["fingerprint"][:16] + in_rows),
        (
            "documents",
            f"{value['documents']:,} at seq {value['watermark']:,}, "
            f"{count(value['lag_docs'], 'change')} behind",
        ),
        ("collection", value["collection"] + (f", {size(disk)}" if disk else "")),
        (
            "passages",
            f"up to {recipe['splitter']['max_tokens']} tokens, "
            f"{recipe['splitter']['overlap_tokens']} shared with the next",
        ),
        ("BM25", recipe["analyzer"]["language"]),
        ("fusion", generation.recipe.fusion.in_words),
    ]
    if build:
        passages = count(build["passages"], "passage")
        facts.append(("build", f"{build['state']}, {passages}, {duration(build['busy_s'])}"))
        if build["reason"] and not generation.verified:
            facts.append(("reason", build["reason"]))
    return facts


def votes_json(data: DataDirectory, name: str) -> list[dict[str, Any]]:
    """What people on the Compare page thought of a generation, counted now: a vote may come long
    after the gate looked."""
    from search.feedback_reports import votes_of, votes_summary  # brings sqlalchemy in

    return votes_of(name, votes_summary(data.database))


def _dtype(data: DataDirectory, generation: Generation) -> str | None:
    """What its rows were computed in, "int8" or "float"; None where the model is gone."""
    try:
        version = data.registry.resolve(generation.recipe.model)
    except TrainingError:
        return None
    return "int8" if version.is_int8(generation.recipe.fingerprint) else "float"


def _generation_row(data: DataDirectory, generation: Generation) -> dict[str, Any]:
    there = generation.collection in data.store.names()
    return {
        "generation": generation.name,
        "state": generation.state,
        "model": generation.recipe.model,
        "collection": generation.collection,
        "watermark": generation.watermark,
        "lag_docs": data.corpus.lag(generation.watermark),
        "documents": data.corpus.count(generation.watermark),
        "disk_bytes": data.store.disk_bytes(generation.collection) if there else 0,
        "created_at": _iso(generation.created_at),
        "state_at": _iso(generation.state_at),
    }


def versions_json(data: DataDirectory) -> list[dict[str, Any]]:
    """Every model version; of a damaged one only its name and what is wrong."""
    used = used_by(data)
    found = [version_json(version, used) for version in data.registry.list()]
    damaged = data.registry.damaged()
    return found + [{"model": name, "problem": text} for name, text in damaged.items()]


def used_by(data: DataDirectory) -> dict[str, list[str]]:
    """Generations by model version."""
    used: dict[str, list[str]] = {}
    for generation in data.catalog.all():
        used.setdefault(generation.recipe.model, []).append(generation.name)
    return used


def version_json(version: ModelVersion, used: dict[str, list[str]]) -> dict[str, Any]:
    """A version in the list of them."""
    return {
        "model": str(version),
        "name": version.name,
        "number": version.number,
        "base": version.base,
        "dim": version.dim,
        "max_tokens": version.max_tokens,
        "pooling": version.pooling,
        "truncate_dim": version.truncate_dim,
        "fingerprint": version.fingerprint,
        "size_bytes": version.size_bytes,
        "created_at": version.created_at,
        "generations": used.get(str(version), []),
    }


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
