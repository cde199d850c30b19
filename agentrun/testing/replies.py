"""What the model double says: replies as data, and the rules that choose one.

A rule looks at the conversation in the request and at nothing else, so a request that is sent
again gets the same reply again (and is billed again), whoever sends it and after any crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentrun.testing.faults import When, check_when, matches

__all__ = ["AUTO", "Call", "Reply", "Rule", "choose", "rules_from"]

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of the model.

    ``arguments`` given as a string are sent as they are, so they may be malformed. ``id`` is
    made up by default; ``""`` is sent empty, ``None`` leaves the field out, and two calls may
    be given the same.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = AUTO


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the model.

    ``finish_reason`` follows from the content unless given; it is in the words of chat
    completions, and said in those of the API that was asked. Streamed, the text and each call's
    arguments come in ``chunks`` pieces (by default one a word, and three), ``pace_s`` seconds
    apart. ``delay_s`` passes before the answer is billed. ``output_tokens`` are billed instead of
    those of the text, but never more than the request allows. ``raw`` replaces the whole body: a
    string is sent as it is, anything else as JSON.
    """

    text: str | None = None
    tool_calls: Sequence[Call] = ()
    finish_reason: str | None = None
    chunks: int | None = None
    pace_s: float = 0.0
    delay_s: float = 0.0
    raw: Any = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """When a request matches, this reply; a list is indexed by the turn of the conversation.

    A turn beyond the end of the list falls through to the next rule.
    """

    when: When
    reply: Reply | str | Sequence[Reply | str]

    def __post_init__(self) -> None:
        check_when(self.when)

    def find(self, facts: Mapping[str, Any]) -> Reply | None:
        """The reply to a request with these facts, if this rule has one."""
        if not matches(self.when, facts):
            return None
        if isinstance(self.reply, Reply | str):
            return _reply(self.reply)
        turn = facts["turn"]
        return _reply(self.reply[turn]) if turn < len(self.reply) else None

    def to_json(self) -> dict[str, Any]:
        """As data; `rules_from` is the way back."""
        if isinstance(self.reply, Reply | str):
            return {"when": self.when, "reply": asdict(_reply(self.reply))}
        return {"when": self.when, "reply": [asdict(_reply(one)) for one in self.reply]}


def choose(rules: Sequence[Rule], facts: Mapping[str, Any]) -> Reply:
    """The first reply that a rule has; without one, an echo of the last message."""
    for rule in rules:
        if (reply := rule.find(facts)) is not None:
            return reply
    return Reply(text=f"echo: {facts['content']}")


def rules_from(settings: Mapping[str, Any]) -> list[Rule]:
    """Rules from data: ``{"rules": [{"when": …, "reply": …}, …], "script": [reply, …]}``.

    A script is a last rule without a condition. A reply is a string or the fields of `Reply`.
    """
    unknown = sorted(set(settings) - {"rules", "script"})
    if unknown:
        raise ValueError(f"settings have `rules` and `script`, not {', '.join(unknown)}")
    rules = [Rule(one["when"], _parsed(one["reply"])) for one in settings.get("rules", ())]
    return [*rules, Rule({}, _parsed(settings.get("script", [])))]


def _parsed(data: Any) -> Reply | list[Reply]:
    return [_parse(one) for one in data] if isinstance(data, list) else _parse(data)


def _parse(data: Any) -> Reply:
    if isinstance(data, str):
        return Reply(text=data)
    calls = tuple(Call(**call) for call in data.get("tool_calls", ()))
    return Reply(**{**data, "tool_calls": calls})


def _reply(reply: Reply | str) -> Reply:
    return Reply(text=reply) if isinstance(reply, str) else reply
