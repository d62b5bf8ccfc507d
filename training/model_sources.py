"""Where models come from: a folder, a Python package that ships one, or the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from training.errors import ModelNotFound
from training.local_path import local_path
from training.outgoing import check_hub

_PACKAGE = "package:"
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.vocab", "*.spm", "*.jinja", "*.md")
_HUB_LEFT_OUT = ("onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*", "checkpoint-*/*")


def find_model(ref: str, *, trust_remote_code: bool = False) -> Path:
    """The folder that a reference means; a hub id is downloaded. Raises ModelNotFound, and
    HostRefused when the hub is not among the hosts that may be asked."""
    if ref.startswith(_PACKAGE):
        return _in_package(ref.removeprefix(_PACKAGE))
    folder = local_path(ref)
    if folder.is_dir():
        return folder.resolve()
    if folder.is_file():
        raise ModelNotFound(f"{ref} is a file; name the folder that holds the model")
    if match := _HUB_ID.fullmatch(ref):
        return _from_hub(match[1], match[2], trust_remote_code=trust_remote_code)
    raise ModelNotFound(
        f"no model {ref!r}: there is no such folder. Name a folder, package:NAME, or a hub id such "
        "as sentence-transformers/all-MiniLM-L6-v2; `reindexer models list` shows what there is"
    )


def name_from(ref: str) -> str:
    """A name for the model that a reference means: its last part, in letters that a folder and a
    command line can carry."""
    hub = hub_id(ref)
    stem = ref.removeprefix(_PACKAGE) if hub is None else hub
    last = local_path(stem).resolve().name if hub is None else stem.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-_") or "model"


def hub_id(ref: str) -> str | None:
    """`organisation/name` when that is what a reference looks like: no folder, no version."""
    match = _HUB_ID.fullmatch(ref)
    if match is None or ref.startswith((".", "/", "~")) or local_path(ref).is_dir():
        return None
    return match[1]


def _in_package(name: str) -> Path:
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if re.fullmatch(r"\w+", module) else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotFound(f"no Python package {name!r} is installed; run `pip install {name}`")
    for marker in ("modules.json", "config.json"):
        for place in spec.submodule_search_locations:
            # The outermost one: modules have configurations of their own further down.
            found = sorted(Path(place).rglob(marker), key=lambda path: (len(path.parts), path))
            if found:
                return found[0].parent.resolve()
    raise ModelNotFound(
        f"the package {name!r} holds no model (no modules.json or config.json in it)"
    )


def _from_hub(repository: str, revision: str | None, *, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    check_hub()
    patterns = [*_HUB_FILES, *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=list(_HUB_LEFT_OUT),
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(
            f"{repository} could not be downloaded from the Hugging Face hub: {reason}. Check the "
            "name, the network and, for a gated model, `hf auth login`; or download it elsewhere "
            "and run `reindexer models register FOLDER`"
        ) from error
