"""The verb on training pairs: pairs build, audit, split."""

from __future__ import annotations

import click

from reindexer.cli_pairs_audit import audit
from reindexer.cli_pairs_build import build
from reindexer.cli_pairs_split import split
from reindexer.cli_verb import VerbGroup
from reindexer.terminal import say


@click.group(
    cls=VerbGroup,
    examples=[
        "reindexer pairs build judged/ -o pairs.jsonl",
        "reindexer pairs audit pairs.jsonl --base support",
        "reindexer pairs split pairs.jsonl -o split/",
    ],
)
@click.pass_context
def pairs(context: click.Context) -> None:
    """Training pairs: build, audit and split them."""
    if context.invoked_subcommand is None:
        say(context.get_help())


for verb in (build, audit, split):
    pairs.add_command(verb)
