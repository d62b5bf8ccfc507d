"""Where settings come from, which one wins, and what a wrong one is answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reindexer.settings import Settings, SettingsInvalid, environment_variable, read_settings
from search.database import open_database


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(folder: Path, text: str) -> Path:
    path = folder / "reindexer.toml"
    path.write_text(text, encoding="utf-8")
    return path


def row(settings: Settings, key: str) -> dict[str, Any]:
    return next(row for row in settings.rows() if row["key"] == key)


@pytest.mark.usefixtures("folder")
def test_without_any_source_every_setting_has_its_default() -> None:
    settings = read_settings({}, environment={})

    assert settings == Settings()
    assert {row["origin"] for row in settings.rows()} == {"default"}


def test_file_environment_and_flag_win_in_this_order(folder: Path) -> None:
    config = write_config(
        folder, "[build]\nwindow = 10\nhnsw_m = 20\nhnsw_ef_construct = 30\n[serve]\nport = 40\n"
    )
    environment = {"REINDEXER_BUILD_HNSW_M": "21", "REINDEXER_BUILD_HNSW_EF_CONSTRUCT": "31"}

    settings = read_settings(
        {"hnsw_ef_construct": 32, "port": None}, config=config, environment=environment
    )

    assert settings.window == 10
    assert settings.hnsw_m == 21
    assert settings.hnsw_ef_construct == 32
    assert settings.port == 40
    assert row(settings, "build.window")["origin"] == str(config)
    assert row(settings, "build.hnsw_m")["origin"] == "environment REINDEXER_BUILD_HNSW_M"
    assert row(settings, "build.hnsw_ef_construct")["origin"] == "flag"
    assert row(settings, "serve.host")["origin"] == "default"


def test_the_file_in_the_working_directory_is_read_unasked(folder: Path) -> None:
    write_config(folder, "[build]\nwindow = 10\n")

    assert read_settings({}, environment={}).window == 10


@pytest.mark.usefixtures("folder")
def test_an_empty_environment_variable_counts_as_unset() -> None:
    assert read_settings({}, environment={"REINDEXER_BUILD_WINDOW": ""}) == Settings()


@pytest.mark.usefixtures("folder")
def test_every_setting_can_come_from_the_environment() -> None:
    values = {
        "data_dir": "d", "database.url": "sqlite:///x", "store.kind": "qdrant",
        "database.pool_size": "2", "database.statement_timeout_s": "30",
        "store.url": "http://q:6333", "store.api_key": "k", "store.prefix": "p_",
        "store.shards": "3", "store.replicas": "2", "store.write_consistency": "1",
        "store.on_disk_vectors": "true", "store.oversampling": "3", "store.quantization": "int8",
        "encoder.device": "cpu", "encoder.dtype": "bf16", "encoder.max_batch_tokens": "100",
        "encoder.api_key": "k", "encoder.url": "http://e", "encoder.timeout_s": "5",
        "encoder.concurrency": "2",
        "build.fanout": "ray", "build.chunk_docs": "9", "build.processes": "2",
        "ray.address": "r:1", "ray.actors": "4", "ray.gpus_per_actor": "0.5",
        "ray.cpus_per_actor": "2", "build.window": "5", "build.hnsw_m": "6",
        "build.hnsw_ef_construct": "7", "store.grpc": "off", "store.grpc_port": "7",
        "store.patience_s": "9", "search.p99_target_ms": "20", "governor.enabled": "no",
        "governor.min_pace": "0.2", "serve.metrics_open": "yes", "log.format": "json",
        "log.level": "debug", "log.access": "yes", "telemetry.traces": "yes",
        "lexical.language": "german", "lexical.kind": "qdrant",
        "lexical.publish_url": "s3://b/lexical", "search.max_lag_docs": "8",
        "network.allowed_hosts": "e, s3://b",
        "cutover.timeout_s": "9.5", "prune.hold_over_h": "10",
        "serve.host": "0.0.0.0", "serve.port": "11",
        "serve.sync_interval_s": "0.5", "serve.require_keys": "yes", "serve.worker": "no",
        "worker.drain_s": "3", "worker.resume_after_s": "4", "compact.below": "0.5",
        "operate.evaluation_dir": "judged",
        "serve.max_query_chars": "100", "serve.max_k": "20", "serve.max_batch": "30",
        "serve.max_body_bytes": "4000", "serve.max_concurrent": "5", "serve.deadline_s": "6",
        "serve.drain_s": "7", "serve.drain_notice_s": "1", "serve.cors_origins": "https://a.example",
        "serve.allowed_hosts": "search.example", "serve.rate_limit": "600/minute",
        "feedback.enabled": "true", "feedback.sample": "0.5", "feedback.query": "hash",
        "feedback.who": "hash", "feedback.retention_days": "12",
    }  # fmt: skip
    environment = {environment_variable(key): value for key, value in values.items()}

    settings = read_settings({}, environment=environment)

    assert {row["key"] for row in settings.rows()} == set(values)
    assert all(row["origin"].startswith("environment ") for row in settings.rows())
    assert (settings.data_dir, settings.window, settings.cut_over_timeout_s) == (Path("d"), 5, 9.5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[build]\nwindow = 0", "build.window is 0, expected at least 1"),
        ("[build]\nwindow = 2.5", "build.window is 2.5, expected a whole number"),
        ("[build]\nwindow = true", "build.window is True, expected a whole number"),
        ("[build]\nwindow = inf", "build.window is inf, expected a whole number"),
        ('[build]\nwindow = "many"', "build.window is 'many', expected a whole number"),
        ("[build]\nwindow = [1]", r"build.window is \[1\], expected a whole number"),
        ("[build]\nhnsw_m = 1", "build.hnsw_m is 1, expected at least 2"),
        ("[feedback]\nenabled = 1", "feedback.enabled is 1, expected true or false"),
        ('[feedback]\nenabled = "maybe"', "feedback.enabled is 'maybe', expected true or false"),
        ("[feedback]\nsample = 2", "feedback.sample is 2, expected at most 1"),
        ("[serve]\nport = 70000", "serve.port is 70000, expected at most 65535"),
        ("[serve]\nport = -1", "serve.port is -1, expected at least 0"),
        ("[serve]\nhost = 5", "serve.host is 5, expected text"),
        ("data_dir = 5", "data_dir is 5, expected a path"),
        ("[database]\nurl = [1]", r"database.url is \[1\], expected text"),
        ("[cutover]\ntimeout_s = nan", "cutover.timeout_s is nan, expected a number"),
        ("[cutover]\ntimeout_s = inf", "cutover.timeout_s is inf, expected a number"),
        ('[cutover]\ntimeout_s = "soon"', "cutover.timeout_s is 'soon', expected a number"),
        ("[search]\nmax_lag_docs = -1", "search.max_lag_docs is -1, expected at least 0"),
        ('[store]\nkind = "pinecone"', "store.kind is 'pinecone', expected one of edge, qdrant"),
        ("[store]\nkind = 5", "store.kind is 5, expected one of edge, qdrant"),
        ('[encoder]\ndtype = "fp8"', "'fp8', expected one of auto, fp32, bf16, fp16"),
        ("[build]\nwindows = 5", "unknown setting 'build.windows'; run `reindexer settings`"),
        ("window = 5", "unknown setting 'window'"),
        ("[data_dir]\npath = 'x'", "unknown setting 'data_dir.path'"),
        ("window = = 5", "cannot be read: Invalid value"),
        (f"window = {'9' * 5_000}", "cannot be read: Exceeds the limit"),
    ],
)
def test_a_wrong_value_in_the_file_is_named_with_what_was_expected(
    folder: Path, line: str, message: str
) -> None:
    config = write_config(folder, line)

    with pytest.raises(SettingsInvalid, match=message) as caught:
        read_settings({}, config=config, environment={})

    assert str(caught.value).startswith(str(config))


@pytest.mark.usefixtures("folder")
def test_a_wrong_variable_and_a_wrong_flag_are_named() -> None:
    with pytest.raises(SettingsInvalid, match=r"^REINDEXER_SERVE_PORT is 'x', expected a whole"):
        read_settings({}, environment={"REINDEXER_SERVE_PORT": "x"})
    with pytest.raises(SettingsInvalid, match=r"^flag for build\.window is 0, expected at least 1"):
        read_settings({"window": 0}, environment={})


def test_a_settings_file_that_was_named_must_be_there_and_readable(folder: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"no settings file .*none\.toml; create it"):
        read_settings({}, config=folder / "none.toml", environment={})
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        read_settings({}, config=folder, environment={})
    (folder / "latin.toml").write_bytes(b'data_dir = "\xe9"')
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        read_settings({}, config=folder / "latin.toml", environment={})


@pytest.mark.usefixtures("folder")
def test_a_qdrant_store_needs_its_url() -> None:
    with pytest.raises(SettingsInvalid, match=r"store.url is not set; set it to the server's URL"):
        read_settings({"store_kind": "qdrant"}, environment={})


def test_secrets_are_never_shown(folder: Path) -> None:
    config = write_config(
        folder,
        '[database]\nurl = "postgresql://me:hunter2@db/x?sslpassword=hunter3&application_name=a"\n'
        '[store]\napi_key = "hunter4"\nurl = "https://me:hunter5@q:6333"\n',
    )
    settings = read_settings({}, config=config, environment={})

    assert settings.store_api_key == "hunter4"
    assert "hunter" not in json.dumps(settings.rows())
    assert row(settings, "store.api_key")["value"] == "****"
    assert row(settings, "store.url")["value"] == "https://me:****@q:6333"
    assert row(settings, "database.url")["value"] == (
        "postgresql://me:****@db/x?sslpassword=****&application_name=a"
    )
    assert row(read_settings({}, environment={}), "serve.host")["value"] == "127.0.0.1"


def test_a_wrong_secret_is_not_printed_either(folder: Path) -> None:
    config = write_config(folder, "[store]\napi_key = 424242\n")

    with pytest.raises(SettingsInvalid, match=r"store.api_key is '\*\*\*\*', expected text"):
        read_settings({}, config=config, environment={})


@pytest.mark.parametrize("name", ["plain", "with space", "50% off?", "a#b", "%20", "ä"])
def test_the_database_lies_in_the_data_directory_whatever_its_name(
    tmp_path: Path, name: str
) -> None:
    settings = Settings(data_dir=tmp_path / name)
    settings.data_dir.mkdir()

    open_database(settings.sql_url).close()

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (settings.data_dir / "reindexer.db").exists()


def test_a_database_url_takes_the_place_of_the_data_directory() -> None:
    settings = Settings(database_url="postgresql://db/x")

    assert settings.sql_url == "postgresql://db/x"
