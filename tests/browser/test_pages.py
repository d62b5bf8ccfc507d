"""The pages in a real browser, on a real service: what people do, and what they must not notice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from search.feedback_reports import feedback_summary, votes_summary
from search.keys import ApiKeys
from tests.browser.accessibility import faults_in_every_look, tab_stops
from tests.browser.chromium import MISSING, NoBrowser, browser, do_without
from tests.browser.world import HOSTED_S, QUERIES, World, running, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

WAIT_MS = 60_000
BUILD_MS = 240_000  # at the most: a machine that others share is slow at times
FILTER = QUERIES[2]
COMPARED = "left=docs%401:hybrid&right=docs%402:hybrid"
PATHS = (
    "/",
    f"/?q={FILTER}&filter=lang%3Den",
    "/?q=nothing&mode=lexical&filter=year%3E%3D2030",
    "/?q=wrong&k=none",
    "/document/help%2F9?q=filter",
    f"/compare?q={FILTER}&{COMPARED}",
    "/compare?as=file",
    "/operations",
    "/operations/confirm?action=rollback&subject=docs%401",
    "/models",
    "/models/help@2",
    "/models/hosted@1",
    "/docs",
    "/document/none",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    try:
        with browser() as opened:
            yield opened
    except NoBrowser as missing:
        do_without(missing)


@pytest.fixture(scope="module")
def world(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    del chromium  # without a browser there is no need for a service
    with running(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained of in the test."""
    return []


@pytest.fixture
def page(chromium: Browser, world: World, complaints: list[str]) -> Iterator[Page]:
    """A tab; whatever the browser complains of in it fails the test."""
    with opened_page(chromium, world, complaints) as page:
        yield page
    assert complaints == []


def announced(page: Page, text: str) -> None:
    """Wait until a screen reader is told: the page says it in its next frame."""
    page.locator("#said", has_text=text).wait_for(state="attached")


def runs_scripts(page: Page) -> None:
    """Wait until the scripts of a page have run that a click led to: without them it does the same
    in another way, and so it would to somebody who is quicker than they are."""
    page.wait_for_load_state("load")


class opened_page:
    """A tab in a browser of its own."""

    def __init__(
        self, chromium: Browser, world: World, complaints: list[str], **options: Any
    ) -> None:
        self._context: BrowserContext = chromium.new_context(base_url=world.url, **options)
        self._context.set_default_timeout(WAIT_MS)
        self._complaints = complaints

    def __enter__(self) -> Page:
        page = self._context.new_page()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => "
            "console.error('policy', event.violatedDirective, event.blockedURI))"
        )
        return page

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self._complaints.append(message.text)

    def __exit__(self, *_error: object) -> None:
        self._context.close()


# -- searching -------------------------------------------------------------------------------------


