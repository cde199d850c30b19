"""Replies of the model double as data, and the rules that choose one.

A rule sees only the conversation in the request. A request that is sent again, by any process and
after any crash, therefore gets the same reply again, and is billed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentrun.testing.faults import When, check_when, matches

__all__ = ["AUTO", "Call", "Reply", "Rule", "choose", "rules_from", "settings_from"]

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of the model.

    ``arguments`` that are a string are sent unchanged, so they may be malformed. By default the
    ``id`` is generated. ``""`` is sent as an empty id, ``None`` leaves the field out, and two calls
    may have the same id.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = AUTO


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the model.

    ``finish_reason`` uses the terms of chat completions, and is translated for other APIs; by
    default it follows from the content. In a stream, the text and the arguments of each call come
    in ``chunks`` pieces (by default one for each word of the text, and three for arguments),
    ``pace_s`` seconds apart. The answer is billed after ``delay_s``. ``output_tokens`` are billed
    in place of the tokens of the text, but never more than the request allows. ``raw`` replaces the
    whole body: a string is sent unchanged, anything else as JSON.
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
    """The reply to requests that match ``when``; a list has one reply for each turn.

    For a turn beyond the end of the list, the next rule is tried.
    """

    when: When
    reply: Reply | str | Sequence[Reply | str]

    def __post_init__(self) -> None:
        check_when(self.when)

    def find(self, facts: Mapping[str, Any]) -> Reply | None:
        """The reply to a request with these facts; None if this rule has none."""
        if not matches(self.when, facts):
            return None
        if isinstance(self.reply, Reply | str):
            return _as_reply(self.reply)
        turn = facts["turn"]
        return _as_reply(self.reply[turn]) if turn < len(self.reply) else None

    def to_json(self) -> dict[str, Any]:
        """The rule as data; `rules_from` reads it."""
        if isinstance(self.reply, Reply | str):
            return {"when": self.when, "reply": asdict(_as_reply(self.reply))}
        return {"when": self.when, "reply": [asdict(_as_reply(one)) for one in self.reply]}


def choose(rules: Sequence[Rule], facts: Mapping[str, Any]) -> Reply:
    """The reply of the first rule that has one; without any, an echo of the last message."""
    for rule in rules:
        if (reply := rule.find(facts)) is not None:
            return reply
    return Reply(text=f"echo: {facts['content']}")


def settings_from(data: Any) -> dict[str, Any]:
    """Read the settings of a file: an object, or a list of replies, which is the script.

    Raises ValueError for anything else.
    """
    if isinstance(data, list):
        return {"script": data}
    if not isinstance(data, dict):
        raise ValueError(f"the file holds {data!r:.40}, and no list of replies and no object")
    return data


def rules_from(settings: Mapping[str, Any]) -> list[Rule]:
    """Read rules from data: ``{"rules": [{"when": …, "reply": …}, …], "script": [reply, …]}``.

    The script becomes the last rule, without a condition. A reply is a string or the fields of
    `Reply`.
    """
    unknown = sorted(set(settings) - {"rules", "script"})
    if unknown:
        raise ValueError(f"settings have `rules` and `script`, not {', '.join(unknown)}")
    rules = [Rule(one["when"], _parse_replies(one["reply"])) for one in settings.get("rules", ())]
    return [*rules, Rule({}, _parse_replies(settings.get("script", [])))]


def _parse_replies(data: Any) -> Reply | list[Reply]:
    return [_parse_reply(one) for one in data] if isinstance(data, list) else _parse_reply(data)


def _parse_reply(data: Any) -> Reply:
    if isinstance(data, str):
        return Reply(text=data)
    calls = tuple(Call(**call) for call in data.get("tool_calls", ()))
    return Reply(**{**data, "tool_calls": calls})


def _as_reply(reply: Reply | str) -> Reply:
    return Reply(text=reply) if isinstance(reply, str) else reply
