"""Which texts of a corpus are passages of one document, where nobody said so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from training.judgments import JudgedDocument

GROUPED_SHARE = 0.5  # of the corpus must be in groups of two or more
MIN_GROUPS = 3
LARGEST_SHARE = 0.5  # a group with more of the corpus than this is no document

_LAST_NUMBER = re.compile(r"[\W_]*\d+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentGroups:
    """The group of each doc_id, and what it was told by."""

    of: dict[str, str]
    told_by: str  # for people


def guess_groups(documents: Iterable[JudgedDocument]) -> DocumentGroups | None:
    """By equal titles, else by doc_ids that differ in their last number only (`lease-7#12`).

    None when neither makes documents of a plausible size.
    """
    titles: dict[str, str] = {}
    stems: dict[str, str] = {}
    for document in documents:
        titles[document.doc_id] = " ".join(document.title.split()).casefold()
        stems[document.doc_id] = _LAST_NUMBER.sub("", document.doc_id)
    for found, told_by in ((titles, "the same title"), (stems, "doc_ids that begin alike")):
        if _plausible(found):
            return DocumentGroups(
                of={doc_id: group for doc_id, group in found.items() if group}, told_by=told_by
            )
    return None


def _plausible(group_of: dict[str, str]) -> bool:
    sizes = Counter(group for group in group_of.values() if group)
    together = [size for size in sizes.values() if size > 1]
    return (
        len(together) >= MIN_GROUPS
        and sum(together) >= GROUPED_SHARE * len(group_of)
        and max(together) <= LARGEST_SHARE * len(group_of)
    )
