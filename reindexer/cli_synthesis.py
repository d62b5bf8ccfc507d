"""The language model's part in pairs build: what it will cost, asking it, what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation
from reindexer.progress import Progress
from reindexer.terminal import confirm, count, note, say

if TYPE_CHECKING:
    from reindexer.cli_synthesis_options import SynthesisOptions
    from training.judgments import JudgedDocument
    from training.llm_calls import Endpoint
    from training.pairs import Pair, PairRow, RejectedRow
    from training.round_trip import RoundTrip
    from training.synthesis import Synthesis, SynthesisEstimate, SynthesisTask, Usage

ROUND_TRIP_DOCUMENTS = 20_000  # searched at most: those asked about, and others drawn at random


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a language model wrote for documents that had no queries."""

    pairs: Sequence[Pair]
    failed: Mapping[str, str]  # doc_id -> why there is no query for it
    facts: Mapping[str, Any]  # for --json

    def rows(self) -> list[PairRow | RejectedRow]:
        """One for each pair, and one for each document that got no query."""
        from training.pairs import PairRow, RejectedRow

        return [
            *(PairRow(where=f"document {pair.doc_id}", pair=pair) for pair in self.pairs),
            *(
                RejectedRow(where=f"document {doc_id}", reason=reason)
                for doc_id, reason in self.failed.items()
            ),
        ]


def build_with_llm(
    invocation: Invocation, source: str | None, options: SynthesisOptions
) -> Written:
    """Ask for queries for the documents of a source that have none, after showing the cost.

    source: anything that ingest reads, or None for the ingested documents. Documents that are
    judged in a BEIR folder, or that are in one of the pair files named, have queries.
    """
    from training.pairs import read_pairs
    from training.synthesis import choose_documents, estimate, synthesise

    documents = list(_documents(invocation, source))
    having = _judged(source) | {
        pair.doc_id
        for path in options.having
        for pair in read_pairs(path)
        if pair.doc_id is not None
    }
    chosen = choose_documents(documents, without=having, limit=options.documents)
    if not chosen:
        raise click.UsageError(
            f"each of the {count(len(documents), 'document')} in {source or 'the corpus'} has "
            "queries already; there is nothing to ask for"
        )
    task, endpoint = _task(chosen, options), _endpoint(options)
    answers = invocation.settings.data_dir / "cache" / "llm-answers.jsonl"
    checker = _checker(invocation, options)
    expected = estimate(task, endpoint, answers)
    _announce(expected, len(documents), options)
    if expected.requests and not options.yes and not confirm("Go ahead?"):
        note("Nothing was sent.")
        raise click.exceptions.Exit(1)
    with Progress(f"ask {options.model}", quiet=invocation.quiet) as progress:
        found = synthesise(
            task,
            endpoint,
            answers,
            on_progress=lambda done, usage: progress.update(
                done, total=len(chosen), state=_tokens(usage)
            ),
        )
    checked = None
    if checker is not None:
        checked = _round_trip(invocation, checker, found.pairs, documents, options.round_trip_k)
    kept = found.pairs if checked is None else checked.kept
    return Written(
        pairs=kept, failed=found.failed, facts=_facts(found, checked, len(kept), options)
    )


def show_written(written: Written) -> None:
    """For people, on stdout."""
    facts = written.facts
    usage = facts["usage"]
    cost = "" if facts["cost"] is None else f", cost {facts['cost']:.2f}"
    say(
        f"{facts['queries']:,} queries for {count(facts['documents'], 'document')} by "
        f"{facts['model']}: {count(facts['requests'], 'request')}, "
        f"{usage['prompt_tokens']:,} tokens sent and {usage['completion_tokens']:,} answered{cost}"
    )
    if usage["uncounted_requests"]:
        note(
            f"The endpoint did not count the tokens of {usage['uncounted_requests']:,} requests; "
            "they are not in these figures."
        )
    left_out = {**facts["rejected"]}
    if (checked := facts["round_trip"]) is not None:
        left_out[f"not found among the first {checked['k']}"] = checked["dropped"]
    told = "; ".join(f"{n:,} {reason}" for reason, n in left_out.items() if n)
    if told:
        say(f"Queries left out: {told}")


def _task(chosen: Sequence[JudgedDocument], options: SynthesisOptions) -> SynthesisTask:
    from training.synthesis import SynthesisTask

    task = SynthesisTask(documents=tuple(chosen), n_queries=options.queries)
    if options.prompt is None:
        return task
    try:
        instructions = options.prompt.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise click.UsageError(f"--llm-prompt {options.prompt}: expected UTF-8 text") from None
    if not instructions:
        raise click.UsageError(f"--llm-prompt {options.prompt}: the file is empty")
    return replace(task, instructions=instructions)


