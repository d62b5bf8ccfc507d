"""What the pages promise without a browser: nothing runs, nobody else's form counts, keys count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from reindexer.access import access_of
from reindexer.service import PROBLEMS, ReindexerService
from search.app import create_app
from search.errors import InvalidQuery
from search.feedback_reports import feedback_summary, votes_summary
from search.keys import ApiKeys
from search.pages import visitors
from search.pages.compare_page import read_queries
from search.pages.marking import marker
from search.pages.plots import line_plot
from search.pages.ranking_changes import agreement, movements
from search.pages.throughput import ThroughputLog
from search.pages.visitors import COOKIE, SESSION_S, seal, unseal
from search.recipe import AnalyzerRecipe
from tests.word_directory import WordDirectory

WAIT_S = 60.0
LOCAL = "http://127.0.0.1"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
OWN = {**BROWSER, "origin": LOCAL}
SCRIPT = "<script>alert('broken')</script>"
KEY = "rk_" + "a" * 12 + "_" + "b" * 40


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReindexerService]:
    """docs@2 is live, docs@1 standby. No threads: what is open stays open."""
    folder = tmp_path_factory.mktemp("pages") / "data"
    with WordDirectory(folder, run_worker=False, feedback_enabled=True) as directory:
        directory.put(
            "a/b?c",
            f"all of it is {SCRIPT}",
            title=f"Broken {SCRIPT}",
            metadata={"tag": SCRIPT, "year": 2020},
        )
        directory.put_many(f"d{number}" for number in range(12))
        for model in ("word@1", "word@2"):
            directory.go_live(directory.build(model))
        service = ReindexerService(directory, host="127.0.0.1", port=0)
        for name in ("docs@2", "docs@1"):
            assert service.manager.wait_until_open(name, WAIT_S)
        service.manager.follow()
        yield service
        service.close()


@pytest.fixture(scope="module")
def app(service: ReindexerService) -> FastAPI:
    return create_app(service, problems=PROBLEMS)


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    """A browser that has not been here."""
    return client_of(app)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[TestClient]:
    with WordDirectory(tmp_path / "data", run_worker=False) as directory:
        service = ReindexerService(directory, host="127.0.0.1", port=0)
        yield client_of(create_app(service, problems=PROBLEMS))
        service.close()


@pytest.fixture
def keys(service: ReindexerService) -> Iterator[dict[str, str]]:
    """The service asks for keys; a key of each kind."""
    open_to_all, directory = service.access, service._data
    made = ApiKeys(directory.database)
    found = {
        "search": made.create("people", ["search"])[1],
        "operate": made.create("operators", ["search", "operate"])[1],
        "write": made.create("importer", ["write"])[1],
    }
    service.access = access_of(
        directory.database, directory.settings, host="0.0.0.0", token="t", insecure=False
    )
    yield found
    service.access = open_to_all


def client_of(app: FastAPI) -> TestClient:
    return TestClient(app, base_url=LOCAL, headers=BROWSER, follow_redirects=False)


def post(client: TestClient, path: str, **fields: str) -> httpx.Response:
    return client.post(path, data=fields, headers=OWN)


# -- nothing from a document runs ------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/?q=all+of+it+script&filter=year%3D2020",
        "/document/a%2Fb%3Fc?q=script",
        "/compare?q=all+of+it+script&left=docs%401:hybrid&right=docs%402:lexical",
        f"/?q={SCRIPT}",
        f"/?q=x&mode={SCRIPT}",
        f"/?q=x&filter={SCRIPT}",
        f"/?q=x&k={SCRIPT}",
        f"/compare?q={SCRIPT}&left={SCRIPT}",
        f"/document/{SCRIPT}",
        f"/models/{SCRIPT}",
        f"/operations?done=cut-over&subject={SCRIPT}",
        f"/operations/confirm?action={SCRIPT}&subject={SCRIPT}",
    ],
)
def test_what_comes_from_outside_is_text_on_every_page(client: TestClient, path: str) -> None:
    answer = client.get(path)

    assert answer.headers["content-type"].startswith("text/html")
    scripts = re.findall(r"<script[^>]*>", answer.text)
    assert len(scripts) == 1
    assert 'src="/static/pages.js' in scripts[0]
    assert not re.search(r"<[^>]+\s(style|on\w+)\s*=", answer.text)
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"


@given(text=st.text(max_size=200), query=st.text(max_size=40))
def test_marking_changes_no_text_whatever_is_in_it(text: str, query: str) -> None:
    marked = str(marker(query, AnalyzerRecipe())(text))
    assert marked.replace("<mark>", "").replace("</mark>", "") == str(escape(text))


def test_words_are_marked_by_their_stems() -> None:
    mark = marker("the vaccines & 東京", AnalyzerRecipe())
    assert mark("The vaccine <b> for 東京都") == (
        "The <mark>vaccine</mark> &lt;b&gt; for <mark>東京</mark>都"
    )


def test_static_files_are_kept_by_browsers_as_long_as_they_are_the_same(client: TestClient) -> None:
    (link,) = re.findall(r'href="(/static/style.css[^"]*)"', client.get("/").text)
    answer = client.get(link)

    assert "immutable" in answer.headers["cache-control"]
    again = client.get("/static/style.css", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")
    assert client.get("/static/..%2Fpages.py").status_code == 404


def test_nothing_is_loaded_from_other_hosts() -> None:
    for path in (Path(visitors.__file__).parent / "static").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), path.name


# -- browsers get pages, programs get JSON ---------------------------------------------------------


def test_programs_and_browsers_share_paths(client: TestClient) -> None:
    assert client.get("/models").text.startswith("<!doctype html>")
    assert client.get("/models", headers={"accept": "application/json"}).json() == []
    found = client.get("/nowhere")
    assert (found.status_code, "<h1>Not Found</h1>" in found.text) == (404, True)
    assert found.headers["x-request-id"] in found.text
    problem = client.get("/nowhere", headers={"accept": "*/*"})
    assert problem.headers["content-type"] == "application/problem+json"


def test_a_wrong_question_is_explained_beside_the_form(client: TestClient) -> None:
    answer = client.get("/?q=x&k=0")
    assert answer.status_code == 422
    assert re.search(r'role="alert">&#39;0&#39; hits: expected a number from 1', answer.text)


def test_without_anything_to_show_a_page_says_what_to_run(empty: TestClient) -> None:
    for path in ("/", "/compare", "/operations"):
        text = empty.get(path).text
        assert "reindexer ingest documents.jsonl" in text
        assert "reindexer upgrade sentence-transformers/" in text
    assert "reindexer models register" in empty.get("/models").text
    assert empty.get("/?q=anything").status_code == 200


# -- feedback --------------------------------------------------------------------------------------


def test_a_click_is_counted_once_and_leads_to_the_document(
    service: ReindexerService, client: TestClient
) -> None:
    shown = client.get("/?q=all+of+d3").text
    link = re.findall(r'<h2 id="title-1"><a href="([^"]+)"', shown)[0].replace("&amp;", "&")
    ahead = client.get(link, headers={"sec-purpose": "prefetch"})
    answer = client.get(link)

    assert (ahead.status_code, answer.status_code) == (303, 303)
    assert answer.headers["location"] == "/document/d3?q=all+of+d3"
    assert "all of d3" in re.sub("</?mark>", "", client.get(answer.headers["location"]).text)
    assert feedback_summary(service._data.database)["clicks"] == 1


def test_a_vote_is_kept_and_shown_with_the_report_of_the_gate(
    service: ReindexerService, client: TestClient
) -> None:
    vote = {"query": "all of d3", "one": "docs@1", "other": "docs@2"}
    assert post(client, "/pages/vote", better="docs@2", **vote).status_code == 200
    assert post(client, "/pages/vote", better="docs@7", **vote).status_code == 422

    (row,) = votes_summary(service._data.database)
    assert (row["votes"], row["other_better"]) == (1, 1)
    assert "<strong>1</strong> for docs@2" in client.get("/operations").text


# -- forms of others -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:99"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "/operations/do",
        "/operations/start",
        "/pages/vote",
        "/pages/feedback",
        "/compare",
        "/sign-in",
        "/sign-out",
    ],
)
def test_a_form_of_another_page_does_nothing(
    client: TestClient, headers: dict[str, str], path: str
) -> None:
    answer = client.post(path, data={"action": "rollback"}, headers=headers)
    assert answer.status_code == 403
    assert "Not from there" in answer.text


def test_what_is_asked_for_twice_is_not_done_to_another_generation(client: TestClient) -> None:
    answer = post(client, "/operations/do", action="rollback", subject="docs@7")
    assert (answer.status_code, "docs@1 is standby now" in answer.text) == (422, True)
    assert post(client, "/operations/do", action="drop", subject="docs@1").status_code == 422
    assert post(client, "/operations/start", model="none@1").status_code == 404


# -- signing in ------------------------------------------------------------------------------------


def test_a_page_leads_to_the_sign_in_and_back(client: TestClient, keys: dict[str, str]) -> None:
    asked = client.get("/operations?x=1")
    assert (asked.status_code, asked.headers["location"]) == (
        303,
        "/sign-in?next=/operations%3Fx%3D1",
    )
    assert client.get("/operations", headers={"accept": "*/*"}).status_code == 401

    wrong = post(client, "/sign-in", key=KEY)
    assert (wrong.status_code, "not known" in wrong.text, COOKIE in wrong.cookies) == (
        401,
        True,
        False,
    )
    assert post(client, "/sign-in", key=keys["write"]).status_code == 403
    done = post(client, "/sign-in", key=keys["operate"], next="/operations?x=1")
    assert (done.status_code, done.headers["location"]) == (303, "/operations?x=1")
    cookie = done.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert "Max-Age" not in cookie

    assert client.get("/operations").status_code == 200
    assert client.get("/events").status_code == 200
    assert "Sign out" in client.get("/").text
    out = post(client, "/sign-out")
    assert (out.status_code, client.cookies.get(COOKIE)) == (303, None)
    assert client.get("/operations").status_code == 303


def test_a_session_may_do_what_its_key_may_and_only_from_our_pages(
    client: TestClient, keys: dict[str, str]
) -> None:
    post(client, "/sign-in", key=keys["search"])

    shown = client.get("/operations").text
    assert "may look and not operate" in shown
    assert "/operations/confirm" not in shown
    assert post(client, "/operations/do", action="rollback", subject="docs@1").status_code == 403
    vote = {"query": "q", "one": "docs@1", "other": "docs@2", "better": None}
    assert client.post("/votes", json=vote, headers=OWN).status_code == 200
    assert client.post("/votes", json=vote).status_code == 403  # a program sends a key instead
    bearer = {"authorization": f"Bearer {keys['search']}"}
    assert client.post("/votes", json=vote, headers=bearer).status_code == 200


def test_a_session_ends_with_its_key(
    service: ReindexerService, client: TestClient, keys: dict[str, str]
) -> None:
    post(client, "/sign-in", key=keys["search"])
    assert client.get("/").status_code == 200
    ApiKeys(service._data.database).revoke(keys["search"].split("_")[1])
    service.access._read_at = 0.0
    assert client.get("/").status_code == 303


@pytest.mark.parametrize(
    "target",
    ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\nx"],
)
def test_the_sign_in_leads_to_no_other_site(
    client: TestClient, keys: dict[str, str], target: str
) -> None:
    done = post(client, "/sign-in", key=keys["search"], next=target)
    assert done.headers["location"] == "/"


def test_a_cookie_is_good_for_its_time_and_as_it_was_made() -> None:
    sealed = seal(KEY, now=1_000_000)
    assert unseal(sealed, now=1_000_000 + SESSION_S - 1) == KEY
    assert unseal(sealed, now=1_000_000 + SESSION_S) is None
    later = sealed.replace(".1000000.", f".{1_000_000 + SESSION_S}.")
    assert unseal(later, now=1_000_000 + SESSION_S) is None
    for broken in ("", KEY, f"{KEY}.", f"{KEY}.1.", "..", f"{KEY}.\u0661.x", sealed[:-1] + "ü"):
        assert unseal(broken, now=1_000_000) is None


# -- figures ---------------------------------------------------------------------------------------


def test_movements_say_where_a_hit_went_and_where_it_came_from() -> None:
    before, after = ["a", "b", "c", "d"], ["b", "a", "x", "d"]
    came = [item.in_words for item in movements(after, before, is_later=True)]
    went = [item.in_words for item in movements(before, after, is_later=False)]
    assert came == ["up 1", "down 1", "new", "same place"]
    assert went == ["down 1", "up 1", "gone", "same place"]


def test_agreement_is_known_at_its_ends() -> None:
    same, turned = agreement("abc", "abc"), agreement("abc", "cba")
    assert (same.overlap, same.tau, same.is_same_first) == (1.0, 1.0, True)
    assert (turned.overlap, turned.tau, turned.is_same_first) == (1.0, -1.0, False)
    apart = agreement("ab", "xy")
    assert (apart.overlap, apart.tau) == (0.0, None)
    assert agreement("", "").overlap == 1.0


def test_queries_are_read_from_lines_and_from_json() -> None:
    assert read_queries('one\n\n{"_id": 1, "text": "two"}\none\n{"query": "three"}') == [
        "one",
        "two",
        "three",
    ]
    for text, reason in (("", "no queries"), ('{"a": 1}', "line 1 has no"), ("{", "not JSON")):
        with pytest.raises(InvalidQuery, match=reason):
            read_queries(text)


def test_throughput_is_what_was_done_between_two_looks() -> None:
    log = ThroughputLog()
    build: dict[str, Any] = {"build_id": 1, "state": "running", "docs_done": 0}
    for second, done in enumerate((0, 100, 200, 200)):
        log.see([{**build, "docs_done": done}], now=10.0 * second)
    log.see([{**build, "docs_done": 900, "state": "paused"}], now=50.0)
    rates = log.rates(1)
    assert rates[0][0] == -30.0
    assert [round(rate, 1) for _, rate in rates[1:]] == [10.0, 10.0, 6.7]
    assert log.rates(2) == []


def test_a_plot_has_no_style_of_its_own_and_says_what_it_shows() -> None:
    drawn = line_plot(
        [("<b>", [(0, 1), (1, 2)]), ("other", [(0, 2), (1, 1)])],
        title="T", about="a & b", x_label="x", x_ticks=[(0, "0")],
    )  # fmt: skip
    assert 'aria-label="T: a &amp; b"' in drawn
    assert "style=" not in drawn
    assert "<b>" not in drawn
    assert line_plot([("one", [(0, 1)])], title="", about="", x_label="", x_ticks=[]) == ""


def test_the_page_of_the_api_has_every_endpoint_and_loads_nothing_from_elsewhere(
    client: TestClient,
) -> None:
    answer = client.get("/docs", headers=BROWSER)

    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert not re.findall(r"""(?:src|href|url)\W{1,3}(?:https?:)?//""", answer.text)
    assert "<script>" not in answer.text
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in answer.text
    links = set(re.findall(r'href="#(\w+)"', answer.text)) - {"main"}
    assert links <= set(re.findall(r'id="(\w+)"', answer.text))
    assert 'href="/docs"' in client.get("/", headers=BROWSER).text
