"""Write the docstrings of this Python installation as a corpus with questions of its own.

A document is what a docstring explains; its question is the docstring's first paragraph, which is
not in the document. Writes documents.jsonl and pairs.jsonl into the present folder.

    python docstrings.py 1500
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from reindexer.sources import DocstringSource, Row

QUESTION_CHARACTERS = range(20, 201)
ANSWER_CHARACTERS = range(120, 801)
MOST_CHARACTERS = 800  # of a document: two cores then need minutes and not an hour


def main(n_documents: int) -> None:
    n_pairs = 0
    with Path("documents.jsonl").open("w") as documents, Path("pairs.jsonl").open("w") as pairs:
        rows = (row for row in DocstringSource() if isinstance(row, Row))
        short = (row.document for row in rows if len(row.document.text) <= MOST_CHARACTERS)
        for document in itertools.islice(short, n_documents):
            first, _, rest = document.text.partition("\n\n")
            question, answer = " ".join(first.split()), rest.strip()
            is_pair = len(question) in QUESTION_CHARACTERS and len(answer) in ANSWER_CHARACTERS
            text = answer if is_pair else document.text
            record = {
                "_id": document.doc_id,
                "title": document.title,
                "text": text,
                **document.metadata,
            }
            documents.write(json.dumps(record) + "\n")
            if is_pair:
                pair = {
                    "anchor": question,
                    "positive": f"{document.title} {answer}",
                    "doc_id": document.doc_id,
                    "group": document.metadata["module"],
                }
                pairs.write(json.dumps(pair) + "\n")
                n_pairs += 1
    sys.stdout.write(f"{n_documents:,} documents, {n_pairs:,} questions\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
