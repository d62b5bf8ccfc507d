"""Pages from the templates of this package, with the headers that every page has."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from fastapi import Request, Response
from markupsafe import Markup, escape

from search.pages.visitors import Visitor

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
# A page sends its origin with the forms it posts, and tells no other site where a link was.
SAFE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept, Cookie",
}
MEDIA_TYPES: Mapping[str, str] = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_YEAR_S = 31_536_000
_CODE = re.compile(r"`([^`]+)`")
_EVERY = re.compile(r"every (\d+)\s?([smhd])")
_LARGER = {"s": (60, "m"), "m": (60, "h")}
_UNIT_NAMES = {"s": "s", "m": "min", "h": "h", "d": "d"}
_METRIC_NAMES = {"ndcg": "nDCG", "recall": "Recall", "mrr": "MRR", "map": "MAP"}


def page(
    template: str, visitor: Visitor | None, *, at: str = "", code: int = 200, **values: Any
) -> Response:
    """A page, filled in. code: status code.
    at: which part of the navigation it belongs to."""
    html = _templates().get_template(template).render(visitor=visitor, at=at, **values)
    return Response(html, code, headers=dict(SAFE_HEADERS), media_type="text/html")


def static_file(name: str, request: Request) -> Response | None:
    """One of the files beside the templates; None when there is no such file."""
    found = _static_files().get(name)
    if found is None:
        return None
    content, digest = found
    is_pinned = request.query_params.get("v") == digest
    headers = {
        "Cache-Control": f"public, max-age={_YEAR_S}, immutable" if is_pinned else "no-cache",
        "ETag": f'"{digest}"',
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=MEDIA_TYPES[name[name.rindex(".") :]])


def link(path: str, **query: object) -> str:
    """A path with a query; what is None or empty is left out, lists are repeated."""
    items: list[tuple[str, str]] = []
    for name, value in query.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is not None and item != "":
                items.append((name, str(item)))
    return f"{path}?{urlencode(items)}" if items else path


def document_link(doc_id: str, **query: object) -> str:
    """Where a document is shown. Browsers take `.` and `..` in a path for directions."""
    if doc_id in (".", ".."):
        return link("/document", id=doc_id, **query)
    return link(f"/document/{quote(doc_id, safe='')}", **query)


@cache
def _static_files() -> dict[str, tuple[bytes, str]]:
    """Content and digest by name."""
    folder = resources.files("search.pages") / "static"
    contents = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
    return {
        name: (content, hashlib.sha256(content).hexdigest()[:16])
        for name, content in contents.items()
    }


def _static_link(name: str) -> str:
    return f"/static/{name}?v={_static_files()[name][1]}"


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("search.pages", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.globals.update(static=_static_link, link=link, document_link=document_link)
    templates.filters.update(
        count=lambda value: f"{value:,}",
        score=lambda value: f"{value:.3f}",
        signed=_signed,
        percent=lambda value, digits=0: f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%",
        ms=lambda value: f"{value:.1f}\N{NO-BREAK SPACE}ms",
        size=_size,
        duration=_duration,
        when=_when,
        age=lambda at: _when(at).replace(" ago", "").replace("just now", "a moment"),
        metric=_metric,
        prose=_prose,
        sentence=_sentence,
        trigger=_trigger,
        words=lambda text: str(text).replace("_", " "),
        plain=_plain,
    )
    return templates


# -- words and figures -----------------------------------------------------------------------------


def _signed(value: float) -> str:
    """With its sign; what rounds to nothing has none."""
    text = f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
    return text if text.strip("+\N{MINUS SIGN}0.") else "0.000"


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "\N{EN DASH}"
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g}\N{NO-BREAK SPACE}{unit}"
        size /= 1000
    return f"{size:.3g}\N{NO-BREAK SPACE}TB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _when(at: str | float | None) -> Markup:
    """How long ago something was, with the exact time for those who ask."""
    if at is None:
        return Markup("never")
    moment = (
        datetime.fromtimestamp(at, tz=UTC)
        if isinstance(at, int | float)
        else datetime.fromisoformat(at.replace("Z", "+00:00"))
    )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    ago = time.time() - moment.timestamp()
    if ago < -1:
        text = f"in {_duration(-ago)}"
    elif ago < 5:
        text = "just now"
    elif ago < 86_400:
        text = f"{_duration(ago)} ago"
    else:
        text = f"{moment:%Y-%m-%d %H:%M} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), f"{moment:%Y-%m-%d %H:%M:%S} UTC", text
    )


def _metric(name: str) -> str:
    """`nDCG@10` for `ndcg@10`: as people write it."""
    kind, at, cut = name.partition("@")
    return f"{_METRIC_NAMES.get(kind, kind)}{at}{cut}"


def _prose(text: object) -> Markup:
    """Words of ours as HTML: what stands in backticks is code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(str(text)))))


def _sentence(text: object) -> str:
    """A message of an error, which begins small and ends open, as a sentence of its own."""
    words = str(text)
    first, _, _ = words.partition(" ")
    if first.isalpha():
        words = words[:1].upper() + words[1:]
    return words if words.endswith((".", "!", "?", "`")) else f"{words}."


def _trigger(text: str) -> str:
    """`every 5 min` for `every 300s`; fields of cron as they are."""
    found = _EVERY.fullmatch(text)
    if found is None:
        return text
    number, unit = int(found[1]), found[2]
    while unit in _LARGER and number % _LARGER[unit][0] == 0:
        per, larger = _LARGER[unit]
        number, unit = number // per, larger
    return f"every {number} {_UNIT_NAMES[unit]}"


def _plain(value: Any) -> str:
    """A value of metadata or settings on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "\N{EN DASH}"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name.replace('_', ' ')}: {_plain(item)}" for name, item in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "\N{EN DASH}"
    return f"{value:g}" if isinstance(value, float) else str(value)
