"""Settings: read once at the edges from flags, environment variables and one TOML file.

Later sources win in this order: default, `reindexer.toml`, environment, flag.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from reindexer.errors import ReindexerError
from search.masking import mask_keys
from training.errors import HostRefused
from training.model_version import EncoderDtype
from training.outgoing import AllowedHosts

DEFAULT_DATA_DIR = Path(".reindexer")
DEFAULT_CONFIG = Path("reindexer.toml")
_PASSWORD = re.compile(r"(://[^/?#:@]*:)[^/?#]*@")  # scheme://user:PASSWORD@host
_SECRET_OPTION = re.compile(r"([?&][^=&]*(?:password|key|token|secret)[^=&]*=)[^&#]*", re.I)


class SettingsInvalid(ReindexerError):
    """A setting has an unknown name or an unusable value."""


def _setting(
    key: str,
    default: Any,
    doc: str,
    *,
    secret: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    metadata = {"key": key, "doc": doc, "secret": secret, "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Every setting, with its TOML key; the environment variable is REINDEXER_ + the key in
    capitals with `_` for the dot."""

    data_dir: Path = _setting(  # noqa: RUF009 - makes a field, not a default value
        "data_dir", DEFAULT_DATA_DIR, "where everything embedded is kept"
    )
    database_url: str | None = _setting(
        "database.url", None, "SQLAlchemy URL; SQLite in the data directory unless given"
    )
    database_pool_size: int = _setting(
        "database.pool_size",
        5,
        "connections to PostgreSQL that a process keeps; 10 more while they are needed",
        low=1,
    )
    database_statement_timeout_s: float = _setting(
        "database.statement_timeout_s",
        300.0,
        "longest time that PostgreSQL may take for one statement; 0 for no limit",
        low=0,
    )
    store_kind: Literal["edge", "qdrant"] = _setting(
        "store.kind", "edge", "dense collections: embedded, or a Qdrant server"
    )
    store_url: str | None = _setting("store.url", None, "URL of the Qdrant server")
    store_api_key: str | None = _setting(
        "store.api_key", None, "API key of the Qdrant server", secret=True
    )
    store_prefix: str = _setting(
        "store.prefix", "", "put before collection names, so that a server can be shared"
    )
    store_grpc: Literal["auto", "on", "off"] = _setting(
        "store.grpc", "auto", "talk gRPC, which is quicker; auto: when the REST port is 6333"
    )
    store_grpc_port: int = _setting(
        "store.grpc_port", 6334, "gRPC port of the Qdrant server", low=1, high=65_535
    )
    store_patience_s: float = _setting(
        "store.patience_s",
        600.0,
        "how long a build waits for a server that does not answer before it stops",
        low=0,
    )
    store_shards: int | None = _setting(
        "store.shards", None, "shards of a new collection; one a node unless given", low=1
    )
    store_replicas: int = _setting(
        "store.replicas", 1, "copies of each shard of a new collection", low=1
    )
    store_write_consistency: int | None = _setting(
        "store.write_consistency",
        None,
        "copies that a write waits for; more than half of them unless given",
        low=1,
    )
    store_on_disk_vectors: bool = _setting(
        "store.on_disk_vectors", False, "new collections leave full vectors and graph on disk"
    )
    store_oversampling: float = _setting(
        "store.oversampling",
        2.0,
        "quantized candidates compared again with the full vectors, for each hit",
        low=1.0,
    )
    quantization: Literal["none", "int8", "product", "binary"] = _setting(
        "store.quantization", "none", "how new collections keep the vectors they search first"
    )
    device: str = _setting("encoder.device", "auto", "auto, cpu, cuda, cuda:1 or mps")
    dtype: Literal["auto", EncoderDtype] = _setting(
        "encoder.dtype",
        "auto",
        "number format while encoding; auto measures once, and never takes int8 (CPU, extra onnx)",
    )
    max_batch_tokens: int | None = _setting(
        "encoder.max_batch_tokens", None, "padded tokens in one batch; auto unless given", low=1
    )
    encoder_api_key: str | None = _setting(
        "encoder.api_key", None, "API key of remote models; never stored with one", secret=True
    )
    encoder_url: str | None = _setting(
        "encoder.url", None, "ask remote models here, instead of where they were registered"
    )
    encoder_timeout_s: float = _setting(
        "encoder.timeout_s", 60.0, "how long one request to a remote model may take", low=0.1
    )
    encoder_concurrency: int = _setting(
        "encoder.concurrency", 4, "requests to a remote model at once", low=1, high=256
    )
    window: int | None = _setting(
        "build.window",
        None,
        "documents encoded and not yet acknowledged, and lost by a kill; 1,024 on a CPU and 32,768 "
        "on a GPU unless given",
        low=1,
    )
    fanout: Literal["auto", "none", "processes", "ray"] = _setting(
        "build.fanout",
        "auto",
        "who encodes a build: this process, child processes, or actors on a Ray cluster; auto is "
        "processes where there are several GPUs",
    )
    chunk_docs: int = _setting(
        "build.chunk_docs",
        4096,
        "changes in one chunk of a build that is fanned out; what a lost actor costs",
        low=1,
    )
    processes: int = _setting(
        "build.processes", 0, "child processes that encode; 0 is one for each GPU", low=0
    )
    ray_address: str | None = _setting(
        "ray.address", None, "of the Ray cluster; one on this machine is started unless given"
    )
    ray_actors: int = _setting(
        "ray.actors", 0, "actors that encode; 0 is as many as the cluster has room for", low=0
    )
    ray_gpus_per_actor: float = _setting(
        "ray.gpus_per_actor", 0.0, "GPUs, or the share of one, that an actor gets", low=0
    )
    ray_cpus_per_actor: float = _setting(
        "ray.cpus_per_actor", 1.0, "cores that an actor gets", low=0
    )
    hnsw_m: int = _setting("build.hnsw_m", 16, "edges per node of the HNSW graph", low=2)
    hnsw_ef_construct: int = _setting(
        "build.hnsw_ef_construct", 128, "candidates considered while building the graph", low=4
    )
    language: str = _setting(
        "lexical.language", "english", "Snowball stemmer and stop words; none for neither"
    )
    lexical_kind: Literal["bm25s", "qdrant"] = _setting(
        "lexical.kind",
        "bm25s",
        "BM25 of new generations: an index in each process, or sparse vectors on the Qdrant server",
    )
    lexical_publish_url: str | None = _setting(
        "lexical.publish_url",
        None,
        "folder or fsspec URL that the replaying process leaves the lexical index at after each "
        "compaction, and other search nodes start from",
    )
    network_allowed_hosts: str = _setting(
        "network.allowed_hosts",
        "",
        "hosts that sources, models and endpoints may lead to, with commas between: names, "
        "*.example.org, 10.0.0.5:8080, or s3://bucket where there is no host; any unless given",
    )
    max_lag_docs: int = _setting(
        "search.max_lag_docs",
        256,
        "a search without a service brings in up to so many new changes",
        low=0,
    )
    cut_over_timeout_s: float = _setting(
        "cutover.timeout_s", 60.0, "how long every serving process may take to prepare", low=0.1
    )
    hold_over_h: float = _setting(
        "prune.hold_over_h",
        168.0,
        "how long the standby generation is kept fit for rollback",
        low=0,
    )
    host: str = _setting("serve.host", "127.0.0.1", "address the service listens on")
    port: int = _setting(
        "serve.port", 8321, "port the service listens on; 0 picks a free one", low=0, high=65_535
    )
    sync_interval_s: float = _setting(
        "serve.sync_interval_s", 0.2, "how often the service looks for changes", low=0.01
    )
    run_worker: bool = _setting(
        "serve.worker", True, "whether the service does scheduled and queued work itself"
    )
    drain_s: float = _setting(
        "worker.drain_s",
        20.0,
        "how long a worker that ends waits for its build to pause at a checkpoint",
        low=0,
    )
    resume_after_s: float = _setting(
        "worker.resume_after_s",
        10.0,
        "how long a build stands still, its process gone, until a worker goes on with it",
        low=0,
    )
    evaluation_dir: str | None = _setting(
        "operate.evaluation_dir",
        None,
        "folder with the folders of judged queries that a build over the API may name",
    )
    compact_below: float = _setting(
        "compact.below",
        0.8,
        "share of the live passages in the ANN index under which the live generation is compacted",
        low=0,
        high=1,
    )
    max_query_chars: int = _setting(
        "serve.max_query_chars", 10_000, "longest query, in characters", low=1, high=10_000
    )
    max_k: int = _setting("serve.max_k", 1_000, "most hits of one query", low=1, high=1_000)
    max_batch: int = _setting(
        "serve.max_batch", 1_000, "most queries or documents in one request", low=1, high=10_000
    )
    max_body_bytes: int = _setting(
        "serve.max_body_bytes",
        16_000_000,
        "largest body of a request, and longest line where documents are streamed",
        low=1_000,
    )
    max_concurrent: int = _setting(
        "serve.max_concurrent",
        64,
        "requests under way in one process; one more is refused at once with 429",
        low=1,
    )
    deadline_s: float = _setting(
        "serve.deadline_s", 30.0, "longest time that one request may take", low=0.05
    )
    serve_drain_s: float = _setting(
        "serve.drain_s", 10.0, "how long a stopping service waits for requests under way", low=0
    )
    drain_notice_s: float = _setting(
        "serve.drain_notice_s",
        0.0,
        "how long a stopping service goes on as before while /readyz says that it stops, so that "
        "a load balancer can notice",
        low=0,
    )
    cors_origins: str = _setting(
        "serve.cors_origins",
        "",
        "origins, with commas between, whose pages a browser lets use the API; none unless given",
    )
    require_keys: bool = _setting(
        "serve.require_keys",
        False,
        "ask for an API key on a loopback address too; on any other address keys are always asked "
        "for, unless --insecure is given",
    )
    allowed_hosts: str = _setting(
        "serve.allowed_hosts",
        "",
        "names, with commas between, that requests to a loopback address may carry as Host, such "
        "as that of a proxy in front; localhost always may",
    )
    rate_limit: str | None = _setting(
        "serve.rate_limit",
        None,
        "requests of one API key that has no rate of its own, or of one address when no keys are "
        "asked for on a public one, such as 600/minute",
    )
    feedback_enabled: bool = _setting(
        "feedback.enabled",
        False,
        "keep a log of queries, with the clicks and judgments that are sent for them",
    )
    feedback_sample: float = _setting(
        "feedback.sample", 1.0, "share of the queries that is logged, 0 to 1", low=0, high=1
    )
    feedback_query: Literal["text", "hash", "drop"] = _setting(
        "feedback.query",
        "text",
        "what is logged of a query: its text, which training pairs need, only a keyed hash, or "
        "neither",
    )
    feedback_who: Literal["hash", "drop"] = _setting(
        "feedback.who", "drop", "what is logged of who asked: a keyed hash, or nothing"
    )
    feedback_retention_days: float = _setting(
        "feedback.retention_days",
        90.0,
        "how long logged queries, clicks, judgments and votes are kept",
        low=0,
    )
    p99_target_ms: float = _setting(
        "search.p99_target_ms",
        50.0,
        "what 99 of 100 queries are to be answered within; a build slows itself to keep it",
        low=1,
    )
    governor_enabled: bool = _setting(
        "governor.enabled", True, "whether a build gives way to queries"
    )
    governor_min_pace: float = _setting(
        "governor.min_pace",
        0.1,
        "share of the time that a build works at least, however slow queries are",
        low=0.01,
        high=1,
    )
    metrics_open: bool = _setting(
        "serve.metrics_open", False, "whether /metrics needs no key on an address others can reach"
    )
    log_format: Literal["auto", "console", "json"] = _setting(
        "log.format",
        "auto",
        "what serve and worker write to stderr; auto: json unless stderr is a terminal",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "log.level", "info", "the least that serve and worker log"
    )
    log_access: bool = _setting("log.access", False, "whether every request is logged")
    traces: bool = _setting(
        "telemetry.traces",
        False,
        "whether traces are sent to the OpenTelemetry collector of OTEL_EXPORTER_OTLP_ENDPOINT; "
        "they are too when that variable is set",
    )
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def sql_url(self) -> str:
        if self.database_url:
            return self.database_url
        path = str(self.data_dir / "reindexer.db")
        for character in "%?#":  # these have a meaning in a URL
            path = path.replace(character, f"%{ord(character):02X}")
        return f"sqlite:///{path}"

    @property
    def reachable(self) -> AllowedHosts:
        """Raises SettingsInvalid."""
        try:
            return AllowedHosts.parse(self.network_allowed_hosts)
        except ValueError as error:
            raise SettingsInvalid(f"network.allowed_hosts has {error}") from None

    def rows(self) -> list[dict[str, Any]]:
        """Every setting with value and origin; secrets masked, also those inside a URL."""
        return [
            {
                "key": item.metadata["key"],
                "value": _shown(item, getattr(self, item.name)),
                "origin": self.origins.get(item.name, "default"),
                "environment": environment_variable(item.metadata["key"]),
                "description": item.metadata["doc"],
            }
            for item in _settings()
        ]


