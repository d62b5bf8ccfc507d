"""Text that can be written as UTF-8."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """False for text with half of a surrogate pair: JSON can hold one, and Python reads bytes that
    are not UTF-8 into such. No engine and no database takes them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
