"""Which hosts this process may ask, of the addresses that people, files and models name.

Without a list any host may be asked. With one, whatever opens an address calls `check_address`
first, and what follows redirects calls it again for each.

A name is compared as it is written, never resolved. So it must be written plainly: what two
libraries could read in two ways is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Self

from training.errors import HostRefused

SETTING = "network.allowed_hosts"

_LOCAL = {"file", "local", "memory"}  # no connection is made
_PORTS = {  # of schemes whose address begins with a host
    "http": 80, "https": 443, "ftp": 21, "sftp": 22, "ssh": 22, "smb": 445, "hdfs": 8020,
    "webhdfs": 50070, "postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433,
    "oracle": 1521,
}  # fmt: skip
_SAME = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}  # names of one and the same
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.I)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_](?:[A-Za-z0-9._-]*)))(?::(\d{1,5}))?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]*")
_BRACKETS = re.compile(r"\[[0-9A-Fa-f:.]*\]")
_USER = re.compile(r"[^\s\\@]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedHosts:
    """Entries of the setting; none allow any host."""

    entries: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError. text: with commas between: `hub.example`, `*.example.org`,
        `10.0.0.5:6333`, `[::1]`, `s3://bucket`."""
        entries = tuple(item.strip() for item in text.split(",") if item.strip())
        for entry in entries:
            if _bucket_entry(entry) is None and _host_entry(entry) is None:
                raise ValueError(
                    f"{entry!r}, expected a host such as hub.example, *.example.org, 10.0.0.5:6333 "
                    "or [::1], or a bucket such as s3://bucket"
                )
        return cls(entries=entries)

    def check(self, url: str, *, default_port: int | None = None) -> None:
        """Raises HostRefused. url: or a path, which always may be read. default_port: that of
        whoever asks there, where it is not the scheme's."""
        if not self.entries:
            return
        try:
            found = _asked(url, default_port)
        except ValueError as error:
            told = f"an address cannot be compared with {SETTING}: {error}; write it plainly"
            raise HostRefused(f"{told}, or leave the setting empty") from None
        if found is not None and not self._allow(*found):
            raise HostRefused(
                f"{_shown(*found)} is not asked: {SETTING} allows only {', '.join(self.entries)}; "
                f"if it may be asked, add it there"
            )

    def _allow(self, scheme: str, name: str, port: int | None) -> bool:
        if port is None:
            return (scheme, name) in map(_bucket_entry, self.entries)
        return any(
            found is not None and _covers(found[0], name) and found[1] in (None, port)
            for found in map(_host_entry, self.entries)
        )


_allowed = AllowedHosts()  # by this process


def allow_only(hosts: AllowedHosts) -> None:
    """From now on, for this process. No list does not lift the one that is there."""
    global _allowed
    if hosts.entries:
        _allowed = hosts


@contextlib.contextmanager
def limited_to(hosts: AllowedHosts) -> Iterator[None]:
    """The same while the block runs."""
    global _allowed
    before = _allowed
    allow_only(hosts)
    try:
        yield
    finally:
        _allowed = before


def allowed_hosts() -> AllowedHosts:
    """What a new process is to be told."""
    return _allowed


def is_limited() -> bool:
    return bool(_allowed.entries)


def check_address(url: str, *, default_port: int | None = None) -> None:
    """See `AllowedHosts.check`."""
    if url.startswith("hf://") and "::" not in url:
        check_hub()
    else:
        _allowed.check(url, default_port=default_port)


def check_hub() -> None:
    """The Hugging Face hub, wherever HF_ENDPOINT says that it is. Raises HostRefused."""
    if is_limited():
        from huggingface_hub import constants

        check_address(constants.ENDPOINT)


def raise_refused(error: BaseException) -> None:
    """Libraries wrap what is raised below them. Raises the HostRefused that an error came from."""
    seen: BaseException | None = error
    for _ in range(20):
        if isinstance(seen, HostRefused):
            raise seen
        seen = None if seen is None else seen.__cause__ or seen.__context__


def guard_drivers() -> None:
    """Have fsspec's driver of the web check every request: it follows redirects, and so do data
    sets whose card names files elsewhere."""
    if is_limited():
        import fsspec  # type: ignore[import-untyped]

        fsspec.config.conf.setdefault("http", {})["get_client"] = _checking_client


async def _checking_client(**options: Any) -> Any:
    import aiohttp

    class Checking(aiohttp.TCPConnector):
        async def connect(self, req: Any, *more: Any, **named: Any) -> Any:
            check_address(str(req.url))
            return await super().connect(req, *more, **named)

    return aiohttp.ClientSession(**{"connector": Checking(), **options})


async def check_request(request: Any) -> None:
    """A hook of an httpx client, which calls it for every redirect too."""
    check_address(str(request.url))


# -- addresses -------------------------------------------------------------------------------------


def _asked(url: str, default_port: int | None) -> tuple[str, str, int | None] | None:
    """Scheme, host and port; of what has no host, the bucket and None. None for what is here.
    Raises ValueError for what is not written plainly."""
    if "::" in _BRACKETS.sub("", url):
        raise ValueError("it is a chain of addresses (::)")
    scheme, separator, rest = url.partition("://")
    if not separator:
        return None
    scheme = scheme.lower()
    if scheme in _LOCAL:
        return None
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme not in _PORTS:
        bucket = _bucket(scheme, authority)
        if bucket is None:
            raise ValueError(f"{scheme[:20]!r}:// with no plain name behind it")
        return (*bucket, None)
    user, _, place = authority.rpartition("@")
    match = _HOST.fullmatch(place)
    if match is None or not _USER.fullmatch(user):
        raise ValueError("its host is not plain ASCII (expected HOST or HOST:PORT)")
    port = int(match[3]) if match[3] else default_port or _PORTS[scheme]
    return scheme, _plain(match), port


def _host_entry(text: str) -> tuple[str, int | None] | None:
    """Host, or `.example.org` for all below it, and port; None when it is neither."""
    if text.count(":") > 1 and "[" not in text:
        text = f"[{text}]"
    below = text.startswith("*.")
    match = _HOST.fullmatch(text.removeprefix("*."))
    try:
        host = None if match is None else _plain(match)
    except ValueError:
        host = None
    if match is None or host is None or (below and _is_number(host)):
        return None
    return ("." + host if below else host), int(match[3]) if match[3] else None


def _plain(match: re.Match[str]) -> str:
    """Raises ValueError."""
    if match[1] is not None:
        return IPv6Address(match[1]).compressed
    return match[2].lower().rstrip(".")


def _is_number(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdecimal()


def _covers(entry: str, host: str) -> bool:
    return host.endswith(entry) if entry.startswith(".") else host == entry


def _bucket_entry(text: str) -> tuple[str, str] | None:
    scheme, separator, name = text.partition("://")
    return _bucket(scheme, name) if separator else None


def _bucket(scheme: str, name: str) -> tuple[str, str] | None:
    """What `s3://bucket` stands for; None when it is no such thing."""
    scheme = _SAME.get(scheme.lower(), scheme.lower())
    if scheme in _PORTS or scheme in _LOCAL or not _SCHEME.fullmatch(scheme):
        return None
    return (scheme, name) if _BUCKET.fullmatch(name) else None


def _shown(scheme: str, name: str, port: int | None) -> str:
    """As it would be added to the setting."""
    if port is None:
        return f"{scheme}://{name}"
    host = f"[{name}]" if ":" in name else name
    return host if port == _PORTS[scheme] else f"{host}:{port}"
