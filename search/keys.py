"""API keys: `rk_<id>_<secret>`, of which the database keeps the id and a hash of the secret."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

import limits
import sqlalchemy as sa

from search.database import Database
from search.errors import InvalidKey, KeyNotFound
from search.scopes import SCOPES, Scope
from search.tables import api_keys

_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 10
_SECRET_LENGTH = 32  # log2(62) * 32 = 190 bits
_KEY = re.compile(r"rk_([A-Za-z0-9]{1,64})_([A-Za-z0-9]{1,128})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """What is kept of a key."""

    id: str
    name: str
    hash: str  # SHA-256 of the secret part, in hex
    scopes: frozenset[Scope]
    rate_limit: str | None = None  # "600/minute"
    created_at: float  # Unix seconds
    revoked_at: float | None = None

    @classmethod
    def of_row(cls, row: sa.Row[Any]) -> Self:
        return cls(**{**row._mapping, "scopes": frozenset(json.loads(row.scopes))})

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "scopes": [scope for scope in SCOPES if scope in self.scopes],
            "rate": self.rate_limit,
            "created_at": self.created_at,
            "revoked_at": self.revoked_at,
        }


def hash_secret(secret: str) -> str:
    """SHA-256, once. A slow, salted hash protects what people choose, because that can be guessed;
    nobody guesses 190 random bits, and every request would pay for it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def split_key(text: str) -> tuple[str, str] | None:
    """(id, secret) of a key; None when the text is none."""
    match = _KEY.fullmatch(text)
    return (match[1], match[2]) if match else None


def check_rate(text: str) -> str:
    """The rate as it was given. Raises InvalidKey unless it reads like 600/minute."""
    try:
        item = limits.parse(text)
    except ValueError:
        item = None
    if item is None or item.amount < 1:
        raise InvalidKey(
            f"{text!r} is no rate; expected a number of requests and a unit of time, such as "
            "600/minute, 10/second or 1000/hour"
        )
    return text


class ApiKeys:
    """The keys of an installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, scopes: Collection[Scope], *, rate_limit: str | None = None
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which is nowhere afterwards. Raises InvalidKey."""
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            found = f"the scope {unknown[0]!r}" if unknown else "no scope"
            raise InvalidKey(f"a key needs scopes out of {', '.join(SCOPES)}; found {found}")
        if not name.strip():
            raise InvalidKey("a key needs a name that says who uses it, such as website")
        secret = _random(_SECRET_LENGTH)
        key = ApiKey(
            id=_random(_ID_LENGTH),
            name=name.strip(),
            hash=hash_secret(secret),
            scopes=frozenset(scopes),
            rate_limit=check_rate(rate_limit) if rate_limit is not None else None,
            created_at=time.time(),
        )
        with self._database.write() as connection:
            connection.execute(
                api_keys.insert().values(
                    id=key.id,
                    name=key.name,
                    hash=key.hash,
                    scopes=json.dumps(sorted(key.scopes)),
                    rate_limit=key.rate_limit,
                    created_at=key.created_at,
                )
            )
        return key, f"rk_{key.id}_{secret}"

    def list(self) -> list[ApiKey]:
        """All that were ever made, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
            )
            return [ApiKey.of_row(row) for row in rows]

    def usable(self) -> dict[str, ApiKey]:
        """Those that were not revoked, by id."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(api_keys).where(api_keys.c.revoked_at.is_(None)))
            return {row.id: ApiKey.of_row(row) for row in rows}

    def revoke(self, key_id: str) -> ApiKey:
        """End a key, by its id or by the key itself. Revoking twice changes nothing. Raises
        KeyNotFound."""
        parts = split_key(key_id)
        wanted = parts[0] if parts else key_id
        with self._database.write() as connection:
            connection.execute(
                api_keys.update()
                .where(api_keys.c.id == wanted, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=time.time())
            )
            row = connection.execute(sa.select(api_keys).where(api_keys.c.id == wanted)).first()
        if row is None:
            raise KeyNotFound(f"no API key {wanted!r}; `reindexer keys list` has them all")
        return ApiKey.of_row(row)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
