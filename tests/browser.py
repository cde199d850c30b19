"""A real Chromium, driven over its debugging pipe: what a page asks for, says and looks like.

    with Browser() as browser:
        page = browser.open("file:///tmp/run.html")
        assert page.evaluate("document.scripts.length") == 1

Tests that need it skip where none is installed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1100,1400", "--remote-debugging-pipe",
]  # fmt: skip

# The browser reads its commands at 3 and answers at 4; by way of high numbers, as either of the
# two that are given may be 3 or 4 itself.
_WIRE = """
import fcntl, os, sys
down, up = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 20) for fd in sys.argv[1:3])
os.dup2(down, 3)
os.dup2(up, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One headless browser; at the end of the ``with`` it is gone."""

    def __enter__(self) -> Self:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WIRE, str(down), str(up), CHROMIUM, *_FLAGS,
             f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(down, up),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(down)
        os.close(up)
        self._numbers = count(1)
        self._pending = b""
        self.events: list[dict[str, Any]] = []
        self._targets: list[str] = []
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self._process.pid, 9)  # a session of its own, with all its helpers
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str = "", **parameters: Any) -> Any:
        """Send one command and return its result; events that come first are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda told: told.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message of the browser that is wanted; the others become `events`."""
        while True:
            told = self._message()
            if wanted(told):
                return told
            self.events.append(told)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser is gone"
            self._pending += piece
        text, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def close_pages(self) -> None:
        """Close what was opened: a page that asks for news does so until it is closed."""
        for target in self._targets:
            self.call("Target.closeTarget", targetId=target)
        self._targets.clear()

    def open(self, url: str, *, dark: bool = False, width: int = 1100) -> Page:
        """Load a page and wait until it is there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Network", "Log", "Runtime"):
            page.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=1400, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self._targets.append(target)
        self.events.clear()
        page.call("Page.navigate", url=url)
        if not page.seen("Page.loadEventFired"):
            self.events.append(self.wait(lambda told: told.get("method") == "Page.loadEventFired"))
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression: our question, which no policy of the page bars."""
        told = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def seen(self, method: str) -> list[dict[str, Any]]:
        """What the browser told of this kind since the page was opened."""
        return [
            told["params"]
            for told in self._browser.events
            if told.get("method") == method and told.get("sessionId") == self._session
        ]

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        return [told["request"]["url"] for told in self.seen("Network.requestWillBeSent")]

    def screenshot(self) -> bytes:
        """What is in the window, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])
