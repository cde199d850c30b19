"""Letters that decide: which of them count, and what is journaled of the others.

A decision counts if it answers the request that is open. The database compares the letter with the
request when the letter arrives (`agentrun.stamp`), and the run compares them once more, because the
request may have changed in between. A letter that does not count, or cannot be read, is journaled
and changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentrun.core.budget import Budget
from agentrun.core.errors import ConfigError
from agentrun.core.events import Event, Json, first_name

if TYPE_CHECKING:
    from agentrun.core.history import History
    from agentrun.steps.step import ActiveStep
    from agentrun.store.mail import Letter

DECISIONS = frozenset({"approve", "reject", "resolve"})

_OUTCOMES = frozenset({"happened", "not_happened", "unknown"})


def answers_request(letter: Letter, step: ActiveStep) -> bool:
    """Whether a letter answers the open request of ``step``."""
    known = step.run.history.steps.get(step.ident)
    return (
        letter.kind in DECISIONS
        and known is not None
        and known.request is not None
        and letter.answers == known.request_seq
        and letter.fingerprint == known.request.fingerprint
    )


def why_ignored(letter: Letter, history: History) -> str | None:
    """Why a letter does not count in this run at this moment; None if it may count."""
    payload, kind = letter.payload, letter.kind
    if kind not in DECISIONS:
        unreadable = kind in ("signal", "resume") and not isinstance(payload, dict)
        return "its payload is not a JSON object" if unreadable else None
    known = history.by_number.get(letter.step or 0)
    if known is None or known.request is None:
        return "that step has no open request"
    if letter.answers != known.request_seq:
        return "it does not answer the open request of that step"
    if letter.fingerprint != known.request.fingerprint:
        return "it is about other arguments"
    if (kind == "resolve") != (known.request.event == "in_doubt"):
        return "it is not the kind of decision that the step waits for"
    return _why_unreadable(kind, payload)


def _why_unreadable(kind: str, payload: Json) -> str | None:
    """Why a decision cannot be read; None if it can.

    Any client of the database may send letters, so nothing is assumed about their contents.
    """
    if not isinstance(payload, dict):
        return "its payload is not a JSON object"
    if kind == "resolve":
        return None if payload.get("outcome") in _OUTCOMES else "it names no valid outcome"
    if not isinstance(payload.get("arguments"), dict | None):
        return "its arguments are not a JSON object"
    try:
        expires, budget = payload.get("expires"), payload.get("budget")
        if expires is not None and datetime.fromisoformat(expires).tzinfo is None:
            return "its `expires` has no time zone"
        if budget is not None:
            Budget.from_json(budget)
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        return f"it cannot be read: {error}"
    return None


def ignored_events(letter: Letter, why: str, history: History) -> list[Event]:
    """The events that journal a letter as read and not counted.

    If the letter had been stamped as the answer of an open request, the request is made anew.
    Otherwise the database would refuse every further answer as the second one.
    """
    about = "" if letter.step is None else f" about step {letter.step}"
    reason = f"{letter.kind}{about} does not count: {why}"
    mail, by = letter.mail_id, letter.by
    events = [Event(event="received", key=mail, status="ignored", by=by, reason=reason)]
    known = history.by_number.get(letter.step or 0)
    if known is not None and known.request is not None and letter.answers == known.request_seq:
        events.append(replace(known.request, run_id=None, seq=0, epoch=0, worker=None, at=None))
    return events


def deciding_name(letter: Letter) -> str:
    """Who decided: the verified signer, else the name the sender gave, else the database's user."""
    return first_name(letter.signed_by, letter.claimed_by, letter.by)


def sender_names(letter: Letter) -> dict[str, Any]:
    """The sender's claimed and verified names, which are recorded beside the database's user."""
    names = {"claimed_by": letter.claimed_by, "signed_by": letter.signed_by}
    return {column: name for column, name in names.items() if name is not None}
