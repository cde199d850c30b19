"""In a notebook: watch a run of another process while it goes on.

    from agentrun.notebook import follow
    follow("ticket-42")

`agentrun.transcript(key)` shows a run as it is; `follow` shows it while it goes on, at most four
times a second, until the run has ended. It sends only what has changed, so the folds that you have
opened stay open, and it shows the text of a reply while the model writes it. It uses display
updates only: no widgets, nothing to install, and the saved notebook keeps the last state.
Interrupting the cell ends the watching, not the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from agentrun.lifecycle.reply_stream import read_replies
from agentrun.store.database import OpenDatabase
from agentrun.store.opening import default
from agentrun.store.runs import find_run
from agentrun.store.watching import watch
from agentrun.view.live_page import LivePiece, display_live

__all__ = ["follow"]


def follow(key: str) -> None:
    """Show the run with this key, and go on showing it until it has ended.

    Raises RunNotFound.
    """
    with contextlib.suppress(KeyboardInterrupt):
        display_live(_pieces(default(), key))


def _pieces(database: OpenDatabase, key: str) -> Iterator[LivePiece]:
    run_id = find_run(database, key).run_id
    for events in watch(database, key):
        yield events, read_replies(database, run_id)
