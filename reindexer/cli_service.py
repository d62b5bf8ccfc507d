"""Verbs around the work: demo, settings, completion, serve."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import (
    duration,
    next_steps,
    note,
    print_json,
    say,
    table,
    warn,
    wrapped,
)

if TYPE_CHECKING:
    from reindexer.journal import Build

DEMO_DATA_DIR = Path("reindexer-demo")
DEMO_P99_TARGET_MS = 2_000.0

# -- demo -----------------------------------------------------------------------------------------


@click.command(
    cls=Verb,
    examples=["reindexer demo", "reindexer demo --documents 500"],
    json_fields='{"head_seq", "documents", "generations": [{"generation", "model", "passages", '
    '"docs_per_s", "verified"}], "queries", "failed", "mixed", "answers": {"docs@1"}, '
    '"slowest_ms", "cut_over": {…}, "rollback": {…}, "seconds", "data_dir"}',
)
@click.option(
    "--documents", type=click.IntRange(50), metavar="N", help="How many; fewer are quicker."
)
@json_option
@pass_invocation
def demo(invocation: Invocation, documents: int | None, as_json: bool) -> None:
    """The whole story on real text, in one command.

    Ingests, fine-tunes a model, upgrades to it while a searcher keeps asking, and rolls back.
    Reads the docstrings of this Python installation. Needs no network and no server; takes a few
    minutes. Uses ./reindexer-demo unless --data-dir says where, and leaves it there to play with.
    """
    from reindexer.demo import DEFAULT_DOCUMENTS, DEMO_SOURCE, run_demo

    origins = invocation.settings.origins
    is_own_folder = "data_dir" not in origins
    if is_own_folder:
        invocation.flags["data_dir"] = DEMO_DATA_DIR
    if "p99_target_ms" not in origins:  # its one searcher waits for the build, not for a person
        invocation.flags["p99_target_ms"] = DEMO_P99_TARGET_MS
    del invocation.settings  # read again, with these
    with invocation.open() as data, Progress("demo", quiet=invocation.quiet) as progress:
        others = {source for source, _ in data.corpus.sources()} - {DEMO_SOURCE}
        if not is_own_folder and others:  # those of a demo that was stopped are gone on with
            raise click.UsageError(
                f"{data.path} holds documents of {', '.join(sorted(others))}, and the demo would "
                "move its search to other models; name a new folder with --data-dir, or none"
            )

        def tell(text: str) -> None:
            (note if as_json else say)(text)
            progress.begin("demo")

        def show(build: Build) -> None:
            progress.what = f"build {build.generation}"
            progress.update(build.docs_done, total=build.docs_total, rate=build.docs_per_s or None)

        def show_stage(stage: str, done: int | None, total: int | None, text: str) -> None:
            if progress.what != stage:
                progress.begin(stage)
            progress.update(done, total=total, state=text)

        figures = run_demo(
            data,
            documents=documents or DEFAULT_DOCUMENTS,
            say=tell,
            on_progress=show,
            on_stage=show_stage,
        )
    figures["data_dir"] = str(invocation.settings.data_dir)
    if as_json:
        print_json(figures)
        return
    say()
    say(
        wrapped(
            f"{figures['queries']:,} queries were asked meanwhile: {figures['failed']} failed, "
            f"{figures['mixed']} mixed two generations; the slowest took "
            f"{figures['slowest_ms']:.0f} ms. All of it took {duration(figures['seconds'])}."
        )
    )
    say()
    here = f"reindexer --data-dir {invocation.settings.data_dir}"
    next_steps(
        f'{here} search "read a file line by line"',
        f"{here} status",
        f"{here} serve",
    )


# -- settings and completion ----------------------------------------------------------------------


@click.command(
    cls=Verb,
    examples=["reindexer settings", "reindexer settings --json"],
    json_fields='a list of {"key", "value", "origin", "environment", "description"}',
)
@json_option
@pass_invocation
def settings(invocation: Invocation, as_json: bool) -> None:
    """Every setting, its value and where it came from.

    Secrets are masked. Flags win over environment variables (REINDEXER_ and the key in
    capitals, _ for the dot), these over reindexer.toml, and that over the defaults.
    """
    rows = invocation.settings.rows()
    if as_json:
        print_json(rows)
        return
    shown = [
        (row["key"], "-" if row["value"] is None else str(row["value"]), row["origin"])
        for row in rows
    ]
    say(table(("setting", "value", "from"), shown))


@click.command(
    cls=Verb,
    examples=[
        'eval "$(reindexer completion bash)"',
        "reindexer completion fish > ~/.config/fish/completions/reindexer.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from reindexer.cli import cli

    found = get_completion_class(shell)
    assert found is not None
    say(found(cli, {}, "reindexer", "_REINDEXER_COMPLETE").source())


# -- serve ----------------------------------------------------------------------------------------


@click.command(
    cls=Verb,
    examples=["reindexer serve", "reindexer serve --port 0"],
)
@click.option("--host", help="Address to listen on; serve.host, 127.0.0.1 unless given.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Port; serve.port, 8321 unless given. 0: any.",
)
@click.option(
    "--insecure", is_flag=True, help="Ask nobody for an API key: whoever reaches it may write."
)
@click.option(
    "--no-worker", is_flag=True, help="Leave scheduled and queued work to `reindexer worker`."
)
@pass_invocation
def serve(
    invocation: Invocation, host: str | None, port: int | None, insecure: bool, no_worker: bool
) -> None:
    """Answer queries over HTTP and keep generations in step.

    Takes documents too, and does the work of a worker. Owns the embedded collections while it runs;
    other verbs find it and go through it. Ends with SIGTERM or Ctrl-C, after the queries under way;
    a build pauses and goes on with the next start.
    """
    if no_worker:
        invocation.flags["run_worker"] = False
    if host is not None:
        invocation.flags["host"] = host
    if port is not None:
        invocation.flags["port"] = port
    from reindexer import logs
    from reindexer.access import is_loopback
    from reindexer.errors import LeaseHeld
    from reindexer.observation import observed
    from reindexer.opening import Opener
    from reindexer.service_address import ServiceAddress
    from search.processes import describe_process

    chosen = invocation.settings
    # Once it has drained, the server raises the signal again: then everything is given back.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    seen = observed(chosen, "reindexer-serve", verbosity=invocation.verbosity)
    with seen, invocation.open() as data:
        is_watched = logs.current_format() == "console"
        other = ServiceAddress.read(data.path)
        if other is not None and not data.store.shared:
            raise LeaseHeld(
                f"a service owns {data.path} already and answers at {other.url}; stop "
                f"{describe_process(other.process)} first"
            )
        with Progress("serve", quiet=invocation.quiet or not is_watched) as progress:
            live = data.catalog.live()
            progress.update(state=f"opening {live.name}" if live is not None else "loading")
            opener = Opener(data, writable=True, apart=True)
            if live is not None:
                opener.begin(live)
            try:
                from reindexer.service import ReindexerService  # takes as long as a collection

                service = ReindexerService(
                    data, host=chosen.host, port=chosen.port, insecure=insecure, opener=opener
                )
            except BaseException:
                opener.close()
                raise
        if not service.access.required and not is_loopback(chosen.host):
            warn(f"listening on {chosen.host} without keys: whoever reaches it may read and write")
        service.run(on_ready=lambda url: _welcome(url, live.name if live else None, invocation))


def _end(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def _welcome(url: str, live: str | None, invocation: Invocation) -> None:
    if invocation.quiet:
        return
    if live is None:
        say(f"Serving at {url}; nothing is live yet. Ctrl-C ends it.")
        next_steps("reindexer ingest SOURCE", "reindexer upgrade MODEL    (in another terminal)")
    else:
        say(f"Serving {live} at {url}; Ctrl-C ends it.")
        next_steps(
            f"{url}    (in a browser; the API at {url}/docs)",
            'reindexer search "…"    (in another terminal)',
        )
    sys.stdout.flush()
