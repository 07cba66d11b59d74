"""The system's Chromium, and what a page did that it should not have done."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, Request, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = "[data-testid=stApp][data-test-script-state=notRunning]"
PATIENCE_MS = 60_000

EXPECTED_ERRORS = ("/_stcore/health", "/_stcore/host-config")
"""On a deep link Streamlit's own frontend asks for these below the page's path first, and gets a 404."""


def require_chromium() -> None:
    """Skip where there is no Chromium, but never in CI."""
    if not shutil.which(CHROMIUM):
        message = f"{CHROMIUM} is missing: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@dataclass
class Visit:
    """A page of the dashboard under observation."""

    page: Page
    url: str
    outside: list[str] = field(default_factory=list)
    """Requests that left this machine."""
    errors: list[str] = field(default_factory=list)
    """What the console called an error."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("request", self._request)
        self.page.on("websocket", lambda socket: self._address(socket.url))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _request(self, request: Request) -> None:
        self._address(request.url)

    def _address(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "blob"} and parts.hostname not in {"127.0.0.1", "localhost"}:
            self.outside.append(url)

    def _console(self, message: ConsoleMessage) -> None:
        address = message.location.get("url", "")
        if message.type == "error" and not address.endswith(EXPECTED_ERRORS):
            self.errors.append(f"{message.text} ({address})")

    def open(self, path: str = "") -> None:
        self.page.goto(f"{self.url}/{path}")
        self.settle()

    def settle(self) -> None:
        """Wait until Streamlit has run the page."""
        self.page.wait_for_selector(READY)

    def terminal_text(self) -> str:
        """The lines in the log terminal's buffer."""
        return str(
            self.page.evaluate(
                """() => {
                    const terminal = document.querySelector(".sf-console")?.terminal;
                    if (!terminal) return "";
                    const buffer = terminal.buffer.active;
                    return Array.from({length: buffer.length}, (_, row) =>
                        buffer.getLine(row).translateToString(true)).join("\\n");
                }"""
            )
        )

    def wait_for_log(self, text: str) -> None:
        self.page.wait_for_function(
            """(text) => {
                const terminal = document.querySelector(".sf-console")?.terminal;
                if (!terminal) return false;
                const buffer = terminal.buffer.active;
                for (let row = 0; row < buffer.length; row++)
                    if (buffer.getLine(row).translateToString(true).includes(text)) return true;
                return false;
            }""",
            arg=text,
        )

    def wait_for_points(self, least: int) -> None:
        self.page.wait_for_function(
            "(least) => Number(document.querySelector('.sf-curves')?.dataset.points) >= least", arg=least
        )

    def wait_for_status(self, status: str) -> None:
        self.page.wait_for_selector(f".sf-identity .sf-badge.sf-{status}")

    def button(self, key: str) -> Locator:
        """The Streamlit button with this key; Streamlit draws a hidden twin of it to measure."""
        return self.page.locator(f".st-key-{key} button").first

    def press(self, key: str) -> None:
        self.button(key).click()


@contextmanager
def browser() -> Iterator[BrowserContext]:
    """A Chromium with a new profile."""
    require_chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = chromium.new_context(viewport={"width": 1440, "height": 900}, color_scheme="dark")
        yield context
        chromium.close()
