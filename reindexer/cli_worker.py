"""Verbs of unattended work: worker, schedule."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation, Verb, VerbGroup, json_option, pass_invocation
from reindexer.terminal import duration, next_steps, print_json, say, table, when

if TYPE_CHECKING:
    from reindexer.jobs import Job

_SCHEDULE = '{"name", "kind", "arguments": {}, "trigger", "enabled", "last_at", "next_at"}'
_JOB = (
    '{"job_id", "kind", "arguments": {}, "state", "who", "reason", "attempts", "seconds", '
    '"asked_at", "started_at", "finished_at", "not_before", "log", "result"}'
)


# -- worker ---------------------------------------------------------------------------------------


@click.command(cls=Verb, examples=["reindexer worker", "reindexer worker --metrics-port 9108"])
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Answer GET /metrics at this port of 127.0.0.1; 0: any.",
)
@click.option(
    "--metrics-host",
    default="127.0.0.1",
    metavar="HOST",
    help="Another address for /metrics. It asks nobody for a key.",
)
@pass_invocation
def worker(invocation: Invocation, metrics_port: int | None, metrics_host: str) -> None:
    """Do scheduled and queued work until told to stop.

    Builds, evaluations and training run in child processes. A service does this work too, unless
    serve.worker is false; any number of workers may run, and none does what another is doing. With
    a Qdrant server it replays the log as well, when nobody else does. Ends with SIGTERM or Ctrl-C:
    a build pauses at a checkpoint and the next worker goes on with it.
    """
    from reindexer.observation import metrics_served, observed
    from reindexer.worker import Worker

    stop = threading.Event()
    settings = invocation.settings
    with (
        observed(settings, "reindexer-worker", verbosity=invocation.verbosity),
        metrics_served(settings, metrics_host, metrics_port),
        invocation.open() as data,
    ):
        worker = Worker(data, replays=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        worker.start()
        if not invocation.quiet:
            say(f"Worker {worker.name} is at work; Ctrl-C ends it.")
            next_steps("reindexer schedule list", "reindexer schedule jobs")
        stop.wait()
        worker.stop()


# -- schedule -------------------------------------------------------------------------------------


@click.group(
    cls=VerbGroup,
    examples=[
        "reindexer schedule list",
        "reindexer schedule set sync sync --every 60s",
        'reindexer schedule set nightly evaluate --cron "0 3 * * *" --argument folder=judged/',
    ],
    json_fields=f"as `schedule list`: a list of {_SCHEDULE}",
)
@json_option
@click.pass_context
def schedule(context: click.Context, as_json: bool) -> None:
    """What is done again and again; by itself the list of it."""
    if context.invoked_subcommand is None:
        context.invoke(list_schedules, as_json=as_json)


@schedule.command(
    "list",
    examples=["reindexer schedule list", "reindexer schedule list --json"],
    json_fields=f"a list of {_SCHEDULE}",
)
@json_option
@pass_invocation
def list_schedules(invocation: Invocation, as_json: bool) -> None:
    """Every schedule, when it ran last and when it runs next."""
    from reindexer.schedule import Schedules

    with invocation.open_existing() as data:
        schedules = Schedules(data.database)
        schedules.add_defaults()
        found = schedules.all()
    if as_json:
        print_json([item.to_json() for item in found])
        return
    rows = [
        (
            item.name,
            item.kind,
            item.trigger,
            _ago(item.last_at),
            when(item.next_at) if item.next_at is not None else "off",
            _in_words(item.arguments),
        )
        for item in found
    ]
    say(table(("name", "job", "when", "last", "next", "with"), rows))
    if not invocation.quiet:
        say()
        next_steps("reindexer schedule jobs    (what came of it)")


@schedule.command(
    "set",
    examples=[
        "reindexer schedule set sync sync --every 60s",
        'reindexer schedule set tidy prune --cron "0 4 * * sun"',
        "reindexer schedule set nightly evaluate --every 24h --argument folder=judged/",
    ],
    json_fields=_SCHEDULE,
)
@click.argument("name")
@click.argument("kind")
@click.option("--every", metavar="TIME", help="An interval: 300s, 15m, 6h, 1d.")
@click.option("--cron", metavar="FIELDS", help='Five cron fields, in UTC: "0 3 * * *".')
@click.option(
    "--argument",
    "arguments",
    multiple=True,
    metavar="KEY=VALUE",
    help="What the job takes; may be given again.",
)
@json_option
@pass_invocation
def set_schedule(
    invocation: Invocation,
    name: str,
    kind: str,
    every: str | None,
    cron: str | None,
    arguments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make or change the schedule NAME of a job KIND.

    \b
    KIND, and what it takes (--argument):
      sync           nothing: live and standby follow the corpus
      compact        nothing: rebuilds the live generation's index when it has worn out
      prune          nothing: drops what nobody wants, after its hold-over
      evaluate       folder, split, mode: scores the live generation
      export_clicks  output: writes the click log as a file for `pairs build`
      train          pairs, base, name, eval, split, loss, epochs, seed, negatives, matryoshka
      build          model, eval, split: ends with a generation that is ready
      upgrade        model, eval, split: and switches to it
    """
    from typing import cast

    from reindexer.jobs import JobKind
    from reindexer.schedule import Schedules

    if (every is None) == (cron is None):
        raise click.UsageError("say when: either --every 6h or --cron '0 3 * * *'")
    trigger = f"every {every}" if every is not None else str(cron)
    with invocation.open() as data:
        made = Schedules(data.database).set(
            name, cast(JobKind, kind), trigger, _assignments(arguments)
        )
    if as_json:
        print_json(made.to_json())
        return
    next_at = when(made.next_at) if made.next_at is not None else "never"
    say(f"{made.name}: {made.kind} {made.trigger}; next at {next_at}.")
    if not invocation.quiet:
        next_steps("reindexer worker    (or `reindexer serve`: either does the work)")


