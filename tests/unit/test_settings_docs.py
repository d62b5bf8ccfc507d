"""docs/settings.md says what the settings say, and when to change each of them.

`python -m tests.unit.test_settings_docs` writes the page anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from reindexer.settings import Settings, environment_variable

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEAD = """# Settings

Nothing has to be set. `reindexer settings` shows every setting with its value and where that came
from; secrets are masked.

Later ones win: the default, `reindexer.toml` (or `--config FILE`), the environment,
`--set KEY=VALUE`.

```toml
[serve]
port = 9000

[prune]
hold_over_h = 24
```

```sh
REINDEXER_SERVE_PORT=9000 reindexer serve
reindexer serve --set serve.port=9000
```

A name that does not exist, or a value that cannot be, ends a command at once with exit code 2 and
says what was expected. Where a setting is about *new* collections or generations, the next
`reindexer upgrade` brings it about; what exists stays as it was made.

This page is written from the settings themselves by `just docs`; a test compares it.
"""
TITLES: Mapping[str, str] = {
    "data_dir": "Where everything is",
    "database": "Database",
    "store": "Dense collections",
    "encoder": "Encoding",
    "build": "Builds",
    "ray": "Builds on a Ray cluster",
    "lexical": "Lexical index",
    "network": "Where connections may lead",
    "search": "Queries",
    "cutover": "The switch",
    "prune": "What is kept",
    "compact": "Compaction",
    "serve": "The service",
    "worker": "The worker",
    "operate": "Operating over the API",
    "feedback": "Queries, clicks and votes",
    "governor": "A build beside queries",
    "log": "Logs",
    "telemetry": "Traces",
}
# When somebody would change it. One for every setting.
WHEN: Mapping[str, str] = {
    "data_dir": "several installations on one machine; a larger or faster disk",
    "database.url": "more than one machine serves or writes: PostgreSQL, `postgresql://…`",
    "database.pool_size": "PostgreSQL allows fewer connections, or threads wait for one",
    "database.statement_timeout_s": "a statement on a very large corpus takes longer",
    "store.kind": "more than one process serves, or vectors outgrow one machine: `qdrant`",
    "store.url": "`store.kind` is `qdrant`",
    "store.api_key": "the server asks for one; give it by the environment",
    "store.prefix": "others use the same Qdrant server, or a drill must not touch what is live",
    "store.grpc": "a firewall lets only REST through: `off`; REST has another port than 6333: `on`",
    "store.grpc_port": "the server listens elsewhere",
    "store.patience_s": "the server's restarts take longer than this",
    "store.shards": "one shard of a collection outgrows a node's memory",
    "store.replicas": "a node may be lost without an outage: 2 or 3",
    "store.write_consistency": "a write must outlive more nodes than half of them",
    "store.on_disk_vectors": "memory is short and queries may take longer",
    "store.oversampling": "the gate finds too little recall with quantized vectors: more",
    "store.quantization": "live and standby do not fit memory; see [scale](scale.md)",
    "encoder.device": "the one that was found is not the one that is meant",
    "encoder.dtype": "vectors have to be the same on different processors: `fp32`",
    "encoder.max_batch_tokens": "a GPU is used by others too: less",
    "encoder.api_key": "a remote model asks for one; give it by the environment",
    "encoder.url": "a remote model moved to another address",
    "encoder.timeout_s": "a remote model is slow to wake up: more",
    "encoder.concurrency": "a remote model has limits: fewer; it idles during a build: more",
    "build.window": "a kill should cost less: fewer; a GPU waits: more",
    "build.fanout": "`ray` where there is a cluster; `none` to keep a build in one process",
    "build.chunk_docs": "losing an actor should cost less",
    "build.processes": "a GPU waits for tokenizing: 2 to 4 for each",
    "ray.address": "the cluster is elsewhere",
    "ray.actors": "the build should leave room for others",
    "ray.gpus_per_actor": "actors encode on GPUs: 1, or a half where a model leaves one idle",
    "ray.cpus_per_actor": "tokenizing is what takes the time",
    "build.hnsw_m": "the gate finds too little recall: 24 or 32; takes memory",
    "build.hnsw_ef_construct": "the gate finds too little recall; takes time in builds",
    "lexical.kind": "the lexical index outgrows a serving process's memory",
    "lexical.language": "documents are in another language",
    "lexical.publish_url": "several search nodes should not each build the index from the corpus",
    "network.allowed_hosts": "others say what to ingest or to pull; see [security](security.md)",
    "search.max_lag_docs": "`reindexer search` without a service should answer at once: 0",
    "search.p99_target_ms": "queries must stay quicker during builds, or need not",
    "cutover.timeout_s": "a large model takes longer to load",
    "prune.hold_over_h": "space is short: less; a way back is wanted for longer: more",
    "compact.below": "edits are many and a rebuild is cheap: higher",
    "serve.host": "other machines ask: `0.0.0.0`, with [keys](access.md)",
    "serve.port": "the port is taken; 0 for tests",
    "serve.sync_interval_s": "writes need not be found at once: longer spares the database",
    "serve.worker": "workers run beside it: `false`",
    "serve.max_query_chars": "queries are short and you want to refuse others",
    "serve.max_k": "clients should not fetch the corpus page by page",
    "serve.max_batch": "batches take too long beside single queries",
    "serve.max_body_bytes": "a document is larger than this",
    "serve.max_concurrent": "429 while processors idle: more; queries pile up: fewer",
    "serve.deadline_s": "callers give up earlier than this",
    "serve.drain_s": "requests under way take longer; keep it below what ends the process for good",
    "serve.drain_notice_s": "a load balancer is in front: the time it takes to look twice",
    "serve.cors_origins": "a page of another origin calls the API in the browser",
    "serve.require_keys": "several people use the machine, or a proxy forwards from elsewhere",
    "serve.allowed_hosts": "a proxy in front of a loopback address sends its own name",
    "serve.rate_limit": "one caller must not take it all",
    "serve.metrics_open": "Prometheus cannot send a key and only it can reach the address",
    "worker.drain_s": "windows take longer than this to encode",
    "worker.resume_after_s": "processes stand still for longer without being dead",
    "operate.evaluation_dir": "builds that are started over the API are to be evaluated",
    "feedback.enabled": "you want to learn from clicks, and may keep queries",
    "feedback.sample": "there are more queries than you need",
    "feedback.query": "queries are personal data: `hash` or `drop`",
    "feedback.who": "one caller's queries are to be told from another's",
    "feedback.retention_days": "your rules say otherwise",
    "governor.enabled": "nobody asks meanwhile, such as at night",
    "governor.min_pace": "builds must end by a time: higher; queries come first: lower",
    "log.format": "a collector reads the terminal's format, or the other way about",
    "log.level": "something is to be found out: `debug`",
    "log.access": "there is no proxy in front that logs requests",
    "telemetry.traces": "there is an OpenTelemetry collector",
}
_TYPES: Mapping[type, str] = {str: "text", int: "whole number", float: "number", Path: "path"}


def _settings() -> list[Field[Any]]:
    return [item for item in fields(Settings) if item.metadata]


def page() -> str:
    """docs/settings.md, from the settings."""
    parts = [HEAD]
    hints = get_type_hints(Settings)
    in_order = sorted(_settings(), key=lambda item: list(TITLES).index(_section(item)))
    for section, items in groupby(in_order, _section):
        parts += [f"## {TITLES[section]}\n"]
        for item in items:
            parts += [_entry(item, hints[item.name])]
    return "\n".join(parts)


def _section(item: Field[Any]) -> str:
    return str(item.metadata["key"]).partition(".")[0]


def _entry(item: Field[Any], hint: Any) -> str:
    key, default = item.metadata["key"], item.default
    shown = "none" if default is None else f"`{_toml(default)}`" if default != "" else "empty"
    lines = [
        f"### `{key}`\n",
        f"{item.metadata['doc'][0].upper()}{item.metadata['doc'][1:]}.\n",
        f"- `{environment_variable(key)}`, {_values(item, hint)}; default: {shown}",
        f"- Change it when: {WHEN[key]}.",
    ]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(item: Field[Any], hint: Any) -> str:
    if item.metadata["secret"]:
        return "secret"
    kind = next((option for option in get_args(hint) if option is not type(None)), hint)
    if get_origin(hint) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(hint))
    if kind is bool:
        return "`true` or `false`"
    low, high = item.metadata["low"], item.metadata["high"]
    bounds = {
        (False, False): "",
        (True, False): f", {low:,} or more" if low is not None else "",
        (False, True): f", at most {high:,}" if high is not None else "",
        (True, True): f", {low:,} to {high:,}" if low is not None and high is not None else "",
    }
    return _TYPES[kind] + bounds[low is not None, high is not None]


@pytest.mark.parametrize("item", _settings(), ids=lambda item: item.metadata["key"])
def test_every_setting_says_when_to_change_it(item: Field[Any]) -> None:
    assert item.metadata["key"] in WHEN, "say so in WHEN, then run `just docs`"
    assert _section(item) in TITLES, "give its section a title in TITLES, then run `just docs`"


def test_nothing_is_told_of_settings_that_are_gone() -> None:
    assert set(WHEN) == {item.metadata["key"] for item in _settings()}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `just docs`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
