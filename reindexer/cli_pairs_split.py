"""The verb pairs split."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from reindexer.cli_verb import (
    Invocation,
    Verb,
    json_option,
    pass_invocation,
)
from reindexer.progress import Progress
from reindexer.terminal import (
    count,
    fields,
    next_steps,
    print_json,
    say,
    warn,
    when,
)


@click.command(
    "split",
    cls=Verb,
    examples=[
        "reindexer pairs split pairs.jsonl -o split/",
        "reindexer pairs split pairs.jsonl -o split/ --test-share 0.2 --corpus documents.jsonl",
    ],
    json_fields='{"pairs", "out", "train", "dev", "test", "dropped", "documents", "components", '
    '"largest_component", "by_time", "dev_from_s", "test_from_s", "seed", "seconds"}',
)
@click.argument("file", metavar="PAIRS")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Gets train, dev and test.jsonl, and a BEIR folder of dev and test.",
)
@click.option(
    "--test-share", default=0.1, show_default=True, metavar="X", help="Of the pairs, 0..1."
)
@click.option(
    "--dev-share", default=0.1, show_default=True, metavar="X", help="Of the pairs, 0..1."
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of what is drawn.")
@click.option(
    "--by-time/--no-by-time",
    default=None,
    help="Test is later than train; so it is anyway where all pairs have a time.",
)
@click.option(
    "--corpus",
    metavar="REF",
    help="Documents to search in, beside those of the pairs: BEIR folder, JSONL, CSV, Parquet.",
)
@json_option
@pass_invocation
def split(
    invocation: Invocation,
    file: str,
    out: Path,
    test_share: float,
    dev_share: float,
    seed: int,
    by_time: bool | None,
    corpus: str | None,
    as_json: bool,
) -> None:
    """Cut pairs into train, dev and test that share nothing.

    Pairs with a common query, positive, document or group stay together. DIR is then also a BEIR
    folder, so `train DIR/train.jsonl --eval DIR` works at once.
    """
    from reindexer.document_texts import documents_in
    from training.pairs import read_pairs
    from training.split import split_pairs
    from training.split_files import write_split

    began = time.monotonic()
    with Progress(f"split {file}", quiet=invocation.quiet) as progress:
        progress.update(state="reading")
        found = read_pairs(file)
        progress.update(state="splitting")
        split = split_pairs(
            found, dev_share=dev_share, test_share=test_share, seed=seed, by_time=by_time
        )
        progress.update(state="writing")
        documents = documents_in(corpus) if corpus is not None else None
        n_documents = write_split(split, out, documents=documents)
    value: dict[str, Any] = {
        "pairs": file,
        "out": str(out),
        **split.to_json(),
        "documents": n_documents,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 3),
    }
    if as_json:
        print_json(value)
        return
    how = f"from {when(split.test_from_s)} on" if split.test_from_s is not None else None
    say(
        fields(
            [
                ("train", len(split.train)),
                ("dev", len(split.dev)),
                ("test", len(split.test)),
                ("test is", how),
                ("documents", n_documents),
                ("components", f"{split.components:,}, the largest of {split.largest_component:,}"),
            ]
        )
    )
    if split.dropped:
        warn(
            f"{count(len(split.dropped), 'pair')} dropped: earlier than the part that another pair "
            "of the same query, document or group is in"
        )
    if not invocation.quiet:
        next_steps(f"reindexer train {out / 'train.jsonl'} --base MODEL --eval {out}")