@schedule.command(
    "remove", examples=["reindexer schedule remove nightly"], json_fields='{"removed"}'
)
@click.argument("name")
@json_option
@pass_invocation
def remove_schedule(invocation: Invocation, name: str, as_json: bool) -> None:
    """Forget a schedule.

    One of the defaults is switched off instead, and stays off; `schedule set` switches it on again.
    """
    from reindexer.schedule import Schedules

    with invocation.open_existing() as data:
        Schedules(data.database).remove(name)
    if as_json:
        print_json({"removed": name})
        return
    say(f"{name} is not done any more; what was asked for already still is.")


@schedule.command("run", examples=["reindexer schedule run nightly"], json_fields=_JOB)
@click.argument("name")
@json_option
@pass_invocation
def run_schedule(invocation: Invocation, name: str, as_json: bool) -> None:
    """Ask for the job of a schedule now; a worker does it."""
    from reindexer.schedule import Schedules
    from reindexer.worker import living_workers
    from search.events import local_user

    with invocation.open_existing() as data:
        job = Schedules(data.database).ask_now(name, who=local_user())
        is_anybody_there = bool(living_workers(data))
    if as_json:
        print_json(job.to_json())
        return
    say(f"Job {job.job_id} ({job.kind}) was asked for.")
    if not is_anybody_there:
        say("No worker runs, so it waits for one.")
        next_steps("reindexer worker    (or `reindexer serve`)")
    elif not invocation.quiet:
        next_steps("reindexer schedule jobs")


@schedule.command(
    "jobs",
    examples=["reindexer schedule jobs", "reindexer schedule jobs --limit 100 --json"],
    json_fields=f"a list, newest first, of {_JOB}",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000),
    default=20,
    show_default=True,
    metavar="N",
    help="How many, the newest.",
)
@json_option
@pass_invocation
def list_jobs(invocation: Invocation, limit: int, as_json: bool) -> None:
    """What was asked for, what came of it, and why not."""
    from reindexer.jobs import JobQueue

    with invocation.open_existing() as data:
        found = JobQueue(data.database).recent(limit)
    if as_json:
        print_json([job.to_json() for job in found])
        return
    if not found:
        say("Nothing was asked for yet.")
        return
    rows = [
        (job.job_id, job.kind, job.state, _took(job), _ago(job.asked_at), job.who, job.reason or "")
        for job in found
    ]
    say(table(("job", "kind", "state", "took", "asked", "by", "reason"), rows))


def _assignments(texts: tuple[str, ...]) -> dict[str, str]:
    result: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise click.UsageError(f"--argument {text!r}: expected KEY=VALUE")
        result[key] = value
    return result


def _in_words(arguments: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in arguments.items())


def _ago(at: float | None) -> str:
    return when(at) if at is not None else "-"


def _took(job: Job) -> str:
    seconds = job.to_json()["seconds"]
    return duration(seconds) if seconds is not None else "-"
