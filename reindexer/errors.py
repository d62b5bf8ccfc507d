"""Errors of `reindexer/`. Each message says what was found, what was expected and what to run next.

ReindexerError
├── SourceInvalid      the source cannot be read at all (a bad row is rejected, not raised)
├── SourceStopped      a server stopped answering half-way; the next ingest goes on from there
├── BuildFailed        a build stopped; it can be resumed
├── GateRefused        verification found a reason not to switch          (exit code 3)
├── BackupDamaged      what lies at the place is not the backup that was made
├── TargetNotEmpty     a restore would replace documents
├── KeysMissing        other machines would reach the service without a key (exit code 2)
├── ScheduleInvalid    a time, or a name, that no schedule can have
├── JobInvalid         no such kind of job, or arguments it cannot do with
└── LeaseHeld          another process is doing this right now            (exit code 4)
"""

from __future__ import annotations

from training.errors import MAKE_ROOM, MEMORY_IS_SHORT, is_disk_full, is_memory_short


class ReindexerError(Exception):
    """Base of everything `reindexer/` raises on purpose."""


class SourceInvalid(ReindexerError):
    """The source cannot be read at all."""


class SourceStopped(ReindexerError):
    """What a source is read from stopped answering; the rows before are stored."""


class BuildFailed(ReindexerError):
    """A build stopped before its end; its checkpoint is kept."""


class GateRefused(ReindexerError):
    """Verification found a reason not to switch."""


class LeaseHeld(ReindexerError):
    """Another process is doing this right now."""


class KeysMissing(ReindexerError):
    """Other machines would reach the service, and no API key says who may."""


class BackupDamaged(ReindexerError):
    """What lies at the place is not the backup that was made."""


class TargetNotEmpty(ReindexerError):
    """A restore would replace what is there."""


class ScheduleInvalid(ReindexerError):
    """A time, or a name, that no schedule can have."""


class JobInvalid(ReindexerError):
    """No such kind of job, or arguments that it cannot do with."""


def in_words(error: BaseException) -> str:
    """What an error says to people; of the operating system's, without its number."""
    if is_memory_short(error):
        return MEMORY_IS_SHORT
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    found = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if is_disk_full(error):
        found = f"{found}; {MAKE_ROOM}"
    return found
