"""Pages from the templates of this package, and how they write figures and words."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from training.charts import signed
from training.whole_file import write_whole

_METRIC_NAMES = {"ndcg": "nDCG", "recall": "Recall", "mrr": "MRR", "map": "MAP"}
_MARKDOWN = re.compile(r"([\\|*_`<>\[\]#~])")


def render(template: str, *, folder: Path | None = None, **values: Any) -> str:
    """A page filled in. HTML is escaped where the template is one of HTML.

    folder: of templates that are not this package's; they may extend those that are.
    """
    return _templates(folder).get_template(template).render(**values)


def render_markdown(template: str, *, folder: Path | None = None, **values: Any) -> str:
    """The same for Markdown, without the empty lines that a template's branches leave behind."""
    text = render(template, folder=folder, **values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write_twins(path: Path, page: str, markdown: str) -> tuple[Path, Path]:
    """Write the page to path and its Markdown beside it, and return where they are.

    A path that ends in .md names the twin, and the page ends in .html.
    """
    twin = path.with_suffix(".md")
    if path == twin:
        path = path.with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    write_whole(twin, markdown)
    return path, twin


def metric_name(name: str) -> str:
    """`nDCG@10` for `ndcg@10`: as people write it."""
    kind, _, cut = name.partition("@")
    return f"{_METRIC_NAMES[kind]}@{cut}"


@cache
def _templates(folder: Path | None) -> jinja2.Environment:
    own: jinja2.BaseLoader = jinja2.PackageLoader("training", "templates")
    templates = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.FileSystemLoader(folder), own]) if folder else own,
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
