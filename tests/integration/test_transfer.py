"""Versions pushed and pulled: whole and unchanged, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.hub_server import TOKEN, HubServer, Repository
from tests.unit.test_registry import write_model
from training.errors import ModelDamaged, ModelNotFound, ModelUnsafe, TransferFailed
from training.registry import ModelRegistry, ModelVersion
from training.transfer import pull, push

LINEAGE = {"base": "organisation/base", "gate": "passed", "seed": 7}
REPOSITORY = "organisation/support"


@pytest.fixture
def ours(tmp_path: Path) -> ModelRegistry:
    """A registry with support@1 and support@2, which was trained."""
    registry = ModelRegistry(tmp_path / "ours")
    registry.register(write_model(tmp_path / "first"), name="support")
    folder = write_model(tmp_path / "second", weight=2.0)
    registry.register(folder, name="support", query_prompt="q: ", lineage=LINEAGE)
    return registry


@pytest.fixture
def version(ours: ModelRegistry) -> ModelVersion:
    return ours.get("support", 2)


@pytest.fixture
def theirs(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "theirs")


@pytest.fixture(params=["file", "memory", "plain"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place to push to."""
    scheme = {"file": f"file://{tmp_path}/", "memory": "memory://", "plain": f"{tmp_path}/"}
    yield f"{scheme[request.param]}pushed/models"
    fsspec.filesystem("memory").store.clear()


def files_of(version: ModelVersion) -> dict[str, bytes]:
    return {name: (version.path / name).read_bytes() for name in version.files}


def change(url: str, alter: Callable[[bytes], bytes]) -> None:
    with fsspec.open(url, "rb") as file:
        content = file.read()
    with fsspec.open(url, "wb") as file:
        file.write(alter(content))


def change_manifest(url: str, **values: Any) -> None:
    change(
        f"{url}/manifest.json",
        lambda content: json.dumps({**json.loads(content), **values}).encode(),
    )


# -- a folder ------------------------------------------------------------------------------------


def test_a_version_arrives_as_it_was_under_its_own_name_and_number(
    version: ModelVersion, theirs: ModelRegistry, target: str
) -> None:
    seen: list[tuple[int, int]] = []
    pushed = push(version, target, on_progress=lambda done, total: seen.append((done, total)))
    assert pushed.location == f"{target}/support@2"
    assert seen[-1] == (version.size_bytes, version.size_bytes)
    pulled = pull(theirs, pushed.location)
    assert replace(pulled, path=version.path) == version
    assert files_of(pulled) == files_of(version)
    assert pulled.lineage == LINEAGE
    theirs.verify("support@2")
    assert not list(theirs.root.glob(".incoming-*"))


def test_pushing_and_pulling_again_moves_nothing(
    version: ModelVersion, theirs: ModelRegistry, target: str
) -> None:
    first = push(version, target)
    assert (first.sent_bytes, push(version, target).sent_bytes) == (version.size_bytes, 0)
    pulled = pull(theirs, first.location)
    change(f"{first.location}/model.safetensors", lambda content: content[::-1])
    assert pull(theirs, first.location) == pulled  # here already: nothing is downloaded


def test_a_number_that_is_taken_gives_way(
    version: ModelVersion, theirs: ModelRegistry, target: str, tmp_path: Path
) -> None:
    location = push(version, target).location
    for weight in (5.0, 6.0):
        theirs.register(write_model(tmp_path / f"w{weight}", weight=weight), name="support")
    assert str(pull(theirs, location)) == "support@3"
    assert str(pull(theirs, location)) == "support@3"
    assert str(pull(theirs, location, name="copy")) == "copy@2"
    theirs.remove("copy@2")
    assert str(pull(theirs, location, name="copy")) == "copy@3"  # no number is given out twice


@pytest.mark.parametrize("alter", [lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: c[:-1]])
@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling/config.json", "README.md"])
def test_a_changed_or_cut_file_is_refused_and_nothing_is_registered(
    version: ModelVersion,
    theirs: ModelRegistry,
    target: str,
    name: str,
    alter: Callable[[bytes], bytes],
) -> None:
    location = push(version, target).location
    change(f"{location}/{name}", alter)
    with pytest.raises(TransferFailed, match=rf"{name} is not the file that was pushed"):
        pull(theirs, location)
    assert theirs.list() == []
    assert not list(theirs.root.glob(".incoming-*"))


def test_a_missing_file_is_refused(
    version: ModelVersion, theirs: ModelRegistry, target: str
) -> None:
    location = push(version, target).location
    fsspec.core.url_to_fs(location)[0].rm(fsspec.core.url_to_fs(f"{location}/tokenizer.json")[1])
    with pytest.raises(TransferFailed, match=r"tokenizer\.json is missing; push"):
        pull(theirs, location)
    assert theirs.list() == []
    assert push(version, target).sent_bytes == version.files["tokenizer.json"].size_bytes
    assert str(pull(theirs, location)) == "support@2"


