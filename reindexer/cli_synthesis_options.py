"""The --llm options of pairs build: which language model writes queries, how many, and how fast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

KEY_VARIABLE = "OPENAI_API_KEY"
_OF_OTHER_SOURCES = ("format", "split", "rename", "graded", "group_field", "corpus", "clicks")


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisOptions:
    """What the --llm options say."""

    base_url: str
    model: str
    api_key_env: str
    temperature: float | None
    queries: int
    documents: int | None
    prompt: Path | None
    having: tuple[Path, ...]
    max_tokens: int
    timeout_s: float
    requests_per_min: float | None
    concurrency: int
    prompt_price: float | None  # of a million tokens, in any currency
    completion_price: float | None
    round_trip: str | None
    round_trip_k: int
    yes: bool


def synthesis_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the --llm options; the function gets them as `llm`, which is None without them."""

    @functools.wraps(function)
    def with_options(*args: Any, yes: bool, **values: Any) -> Any:
        given = {
            name.removeprefix("llm_"): values.pop(name)
            for name in list(values)
            if name.startswith("llm_")
        }
        return function(*args, llm=_options(given, yes=yes), **values)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options


def check_no_other_source(context: click.Context) -> None:
    """Options that say how to read pairs mean nothing where they are written. Raises UsageError."""
    for name in _OF_OTHER_SOURCES:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is for pairs that are there already; leave it out "
                "with --llm-model"
            )


def _options(given: dict[str, Any], *, yes: bool) -> SynthesisOptions | None:
    context = click.get_current_context()
    from_user = [
        name
        for name in context.params
        if name.startswith("llm_")
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given["model"] is None:
        if from_user:
            flag = f"--{from_user[0].replace('_', '-')}"
            raise click.UsageError(f"{flag} goes with --llm-model NAME; name the model to ask")
        return None
    if given["base_url"] is None:
        raise click.UsageError(
            "--llm-model needs --llm-base-url URL, such as http://127.0.0.1:8000/v1; or set "
            "OPENAI_BASE_URL"
        )
    if not given["base_url"].startswith(("http://", "https://")):
        raise click.UsageError(
            f"--llm-base-url {given['base_url']}: expected http:// or https://, as "
            "http://127.0.0.1:8000/v1"
        )
    return SynthesisOptions(**given, yes=yes)


_OPTIONS = (
    click.option("--llm-model", metavar="NAME", help="Let this language model write queries."),
    click.option(
        "--llm-base-url",
        envvar="OPENAI_BASE_URL",
        metavar="URL",
        help="Where it is: an OpenAI-compatible endpoint (environment: OPENAI_BASE_URL).",
    ),
    click.option(
        "--llm-api-key-env",
        default=KEY_VARIABLE,
        show_default=True,
        metavar="VARIABLE",
        help="Environment variable that holds the API key.",
    ),
    click.option(
        "--llm-queries",
        type=click.IntRange(1, 20),
        default=3,
        show_default=True,
        metavar="N",
        help="Queries for each document.",
    ),
    click.option(
        "--llm-documents",
        type=click.IntRange(1),
        metavar="N",
        help="Ask about so many documents, drawn at random; about all unless given.",
    ),
    click.option(
        "--llm-having",
        multiple=True,
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="Pairs there are already: their documents are passed over; repeatable.",
    ),
    click.option(
        "--llm-prompt",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="Instructions for this domain instead of ours; {n} in them is --llm-queries.",
    ),
    click.option(
        "--llm-temperature",
        type=click.FloatRange(0, 2),
        metavar="X",
        help="The model's own unless given.",
    ),
    click.option(
        "--llm-max-tokens",
        type=click.IntRange(16),
        default=1_024,
        show_default=True,
        metavar="N",
        help="Longest answer, reasoning included.",
    ),
    click.option(
        "--llm-requests-per-min",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Send no more than that; no limit unless given.",
    ),
    click.option(
        "--llm-concurrency",
        type=click.IntRange(1, 256),
        default=4,
        show_default=True,
        metavar="N",
        help="Requests in flight.",
    ),
    click.option(
        "--llm-timeout",
        "llm_timeout_s",
        type=click.FloatRange(0, min_open=True),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for one answer.",
    ),
    click.option(
        "--llm-prompt-price",
        type=click.FloatRange(0),
        metavar="X",
        help="Price of a million tokens sent, to show the cost.",
    ),
    click.option(
        "--llm-completion-price",
        type=click.FloatRange(0),
        metavar="X",
        help="Price of a million tokens answered, to show the cost.",
    ),
    click.option(
        "--llm-round-trip",
        metavar="REF",
        help="Leave out queries with which this model does not find their document; the live "
        "generation's model unless given.",
    ),
    click.option(
        "--llm-round-trip-k",
        type=click.IntRange(0),
        default=10,
        show_default=True,
        metavar="K",
        help="It counts as found among the first K; 0 keeps all queries.",
    ),
    click.option("-y", "--yes", is_flag=True, help="Ask the language model without asking first."),
)
