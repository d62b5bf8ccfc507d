"""The model card of a version trained here: the README.md beside its weights.

The head is the metadata block of the Hugging Face hub
(https://huggingface.co/docs/hub/model-cards#model-card-metadata), so that a pushed version is found
and shown there as what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from training.model_sources import hub_id
from training.model_version import ModelVersion

CARD = "README.md"

_TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "reindexer")


def render(version: ModelVersion) -> str:
    """The whole card, metadata block first. Says only what the version itself tells: what is not
    in its lineage and metrics is left out."""
    parts = [
        _head(version),
        f"# {version}",
        _introduction(version),
        "## Intended use",
        _intended_use(version),
        *_section("Training data", _training_data(version)),
        *_section("Evaluation", _evaluation(version)),
        "## How to load it",
        _how_to_load(version),
        *_section("How it was made", _how_it_was_made(version)),
    ]
    return "\n\n".join(parts) + "\n"


def read(version: ModelVersion) -> str:
    """The card beside the weights; one from the manifest where there is none."""
    try:
        return (version.path / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return render(version)


def without_head(card: str) -> str:
    """A card as people read it, without the metadata block."""
    lines = card.splitlines()
    if lines and lines[0] == "---" and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1 :]
    return "\n".join(lines).strip()


def _head(version: ModelVersion) -> str:
    """YAML; every text in quotes, as JSON writes them."""
    lines = ["---", "library_name: sentence-transformers", "pipeline_tag: sentence-similarity"]
    bases = (version.lineage.get(key) for key in ("base", "base_from"))
    base = next((found for text in bases if text and (found := hub_id(str(text)))), None)
    base = base or hub_id(version.base)
    if base is not None:
        lines.append(f"base_model: {json.dumps(base)}")
    lines += ["tags:", *(f"- {tag}" for tag in _TAGS)]
    if names := _metric_names(version):
        lines += ["metrics:", *(f"- {json.dumps(f'cosine_{name}')}" for name in names)]
    return "\n".join([*lines, "---"])


def _introduction(version: ModelVersion) -> str:
    base = version.lineage.get("base", version.base)
    made = "trained from" if version.lineage else "registered from"
    text = (
        f"A sentence-transformers model, {made} `{base}`: queries and passages become vectors of "
        f"{version.dim:,} dimensions, compared by cosine."
    )
    if version.truncate_dim is not None:
        text += " They are the first dimensions of longer ones (Matryoshka), normalised again."
    return f"{text} Fingerprint `{version.fingerprint}`, {version.created_at}."


def _intended_use(version: ModelVersion) -> str:
    lines = ["Ranking passages for a search query, by itself or beside BM25."]
    if version.lineage:
        lines += [
            "It was tuned to the queries and documents of one domain; elsewhere it can be worse "
            "than the model it was trained from, so measure it there first."
        ]
    lines += [
        f"Texts of more than {version.max_tokens:,} tokens are cut; split them before.",
        "Compare its vectors only with vectors of the same fingerprint: those of another version "
        "look alike, and rank at random.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _training_data(version: ModelVersion) -> str:
    lineage = version.lineage
    pairs = lineage.get("pairs")
    facts = [
        ("pairs", f"{pairs:,}" if isinstance(pairs, int) else pairs),
        ("SHA-256 of the pairs", _code(lineage.get("pairs_sha256"))),
        *((str(name), _plain(value)) for name, value in _mapping(lineage.get("data")).items()),
    ]
    return _facts(facts)


def _evaluation(version: ModelVersion) -> str:
    base, tuned = (_mapping(version.metrics.get(side)) for side in ("base", "tuned"))
    differences = _mapping(version.metrics.get("difference"))
    rows = [
        (
            name,
            _number(base.get(name)),
            _number(tuned.get(name)),
            _difference(differences.get(name)),
        )
        for name in _metric_names(version)
    ]
    parts = []
    if rows:
        parts.append(_table(("metric", "base", "tuned", "difference, 95 % interval"), rows))
    if gate := version.lineage.get("gate"):
        reason = version.lineage.get("gate_reason")
        parts.append(f"The gate: **{gate}**" + (f" ({reason})." if reason else "."))
    return "\n\n".join(parts)


def _how_to_load(version: ModelVersion) -> str:
    options = ["PATH"]
    if version.truncate_dim is not None:
        options.append(f"truncate_dim={version.truncate_dim}")
    if version.trust_remote_code:
        options.append("trust_remote_code=True")
    lines = [
        "from sentence_transformers import SentenceTransformer",
        "",
        'PATH = "."  # this folder, or the repository it was pushed to',
        f"model = SentenceTransformer({', '.join(options)})",
    ]
    if not version.is_static:
        lines.append(f"model.max_seq_length = {version.max_tokens}")
    lines += [
        "queries = model.encode(",
        f'    ["a query"], prompt={version.query_prompt!r}, normalize_embeddings=True',
        ")",
        "passages = model.encode(",
        f'    ["a passage"], prompt={version.document_prompt!r}, normalize_embeddings=True',
        ")",
        "scores = queries @ passages.T  # cosine",
    ]
    return "\n".join(["```python", *lines, "```"])


def _how_it_was_made(version: ModelVersion) -> str:
    lineage = version.lineage
    command = lineage.get("command")
    parts = []
    if command:
        command = " ".join(map(str, command)) if isinstance(command, list | tuple) else command
        parts.append(f"```sh\n{command}\n```")
    facts = [
        ("base", lineage.get("base")),
        ("fingerprint of the base", _code(lineage.get("base_fingerprint"))),
        ("code version", lineage.get("code_version")),
        ("seed", lineage.get("seed")),
        *((str(name), _plain(value)) for name, value in _mapping(lineage.get("settings")).items()),
    ]
    if listed := _facts(facts):
        parts.append(listed)
    return "\n\n".join(parts)


def _metric_names(version: ModelVersion) -> list[str]:
    tuned = _mapping(version.metrics.get("tuned"))
    return [name for name, value in tuned.items() if isinstance(value, int | float)]


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", text] if text else []


def _facts(facts: Sequence[tuple[str, Any]]) -> str:
    return "\n".join(
        f"- {name.replace('_', ' ')}: {value}" for name, value in facts if value not in (None, "")
    )


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] + ["---:"] * (len(headers) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _difference(value: object) -> str:
    found = _mapping(value)
    if not found:
        return _number(value, "+.3f")
    low, high = _number(found.get("low"), "+.3f"), _number(found.get("high"), "+.3f")
    return f"{_number(found.get('mean'), '+.3f')} [{low}, {high}]"


def _number(value: object, form: str = ".3f") -> str:
    return format(value, form) if isinstance(value, int | float) else "-"


def _plain(value: object) -> str | None:
    if value is None or value in ("", [], (), {}):
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)


def _code(value: object) -> str | None:
    return f"`{value}`" if value else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
