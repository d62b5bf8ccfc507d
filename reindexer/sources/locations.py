"""What may be shown and kept of a URL: where it leads, without what opens the door there."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s'\"<>]*)")
# A password may hold a slash, so whatever stands between a colon and an @ is taken for one.
_USER = re.compile(r"[^/\s@]*:[^\s@]*@|[^/\s@]*@")
_SECRET = re.compile(
    r"pass|secret|token|key|sig|credential|auth|expire|^x-amz-|^x-goog-|^s[a-z]{1,2}$", re.I
)


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def location_of(url: str) -> str:
    """The URL without user, password and query. Of a query that says what is asked for there stays
    a digest, so that two of them are two locations; what signs a request changes every time."""
    parts = urlsplit(url)
    asked = sorted(
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not _SECRET.search(name)
    )
    return urlunsplit(
        parts._replace(netloc=parts.netloc.rpartition("@")[2], query=digest(asked) if asked else "")
    )


def without_credentials(text: str) -> str:
    """The text with every URL in it cut down to what may be shown."""

    def shorten(found: re.Match[str]) -> str:
        rest, separator, _ = _USER.sub("", found[2], count=1).partition("?")
        return f"{found[1]}{rest}{'?…' if separator else ''}"

    return _IN_TEXT.sub(shorten, text)


def digest(value: object) -> str:
    """A short name for a value: 64 bits of its SHA-256."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
