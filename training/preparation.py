"""Everything before the first step: which pairs, how many of them doubtful, which negatives, and
what is held out to watch training with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.audit import estimate_noise
from training.dev_set import make_dev_set
from training.document_groups import guess_groups
from training.encoded_texts import EncodedTexts
from training.errors import PairsInvalid, QueriesOverlap
from training.judgments import read_documents, read_judgments
from training.negatives import candidates_from, mine
from training.outcome import TrainingTask
from training.pairs import Pair, read_pairs
from training.split import drop_evaluation_queries
from training.training_run import Prepared

NAMED_QUERIES = 5  # of those dropped, in a message

OnProgress = Callable[[str, int | None, int | None, str], None]  # stage, done, total, in words


def read_training_pairs(task: TrainingTask) -> tuple[list[Pair], list[Pair]]:
    """The pairs that may be trained on, and those that ask what the evaluation asks.

    Raises PairsInvalid, QueriesOverlap when the task is strict and there are any.
    """
    recipe = task.recipe
    mines = recipe.negatives != "none"  # then triplet needs none in the file
    pairs = read_pairs(task.pairs_file, loss="mnrl" if mines else recipe.loss)
    if task.evaluation is None:
        return pairs, []
    queries = read_judgments(task.evaluation, task.split).queries
    kept, dropped = drop_evaluation_queries(pairs, queries)
    if dropped and task.strict:
        raise QueriesOverlap(f"{overlap(dropped)}; leave out --strict to go on without them")
    if not kept:
        raise PairsInvalid(
            f"every one of the {len(dropped):,} pairs asks what the {task.split} split of "
            f"{task.evaluation} asks; train on other queries (`reindexer pairs build --split "
            "train`)"
        )
    return kept, dropped


def overlap(dropped: Sequence[Pair]) -> str:
    """Which queries are in both, in one sentence."""
    queries = list(dict.fromkeys(pair.anchor for pair in dropped))
    named = ", ".join(repr(query) for query in queries[:NAMED_QUERIES])
    more = f" and {len(queries) - NAMED_QUERIES:,} more" if len(queries) > NAMED_QUERIES else ""
    return (
        f"{len(dropped):,} pairs ask what the evaluation asks and are not trained on: {named}{more}"
    )


def prepare(
    task: TrainingTask,
    pairs: list[Pair],
    encoded: EncodedTexts,
    *,
    on_progress: OnProgress,
    on_note: Callable[[str], None],
) -> Prepared:
    """Doubt, mine, hold out. encoded: the base."""
    facts: dict[str, Any] = {}
    if task.recipe.loss != "cosent":
        on_progress("estimate noise", None, None, "")
        facts |= _doubt(task, pairs, encoded, on_note)
    if task.recipe.negatives != "none":
        pairs, found = _with_negatives(task, pairs, encoded, on_progress, on_note)
        facts |= found
    dev, left = make_dev_set(
        pairs, folder=task.evaluation, test_split=task.split, seed=task.recipe.seed
    )
    facts["watched_with"] = dev.origin if dev is not None else "nothing: too few queries"
    facts["held_out_pairs"] = len(pairs) - len(left)
    return Prepared(pairs=left, dev=dev, facts=facts)


def _doubt(
    task: TrainingTask,
    pairs: Sequence[Pair],
    encoded: EncodedTexts,
    on_note: Callable[[str], None],
) -> dict[str, Any]:
    with contextlib.suppress(PairsInvalid):  # too few of them to tell
        noise = estimate_noise(encoded, pairs, seed=task.recipe.seed)
        if noise.is_high:
            on_note(
                f"{noise} look mismatched to the base; look at a sample before you trust the "
                f"result: `reindexer pairs audit {task.pairs_file} --base {task.base}`"
            )
        return {"noise_share": round(noise.share, 4)}
    return {}


def _with_negatives(
    task: TrainingTask,
    pairs: Sequence[Pair],
    encoded: EncodedTexts,
    on_progress: OnProgress,
    on_note: Callable[[str], None],
) -> tuple[list[Pair], dict[str, Any]]:
    recipe, corpus = task.recipe, task.corpus or task.evaluation
    groups = _guessed_groups(pairs, corpus, on_note) if recipe.negatives == "same-document" else {}
    if groups:
        pairs = [replace(pair, group=groups.get(pair.doc_id or "")) for pair in pairs]
    documents = read_documents(corpus) if corpus is not None else ()
    mined = mine(
        pairs,
        candidates_from(pairs, ((item.doc_id, item.full_text) for item in documents), groups),
        encoded,
        source=recipe.negatives,
        per_anchor=recipe.negatives_per_anchor,
        scores_of=task.scores_of,
        on_progress=lambda done, total: on_progress("mine negatives", done, total, ""),
    )
    kept = mined.pairs
    if recipe.loss == "triplet" and mined.without:
        kept = [pair for pair in kept if pair.negatives]
        on_note(f"{mined.without:,} pairs are left out: no negative was found for them")
    if not kept:
        raise PairsInvalid(
            "no negative was found for any pair; take --negatives both, or --loss mnrl, which "
            "needs none"
        )
    return kept, {
        "negatives": mined.found,
        "negatives_of_the_same_document": mined.same_document,
        "pairs_without_negatives": mined.without,
    }


def _guessed_groups(
    pairs: Sequence[Pair], corpus: Path | None, on_note: Callable[[str], None]
) -> dict[str, str]:
    """The group of each doc_id, where the pairs name none and the corpus tells."""
    if corpus is None or any(pair.group is not None for pair in pairs):
        return {}
    groups = guess_groups(read_documents(corpus))
    if groups is None:
        return {}
    on_note(
        f"the pairs name no groups; texts with {groups.told_by} are taken for one document "
        f"({len(set(groups.of.values())):,} of them). To say it yourself: `reindexer pairs build "
        "--group-field FIELD`"
    )
    return groups.of
