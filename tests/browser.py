"""A headless Chromium, for tests of the page at ``/ui``."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
# For a busy machine; no test waits that long for something that does not happen.
_TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module. Its event loop runs until the end, so no test uses asyncio.run."""
    expect.set_options(timeout=_TIMEOUT_MS)
    with sync_playwright() as playwright:
        # Chromium's sandbox does not run as root.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Visit:
    """The open page, what its console reports, and the addresses that it requests."""

    page: Page
    console: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def started(
        cls, browser: Browser, url: str, fragment: dict[str, Any], **options: Any
    ) -> Iterator[Visit]:
        """Open the page of the server at ``url`` in a tab of its own."""
        context = browser.new_context(**options)
        context.set_default_timeout(_TIMEOUT_MS)
        visit = cls(context.new_page())
        visit.page.on("console", lambda message: visit.console.append(message.text))
        visit.page.on("pageerror", lambda error: visit.console.append(str(error)))
        visit.page.on("request", lambda request: visit.requested.append(request.url))
        try:
            visit.page.goto(f"{url.rstrip('/')}/ui#{urlencode(fragment)}")
            yield visit
        finally:
            context.close()

    def control(self, label: str) -> Locator:
        """The control with this label."""
        return self.page.get_by_label(label, exact=True)

    def button(self, name: str) -> Locator:
        """The first button or link with this name: the newest picture comes first."""
        return self.page.get_by_role("button", name=name, exact=True).first

    def wait_until_described(self) -> None:
        """Wait until the form has the model's bounds."""
        self.page.get_by_text("revision").wait_for()

    def draw(self, pictures: int) -> None:
        """Request a picture, and wait until the gallery has this many."""
        self.button("Draw").click()
        self.wait_for_pictures(pictures)

    def wait_for_pictures(self, count: int) -> None:
        """Wait until the gallery has this many pictures; an error ends the wait."""
        picture = self.page.locator("#gallery li").nth(count - 1)
        alert = self.page.get_by_role("alert")
        picture.or_(alert).first.wait_for()
        assert not alert.is_visible(), alert.text_content()

    def newest_file(self) -> bytes:
        """The file that the newest picture's link downloads."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name="Download").first.click()
        return Path(download.value.path()).read_bytes()
