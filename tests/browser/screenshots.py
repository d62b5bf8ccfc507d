"""Pictures of every page, light and dark, on a desktop and on a phone.

python -m tests.browser.screenshots OUT
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from search.keys import ApiKeys
from tests.browser.accessibility import SCHEMES
from tests.browser.chromium import browser
from tests.browser.world import QUERIES, World, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

log = logging.getLogger(__name__)
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
NOT_WHOLE = ("docs", "operations-confirm")  # as long as the API has endpoints; behind a dialog
WAIT_MS = 240_000  # for a build to start, on a machine that others share
COMPARED = "left=docs%401:hybrid&right=docs%402:hybrid"
Steps = Callable[["Page"], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a folder for the pictures")
    parser.add_argument("--only", default="", help="pages whose name begins with this")
    out, only = parser.parse_args().out, parser.parse_args().only
    out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    for taken in take(out, only):
        log.info("%s", taken)


def take(out: Path, only: str = "") -> Iterator[Path]:
    """Every picture, as it is taken."""
    with tempfile.TemporaryDirectory() as temporary, browser() as opened:
        folder = Path(temporary)
        with running(folder / "full") as world:
            yield from _all(opened, world, _full(world), out, only)
        with running(folder / "empty", is_empty=True) as world:
            yield from _all(opened, world, _empty(), out, only)
        with running(folder / "keys", is_empty=True, require_keys=True) as world:
            ApiKeys(world.data.database).create("team", ["search"])
            yield from _all(opened, world, {"sign-in": ("/sign-in", _nothing)}, out, only)


def _full(world: World) -> dict[str, tuple[str, Steps]]:
    """Path of each page, and what to do there."""
    query = QUERIES[2].replace(" ", "+")
    return {
        "search": ("/", _nothing),
        "search-hits": (f"/?q={query}&filter=lang%3Den", _nothing),
        "search-none": ("/?q=xylophone+quartet&mode=lexical&filter=year%3E%3D2030", _nothing),
        "document": ("/document/help%2F9?q=clean+filter", _nothing),
        "compare": ("/compare", _nothing),
        "compare-query": (f"/compare?q={query}&{COMPARED}", _nothing),
        "compare-file": ("/compare?as=file", _compare_file),
        "operations": ("/operations", _open_report),
        "operations-confirm": ("/operations", _ask_to_roll_back),
        "models": ("/models", _nothing),
        "model": ("/models/help@2", _nothing),
        "problem-404": ("/document/none", _nothing),
        "thanks": (f"/compare?q={query}&{COMPARED}", _vote_without_javascript),
        "model-report": ("/models/help@2/report", _nothing),
        "docs": ("/docs", _open_search),
        "operations-build": ("/operations", _watch_a_build),
        "operations-paused": ("/operations", _pause),
        "operations-failed": ("/operations", lambda page: _fail(page, world)),
    }


def _empty() -> dict[str, tuple[str, Steps]]:
    return {
        f"empty-{name}": (f"/{path}", _nothing)
        for name, path in (
            ("search", ""),
            ("compare", "compare"),
            ("operations", "operations"),
            ("models", "models"),
        )
    }


def _all(
    opened: Browser, world: World, pages: dict[str, tuple[str, Steps]], out: Path, only: str
) -> Iterator[Path]:
    for name, (path, steps) in pages.items():
        if not name.startswith(only):
            continue
        for size, (width, height) in SIZES.items():
            for scheme in SCHEMES:
                with opened.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    reduced_motion="reduce",
                    is_mobile=size == "phone",
                    base_url=world.url,
                ) as context:
                    page = context.new_page()
                    page.goto(path)
                    steps(page)
                    target = out / f"{name}-{size}-{scheme}.png"
                    page.screenshot(path=target, full_page=name not in NOT_WHOLE)
                yield target


def _nothing(_page: Page) -> None:
    pass


def _compare_file(page: Page) -> None:
    page.get_by_label("Queries, one a line").fill("\n".join(QUERIES))
    page.get_by_label("Left").select_option("docs@1:dense")
    page.get_by_role("button", name="Compare all").click()
    page.get_by_text("of the hits are in both answers").wait_for()


def _open_report(page: Page) -> None:
    page.locator(".report").first.wait_for()


def _ask_to_roll_back(page: Page) -> None:
    page.get_by_role("link", name="Roll back…").click()
    page.get_by_role("dialog").wait_for()


def _vote_without_javascript(page: Page) -> None:
    page.locator("form.vote").evaluate("form => form.submit()")  # which no script hears of
    page.get_by_role("heading", name="Your vote is kept").wait_for()


def _open_search(page: Page) -> None:
    page.locator("summary", has_text="POST /search").first.click()


# Of these three the first picture brings the build there, the others look on.


def _watch_a_build(page: Page) -> None:
    build = page.locator(".build", has_text="hosted@1")
    if build.count() == 0:
        page.get_by_label("Model").select_option("hosted@1")
        page.get_by_role("button", name="Start the build").click()
    build.get_by_role("img", name="Throughput").wait_for(timeout=WAIT_MS)


def _pause(page: Page) -> None:
    _become(page, "paused", "Pause", before="running")


def _fail(page: Page, world: World) -> None:
    world.hosted.seed = 2  # another model answers at the address of the one that was registered
    _become(page, "failed", "Resume", before="paused")  # a worker tries again, and fails again


def _become(page: Page, state: str, asked: str, *, before: str) -> None:
    if page.locator(f".build .state.{before}").count():
        page.get_by_role("link", name=f"{asked}…").click()
        page.get_by_role("dialog").get_by_role("button", name=f"{asked} the build").click()
    page.locator(f".build .state.{state}").wait_for(timeout=WAIT_MS)


if __name__ == "__main__":
    main()
