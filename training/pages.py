"""Pages from the templates of this package, and how they write figures and words."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from training.charts import signed

_METRIC_NAMES = {"ndcg": "nDCG", "recall": "Recall", "mrr": "MRR", "map": "MAP"}
_MARKDOWN = re.compile(r"([\\|*_`<>\[\]#~])")


def render(template: str, **values: Any) -> str:
    """A page of this package, filled in. HTML is escaped where the template is one of HTML."""
    return _templates().get_template(template).render(**values)


def metric_name(name: str) -> str:
    """`nDCG@10` for `ndcg@10`: as people write it."""
    kind, _, cut = name.partition("@")
    return f"{_METRIC_NAMES[kind]}@{cut}"


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("training", "templates"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters.update(
        score=lambda value: f"{value:.3f}",
        signed=signed,
        percent=lambda value, digits=0: f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%",
        day=lambda text: text[:10],
        first_rank=lambda rank: f"first right one at {rank}" if rank else "no right one found",
        metric_name=metric_name,
        md=_markdown,
        prose=_prose,
    )
    return templates


def _markdown(text: str) -> str:
    """On one line, with nothing in it that Markdown reads as its own."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def _prose(text: str) -> Markup:
    """A sentence of ours as HTML: what stands in backticks is code."""
    escaped = str(Markup.escape(text))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))
