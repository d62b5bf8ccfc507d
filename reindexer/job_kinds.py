"""What each kind of job takes, and the verb that does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reindexer.errors import JobInvalid
from reindexer.jobs import KINDS, Job


@dataclass(frozen=True, kw_only=True, slots=True)
class JobArguments:
    """Names of the arguments of one kind; all their values are text or numbers."""

    needed: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # each is the option of that name of the verb


ARGUMENTS: Mapping[str, JobArguments] = {
    "sync": JobArguments(),
    "compact": JobArguments(),
    "prune": JobArguments(),
    "evaluate": JobArguments(needed=("folder",), options=("split", "mode")),
    "export_clicks": JobArguments(needed=("output",)),
    "train": JobArguments(
        needed=("pairs", "base", "name"),
        options=("eval", "split", "loss", "epochs", "seed", "negatives", "matryoshka"),
    ),
    "build": JobArguments(options=("model", "generation", "eval", "split")),
    "upgrade": JobArguments(options=("model", "generation", "eval", "split")),
}


def checked_arguments(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, if a job of this kind can be done with them. Raises JobInvalid."""
    if kind not in KINDS:
        raise JobInvalid(f"no kind of job {kind!r}; there are: {', '.join(sorted(KINDS))}")
    takes = ARGUMENTS[kind]
    known = takes.needed + takes.options
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise JobInvalid(
            f"a job of kind {kind} does not take {unknown[0]!r}; it takes "
            f"{', '.join(known) or 'nothing'}"
        )
    for name, value in arguments.items():
        if str(value).startswith("-"):
            raise JobInvalid(f"{name} is {value!r}, which a verb would take for an option")
    missing = [name for name in takes.needed if not arguments.get(name)]
    if missing:
        raise JobInvalid(f"a job of kind {kind} needs {missing[0]!r}")
    if kind in ("build", "upgrade") and not (arguments.get("model") or arguments.get("generation")):
        raise JobInvalid(f"a job of kind {kind} needs 'model'")
    return dict(arguments)


def command(job: Job) -> list[str]:
    """The verb that does a job, as the arguments of `python -m reindexer`."""
    arguments = job.arguments
    match job.kind:
        case "sync" | "prune":
            return [job.kind, "--json"]
        case "compact":
            return ["compact", "--if-worn", "--json"]
        case "evaluate":
            return ["evaluate", str(arguments["folder"]), *_options(job), "--json"]
        case "export_clicks":
            output = str(arguments["output"])
            return ["pairs", "build", "--clicks", "-o", output, "--json"]
        case "train":
            base, name = str(arguments["base"]), str(arguments["name"])
            verb = ["train", str(arguments["pairs"]), "--base", base, "--name", name]
            return [*verb, *_options(job), "--json"]
        case "build" | "upgrade" if job.generation is not None:
            verb = ["resume", job.generation] + ["--cutover"] * (job.kind == "upgrade")
            return [*verb, *_options(job, leave_out=("model", "generation")), "--json"]
        case "build" | "upgrade":
            verb = [job.kind, str(arguments["model"])] + ["--yes"] * (job.kind == "upgrade")
            return [*verb, *_options(job, leave_out=("model", "generation")), "--json"]


def _options(job: Job, leave_out: tuple[str, ...] = ()) -> list[str]:
    result: list[str] = []
    for name in ARGUMENTS[job.kind].options:
        if name not in leave_out and job.arguments.get(name) is not None:
            result += [f"--{name}", str(job.arguments[name])]
    return result
