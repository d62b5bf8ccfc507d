"""A browser to test with: the one that Playwright brings, Debian's Chromium, or Chrome."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MISSING = (
    "no browser to test the pages with: install Chromium (`apt-get install chromium`), or run "
    "`playwright install chromium`"
)


class NoBrowser(Exception):
    """There is nothing to open a page with; the message says what to install."""


def do_without(missing: NoBrowser) -> NoReturn:
    """Skip the test; where CI is set, fail it: nobody reads there what was skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"{missing}; tests of pages are not skipped where CI is set", pytrace=False)
    pytest.skip(str(missing))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Raises NoBrowser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser("no Playwright: `pip install 'reindexer[dev]'`") from None
    with sync_playwright() as playwright:
        found = None
        if not Path(playwright.chromium.executable_path).exists():
            names = ("chromium", "chromium-browser", "google-chrome")
            found = next((path for name in names if (path := shutil.which(name))), None)
            if found is None:
                raise NoBrowser(MISSING)
        # The sandbox of Chromium does not start for root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield opened
        finally:
            opened.close()
