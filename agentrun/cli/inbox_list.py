"""`agentrun inbox`: what waits for a person, with the commands that decide it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING, Any

from agentrun.cli import output
from agentrun.cli.keys import Connect

if TYPE_CHECKING:
    from agentrun.store.database import OpenDatabase
    from agentrun.store.inbox import UnreadDecision

__all__ = ["list_inbox", "pending_decisions", "without_commands"]

_COLUMNS = ("key", "step", "waits_for", "name", "args", "since", "why")
_BUDGET = re.compile(r"--budget (\S+)")


def list_inbox(connect: Connect, *, as_json: bool, fields: str | None) -> None:
    """Print what waits for a person, and the decisions that no worker has taken up yet."""
    from agentrun.core.waiting import Waiting
    from agentrun.store.inbox import list_waiting

    with connect() as database:
        waiting = [asdict(row) for row in list_waiting(database)]
        items = [*waiting, *pending_decisions(database, None)]
    shown = [{**item, "why": _why(item), "commands": list(_commands(item))} for item in items]
    if as_json:
        names = [*Waiting.__dataclass_fields__, "why", "commands"]
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


def _why(item: Mapping[str, Any]) -> str:
    reason = str(item.get("reason") or "")
    return without_commands(reason) if _is_question(item) else reason


def without_commands(reason: str) -> str:
    """A reason without the commands that end it, as ``…. Raise it: agentrun approve k 3``."""
    facts, found, _ = reason.partition(": agentrun ")
    text, sentence, _ = facts.rpartition(". ")
    return f"{text}." if found and sentence else facts


def _commands(item: Mapping[str, Any]) -> Iterator[str]:
    """The commands that answer an item, whole, to be copied. An item that is no question has its
    ways on in its reason."""
    if not _is_question(item):
        return
    place = f"{quote(str(item['key']))} {item['step']}"
    if item["waits_for"] == "doubt":
        yield f"agentrun resolve {place} --happened RESULT"
        yield f"agentrun resolve {place} --not-happened"
        yield f"agentrun resolve {place} --unknown"
        return
    larger = _BUDGET.search(str(item.get("reason") or ""))
    yield f"agentrun approve {place}{f' --budget {larger[1]}' if larger else ''}"
    yield f"agentrun reject {place} --reason WHY"


def _is_question(item: Mapping[str, Any]) -> bool:
    asks = item["waits_for"] in ("doubt", "decision") and item.get("fingerprint") is not None
    return asks and item.get("step") is not None


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
