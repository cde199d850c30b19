"""The process that the demo kills: it runs the support agent, and stops at a chosen model call.

``python -m agentrun.demo.worker KEY MESSAGE MODEL [request:N | answer:N]``

Because the process stops by itself, the kill is exact and not a race. Before the N-th model call of
the conversation (``request``), or with its answer begun and unread (``answer``), the process prints
`HELD` and waits forever. It ends when its stdin ends, so it never outlives the demo.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from itertools import count
from typing import Any, NoReturn

from openai import DefaultHttpxClient

import agentrun
from agentrun.demo import support
from agentrun.demo.play import HELD


def _end_with_owner() -> None:
    """End this process at once when the demo has ended, even if the demo was killed."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # reading sys.stdin would hold its lock at the exit
        os._exit(1)

    threading.Thread(target=watch, name="owner", daemon=True).start()


def _stop_at_call(nth: int) -> Callable[[Any], None]:
    """A hook of the HTTP client that stops forever at the N-th call; replayed calls count too."""
    seen = count(1)

    def hook(_: Any) -> None:
        if next(seen) == nth:
            print(f"\n{HELD}", flush=True)  # noqa: T201
            _wait_forever()

    return hook


def _wait_forever() -> NoReturn:
    while True:
        threading.Event().wait()


def _install_hold(at: str) -> None:
    """Give the agent's client the hook, which sees each request before agentrun does."""
    moment, _, nth = at.partition(":")
    event = {"request": "request", "answer": "response"}[moment]
    http = DefaultHttpxClient(event_hooks={event: [_stop_at_call(int(nth))]})
    support.client = agentrun.wrap(support.client.with_options(http_client=http))


def _main(key: str, message: str, model: str, hold: str = "") -> None:
    _end_with_owner()
    if hold:
        _install_hold(hold)
    support.support.with_options(key=key).run(message, model)


if __name__ == "__main__":
    _main(*sys.argv[1:])