def test_somebody_searches_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/")
    page.keyboard.type(FILTER)
    page.keyboard.press("Enter")
    page.locator(".hit").first.wait_for()

    assert page.locator("#q").evaluate("field => field === document.activeElement")
    assert page.locator("#hit-1 mark").all_inner_texts()[:2] == ["Clean", "water"]
    assert re.search(r"10 hits in [\d.]+\sms from generation docs@2", page.inner_text("#summary"))
    announced(page, "10 hits")
    page.locator("body").press("Escape")
    while page.evaluate("document.activeElement.textContent") != "Clean the water filter":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/document/**")
    assert page.inner_text("h1") == "Clean the water filter"
    page.go_back()
    page.locator(".hit").first.wait_for()
    page.locator("body").press("/")
    assert page.locator("#q").evaluate("field => field === document.activeElement")


def test_a_filter_and_a_mode_narrow_what_is_shown(page: Page) -> None:
    page.goto(f"/?q={FILTER}")
    page.locator("#hit-1 .fact", has_text="devices").click()
    page.get_by_text("topic=devices").wait_for()
    runs_scripts(page)
    assert page.locator(".hit").count() == 2
    page.get_by_label("lexical").check(force=True)
    page.wait_for_url("**mode=lexical**")
    assert page.locator("#hit-1 .leg").count() == 1
    page.get_by_label("topic=devices").click()
    page.wait_for_url(lambda url: "filter=" not in url)
    page.go_back()
    page.get_by_text("topic=devices").wait_for()


def test_a_document_that_is_a_script_is_shown_and_never_run(page: Page) -> None:
    page.goto("/?q=scripts+such+as&filter=topic%3Dsearch")
    page.get_by_role("link", name="Scripts such as <script>").click()
    page.wait_for_url("**/document/**")

    assert "document.title = 'broken'" in page.inner_text("h1")
    assert "<img src=x onerror=alert(1)>" in page.inner_text("article")
    assert page.title() != "broken"


def test_clicks_and_thumbs_come_into_the_log(page: Page, world: World) -> None:
    before = feedback_summary(world.data.database)
    page.goto(f"/?q={FILTER}")
    thumb = page.locator("#hit-1").get_by_role("button", name="Relevant", exact=True)
    thumb.click()
    page.locator("#hit-1 [aria-pressed=true]").wait_for()
    announced(page, "Kept: Relevant")
    page.locator("#hit-2 h2 a").click()
    page.wait_for_url("**/document/**")
    page.reload()

    after = feedback_summary(world.data.database)
    assert after["judgments"] - before["judgments"] == 1
    assert after["clicks"] - before["clicks"] == 1  # once, although the page was loaded twice


def test_everything_works_without_javascript(
    chromium: Browser, world: World, complaints: list[str]
) -> None:
    with opened_page(chromium, world, complaints, java_script_enabled=False) as page:
        page.goto("/")
        page.get_by_role("searchbox").fill(FILTER)
        page.get_by_role("button", name="Search").click()
        page.locator("#hit-1").get_by_role("button", name="Relevant", exact=True).click()
        assert "Relevant: help/9" in page.inner_text("main")
        assert faults_in_every_look(page, "thanks") == {}
        page.goto(f"/compare?q={FILTER}&{COMPARED}")
        page.get_by_role("button", name="Neither").click()
        assert "Your vote is kept" in page.inner_text("main")
        page.goto("/operations")
        page.get_by_role("link", name="Roll back…").click()
        assert page.inner_text("h1") == "Roll back to docs@1?"
        page.get_by_role("link", name="Leave it as it is").click()
        assert page.inner_text("h1") == "Operations"
    assert world.live() == "docs@2"


# -- comparing -------------------------------------------------------------------------------------


def test_two_generations_are_compared_and_voted_on(page: Page, world: World) -> None:
    page.goto("/compare")
    page.get_by_label("Query").fill(FILTER)
    page.get_by_label("Left").select_option("docs@1:hybrid")
    page.get_by_label("Right").select_option("docs@2:hybrid")
    page.get_by_role("button", name="Compare").click()
    page.locator(".sides").wait_for()
    runs_scripts(page)

    left, right = page.locator(".sides > section").all()
    gone, new = left.locator("li.gone").count(), right.locator("li.new").count()
    assert gone == new
    assert right.locator("li").count() == 10
    assert page.locator("#left-name").inner_text() == "docs@1 · help@1, hybrid"
    assert page.locator("#right-name").inner_text() == "docs@2 · help@2, hybrid"
    page.get_by_role("button", name="Right, docs@2").click()
    page.locator(".vote", has_text="Your vote is kept").wait_for()
    (row,) = votes_summary(world.data.database)
    assert (row["one"], row["other"], row["other_better"]) == ("docs@1", "docs@2", 1)


def test_a_file_of_queries_is_compared(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("\n".join(QUERIES))
    page.goto("/compare?as=file")
    page.locator("#file").set_input_files(path)
    until(lambda: "warm" in page.locator("#queries").input_value())
    page.get_by_label("Left").select_option(label="docs@1 · help@1, dense")
    page.get_by_label("Right").select_option(label="docs@2 · help@2, hybrid (live)")
    page.get_by_role("button", name="Compare all").click()

    page.get_by_role("heading", name="5 queries").wait_for()
    page.get_by_text("From docs@1 · help@1, dense to docs@2 · help@2, hybrid").wait_for()
    rows = page.get_by_role("region", name="Query by query").locator("tbody tr")
    assert rows.count() == 5
    rows.first.get_by_role("link").click()
    assert page.locator(".sides").is_visible()


# -- for everybody ---------------------------------------------------------------------------------


def test_every_page_is_readable_and_usable(chromium: Browser, world: World) -> None:
    complaints: list[str] = []
    found = {}
    with opened_page(chromium, world, complaints) as page:
        for path in PATHS:
            page.goto(path)
            found |= faults_in_every_look(page, path)
        page.goto("/docs")
        page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
        found |= faults_in_every_look(page, "/docs, opened")
    assert found == {}
    statuses = [text for text in complaints if "status of 4" not in text]  # pages that say so
    assert statuses == []


def test_somebody_signs_in_to_an_empty_service_and_reads_what_comes_first(
    chromium: Browser, tmp_path: Path
) -> None:
    complaints: list[str] = []
    with (
        running(tmp_path, is_empty=True, require_keys=True) as world,
        opened_page(chromium, world, complaints) as page,
    ):
        key = ApiKeys(world.data.database).create("team", ["search", "operate"])[1]
        page.goto("/operations")
        assert page.inner_text("h1") == "Sign in"
        found = faults_in_every_look(page, "/sign-in")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Operations", level=1).wait_for()
        for path, first in (
            ("/operations", "reindexer ingest documents.jsonl"),
            ("/", "reindexer ingest documents.jsonl"),
            ("/compare", "reindexer ingest documents.jsonl"),
            ("/models", "reindexer models register"),
        ):
            page.goto(path)
            assert first in page.inner_text("main")
            found |= faults_in_every_look(page, f"{path} of an empty service")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
    assert found == {}
    statuses = [
        text for text in complaints if "status of 4" not in text
    ]  # of being sent to sign in
    assert statuses == []


def test_the_tab_key_leads_through_a_page_in_its_order(page: Page) -> None:
    page.goto(f"/compare?q={FILTER}")
    page.evaluate("document.activeElement.blur()")
    page.locator("body").evaluate("body => { getSelection().collapse(body, 0); }")

    stops = tab_stops(page, 9)
    assert stops[0] == "Skip to content"
    assert stops[1:6] == ["reindexer", "Search", "Compare", "Operations", "Models"]
    page.goto("/models")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


# -- operating -------------------------------------------------------------------------------------


def start_build(page: Page, model: str) -> Locator:
    """What the page shows of the build that was asked for."""
    page.goto("/operations")
    page.get_by_label("Model").select_option(model)
    page.get_by_role("button", name="Start the build").click()
    notice = page.locator(".notice.good", has_text="waits for a worker").inner_text()
    runs_scripts(page)
    return page.locator(".build", has_text=notice.split()[0])


def confirm(page: Page, build: Locator, link: str, button: str) -> None:
    build.get_by_role("link", name=link).click()
    page.get_by_role("dialog").get_by_role("button", name=button).click()


def test_a_build_is_watched_cut_over_to_and_rolled_back_from(page: Page, world: World) -> None:
    build = start_build(page, "help@3")
    build.get_by_text(re.compile("queued|running")).first.wait_for()
    # without anybody loading the page again
    build.locator(".state.done").wait_for(timeout=BUILD_MS)
    assert build.get_by_text("412 of 412").is_visible()
    page.locator("#report-docs-3").get_by_text("passed").first.wait_for()

    cut_over = page.get_by_role("row", name="docs@3").get_by_role("link", name="Cut over…")
    cut_over.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("heading", name="Cut over to docs@3?").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert world.live() == "docs@2"
    cut_over.click()
    dialog.get_by_role("button", name="Cut over to docs@3").click()
    page.get_by_text("docs@3 is live.").wait_for()
    runs_scripts(page)
    assert world.live() == "docs@3"
    until(lambda: "docs@3" in page.locator("#pointers .card").first.inner_text())

    page.get_by_role("row", name="docs@2").get_by_role("link", name="Roll back…").click()
    dialog.get_by_role("button", name="Roll back to docs@2").click()
    page.get_by_text("Rolled back: docs@2 is live again.").wait_for()
    assert world.live() == "docs@2"
    assert page.locator("#events").get_by_text("rollback").first.is_visible()


def test_a_build_is_given_up_and_not_before_that_is_confirmed(page: Page, world: World) -> None:
    build = start_build(page, "hosted@1")
    build.get_by_role("link", name="Cancel…").click()
    page.get_by_role("dialog").get_by_role("link", name="Leave it as it is").click()
    page.get_by_role("dialog").wait_for(state="hidden")
    assert world.data.journal.builds()[0].wanted is None

    confirm(page, build, "Cancel…", "Cancel the build")
    build.locator(".state.cancelled").wait_for()
    assert build.get_by_role("link", name="Resume…").count() == 0


def test_a_build_is_watched_paused_and_resumed(page: Page, world: World) -> None:
    build = start_build(page, "hosted@1")
    build.get_by_role("img", name="Throughput").wait_for(timeout=BUILD_MS)
    build.get_by_text(re.compile(r"^[1-9]\d* docs/s$")).wait_for()
    assert re.search(r"time left\s+\d+ (s|min)", build.locator(".figures").inner_text())
    assert faults_in_every_look(page, "a running build") == {}

    confirm(page, build, "Pause…", "Pause the build")
    page.get_by_text("stops at its next checkpoint.").first.wait_for()
    build.locator(".state.paused").wait_for()
    assert faults_in_every_look(page, "a paused build") == {}
    kept = build.get_by_text(" of 412").inner_text()
    assert not kept.startswith(("0 of", "412 of"))
    page.wait_for_timeout(2 * 1_000 * HOSTED_S)
    page.reload()
    assert build.get_by_text(" of 412").inner_text() == kept, "it stands still"

    world.hosted.slow_s = 0.0
    confirm(page, build, "Resume…", "Resume the build")
    page.get_by_text("waits for a worker to go on with it.").wait_for()
    build.locator(".state.done").wait_for(timeout=BUILD_MS)
    assert build.get_by_text("412 of 412").is_visible()
    world.hosted.slow_s = HOSTED_S


# -- models ----------------------------------------------------------------------------------------


def test_what_shorter_vectors_cost_is_drawn_and_told(page: Page) -> None:
    page.goto("/models")
    page.locator("main").get_by_role("link", name="help@2").click()

    page.get_by_role("heading", name="Shorter vectors").wait_for()
    curve = page.get_by_role("img", name="nDCG@10 by dimension")
    assert curve.get_attribute("aria-label") == (
        "nDCG@10 by dimension: 8: 0.614; 16: 0.661; 32: 0.684; 64: 0.694"
    )
    assert curve.locator("polyline").count() == 2  # tuned and base
    rows = page.get_by_role("region", name="nDCG@10 by dimension").locator("tbody tr")
    assert [row.split("\t") for row in rows.all_inner_texts()] == [
        ["64", "0.652", "0.694", "100.0\u00a0%", "256"],
        ["32", "0.622", "0.684", "98.6\u00a0%", "128"],
        ["16", "0.552", "0.661", "95.2\u00a0%", "64"],
        ["8", "0.412", "0.614", "88.5\u00a0%", "32"],
    ]
    page.goto("/models/hosted@1")
    assert page.get_by_role("heading", name="Shorter vectors").count() == 0


def test_a_training_report_runs_nothing(chromium: Browser, world: World) -> None:
    complaints: list[str] = []
    with opened_page(chromium, world, complaints) as page:
        page.goto("/models/help@2/report")
        assert page.title() == "Report"
        assert page.inner_text("h1") == "help@2 is better"
    assert any("sandboxed" in text or "Content Security" in text for text in complaints)


# -- the browser itself ----------------------------------------------------------------------------


def test_without_a_browser_the_tests_are_skipped_and_fail_where_ci_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        do_without(NoBrowser(MISSING))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"apt-get install chromium.*where CI is set"):
        do_without(NoBrowser(MISSING))
