"""A browser to test with: Debian's Chromium, Chrome, or the one that Playwright brings."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MISSING = (
    "no browser to test the pages with: install Chromium (`apt-get install chromium`), or run "
    "`playwright install chromium`"
)


class NoBrowser(Exception):
    """There is nothing to open a page with; the message says what to install."""


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Raises NoBrowser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser("no Playwright: `pip install 'reindexer[dev]'`") from None
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next((path for name in names if (path := shutil.which(name))), None)
        own = playwright.chromium.executable_path
        if found is None and not Path(own).exists():
            raise NoBrowser(MISSING)
        # The sandbox of Chromium does not start for root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield opened
        finally:
            opened.close()
