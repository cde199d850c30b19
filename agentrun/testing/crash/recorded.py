"""The replies of a model in an earlier run, to be said again by a double."""

from __future__ import annotations

from collections.abc import Iterable

from agentrun.core.events import Event
from agentrun.core.messages import reply_messages
from agentrun.testing.faults import When
from agentrun.testing.provider import DIALECTS
from agentrun.testing.replies import Call, Reply, Rule

__all__ = ["replies_of"]


def replies_of(journal: Iterable[Event]) -> list[Rule]:
    """Rules by which a double says what the model said in a run.

    A reply is found by turn and last message; where that message has changed since (it may hold
    ids or times of tools), by the turn alone.
    """
    asked, exact, by_turn = {}, [], []
    for event in journal:
        if event.kind != "model":
            continue
        if event.event == "attempt_started" and event.has_input:
            asked[event.step] = event.input
        dialect = DIALECTS.get(asked.get(event.step, {}).get("api", "").replace(".", "/"))
        if event.event == "step_finished" and event.status == "ok" and dialect is not None:
            facts = dialect.describe(asked[event.step]["body"])
            reply, turn = _reply(event), facts["turn"]
            exact.append(Rule(When(turn=turn, contains=facts["content"]), reply))
            by_turn.append(Rule(When(turn=turn), reply))
    return exact + by_turn


def _reply(event: Event) -> Reply:
    said = reply_messages(event.output["body"])
    text = "\n".join(
        message.text for message in said if message.text and message.role != "reasoning"
    )
    calls = [Call(call.name, call.arguments, call.id) for message in said for call in message.calls]
    return Reply(text or None, calls)
