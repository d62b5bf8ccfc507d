"""Whom a service answers: decided once, when it starts, from its address, settings and keys."""

from __future__ import annotations

import ipaddress

from reindexer.errors import KeysMissing
from reindexer.settings import Settings, SettingsInvalid
from search.access import Access
from search.database import Database
from search.errors import InvalidKey
from search.keys import ApiKeys, check_rate

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def access_of(
    database: Database, settings: Settings, *, host: str, token: str, insecure: bool
) -> Access:
    """On a loopback address everybody is trusted unless `serve.require_keys` is set. Any other
    asks for keys, unless insecure. Raises KeysMissing when there are none, SettingsInvalid."""
    keys = ApiKeys(database)
    is_local = is_loopback(host)
    if insecure and settings.require_keys:
        raise SettingsInvalid(
            "serve.require_keys is set and --insecure is given; leave one of them out"
        )
    required = settings.require_keys or not (is_local or insecure)
    if not is_local and required and not keys.usable():
        raise KeysMissing(
            f"{host} can be reached from other machines, and there are no API keys; make "
            "one with `reindexer keys create NAME --scope search --scope write`, listen on "
            "127.0.0.1, or add --insecure to let everybody read and write"
        )
    local_hosts = _LOCAL_HOSTS | {host, *_items(settings.allowed_hosts.lower())}
    return Access(
        keys,
        token=token,
        required=required,
        rate_limit=_rate(settings.rate_limit),
        local_hosts=local_hosts if is_local and not required else None,
        origins=_items(settings.cors_origins),
    )


def _rate(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return check_rate(text)
    except InvalidKey as error:
        raise SettingsInvalid(f"serve.rate_limit: {error}") from error


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
