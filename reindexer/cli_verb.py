"""What all verbs share: the options that go anywhere, where settings come from, help's shape."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reindexer.errors import ReindexerError
from reindexer.settings import Settings, environment_variable, read_settings
from reindexer.terminal import configure_logging, say
from training.outgoing import limited_to

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory

AGAIN_S = 0.02  # a destructor has ended by then
Function = TypeVar("Function", bound=Callable[..., Any])


class NothingHere(ReindexerError):
    """The data directory that was named does not exist."""


class Terminated(SystemExit):
    """SIGTERM: whatever Ctrl-C undoes or gives back is, leases first of all."""


@contextlib.contextmanager
def sigterm_ends_in_order() -> Iterator[None]:
    """SIGTERM raises Terminated, once; a second one ends the process where it is. A verb that
    drains has a handler of its own."""

    def end(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # no signal comes here
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        with _lost_signals_come_again():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _lost_signals_come_again() -> Iterator[None]:
    """Python drops what is raised within a destructor, and with it the signal whose handler raised
    there: it is sent once more, a moment later."""
    before = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        error = lost.exc_value
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            before(lost)
            return
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM

        def raise_again(_number: int, _frame: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            raise type(error)(*error.args)

        signal.signal(number, raise_again)
        timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@dataclass(kw_only=True)
class Invocation:
    """One call of the command: what was given before and after the verb."""

    flags: dict[str, Any] = field(default_factory=dict)
    config: Path | None = None
    quiet: bool = False
    verbosity: int = 0

    @cached_property
    def settings(self) -> Settings:
        return read_settings(self.flags, config=self.config)

    def open(self) -> DataDirectory:
        """The data directory; made when it is not there yet."""
        from reindexer.data_directory import open_data_directory

        return open_data_directory(self.settings)

    def open_existing(self) -> DataDirectory:
        """The data directory. Raises NothingHere instead of making one: a mistyped name must not
        look like an empty corpus."""
        self.check_exists()
        return self.open()

    def check_exists(self) -> None:
        settings = self.settings
        if settings.database_url is None and not (settings.data_dir / "reindexer.db").exists():
            raise NothingHere(
                f"there is no data directory {settings.data_dir}; name the right one with "
                "--data-dir, or begin with `reindexer ingest SOURCE`"
            )

    def arguments(self) -> list[str]:
        """The same options again, for another process."""
        settings = self.settings
        result = ["--data-dir", str(settings.data_dir.absolute())]
        if self.config is not None:
            result += ["--config", str(self.config.absolute())]
        keys = {name: key for key, name in _setting_names().items()}
        for name, value in self.flags.items():
            if name != "data_dir":
                result += ["--set", f"{keys[name]}={value}"]
        return result + ["-v"] * self.verbosity


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    invocation = context.ensure_object(Invocation)
    match parameter.name:
        case "data_dir" if value is not None:
            invocation.flags["data_dir"] = value
        case "config" if value is not None:
            invocation.config = value
        case "set" if value:
            invocation.flags.update(_assignments(value))
        case "quiet" if value:
            invocation.quiet = True
        case "verbose" if value:
            invocation.verbosity += value
        case _:
            return
    configure_logging(invocation.verbosity, quiet=invocation.quiet)


def _assignments(texts: Sequence[str]) -> dict[str, str]:
    known = _setting_names()
    result: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if sign and key in _secret_keys():
            raise click.UsageError(
                f"--set {key}=…: every user of this machine can read a command line; "
                f"set {environment_variable(key)} instead, or write it into the settings file"
            )
        if not sign or key not in known:
            raise click.UsageError(
                f"--set {text!r}: expected KEY=VALUE with a KEY that `reindexer settings` lists"
            )
        result[known[key]] = value
    return result


def _setting_names() -> dict[str, str]:
    """Field of Settings by its key."""
    return {item.metadata["key"]: item.name for item in fields(Settings) if item.metadata}


def _secret_keys() -> set[str]:
    return {item.metadata["key"] for item in fields(Settings) if item.metadata.get("secret")}


def global_options(*, hidden: bool) -> list[click.Option]:
    """The options that may stand before or after the verb."""
    shared: Mapping[str, Any] = {
        "callback": _remember,
        "expose_value": False,
        "is_eager": True,
        "hidden": hidden,
    }
    return [
        click.Option(
            ["--data-dir"],
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="Where everything is kept; ./.reindexer unless given "
            "(environment: REINDEXER_DATA_DIR).",
            **shared,
        ),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Settings file; ./reindexer.toml if there is one.",
            **shared,
        ),
        click.Option(
            ["--set"],
            multiple=True,
            metavar="KEY=VALUE",
            help="Any setting for this call, such as --set build.window=1024.",
            **shared,
        ),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress, no hints.", **shared),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            help="Say what is done; show where an error comes from. -vv for more.",
            **shared,
        ),
    ]


class Verb(click.Command):
    """A verb: help ends with examples, and global options may follow it."""

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), json_fields: str = "", **more: Any
    ) -> None:
        """json_fields: what --json prints, for the reference."""
        super().__init__(*args, **more)
        self.examples = tuple(examples)
        self.json_fields = json_fields
        self.params += global_options(hidden=True)

    def invoke(self, ctx: click.Context) -> Any:
        """Whatever addresses it is given, it asks the hosts that may be asked."""
        given = ctx.ensure_object(Invocation)  # a verb may add to its flags before it reads them
        with limited_to(read_settings(given.flags, config=given.config).reachable):
            return super().invoke(ctx)

    def format_epilog(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.examples, formatter)


class VerbGroup(click.Group):
    """A verb with verbs of its own; by itself it lists."""

    command_class = Verb

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), json_fields: str = "", **more: Any
    ) -> None:
        super().__init__(*args, **{"invoke_without_command": True, **more})
        self.examples = tuple(examples)
        self.json_fields = json_fields
        self.params += global_options(hidden=True)

    def format_epilog(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.examples, formatter)


def _write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{' ' * formatter.current_indent}{example}\n")


def json_option(function: Function) -> Function:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
    )(function)


def yes_option(function: Function) -> Function:
    return click.option("-y", "--yes", is_flag=True, help="Go ahead without asking.")(function)


def split_option(default: str) -> Callable[[Function], Function]:
    """--split S: which judgments of a BEIR folder."""
    return click.option(
        "--split", default=default, show_default=True, help="Which of the folder's qrels."
    )


def fanout_options(function: Function) -> Function:
    """Who encodes; they set what `reindexer settings` lists."""
    options: tuple[tuple[str, str, Any, str, str], ...] = (
        ("--ray-gpus-per-actor", "ray_gpus_per_actor", float, "X", "GPUs that an actor gets."),
        ("--ray-actors", "ray_actors", int, "N", "Actors; as many as have room unless given."),
        ("--ray-address", "ray_address", str, "ADDRESS", "Ray cluster; a local one unless given."),
        ("--processes", "processes", int, "N", "Child processes; one for each GPU unless given."),
        (
            "--fanout",
            "fanout",
            click.Choice(["auto", "none", "processes", "ray"]),
            "WHERE",
            "Who encodes: auto, none (one process), processes, or ray (actors on a cluster).",
        ),
    )
    for flag, name, kind, metavar, text in options:
        function = click.option(
            flag,
            name,
            type=kind,
            metavar=metavar,
            help=text,
            expose_value=False,
            callback=_remember_flag,
        )(function)
    return function


def _remember_flag(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        context.ensure_object(Invocation).flags[parameter.name] = value


def report_option(function: Function) -> Function:
    """--report FILE: the verb's findings as a page, and the same in Markdown."""
    return click.option(
        "--report",
        "report_path",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write a page with plots to FILE, and the same as Markdown beside it.",
    )(function)


def say_where(pages: tuple[Path, Path] | None) -> None:
    """Where the page and its Markdown are, if they were asked for."""
    if pages is not None:
        page, markdown = pages
        say(f"\nThe page is {page}, in Markdown {markdown}")


def judgment_options(function: Function) -> Function:
    """--eval DIR and --split S: judged queries in a BEIR folder."""
    option = click.option(
        "--eval",
        "eval_dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="BEIR folder with judged queries: the gate checks quality too.",
    )
    return option(split_option("test")(function))
