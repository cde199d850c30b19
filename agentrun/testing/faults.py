"""Faults as data: each says what goes wrong, at which moment, for which requests.

An exchange passes these moments, in this order. A fault strikes at one of them:

``"received"``   the request was read; nothing has happened
``"effect"``     the effect (a bill, booking or mail) is on disk; no byte of the answer was sent
``0``            the head of the answer was sent
``k``            k chunks of the body were sent (a plain JSON body, or one SSE event, is one chunk)
``-k``           all chunks except the last k were sent

A fault is sent to a double as JSON, so any process can arm one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypedDict, Unpack

__all__ = ["ArmedFaults", "Fault", "Moment", "When", "check_when", "matches"]

Action = Literal["drop", "end", "hold", "stall", "error", "malformed", "truncate", "slow"]
Moment = Literal["received", "effect"] | int


class When(TypedDict, total=False):
    """A condition on requests. A request matches if every field that is present holds.

    ``turn`` is the number of assistant messages in the conversation, so the first model call has
    turn 0. ``contains`` is searched in the last message (for other doubles, in the whole body),
    ``mentions`` in every message. ``tool`` is the tool whose result is the last message.
    """

    method: str
    path: str
    model: str
    turn: int
    stream: bool
    last_role: str
    tool: str
    contains: str
    mentions: str


class Aim(TypedDict, total=False):
    """Which of the matching requests a fault strikes: ``times`` of them, from the ``nth`` on.

    Requests are counted from 1, from the moment of arming. ``times=0`` means all from the ``nth``.
    """

    nth: int
    times: int
    when: When


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Use the constructors below to make one."""

    action: Action
    at: Moment = "received"
    nth: int = 1
    times: int = 1
    when: When = field(default_factory=When)
    seconds: float = 0.0
    code: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_when(self.when)
        if self.nth < 1 or self.times < 0:
            raise ValueError(f"a fault needs nth >= 1 and times >= 0, not {self.nth}, {self.times}")
        if self.action == "end" and not isinstance(self.at, int):
            raise ValueError(f"a body can end after a number of chunks, not at {self.at!r}")

    @classmethod
    def drop(cls, at: Moment = "received", **aim: Unpack[Aim]) -> Fault:
        """Close the connection: before the bill at ``"received"``, after it at ``"effect"``."""
        return cls("drop", at, **aim)

    @classmethod
    def cut(cls, after: int, *, clean: bool = False, **aim: Unpack[Aim]) -> Fault:
        """Stop after so many chunks; with ``clean``, the body ends as if it were complete."""
        return cls("end" if clean else "drop", after, **aim)

    @classmethod
    def no_done(cls, **aim: Unpack[Aim]) -> Fault:
        """Send a whole stream without its last event, ``[DONE]``, and end the body properly."""
        return cls("end", -1, **aim)

    @classmethod
    def hold(cls, at: Moment = "effect", **aim: Unpack[Aim]) -> Fault:
        """Wait at that moment until the double is released or the client disconnects."""
        return cls("hold", at, **aim)

    @classmethod
    def stall(cls, seconds: float, at: Moment = "effect", **aim: Unpack[Aim]) -> Fault:
        """Send nothing for so long at that moment, then continue."""
        return cls("stall", at, seconds=seconds, **aim)

    @classmethod
    def slow(cls, seconds: float, **aim: Unpack[Aim]) -> Fault:
        """Wait so long before each chunk."""
        return cls("slow", seconds=seconds, **aim)

    @classmethod
    def error(
        cls,
        code: int,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        **aim: Unpack[Aim],
    ) -> Fault:
        """Answer with this error status and have no effect."""
        wanted = dict(headers or {})
        if retry_after is not None:
            wanted["retry-after"] = f"{retry_after:g}"
        return cls("error", code=code, headers=wanted, **aim)

    @classmethod
    def malformed(cls, **aim: Unpack[Aim]) -> Fault:
        """Answer 200 with broken JSON (of a stream: one broken event) in proper framing."""
        return cls("malformed", **aim)

    @classmethod
    def truncate(cls, **aim: Unpack[Aim]) -> Fault:
        """Promise the whole first chunk, send half of it and close."""
        return cls("truncate", **aim)

    def to_json(self) -> dict[str, Any]:
        """The fault as data; ``Fault(**data)`` reads it."""
        return asdict(self)


@dataclass(slots=True)
class _CountedFault:
    fault: Fault
    count: int = 0

    def strikes(self) -> bool:
        """Count one more matching request, and return whether the fault strikes it."""
        self.count += 1
        since = self.count - self.fault.nth
        return since >= 0 and (self.fault.times == 0 or since < self.fault.times)


class ArmedFaults:
    """The armed faults of a double, each counting the requests that match it."""

    def __init__(self) -> None:
        self._counted: list[_CountedFault] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Arm these faults; each counts requests from now on."""
        self._counted.extend(map(_CountedFault, faults))

    def clear(self) -> None:
        """Disarm all faults; an exchange that has begun keeps its faults."""
        self._counted.clear()

    def faults_for(self, facts: Mapping[str, Any]) -> tuple[Fault, ...]:
        """Count the request in each fault that matches it; return the faults that strike it."""
        met = [one for one in self._counted if matches(one.fault.when, facts)]
        return tuple(one.fault for one in met if one.strikes())


def check_when(when: When) -> None:
    """Raise ValueError for a condition with a misspelt field, which would never match."""
    unknown = sorted(set(when) - set(When.__annotations__))
    if unknown:
        known = ", ".join(When.__annotations__)
        raise ValueError(f"`when` has no field {', '.join(unknown)}; it has {known}")


def matches(when: When, facts: Mapping[str, Any]) -> bool:
    """Whether a request with these facts meets the condition."""

    def holds(name: str, wanted: Any) -> bool:
        if name == "contains":
            return wanted in facts.get("content", "")
        if name == "mentions":
            return wanted in facts.get("conversation", "")
        return bool(facts.get(name) == wanted)

    return all(holds(name, wanted) for name, wanted in when.items())