def test_a_push_that_was_broken_off_is_no_version_until_it_is_done_again(
    version: ModelVersion, theirs: ModelRegistry, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = fsspec.core.url_to_fs(target)
    whole = type(files).put_file

    def put_file(self: Any, source: str, to: str, **more: Any) -> None:
        if to.endswith("model.safetensors"):
            raise OSError("connection lost")
        whole(self, source, to, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(files), "put_file", put_file)
        with pytest.raises(TransferFailed, match=r"write model\.safetensors.*same command again"):
            push(version, target)
    with pytest.raises(TransferFailed, match=r"no manifest\.json.*push was broken off"):
        pull(theirs, f"{target}/support@2")
    push(version, target)
    assert str(pull(theirs, f"{target}/support@2")) == "support@2"


def test_a_place_that_another_version_holds_is_left_alone(
    version: ModelVersion, target: str, tmp_path: Path
) -> None:
    push(version, target)
    other = ModelRegistry(tmp_path / "other")
    for weight in (7.0, 8.0):
        other.register(write_model(tmp_path / f"o{weight}", weight=weight), name="support")
    with pytest.raises(TransferFailed, match="taken by another support@2"):
        push(other.get("support", 2), target)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"query_prompt": "x"}, "was changed after it was written"),
        ({"dim": "4"}, "dim is of a wrong type"),
        ({"number": "../../2"}, "number is of a wrong type"),
        ({"files": {"../evil": {"sha256": "", "size_bytes": 1}}}, "not inside the model"),
        ({"files": {"/etc/passwd": {"sha256": "", "size_bytes": 1}}}, "not inside the model"),
        ({"files": ["a"]}, "not a model manifest"),
        ({"format": 99}, "upgrade reindexer"),
        ({"more": 1}, "not a model manifest"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(
    version: ModelVersion, theirs: ModelRegistry, tmp_path: Path, values: dict[str, Any], told: str
) -> None:
    location = push(version, str(tmp_path / "pushed")).location
    change_manifest(location, **values)
    with pytest.raises(TransferFailed, match=told):
        pull(theirs, location)
    assert theirs.list() == []


def test_a_name_that_leads_out_of_the_registry_is_refused(
    version: ModelVersion, theirs: ModelRegistry, tmp_path: Path
) -> None:
    location = push(version, str(tmp_path / "pushed")).location
    change_manifest(location, name="../outside")
    with pytest.raises(ModelNotFound, match="cannot be a model's name"):
        pull(theirs, location)
    assert str(pull(theirs, location, name="inside")) == "inside@2"


def test_a_manifest_that_claims_other_vectors_than_its_files_give_is_refused(
    version: ModelVersion, theirs: ModelRegistry, tmp_path: Path
) -> None:
    from training.model_version import fingerprint

    location = push(version, str(tmp_path / "pushed")).location
    lie = replace(version, pooling="cls")
    change_manifest(location, pooling="cls", fingerprint=fingerprint(lie))
    with pytest.raises(TransferFailed, match="do not make the version"):
        pull(theirs, location)


def test_code_of_its_own_needs_permission_here_too(
    ours: ModelRegistry, theirs: ModelRegistry, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "own")
    config = json.loads((folder / "config.json").read_bytes())
    config["auto_map"] = {"AutoModel": "modeling.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text("class Own: ...")
    version = ours.register(folder, name="own", trust_remote_code=True)
    location = push(version, str(tmp_path / "pushed")).location
    with pytest.raises(ModelUnsafe, match=r"code of its own.*--trust-remote-code"):
        pull(theirs, location)
    pulled = pull(theirs, location, trust_remote_code=True)
    assert pulled.fingerprint == version.fingerprint


def test_a_pinned_fingerprint_is_held_to(
    version: ModelVersion, theirs: ModelRegistry, tmp_path: Path
) -> None:
    location = push(version, str(tmp_path / "pushed")).location
    with pytest.raises(TransferFailed, match="expected abc123"):
        pull(theirs, location, fingerprint="abc123")
    assert str(pull(theirs, location, fingerprint=version.fingerprint[:12])) == "support@2"


def test_a_damaged_version_is_not_pushed(version: ModelVersion, target: str) -> None:
    (version.path / "tokenizer.json").chmod(0o644)
    (version.path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelDamaged):
        push(version, target)
    with pytest.raises(TransferFailed, match="no manifest"):
        pull(ModelRegistry(version.path.parent), f"{target}/support@2")


def test_a_folder_of_versions_says_which_it_has(
    ours: ModelRegistry, theirs: ModelRegistry, target: str
) -> None:
    for version in ours.list():
        push(version, target)
    with pytest.raises(TransferFailed, match=r"such as .*/models/support@2"):
        pull(theirs, target)
    with pytest.raises(TransferFailed, match="reindexer models push"):
        pull(theirs, f"{target}/nothing")


def test_a_missing_driver_names_the_package_to_install(version: ModelVersion) -> None:
    with pytest.raises(TransferFailed, match="pip install ocifs"):
        push(version, "oci://bucket@space/models")
    with pytest.raises(TransferFailed, match="hf://organisation/name"):
        push(version, "nonsense://models")


# -- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Somebody who is logged in."""
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_a_version_goes_through_the_hub_as_one_private_commit_with_a_tag(
    version: ModelVersion, theirs: ModelRegistry, hub: HubServer
) -> None:
    pushed = push(version, f"hf://{REPOSITORY}")
    assert pushed.location == f"hf://{REPOSITORY}@v2"
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    assert (hub.writes, repository.tags) == (1, {"v2": repository.head})
    assert push(version, f"hf://{REPOSITORY}").sent_bytes == 0
    assert hub.writes == 1
    pulled = pull(theirs, pushed.location)
    assert replace(pulled, path=version.path) == version
    assert files_of(pulled) == files_of(version)
    theirs.verify("support@2")


def test_a_later_version_takes_the_place_and_the_earlier_keeps_its_tag(
    ours: ModelRegistry, theirs: ModelRegistry, hub: HubServer
) -> None:
    first, second = ours.list()
    push(first, f"hf://{REPOSITORY}")
    hub.repositories[REPOSITORY].commits[hub.repositories[REPOSITORY].head]["old.json"] = b"{}"
    push(second, f"hf://{REPOSITORY}")
    head = hub.repositories[REPOSITORY].commits[hub.repositories[REPOSITORY].head]
    assert set(head) == {*second.files, "manifest.json"}
    assert pull(theirs, f"hf://{REPOSITORY}").fingerprint == second.fingerprint
    assert pull(theirs, f"hf://{REPOSITORY}@v1").fingerprint == first.fingerprint
    with pytest.raises(TransferFailed, match="taken by another support@1"):
        push(second, f"hf://{REPOSITORY}@v1")


def test_what_was_changed_on_the_hub_is_refused(
    version: ModelVersion, theirs: ModelRegistry, hub: HubServer
) -> None:
    push(version, f"hf://{REPOSITORY}")
    head = hub.repositories[REPOSITORY].commits[hub.repositories[REPOSITORY].head]
    weights = head["model.safetensors"]
    head["model.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    with pytest.raises(TransferFailed, match=r"model\.safetensors is not the file"):
        pull(theirs, f"hf://{REPOSITORY}@v2")
    assert theirs.list() == []
    del head["model.safetensors"]
    with pytest.raises(TransferFailed, match=r"model\.safetensors is not the file"):
        pull(theirs, f"hf://{REPOSITORY}@v2")


def test_nothing_becomes_public_or_is_replaced_unasked(
    version: ModelVersion, hub: HubServer
) -> None:
    open_to_all = hub.repositories[REPOSITORY] = Repository(private=False)
    with pytest.raises(TransferFailed, match=r"is public.*--public"):
        push(version, f"hf://{REPOSITORY}")
    assert hub.writes == 0
    push(version, f"hf://{REPOSITORY}", public=True)
    assert not open_to_all.private
    other = hub.repositories["organisation/other"] = Repository(private=True)
    other.commits[other.head].update({"README.md": b"", "weights.bin": b"theirs"})
    with pytest.raises(TransferFailed, match=r"weights\.bin; push to a repository of its own"):
        push(version, "hf://organisation/other")


def test_without_the_right_token_the_message_says_to_log_in(
    version: ModelVersion,
    theirs: ModelRegistry,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(version, f"hf://{REPOSITORY}")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(TransferFailed, match="hf auth login"):
        push(version, "hf://organisation/another")
    with pytest.raises(TransferFailed, match="hf auth login") as refused:
        pull(theirs, f"hf://{REPOSITORY}")
    assert "hf_wrong" not in str(refused.value)
    assert hub.writes == 1


def test_a_repository_that_was_not_pushed_from_here_says_how_to_register_it(
    theirs: ModelRegistry, hub: HubServer
) -> None:
    hub.repositories[REPOSITORY] = Repository(private=False)
    with pytest.raises(TransferFailed, match=f"models register {REPOSITORY}"):
        pull(theirs, f"hf://{REPOSITORY}")
    with pytest.raises(TransferFailed, match="names no repository"):
        pull(theirs, "hf://support")


@pytest.mark.parametrize("kind", ["offline", "refused"])
def test_no_network_says_so(
    version: ModelVersion, theirs: ModelRegistry, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TransferFailed, match="Check the name and the network"):
        push(version, f"hf://{REPOSITORY}")
    with pytest.raises(TransferFailed, match="Check the name and the network"):
        pull(theirs, f"hf://{REPOSITORY}")
