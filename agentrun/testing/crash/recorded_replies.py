"""Takes the model's replies from the journal of an earlier run, for a double to repeat."""

from __future__ import annotations

from collections.abc import Iterable

from agentrun.core.events import Event
from agentrun.core.messages import reply_messages
from agentrun.testing.faults import When
from agentrun.testing.provider import DIALECTS
from agentrun.testing.replies import Call, Reply, Rule

__all__ = ["rules_from_journal"]


def rules_from_journal(journal: Iterable[Event]) -> list[Rule]:
    """Rules with which a double repeats the model's replies of a run.

    A rule matches by turn and last message. If no rule matches, because the last message holds an
    id or a time from a tool, a second rule matches by the turn alone.
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
    messages = reply_messages(event.output["body"])
    text = "\n".join(
        message.text for message in messages if message.text and message.role != "reasoning"
    )
    calls = [
        Call(call.name, call.arguments, call.id) for message in messages for call in message.calls
    ]
    return Reply(text or None, calls)
