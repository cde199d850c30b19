"""`agentrun inbox`: what waits for a person, with the commands that decide it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentrun.cli import output
from agentrun.cli.keys import Connect, full_key

if TYPE_CHECKING:
    from agentrun.core.waiting import Waiting
    from agentrun.store.database import OpenDatabase
    from agentrun.store.inbox import UnreadDecision

__all__ = ["list_inbox", "pending_decisions"]

_COLUMNS = ("key", "step", "waits_for", "name", "args", "since", "reason")


def list_inbox(connect: Connect, key: str | None, *, as_json: bool, fields: str | None) -> None:
    """Print what waits for a person, and the decisions that no worker has taken up yet."""
    from agentrun.core.waiting import Waiting
    from agentrun.store.inbox import list_waiting

    with connect() as database:
        key = None if key is None else full_key(database, key)
        asked, decided = list_waiting(database, key), pending_decisions(database, key)
    shown = [
        *(asdict(waiting) | {"commands": _commands(waiting)} for waiting in asked),
        *(row | {"commands": []} for row in decided),
    ]
    if as_json:
        names = [*Waiting.__dataclass_fields__, "commands"]
        output.emit_rows(output.pick_fields(shown, names, fields))
    elif not shown:
        output.note("nothing waits")
    elif output.is_terminal():
        from agentrun.view.inbox_lines import inbox_lines
        from agentrun.view.terminal import print_lines

        console = output.terminal()
        now = datetime.now(UTC)
        print_lines(inbox_lines(shown, width=console.width, now=now), console)
    else:
        output.emit_tsv(_COLUMNS, ([item.get(name) for name in _COLUMNS] for item in shown))


def _commands(waiting: Waiting) -> list[str]:
    """The commands that answer a request, whole, to be copied.

    What no letter can answer has none, because its reason lists the ways on.
    """
    if waiting.fingerprint is None or waiting.step is None:
        return []
    from agentrun.core.shell import write_command
    from agentrun.core.waiting import suggested_limits

    place = (waiting.key, waiting.step)
    if waiting.waits_for == "doubt":
        outcomes = ("--happened RESULT", "--not-happened", "--unknown")
        return [write_command("resolve", *place, options=outcome) for outcome in outcomes]
    larger = suggested_limits(waiting.suggested_budget)
    return [
        write_command("approve", *place, options=f"--budget {larger}" if larger else ""),
        write_command("reject", *place, options="--reason WHY"),
    ]


def pending_decisions(database: OpenDatabase, key: str | None) -> list[dict[str, Any]]:
    """Decisions that no worker has taken up yet, in the form of inbox rows.

    The reason of a row says which decision it is, and who will take it up.
    """
    from agentrun.lifecycle.live_workers import who_continues
    from agentrun.store.inbox import list_unread_decisions

    decisions = list_unread_decisions(database, key)
    nexts = {name: who_continues(database, name) for name in {one.key for one in decisions}}
    return [
        {
            **asdict(one),
            "waits_for": "decided",
            "since": one.decided_at,
            "reason": f"{_decision_text(one)}, not taken up yet; {nexts[one.key]}",
        }
        for one in decisions
    ]


def _decision_text(one: UnreadDecision) -> str:
    """``reject by ana: too much``"""
    by = one.signed_by or one.claimed_by or one.by
    return f"{one.decision} by {by}" + (f": {one.reason}" if one.reason else "")
