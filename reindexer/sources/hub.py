"""Data sets of the Hugging Face hub, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reindexer.errors import SourceInvalid, SourceStopped
from reindexer.sources.locations import digest, without_credentials
from reindexer.sources.positions import AtEnd, Position
from reindexer.sources.rows import RecordReader, Rejected, Row
from reindexer.sources.single_part import SinglePartSource
from training.outgoing import check_hub, guard_drivers, raise_refused


class HubSource(SinglePartSource):
    """Documents from one split of a data set, of the revision that the hub has now. A folder with
    the files of a data set is read the same way.

    Raises SourceInvalid when there is no such data set, subset or split, or its rows have
    no id or text.
    """

    def __init__(
        self, ref: str, reader: RecordReader, *, split: str = "train", subset: str | None = None
    ) -> None:
        """ref: organisation/name. subset: of data sets that have several."""
        super().__init__(reader)
        self._label = f"{ref}/{split}"
        self._location = f"hf://datasets/{ref}#{subset or 'default'}/{split}"
        self._position: Position | None = None
        self._n_read = 0
        self._revision, self._version = _revision(ref)
        self._rows = _stream(ref, subset, split, self._revision)
        fields = self._rows.column_names or list(self._first())
        if fields:
            reader.check_fields(self._label, fields)
        sizes = getattr(self._rows.info, "splits", None) or {}
        self._n_rows = getattr(sizes.get(split), "num_examples", None)

    @property
    def share_read(self) -> float | None:
        return min(1.0, self._n_read / self._n_rows) if self._n_rows else None

    @property
    def location(self) -> str:
        return self._location

    @property
    def version(self) -> str:
        return digest((self._version, *self._reader.fields))

    @property
    def at_end(self) -> AtEnd:
        return "pass_over"

    @property
    def position(self) -> Position | None:
        return {"rows": self._n_read, "state": self._rows.state_dict()} if self._n_read else None

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        self._n_read = after["rows"] if after else 0
        if after:
            self._rows.load_state_dict(after["state"])
        records = iter(self._rows)
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except Exception as error:  # what reads the files raises anything
                raise_refused(error)
                raise SourceStopped(
                    f"{self._label} cannot be read any further after row {self._n_read:,} "
                    f"({_cause(error)}); what was read is stored: run the same command again, and "
                    "it goes on from there"
                ) from error
            self._n_read += 1
            yield self._reader.read(f"{self._label}:{self._n_read}", record)

    def _first(self) -> dict[str, Any]:
        try:
            return next(iter(self._rows), {})
        except Exception as error:
            raise_refused(error)
            raise SourceInvalid(f"{self._label} cannot be read ({_cause(error)})") from error


def _revision(ref: str) -> tuple[str | None, str]:
    """The commit of a data set on the hub, so that what is read stays the same to the end; and the
    version of what lies there."""
    folder = Path(ref)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return None, digest([(str(path), path.stat().st_mtime_ns) for path in files])
    check_hub()
    try:
        from huggingface_hub import HfApi

        revision = HfApi().dataset_info(ref).sha
    except Exception as error:  # of httpx, and the hub's own
        raise SourceInvalid(
            f"data set {ref} cannot be found on the hub ({_cause(error)}); check its name, the "
            "network, and HF_TOKEN if it is private or gated"
        ) from error
    return revision, str(revision)


def _stream(ref: str, subset: str | None, split: str, revision: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SourceInvalid(
            "data sets of the hub need the package datasets, which is not installed; "
            "run: pip install 'reindexer[train]'"
        ) from error
    guard_drivers()
    try:
        return datasets.load_dataset(ref, subset, split=split, streaming=True, revision=revision)
    except Exception as error:
        raise_refused(error)
        raise SourceInvalid(
            f"data set {ref} cannot be read ({_cause(error)}); name the split with --split and the "
            "subset with --subset"
        ) from error


def _cause(error: BaseException) -> str:
    told = without_credentials(" ".join(str(error).split()))[:300]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__
