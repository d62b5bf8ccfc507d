"""A model repository on the Hugging Face hub. A push is one commit, and a tag on it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TransferFailed
from training.model_version import MANIFEST, ModelVersion
from training.outgoing import check_hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"

_REFERENCE = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w][\w./-]*))?/?")
_MADE_BY_THE_HUB = {".gitattributes", "README.md"}


@dataclass(frozen=True, kw_only=True, slots=True)
class HubState:
    """A repository at one commit."""

    commit: str
    private: bool
    names: tuple[str, ...]  # of all files


class HubRepository:
    """`hf://organisation/name`, or `hf://organisation/name@revision`. Every error of the hub
    becomes TransferFailed. The token is the one that `hf auth login` or HF_TOKEN gives."""

    def __init__(self, url: str) -> None:
        """Raises TransferFailed when the URL names no repository, HostRefused."""
        from huggingface_hub import HfApi

        match = _REFERENCE.fullmatch(url)
        if match is None:
            raise TransferFailed(
                f"{url} names no repository; expected hf://organisation/name, with @revision if "
                "you like"
            )
        self.repository: str = match[1]
        self.revision: str | None = match[2]
        check_hub()
        self._api: HfApi = HfApi()

    @property
    def url(self) -> str:
        return SCHEME + self.repository + (f"@{self.revision}" if self.revision else "")

    def look(self, revision: str | None = None) -> HubState | None:
        """What a revision (the main branch unless given) means now; None when there is no such
        repository or revision, or nobody may see it with this token."""
        from huggingface_hub.errors import (
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        with self._failing("be read"):
            try:
                info = self._api.model_info(self.repository, revision=revision)
            except GatedRepoError:
                raise
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
        names = tuple(sorted(item.rfilename for item in info.siblings or ()))
        return HubState(commit=info.sha or "", private=bool(info.private), names=names)

    def download(self, name: str, folder: Path, commit: str) -> bool:
        """One file, below the folder; False when that commit does not have it."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        with self._failing("be read"):
            try:
                self._api.hf_hub_download(self.repository, name, revision=commit, local_dir=folder)
            except LocalEntryNotFoundError:
                raise  # nobody could be asked
            except EntryNotFoundError:
                return False
        return True

    def read(self, name: str, commit: str) -> bytes | None:
        """A small file, whole; None when that commit does not have it."""
        with tempfile.TemporaryDirectory() as folder:
            if not self.download(name, Path(folder), commit):
                return None
            return (Path(folder) / name).read_bytes()

    def upload(self, version: ModelVersion, *, private: bool, tag: str) -> str:
        """Put the files of a version in place of what an earlier push left, as one commit, and tag
        it. Returns the commit. Raises TransferFailed, also when that would make it public without
        being asked to, or replace what was not pushed from here."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        present = self.look()
        if present is not None and private and not present.private:
            raise TransferFailed(
                f"{self.url} is public, and the version, its report and the queries in it would be "
                "too; push to a private repository, or say --public"
            )
        old = () if present is None else present.names
        if MANIFEST not in old and not _MADE_BY_THE_HUB.issuperset(old):
            raise TransferFailed(
                f"{self.url} holds something that was not pushed from here, such as {old[-1]}; "
                "push to a repository of its own"
            )
        new = (*version.files, MANIFEST)
        with self._failing("be written"):
            self._api.create_repo(self.repository, private=private, exist_ok=True)
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=version.path / name)
                for name in new
            ]
            operations += [
                CommitOperationDelete(path_in_repo=name)
                for name in sorted(set(old) - set(new) - _MADE_BY_THE_HUB)
            ]
            done = self._api.create_commit(
                self.repository,
                operations,
                commit_message=f"Push {version}",
                parent_commit=None if present is None else present.commit,
            )
            self._api.create_tag(self.repository, tag=tag, revision=done.oid, exist_ok=True)
        return done.oid

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

        try:
            yield
        except Exception as error:  # those of the HTTP library below too, which may be another
            told = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            advice = (
                "log in with a token that may do this (`hf auth login`, or HF_TOKEN)"
                if status in (401, 403) or isinstance(error, LocalTokenNotFoundError)
                else "check the name and the network"
            )
            raise TransferFailed(
                f"{self.url} could not {what}: {told}. {advice[0].upper()}{advice[1:]}, then run "
                "the same command again"
            ) from error
