"""What the tests of the web pages do: serve an application, send a form, wait for a page."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from browser import CHROMIUM, Page

import agentrun
from agentrun.testing import Call, Provider, Reply

in_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")

ANA = agentrun.Person("ana@desk.example")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of an application that this process serves, without a slash at its end."""
    port = free_port()
    config = uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def post(url: str, path: str, form: dict[str, str], **headers: str) -> httpx.Response:
    """Send a form as a page of this site does."""
    own = {"origin": url, **headers}
    return httpx.post(f"{url}/{path}", data=form, headers=own, follow_redirects=False)


def eventually(page: Page, expression: str, seconds: float = 20.0) -> Any:
    """Wait until a JavaScript expression is true in the page; return its value."""
    end = time.monotonic() + seconds
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < end, (expression, page.evaluate("document.body.innerText"))
        time.sleep(0.05)
    return value


def complaints(page: Page) -> list[Any]:
    """What the browser complained about: its log, messages of scripts, dialogs."""
    return [
        *page.seen("Log.entryAdded"),
        *page.seen("Runtime.consoleAPICalled"),
        *page.seen("Runtime.exceptionThrown"),
        *page.seen("Page.javascriptDialogOpening"),
    ]


def hold_for_approval(desk: Any, provider: Provider, key: str, **arguments: Any) -> None:
    """Execute the desk until it waits for a person."""
    given = arguments or {"cents": 500}
    provider.say([Reply(tool_calls=[Call("web_pay", given)]), "It is paid."])
    with pytest.raises(agentrun.RunHeld):
        desk.with_options(key=key).run("Please pay Ann.")
