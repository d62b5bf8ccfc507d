"""How long to wait before a server is asked again."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

MAX_DOUBLINGS = 30  # longer than anybody waits, and still a number


def backoff_s(n_tried: int, *, first_s: float, longest_s: float, asked_s: float = 0.0) -> float:
    """Seconds until the next try: twice as long from try to try, and at least asked_s.

    n_tried: from 1. "Equal jitter", so that clients that failed together do not come back together:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    doubled_s = min(first_s * 2.0 ** min(n_tried - 1, MAX_DOUBLINGS), longest_s)
    return max(asked_s, doubled_s * random.uniform(0.5, 1.0))


def retry_after_s(headers: Mapping[str, str]) -> float:
    """What the server asks for, in seconds or as a date; 0 when it asks for nothing.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    value = headers.get("retry-after", "")
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
