"""A real Chromium without a window, and what is always true of the page in it: it asks no other host and its console stays empty."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

SWITCHES = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
_PATIENCE_MS = 15_000
_OF_A_REFUSAL = "Failed to load resource: the server responded with a status of"  # Chromium's own note on every 4xx


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium; skips where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on PATH (Debian: .ci/tools installs it)")
    with pytest.importorskip("playwright.sync_api", reason="no playwright (extra dev)").sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """A page in a fresh profile; afterwards, what it asked for and what its console said is held against it."""
    with browser.new_context(**context) as fresh:
        page = fresh.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        asked: list[str] = []
        said: list[str] = []

        def listen(message: ConsoleMessage) -> None:
            if not message.text.startswith(_OF_A_REFUSAL):
                said.append(message.text)

        page.on("request", lambda request: asked.append(request.url))
        page.on("console", listen)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(url)
        page.locator("#card dl, #card .refusal").first.wait_for()
        yield page
        assert said == []
        assert {urlsplit(address).netloc for address in asked if not address.startswith("data:")} == {
            urlsplit(url).netloc
        }
