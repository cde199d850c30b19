"""The process that the demo kills: it runs the support agent, and holds still where it is told to.

``python -m agentrun.demo.worker KEY MESSAGE MODEL [request:N | answer:N]``

Holding still is what makes a kill exact instead of a race. Before the N-th model call of the
conversation, or with its answer begun and unread, the process prints `HELD` and goes no further.
It ends when its standard input does, so it never outlives the demo.
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
    """End at once when the demo is gone, however it went."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # not by sys.stdin, whose lock would be held at the exit
        os._exit(1)

    threading.Thread(target=watch, name="owner", daemon=True).start()


def _holding(nth: int) -> Callable[[Any], None]:
    """A hook of the HTTP client that stops for good at its N-th call, replayed ones included."""
    seen = count(1)

    def hook(_: Any) -> None:
        if next(seen) == nth:
            print(f"\n{HELD}", flush=True)  # noqa: T201
            _wait_forever()

    return hook


def _wait_forever() -> NoReturn:
    while True:
        threading.Event().wait()


def _hold(at: str) -> None:
    """Give the agent's client the hook; it sees what the agent asks before agentrun does."""
    moment, _, nth = at.partition(":")
    event = {"request": "request", "answer": "response"}[moment]
    http = DefaultHttpxClient(event_hooks={event: [_holding(int(nth))]})
    support.client = agentrun.wrap(support.client.with_options(http_client=http))


def _main(key: str, message: str, model: str, hold: str = "") -> None:
    _end_with_owner()
    if hold:
        _hold(hold)
    support.support.with_options(key=key).run(message, model)


if __name__ == "__main__":
    _main(*sys.argv[1:])
