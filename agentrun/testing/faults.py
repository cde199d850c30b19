"""Faults as data: what goes wrong, at which moment, for which request.

An exchange passes these moments, in this order, and a fault strikes at one of them:

``"received"``   the request is read; nothing has happened
``"effect"``     it took effect (billed, booked, accepted) and that is on disk; no byte is out
``0``            the head of the answer is out
``k``            k chunks of the body are out (a plain JSON body is one chunk, an SSE event is one)
``-k``           all chunks but k are out

Everything here crosses the border of a process as JSON, so any process may arm a double.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypedDict, Unpack

__all__ = ["Armed", "Fault", "Moment", "When", "check_when", "matches"]

Action = Literal["drop", "end", "hold", "stall", "error", "malformed", "truncate", "slow"]
Moment = Literal["received", "effect"] | int


class When(TypedDict, total=False):
    """Which requests are meant; every given field must hold.

    ``turn`` counts the assistant messages of the conversation, so it is 0 for the first model
    call. ``contains`` looks in the last message (or in the whole body of another double's
    request), ``mentions`` in any message. ``tool`` is the tool whose result came last.
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
    """Which of the matching requests are struck: ``times`` of them, from the ``nth`` on.

    Counted from 1, from the moment of arming. ``times=0`` strikes every one from there on.
    """

    nth: int
    times: int
    when: When


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. Make it with the constructors below."""

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
        """Close the connection: unbilled at ``"received"``, billed but unseen at ``"effect"``."""
        return cls("drop", at, **aim)

    @classmethod
    def cut(cls, after: int, *, clean: bool = False, **aim: Unpack[Aim]) -> Fault:
        """Stop after so many chunks; ``clean`` ends the body properly, as if that were all."""
        return cls("end" if clean else "drop", after, **aim)

    @classmethod
    def no_done(cls, **aim: Unpack[Aim]) -> Fault:
        """Send a whole stream except its last event, ``[DONE]``, and end it properly."""
        return cls("end", -1, **aim)

    @classmethod
    def hold(cls, at: Moment = "effect", **aim: Unpack[Aim]) -> Fault:
        """Wait at that moment until released, or until the client is gone."""
        return cls("hold", at, **aim)

    @classmethod
    def stall(cls, seconds: float, at: Moment = "effect", **aim: Unpack[Aim]) -> Fault:
        """Fall silent for so long at that moment, then go on."""
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
        """As data; ``Fault(**data)`` is the way back."""
        return asdict(self)


@dataclass(slots=True)
class _Counted:
    fault: Fault
    seen: int = 0

    def strikes(self) -> bool:
        """Count one more matching request; whether the fault strikes it."""
        self.seen += 1
        since = self.seen - self.fault.nth
        return since >= 0 and (self.fault.times == 0 or since < self.fault.times)


class Armed:
    """The armed faults of a double, each counting the requests that match it."""

    def __init__(self) -> None:
        self._counted: list[_Counted] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Arm these; each starts counting now."""
        self._counted.extend(map(_Counted, faults))

    def clear(self) -> None:
        """Disarm everything; an exchange under way keeps the faults that struck it."""
        self._counted.clear()

    def strike(self, facts: Mapping[str, Any]) -> tuple[Fault, ...]:
        """The faults that this request meets."""
        met = [one for one in self._counted if matches(one.fault.when, facts)]
        return tuple(one.fault for one in met if one.strikes())


def check_when(when: When) -> None:
    """Refuse a condition with a misspelt field, which would silently never match."""
    unknown = sorted(set(when) - set(When.__annotations__))
    if unknown:
        known = ", ".join(When.__annotations__)
        raise ValueError(f"`when` has no field {', '.join(unknown)}; it has {known}")


def matches(when: When, facts: Mapping[str, Any]) -> bool:
    """Whether a request with these facts is meant."""

    def holds(name: str, wanted: Any) -> bool:
        if name == "contains":
            return wanted in facts.get("content", "")
        if name == "mentions":
            return wanted in facts.get("conversation", "")
        return bool(facts.get(name) == wanted)

    return all(holds(name, wanted) for name, wanted in when.items())