def _endpoint(options: SynthesisOptions) -> Endpoint:
    from training.llm_calls import Endpoint

    return Endpoint(
        base_url=options.base_url,
        model=options.model,
        api_key=os.environ.get(options.api_key_env) or None,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        timeout_s=options.timeout_s,
        requests_per_min=options.requests_per_min,
        concurrency=options.concurrency,
    )


def _documents(invocation: Invocation, source: str | None) -> Iterator[JudgedDocument]:
    from reindexer.document_texts import documents_in, documents_of_corpus

    if source is not None:
        yield from documents_in(source)
        return
    with invocation.open_existing() as data:
        yield from documents_of_corpus(data.corpus)


def _judged(source: str | None) -> set[str]:
    """Documents of a BEIR folder that some query is judged to be answered by, in any split."""
    from training.judgments import read_judgments, splits

    if source is None or not (Path(source) / "qrels").is_dir():
        return set()
    folder = Path(source)
    return {
        doc_id
        for split in splits(folder)
        for grades in read_judgments(folder, split).qrels.values()
        for doc_id, grade in grades.items()
        if grade > 0
    }


def _checker(invocation: Invocation, options: SynthesisOptions) -> str | None:
    """The model of the round trip, found before anything is paid for; None when there is none."""
    from reindexer.recipes import find_model

    if options.round_trip_k == 0:
        return None
    with invocation.open() as data:
        if options.round_trip is not None:
            return str(find_model(data, options.round_trip))
        live = data.catalog.live()
    if live is None:
        note(
            "No model will look whether the queries lead back to their documents; name one with "
            "--llm-round-trip REF."
        )
        return None
    return live.recipe.model


def _round_trip(
    invocation: Invocation,
    model: str,
    pairs: Sequence[Pair],
    documents: Sequence[JudgedDocument],
    k: int,
) -> RoundTrip:
    from training.round_trip import round_trip

    searched = _searched(pairs, documents)
    with (
        invocation.open() as data,
        Progress("round trip", total=len(searched), quiet=invocation.quiet) as progress,
    ):
        progress.update(state=f"loading {model}")
        encoder = data.load_encoder(model)
        return round_trip(
            pairs,
            searched,
            encoder,
            k=k,
            on_progress=lambda done: progress.update(done, state=f"encoding with {model}"),
        )


def _searched(pairs: Sequence[Pair], documents: Sequence[JudgedDocument]) -> list[JudgedDocument]:
    """Those with queries, and others up to the limit."""
    from training.synthesis import choose_documents

    asked = {pair.doc_id for pair in pairs}
    own = [document for document in documents if document.doc_id in asked]
    left = max(0, ROUND_TRIP_DOCUMENTS - len(own))
    ids = {document.doc_id for document in own}
    return own + choose_documents(documents, without=ids, limit=left)


def _announce(expected: SynthesisEstimate, n_documents: int, options: SynthesisOptions) -> None:
    usage = expected.usage
    cost = usage.cost(options.prompt_price, options.completion_price)
    told = "" if cost is None else f", about {cost:.2f} at the prices given"
    key = "" if os.environ.get(options.api_key_env) else f" ({options.api_key_env} is not set)"
    note(
        f"{count(expected.documents, 'document')} of {n_documents:,} to ask about, "
        f"{expected.answered:,} of them answered before. To {options.model} at "
        f"{options.base_url}{key}: {count(expected.requests, 'request')}, about "
        f"{usage.prompt_tokens:,} tokens to send and {usage.completion_tokens:,} to be answered"
        f"{told}."
    )


def _facts(
    found: Synthesis, checked: RoundTrip | None, n_kept: int, options: SynthesisOptions
) -> dict[str, Any]:
    usage = found.usage
    return {
        "model": options.model,
        "documents": found.documents,
        "answered_before": found.answered_before,
        "failed": len(found.failed),
        "requests": found.requests,
        "queries": n_kept,
        "rejected": dict(found.rejected),
        "round_trip": None
        if checked is None
        else {
            "k": checked.k,
            "documents": checked.documents,
            "kept": len(checked.kept),
            "dropped": len(checked.dropped),
        },
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "uncounted_requests": usage.uncounted_requests,
        },
        "cost": usage.cost(options.prompt_price, options.completion_price),
    }


def _tokens(usage: Usage) -> str:
    total = usage.prompt_tokens + usage.completion_tokens
    return f"{total:,} tokens used" if total else "asking"
