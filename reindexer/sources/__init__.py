"""Where documents come from.

`open_source` finds out what a path holds; every source yields a `Row` a document, or a `Rejected`
with the place and the reason where a row cannot become one.
"""

from reindexer.sources.docstrings import DocstringSource
from reindexer.sources.opening import FORMATS, open_source
from reindexer.sources.positions import Positions
from reindexer.sources.rows import DocumentSource, Rejected, Row

__all__ = [
    "FORMATS",
    "DocstringSource",
    "DocumentSource",
    "Positions",
    "Rejected",
    "Row",
    "open_source",
]
