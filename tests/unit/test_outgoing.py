"""Which addresses a list of hosts lets through."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from reindexer.settings import SettingsInvalid, read_settings
from reindexer.sources.rows import RecordReader
from reindexer.sources.sql import SqlSource
from training.errors import HostRefused
from training.outgoing import AllowedHosts, allow_only, check_address, limited_to

HOSTS = AllowedHosts.parse(
    "Hub.example, *.corp.example, 10.0.0.5:6333, db.example:5432, ::1, [fd00::2]:8080, s3://docs"
)
READER = RecordReader("default")


def allows(url: str, hosts: AllowedHosts = HOSTS) -> bool:
    try:
        hosts.check(url)
    except HostRefused:
        return False
    return True


@pytest.mark.parametrize(
    "url",
    [
        "https://hub.example/a.jsonl",
        "http://user:secret@HUB.example.:8080/a?b=c://d",
        "https://a.corp.example",
        "https://a.b.corp.example/x",
        "http://10.0.0.5:6333",
        "postgresql://me@db.example/shop",
        "http://[::1]:9000/x",
        "http://[0:0:0:0:0:0:0:1]/x",
        "http://[fd00::2]:8080",
        "s3://docs/2026/*.jsonl",
        "s3a://docs/x",
        "/srv/a@b.jsonl",
        "file:///srv/a.jsonl",
        "memory://x",
        "",
    ],
)
def test_what_is_in_the_list_may_be_asked(url: str) -> None:
    assert allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00:ec2::254]/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://localhost:8080",
        "http://127.0.0.1",
        "https://hub.example.evil.example",
        "https://evilhub.example",
        "https://corp.example",
        "https://evilcorp.example",
        "http://10.0.0.5",
        "http://10.0.0.5:63330",
        "http://[fd00::2]",
        "s3://other/x",
        "gs://docs/x",
        "https://docs/x",
        "ftp://evil.example/x",
        "gopher://hub.example/x",
    ],
)
def test_what_is_not_in_the_list_is_refused(url: str) -> None:
    assert not allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example\\@evil.example/",
        "http://evil.example\\@hub.example/",
        "http://evil.example#@hub.example/",
        "http://evil.example?@hub.example/",
        "http://a@evil.example@hub.example/",
        "http://hub.example\t.evil.example/",
        "http://hub.example%2eevil.example/",
        "http://hub.example:80:90/",
        "http://hub.examplе/",  # noqa: RUF001
        "http:///hub.example/",
        "http://[hub.example]/",
        " http://hub.example/",
        "simplecache::https://evil.example/a.csv",
        "zip://a.csv::https://hub.example/a.zip",
        "file:///a::http://evil.example",
        "http://[::ftp://evil.example]/",
    ],
)
def test_what_two_libraries_could_read_in_two_ways_is_refused(url: str) -> None:
    assert not allows(url)


def test_without_a_list_any_host_may_be_asked() -> None:
    check_address("http://169.254.169.254/latest/meta-data")
    check_address("zip://a.csv::https://anywhere.example/a.zip")
    assert allows("http://anywhere\\@x", AllowedHosts.parse(" , "))


def test_a_refusal_names_the_host_the_list_and_the_setting() -> None:
    with limited_to(AllowedHosts.parse("hub.example, s3://docs")):
        for url, named in (
            ("https://me:hunter2@evil.example:8443/a?token=hunter2", "evil.example:8443"),
            ("http://evil.example/", "evil.example is not"),
            ("s3://private/x", "s3://private"),
        ):
            with pytest.raises(HostRefused) as told:
                check_address(url)
            assert named in str(told.value)
            assert "network.allowed_hosts allows only hub.example, s3://docs" in str(told.value)
            assert "hunter2" not in str(told.value)


def test_opening_something_without_a_list_lifts_none() -> None:
    with limited_to(AllowedHosts.parse("hub.example")):
        allow_only(AllowedHosts())
        with pytest.raises(HostRefused):
            check_address("http://evil.example")
    check_address("http://evil.example")


@pytest.mark.parametrize(
    "entry",
    [
        *("*", "*.", "*.0.0.5", "a.*.example", "http://host", "https://host/x", "host/x", "a b"),
        *("host:x", "ho\\st", "[::1", "*.[::1]", "hüb.example"),
        *("s3://", "s3://bucket/folder", "file://x"),
    ],
)
def test_an_entry_that_means_nothing_is_refused(entry: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"network\.allowed_hosts has .*expected a host"):
        _ = read_settings(
            {}, environment={"REINDEXER_NETWORK_ALLOWED_HOSTS": f"hub.example,{entry}"}
        ).reachable


@pytest.mark.parametrize("name", ["REINDEXER_ENCODER_URL", "REINDEXER_LEXICAL_PUBLISH_URL"])
def test_a_setting_that_leads_elsewhere_ends_a_command_at_once(name: str) -> None:
    environment = {"REINDEXER_NETWORK_ALLOWED_HOSTS": "hub.example"}
    read_settings({}, environment={**environment, name: "https://hub.example/x"})

    with pytest.raises(SettingsInvalid, match=r"evil\.example is not asked"):
        read_settings({}, environment={**environment, name: "https://evil.example/x"})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@evil.example/shop",
        "postgresql:///shop",
        "postgresql://db.example/shop?host=evil.example",
        "postgresql://db.example/shop?hostaddr=169.254.169.254",
        "postgresql://db.example/shop?service=evil",
        "postgresql://db.example/shop?options=host%3Devil.example",
        "postgresql://db.example,evil.example/shop",
        "postgresql://db.example/host%3Devil.example",
        "postgresql://a:b@evil@db.example/shop",
        "mssql+pyodbc://db.example:5432/x?driver=a%7D;Server=evil.example",
        "mssql+pyodbc:///?odbc_connect=Server%3Devil.example",
        "mysql+pymysql://db.example/shop",
    ],
)
def test_a_database_is_asked_at_its_host_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers take other servers from the query too."""
    opened: list[object] = []
    monkeypatch.setattr(sa, "create_engine", lambda *asked, **_: opened.append(asked))

    with limited_to(HOSTS), pytest.raises(HostRefused):
        SqlSource(url, READER, table="products")
    assert opened == []


def test_a_database_of_the_list_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def engine(*_: object, **_more: object) -> None:
        raise Asked

    monkeypatch.setattr(sa, "create_engine", engine)
    for more in ("", "?sslmode=require&options=-csearch_path%3Dsales,public"):
        with limited_to(HOSTS), pytest.raises(Asked):
            SqlSource(f"postgresql://me:p%40ss@db.example/shop{more}", READER, table="products")
