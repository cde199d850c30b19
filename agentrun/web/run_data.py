"""What the pages show of one run: made once for all who watch it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from agentrun.core.events import Event
from agentrun.core.summary import ChildRun, Relatives
from agentrun.core.transcript import Step, Transcript, fold
from agentrun.core.waiting import Waiting
from agentrun.store.database import OpenDatabase
from agentrun.store.inbox import list_waiting
from agentrun.store.runs import find_relatives, find_run
from agentrun.view.html import Block, render_blocks
from agentrun.web.look import LIVE, SHOWN_BYTES
from agentrun.web.page import make_address

__all__ = ["RunData", "TurnUse", "describe_run", "render_run"]


@dataclass(frozen=True)
class TurnUse:
    """What one turn used. ``cost`` is in US dollars, and ``seconds`` of its steps together."""

    turn: int
    model_calls: int
    tool_calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: Decimal
    unpriced: int
    seconds: float


@dataclass(frozen=True)
class RunData:
    """A run. ``seq`` is that of the last event that ``transcript`` contains."""

    key: str
    seq: int
    parent: str | None
    children: tuple[ChildRun, ...]
    tree_cost: Decimal | None  # US dollars, with the runs below it
    waiting: tuple[Waiting, ...]
    turns: tuple[TurnUse, ...]
    transcript: Transcript


def describe_run(database: OpenDatabase, events: list[Event], lost: bool) -> RunData:
    """What the pages show of a run with this journal. ``lost``: its owner is dead."""
    transcript = fold(events, owner_lost=lost)
    relatives = find_relatives(database, find_run(database, transcript.key).run_id)
    return RunData(
        key=transcript.key,
        seq=events[-1].seq,
        parent=relatives.parent,
        children=relatives.children,
        tree_cost=relatives.tree_cost,
        waiting=tuple(list_waiting(database, transcript.key)),
        turns=tuple(_turns_of(transcript)),
        transcript=transcript,
    )


def render_run(data: RunData) -> list[Block]:
    """The transcript with the relatives of its run, as the page of the run shows it."""
    relatives = Relatives(data.parent, data.children, data.tree_cost)
    return render_blocks(
        data.transcript,
        LIVE,
        SHOWN_BYTES,
        relatives,
        address=lambda key: make_address("run", key=key),
    )


def _turns_of(transcript: Transcript) -> Iterator[TurnUse]:
    """What each turn of a run used."""
    turns: dict[int, list[Step]] = {}
    for step in transcript.steps:
        if step.turn is not None:
            turns.setdefault(step.turn, []).append(step)
    for turn, steps in turns.items():
        used = [step.usage for step in steps if step.usage is not None]
        yield TurnUse(
            turn=turn,
            model_calls=sum(step.kind == "model" for step in steps),
            tool_calls=sum(step.kind == "tool" for step in steps),
            input_tokens=sum(usage.input_tokens or 0 for usage in used),
            output_tokens=sum(usage.output_tokens or 0 for usage in used),
            cached_tokens=sum(usage.cached_tokens or 0 for usage in used),
            reasoning_tokens=sum(usage.reasoning_tokens or 0 for usage in used),
            cost=sum((usage.cost or Decimal(0) for usage in used), Decimal(0)),
            unpriced=sum(step.unpriced for step in steps),
            seconds=sum(_seconds(step) for step in steps),
        )


def _seconds(step: Step) -> float:
    if step.started_at is None or step.finished_at is None:
        return 0.0
    return max(0.0, (step.finished_at - step.started_at).total_seconds())
