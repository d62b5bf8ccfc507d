"""API keys by themselves: what they look like, what is kept, and that no log shows one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from search.database import Database, open_database, sqlite_url
from search.errors import InvalidKey, KeyNotFound
from search.keys import ApiKeys, check_rate, hash_secret, split_key
from search.masking import mask_keys, mask_keys_in_logs
from search.tables import api_keys

KEY = "rk_4fK2mPq9Lx_0123456789abcdefghijABCDEFGHIJ"
SECRET = KEY.rpartition("_")[2]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = open_database(sqlite_url(tmp_path_factory.mktemp("keys") / "reindexer.db"))
    yield database
    database.close()


@pytest.fixture
def keys(database: Database) -> ApiKeys:
    return ApiKeys(database)


# -- what is kept ---------------------------------------------------------------------------------


def test_the_database_keeps_a_hash_and_never_the_secret(keys: ApiKeys, database: Database) -> None:
    key, text = keys.create("website", ["search", "write"], rate_limit="600/minute")
    parts = split_key(text)
    assert parts is not None
    key_id, secret = parts

    with database.read() as connection:
        row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).one()

    assert key.id == key_id
    assert row.hash == hash_secret(secret)
    assert secret not in str(row)
    assert secret not in repr(key) + str(key.to_json())
    assert key.to_json()["scopes"] == ["search", "write"]
    assert keys.usable()[key_id] == key


def test_a_secret_has_more_than_128_random_bits(keys: ApiKeys) -> None:
    texts = [keys.create("many", ["search"])[1] for _ in range(20)]

    assert len(set(texts)) == 20
    assert all(len(text.split("_")[2]) == 32 for text in texts)  # 62 ** 32 > 2 ** 190


def test_a_revoked_key_stays_listed_and_cannot_be_used(keys: ApiKeys) -> None:
    key, _ = keys.create("gone", ["search"])

    revoked = keys.revoke(key.id)

    assert revoked.revoked_at is not None
    assert keys.revoke(key.id) == revoked
    assert key.id not in keys.usable()
    assert key.id in {found.id for found in keys.list()}


def test_a_key_that_was_found_somewhere_is_revoked_as_it_is(keys: ApiKeys) -> None:
    key, text = keys.create("leaked", ["search"])

    assert keys.revoke(text).id == key.id
    with pytest.raises(KeyNotFound, match="keys list") as caught:
        keys.revoke(KEY)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "scopes", "rate", "says"),
    [
        ("website", [], None, "found no scope"),
        ("website", ["admin"], None, "search, write, operate; found the scope 'admin'"),
        (" ", ["search"], None, "a name that says who uses it"),
        ("website", ["search"], "fast", "'fast' is no rate; expected .* such as 600/minute"),
        ("website", ["search"], "0/second", "is no rate"),
    ],
)
def test_a_key_that_cannot_be_made_says_why(
    keys: ApiKeys, name: str, scopes: list[str], rate: str | None, says: str
) -> None:
    with pytest.raises(InvalidKey, match=says):
        keys.create(name, scopes, rate_limit=rate)  # type: ignore[arg-type]


def test_rates_are_read_as_people_write_them() -> None:
    for rate in ("600/minute", "10/second", "10 per second", "1000/hour", "5/2 minutes"):
        assert check_rate(rate) == rate


@pytest.mark.parametrize("text", ["", "rk__", "rk_a_", "rk_a_b c", "sk_a_b", f"{KEY}\n", "rk_ä_b"])
def test_what_is_no_key_is_not_taken_for_one(text: str) -> None:
    assert split_key(text) is None


# -- what is not shown ----------------------------------------------------------------------------


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What a logger of somebody else's library writes, with a handler that nobody told of keys."""
    before = logging.getLogRecordFactory()
    mask_keys_in_logs()
    handler = _Lines()
    logger = logging.getLogger("somebody.else")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)
    logging.setLogRecordFactory(before)


def _raise(text: str) -> None:
    raise ValueError(text)


def test_no_log_line_shows_a_secret(lines: list[str]) -> None:
    log = logging.getLogger("somebody.else")
    log.error("got %s", KEY)
    log.error("got %(key)s", {"key": {"Authorization": f"Bearer {KEY}"}})
    log.error(f"got {KEY}")
    log.error("got %d and %s", KEY)
    log.error(ValueError(KEY))

    assert len(lines) == 5
    assert SECRET not in "".join(lines)
    assert all("rk_4fK2mPq9Lx_****" in line for line in lines)


def test_no_traceback_shows_a_secret(lines: list[str]) -> None:
    try:
        try:
            _raise(KEY)
        except ValueError as error:
            raise RuntimeError("failed") from error
    except RuntimeError:
        logging.getLogger("somebody.else").exception("no luck")

    assert "Traceback" in lines[0]
    assert "RuntimeError: failed" in lines[0]
    assert SECRET not in lines[0]


def test_other_lines_stay_as_they_are(lines: list[str]) -> None:
    log = logging.getLogger("somebody.else")
    log.error("%s of %d", "one", 2)
    log.error("the mark_down is rk_less")

    assert lines == ["one of 2", "the mark_down is rk_less"]
    assert mask_keys("a rk_a_b, rk_c_d") == "a rk_a_****, rk_c_****"
