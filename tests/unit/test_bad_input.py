"""Whatever is read: no traceback reaches a user, no request is answered with 5xx, and nothing is
stored half. `benchmarks/fuzz.py` gives the same targets a million inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

from reindexer.backup_folder import Backup
from reindexer.cli import cli
from reindexer.errors import BackupDamaged
from reindexer.settings import SettingsInvalid, read_settings
from reindexer.sources import Rejected, open_source
from tests import bad_inputs as bad
from tests.bad_input_targets import TARGETS, Target, backup_manifest, in_new_folder, manifest
from training.audit_sheet import read_verdicts
from training.errors import JudgmentsInvalid, ModelDamaged, PairsInvalid
from training.judgments import read_judgments
from training.model_description import describe
from training.model_version import parse_manifest
from training.record_values import unix_time

N_EXAMPLES = 30  # of each target, in the suite


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_bad_input_is_refused_with_a_reason(target: Target) -> None:
    with in_new_folder(target) as check:

        @settings(max_examples=N_EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
        @given(target.inputs)
        def holds(value: Any) -> None:
            check(value)

        holds()


# -- what was found ------------------------------------------------------------------------------


def test_a_document_nested_too_deep_is_rejected_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    deep = bad.deep('{"a":', "}", 1_015)
    path.write_text(f'{{"id": "a", "text": "t", "m": {deep}}}\n{{"id": "b", "text": "t"}}\n')

    first, second = open_source(path)

    assert isinstance(first, Rejected)
    assert first.doc_id == "a"
    assert "nested more than 100 deep" in first.reason
    assert not isinstance(second, Rejected)


def test_judgments_nested_too_deep_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    (tmp_path / "queries.jsonl").write_text(bad.deep("[", "]", 100_000))

    with pytest.raises(JudgmentsInvalid, match=r"queries.jsonl line 1 is not JSON"):
        read_judgments(tmp_path, "test")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "~nobody-of-this-name/rows.jsonl"],
        ["models", "register", "~nobody-of-this-name/model"],
        ["ingest", "rows.jsonl", "--source", "\udcd4"],
    ],
)
def test_an_argument_that_cannot_be_meant_is_told(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_bytes(bad.to_json(bad.DOCUMENT))

    done = CliRunner().invoke(cli, ["--data-dir", str(tmp_path / "data"), *arguments])

    assert done.exit_code in (1, 2)
    assert "unexpected" not in done.stderr
    assert "there is no" in done.stderr or "not UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config.json", {"hidden_size": 8, "max_position_embeddings": "long"}),
        ("sentence_bert_config.json", {"max_seq_length": "x"}),
        ("sentence_bert_config.json", {"modality_config": 1}),
        ("1_Pooling/config.json", {"embedding_dimension": "x", "pooling_mode": "mean"}),
        ("1_Pooling/config.json", {"pooling_mode": 3}),
        ("2_Dense/config.json", {"out_features": None}),
        ("config_sentence_transformers.json", {"prompts": "q"}),
        ("modules.json", [{"path": "\0", "type": "sentence_transformers.models.Dense"}]),
        ("model.safetensors.index.json", {"weight_map": ["w"]}),
        ("model.safetensors.index.json", {"weight_map": {"w": 1}}),
    ],
)
def test_a_model_whose_configuration_is_of_a_wrong_kind_is_damaged(
    tmp_path: Path, name: str, value: Any
) -> None:
    for part, right in {**bad.MODEL_FILES, name: value}.items():
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text(json.dumps(right))
    for weights in ("model-00001.safetensors", "2_Dense/model.safetensors"):
        (tmp_path / weights).write_bytes(b"\x02\0\0\0\0\0\0\0{}")

    with pytest.raises(ModelDamaged, match="again"):
        describe(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize(
    "content",
    [
        bad.deep("[", "]", 100_000).encode(),
        json.dumps({**manifest(), "format": "1"}).encode(),
        json.dumps({**manifest(), "number": -3}).encode(),
        json.dumps({**manifest(), "files": {"a": {"sha256": "../x", "size_bytes": 1}}}).encode(),
    ],
    ids=["deep", "format", "number", "sha256"],
)
def test_a_manifest_that_makes_no_sense_is_damaged(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelDamaged, match="is not"):
        parse_manifest(content, tmp_path)


@pytest.mark.parametrize("outside", ["../x", "/etc/cron.d/x", "a/../../x", "a\0b", ""])
def test_a_backup_cannot_name_a_place_outside(outside: str) -> None:
    right = backup_manifest()
    (model,) = right["models"]["m@1"]
    for changed in (
        {"models": {outside: []}},
        {"lexical": {outside: []}},
        {"removed_models": [outside]},
        {"models": {"m@1": [{**model, "path": outside}]}},
        {"models": {"m@1": [{**model, "sha256": outside}]}},
    ):
        with pytest.raises(BackupDamaged, match="cannot be read"):
            Backup.from_bytes(json.dumps({**right, **changed}).encode())


def test_settings_nested_without_end_are_invalid(tmp_path: Path) -> None:
    path = tmp_path / "reindexer.toml"
    path.write_text("a = " + "[" * 5_000)

    with pytest.raises(SettingsInvalid, match="cannot be read"):
        read_settings({}, config=path, environment={})


def test_a_number_too_large_for_its_setting_is_invalid(tmp_path: Path) -> None:
    path = tmp_path / "reindexer.toml"
    path.write_text("[serve]\ndeadline_s = 1" + "0" * 400)

    with pytest.raises(SettingsInvalid, match="expected a number"):
        read_settings({}, config=path, environment={})


@pytest.mark.parametrize("time", [float("nan"), "nan", float("inf"), "-inf"])
def test_a_time_that_is_no_number_is_told(time: object) -> None:
    with pytest.raises(PairsInvalid, match="expected seconds since 1970"):
        unix_time(time)


@pytest.mark.parametrize("weight", ["nan", "inf", "-1", "x"])
def test_a_sheet_with_an_impossible_weight_is_told(tmp_path: Path, weight: str) -> None:
    path = tmp_path / "sheet.csv"
    path.write_text(f"pair,verdict,weight,anchor,positive\n1,ok,{weight},a,b\n")

    with pytest.raises(PairsInvalid, match="the weight is"):
        read_verdicts(path)