def as_environment(settings: Settings) -> dict[str, str]:
    """Variables that give another process these settings; none for what has no value."""
    values = {
        environment_variable(item.metadata["key"]): getattr(settings, item.name)
        for item in _settings()
    }
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def environment_variable(key: str) -> str:
    return "REINDEXER_" + key.replace(".", "_").upper()


def read_settings(
    flags: Mapping[str, Any],
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from all sources. Raises SettingsInvalid naming the source, key and expectation."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    path = config or DEFAULT_CONFIG
    if config is not None and not path.exists():
        raise SettingsInvalid(f"no settings file {path}; create it or leave out --config")
    from_file = _flat(_read_toml(path)) if path.exists() else {}
    known = {item.metadata["key"]: item for item in _settings()}
    unknown = sorted(set(from_file) - set(known))
    if unknown:
        raise SettingsInvalid(
            f"{path}: unknown setting {unknown[0]!r}; run `reindexer settings` for the list"
        )
    for key, item in known.items():
        if key in from_file:
            values[item.name] = _converted(item.name, from_file[key], f"{path}: {key}")
            origins[item.name] = str(path)
        variable = environment_variable(key)
        if environment.get(variable, "") != "":
            values[item.name] = _converted(item.name, environment[variable], variable)
            origins[item.name] = f"environment {variable}"
        if flags.get(item.name) is not None:
            values[item.name] = _converted(item.name, flags[item.name], f"flag for {key}")
            origins[item.name] = "flag"
    settings = Settings(**values, origins=origins)
    if settings.store_kind == "qdrant" and not settings.store_url:
        raise SettingsInvalid(
            "store.kind is qdrant and store.url is not set; set it to the server's URL, such as "
            "http://127.0.0.1:6333"
        )
    if settings.lexical_kind == "qdrant" and settings.store_kind != "qdrant":
        raise SettingsInvalid(
            "lexical.kind is qdrant and store.kind is edge; terms are kept beside the vectors on a "
            "Qdrant server: set store.kind = qdrant, or leave lexical.kind at bm25s"
        )
    for url in (settings.encoder_url, settings.lexical_publish_url):
        try:
            settings.reachable.check(url or "")
        except HostRefused as error:
            raise SettingsInvalid(str(error)) from None
    return settings


def _settings() -> list[Any]:
    return [item for item in fields(Settings) if item.metadata]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # of a number of 5,000 digits too
        raise SettingsInvalid(f"{path} cannot be read: {error}") from error


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            result.update(_flat(item, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = item
    return result


# What a source may give for a type, and how to say that it gave something else. A command line and
# an environment give text, so text may stand for a number.
_ACCEPTED: Mapping[type, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    Path: ((str, Path), "a path"),
    int: ((str, int), "a whole number"),
    float: ((str, int, float), "a number"),
    bool: ((str, bool), "true or false"),
}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _converted(name: str, value: Any, where: str) -> Any:
    """The value as the field's type, or SettingsInvalid saying what was expected."""
    item = next(item for item in _settings() if item.name == name)
    hint = get_type_hints(Settings)[name]
    choices = [option for option in get_args(hint) if option is not type(None)] or [hint]
    is_choice = get_origin(hint) is Literal
    wanted: type = str if is_choice else choices[0]
    accepted, expected = _ACCEPTED[wanted]
    if is_choice:
        expected = f"one of {', '.join(choices)}"
    try:
        if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError
        converted: Any = _truth(value) if wanted is bool else wanted(value)
        if is_choice and converted not in choices:
            raise ValueError
        if wanted is float and not math.isfinite(converted):
            raise ValueError
    except (ValueError, OverflowError):
        raise SettingsInvalid(f"{where} is {_shown(item, value)!r}, expected {expected}") from None
    low, high = item.metadata["low"], item.metadata["high"]
    if low is not None and converted < low:
        raise SettingsInvalid(f"{where} is {value!r}, expected at least {low}")
    if high is not None and converted > high:
        raise SettingsInvalid(f"{where} is {value!r}, expected at most {high}")
    return converted


def _truth(value: object) -> bool:
    text = str(value).lower()
    if text not in _TRUTH:
        raise ValueError
    return _TRUTH[text]


def _shown(item: Any, value: Any) -> Any:
    """The value as it may be printed."""
    if value is None:
        return None
    if item.metadata["secret"]:
        return "****"
    if isinstance(value, str):
        value = _PASSWORD.sub(r"\1****@", value)
        return mask_keys(_SECRET_OPTION.sub(r"\1****", value))
    return str(value) if isinstance(value, Path) else value
