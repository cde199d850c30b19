"""In a notebook: watch a run of another process while it goes on.

    from agentrun.notebook import follow
    follow("ticket-42")

`agentrun.transcript(key)` shows a run as it is; `follow` keeps one such view current, at most
four times a second, until the run has ended. It uses display updates only: no widgets, nothing to
install, and the saved notebook keeps the last state. Interrupting the cell ends the watching, not
the run.
"""

from __future__ import annotations

import contextlib

from agentrun.store.opening import default
from agentrun.store.watching import watch
from agentrun.view.live import display_live

__all__ = ["follow"]


def follow(key: str) -> None:
    """Show the run with this key, and go on showing it until it has ended.

    Raises RunNotFound.
    """
    with contextlib.suppress(KeyboardInterrupt):
        display_live(watch(default(), key))
