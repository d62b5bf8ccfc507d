"""The `reindexer` command: the verbs, and what becomes of an error.

Exit codes: 0 done, 1 failed, 2 usage, 3 a gate refused, 4 somebody else holds the lease,
130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import click

from reindexer.cli_verb import Invocation, Terminated, global_options, sigterm_ends_in_order
from reindexer.errors import (
    GateRefused,
    JobInvalid,
    KeysMissing,
    LeaseHeld,
    ReindexerError,
    ScheduleInvalid,
    in_words,
)
from reindexer.settings import SettingsInvalid
from reindexer.terminal import configure_logging
from search.errors import InvalidKey, LeaseLost, SearchError, StoreLocked
from search.masking import mask_keys
from training.errors import MEMORY_IS_SHORT, HostRefused, TrainingError, is_memory_short

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_LEASE = 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# The first class that fits counts.
EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (GateRefused, EXIT_REFUSED),
    (LeaseHeld, EXIT_LEASE),
    (LeaseLost, EXIT_LEASE),
    (StoreLocked, EXIT_LEASE),
    (SettingsInvalid, EXIT_USAGE),
    (ScheduleInvalid, EXIT_USAGE),
    (JobInvalid, EXIT_USAGE),
    (KeysMissing, EXIT_USAGE),
    (InvalidKey, EXIT_USAGE),
    (HostRefused, EXIT_USAGE),
    (ReindexerError, EXIT_FAILED),
    (SearchError, EXIT_FAILED),
    (TrainingError, EXIT_FAILED),
)

# Verbs by the module that defines them, in the order of the help. A module is imported when one of
# its verbs, or the help, is asked for; the modules import nothing heavy until a verb runs.
SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Begin": {
        "demo": "cli_service",
        "doctor": "cli_doctor",
        "selftest": "cli_selftest",
        "settings": "cli_service",
        "completion": "cli_service",
    },
    "Documents and answers": {
        "ingest": "cli_documents",
        "search": "cli_search",
        "evaluate": "cli_evaluate",
        "tune": "cli_tune",
        "serve": "cli_service",
        "mcp": "cli_mcp",
        "keys": "cli_keys",
        "feedback": "cli_feedback",
        "sync": "cli_documents",
    },
    "Models": {
        "pairs": "cli_pairs",
        "models": "cli_models",
        "compare": "cli_compare",
        "train": "cli_train",
        "advise": "cli_advise",
    },
    "From one model to the next": {
        "plan": "cli_plan",
        "upgrade": "cli_upgrade",
        "build": "cli_upgrade",
        "pause": "cli_build",
        "resume": "cli_build",
        "scale": "cli_build",
        "cancel": "cli_build",
        "verify": "cli_generations",
        "cutover": "cli_cutover",
        "rollback": "cli_cutover",
    },
    "Unattended": {
        "worker": "cli_worker",
        "schedule": "cli_worker",
    },
    "Look and tidy": {
        "status": "cli_status",
        "generations": "cli_generations",
        "prune": "cli_prune",
        "compact": "cli_prune",
        "backup": "cli_backup",
        "restore": "cli_backup",
    },
}
_MODULES = {verb: module for section in SECTIONS.values() for verb, module in section.items()}


class ReindexerCommand(click.Group):
    """Loads verbs when they are asked for and turns every error into one line and an exit code."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        module = _MODULES.get(name)
        if module is None:
            return None
        command = getattr(importlib.import_module(f"reindexer.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _MODULES and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], _MODULES, n=1)
            hint = f"did you mean `reindexer {close[0]}`?" if close else "see `reindexer --help`"
            raise click.UsageError(f"there is no verb {args[0]!r}; {hint}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                commands = [(name, self.get_command(context, name)) for name in verbs]
                formatter.write_dl(
                    [
                        (name, command.get_short_help_str(60))
                        for name, command in commands
                        if command is not None
                    ],
                    col_max=14,
                )

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        invocation = Invocation()
        extra.setdefault("obj", invocation)
        configure_logging(0, quiet=False)
        try:
            with sigterm_ends_in_order():
                code = super().main(
                    args, prog_name or "reindexer", complete_var, standalone_mode=False, **extra
                )
                sys.stdout.flush()
        except BrokenPipeError:
            _stop_writing()
            code = EXIT_FAILED
        except BaseException as error:
            code = _report(error, extra["obj"])
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: BaseException, invocation: Invocation) -> int:
    """One line on stderr; the exit code. With -v the traceback as well."""
    match error:
        case Terminated():
            _say_error("ended by SIGTERM; what was acknowledged is kept, the same command goes on")
            return EXIT_TERMINATED
        case SystemExit():
            return error.code if isinstance(error.code, int) else EXIT_FAILED
        case KeyboardInterrupt() | click.Abort():
            _say_error("interrupted; what was acknowledged is kept")
            return EXIT_INTERRUPTED
        case click.UsageError():
            path = error.ctx.command_path if error.ctx is not None else "reindexer"
            message = error.format_message().rstrip(".")
            _say_error(message if "`" in message else f"{message}. See `{path} --help`")
            return EXIT_USAGE
        case click.ClickException():
            _say_error(error.format_message())
            return error.exit_code
        case _ if is_memory_short(error):
            _say_error(
                f"{MEMORY_IS_SHORT}. What was acknowledged is kept, the same command goes on"
            )
            return EXIT_FAILED
        case UnicodeEncodeError(reason="surrogates not allowed"):
            _say_error(f"{error.object[:80]!a} holds bytes that are not UTF-8; expected UTF-8")
            return EXIT_USAGE
    if invocation.verbosity:
        log.error("where it comes from:", exc_info=error)
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            _say_error(in_words(error))
            return code
    if isinstance(error, OSError) and error.strerror:
        _say_error(in_words(error))
        return EXIT_FAILED
    again = "" if invocation.verbosity else "; run again with -v to see where it comes from"
    _say_error(f"unexpected {type(error).__name__}: {error}{again}")
    return EXIT_FAILED


def _say_error(message: str) -> None:
    with contextlib.suppress(OSError):
        text = mask_keys(" ".join(message.split()))
        mark = click.style("Error:", fg="red", bold=True)
        click.echo(f"{mark} {text}", err=True, color=False if _is_plain() else None)


def _is_plain() -> bool:
    """https://no-color.org"""
    return bool(os.environ.get("NO_COLOR"))


def _stop_writing() -> None:
    """The reader of our output has gone; keep Python from complaining when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=ReindexerCommand,
    invoke_without_command=True,
    params=global_options(hidden=False),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="reindexer", message="reindexer %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Move hybrid search from one embedding model to the next while it keeps answering.

    The options below may stand before or after the verb. Begin with `reindexer demo`, or with
    `reindexer ingest SOURCE` and `reindexer upgrade MODEL`.
    """
    context.ensure_object(Invocation)
    if _is_plain():
        context.color = False
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Entry point of the command and of `python -m reindexer`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are for their developers
    # Engine and tokenizer are Rust, which ends a process that finds no memory. Where a backtrace
    # is wanted it hangs instead: printing one needs memory, and its lock is held already.
    os.environ["RUST_BACKTRACE"] = "0"
    cli.main()
