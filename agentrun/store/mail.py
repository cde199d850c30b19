"""Letters: messages from outside to a run, such as signals, approvals and cancellations.

A sender never writes into a run's journal. It puts a letter into the table `mail`, and the run's
owner reads the letter and appends an event for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg

from agentrun.core.codec import Codec, decode, decode_exact, encode, plain
from agentrun.core.errors import AlreadyDecided
from agentrun.core.events import Json, LetterKind
from agentrun.store.arrays import UUIDS
from agentrun.store.exact_values import read_exact
from agentrun.store.keys import check_key
from agentrun.store.runs import FoundRun, run_not_found
from agentrun.store.session import Session

__all__ = [
    "Letter",
    "has_news",
    "letters_of",
    "send_letter",
    "wake",
    "wake_overlooked",
]

_MASKED = int(Codec.INPUT_MASKED | Codec.OUTPUT_MASKED)
_NO_LIMIT = 1 << 30  # bytes; a letter's payload is stored in its row, whatever its size


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter to a run. Any client of the database may have sent it, with any payload."""

    id: UUID
    kind: LetterKind
    step: int | None
    answers: int | None  # the seq of the request that it decides
    fingerprint: str | None  # of that request
    by: str | None  # the login of the sender
    claimed_by: str | None  # the name that the sender gave
    signed_by: str | None  # the name that a signed link proves
    reason: str | None
    payload: Json
    sent_at: datetime

    @property
    def mail_id(self) -> str:
        """The id as the journal has it, in the column `key`."""
        return str(self.id)


def send_letter(
    session: Session,
    key: str,
    kind: LetterKind,
    *,
    step: int | None = None,
    by: str | None,
    reason: str | None = None,
    payload: Json,
    mail_id: UUID | None = None,
    fingerprint: str | None = None,
    signed_by: str | None = None,
) -> UUID:
    """Send a letter to a run. Its id is chosen here, so that a letter sent twice is stored once.

    ``by`` is the name that the sender claims; the database adds the login's own name.

    Raises:
        AlreadyDecided: another decision came first.
        RunNotFound: no run has this key.
    """
    mail_id = mail_id or uuid4()
    encoded = encode(payload, at="payload", limit=_NO_LIMIT, mask=session.mask)
    sealed: dict[str, Any] = {}  # the exact payload, stored by the same statement
    if (exact := encoded.exact) is not None:
        sealed = {"escaped": exact.escaped, "size": exact.size, "zstd": exact.zstd}
    try:
        session.query(
            "send_masked_mail" if sealed else "send_mail",
            key=check_key(key),
            id=mail_id,
            kind=kind,
            step=step,
            claimed_by=None if by is None else plain(by),
            signed_by=None if signed_by is None else plain(signed_by),
            fingerprint=fingerprint,
            reason=None if reason is None else plain(reason),
            codec=int(encoded.as_output()),
            payload=encoded.text,
            **sealed,
        )
    except psycopg.errors.NoDataFound:
        raise run_not_found(session, key) from None
    except psycopg.errors.UniqueViolation as error:
        raise AlreadyDecided(error.diag.message_primary or str(error), key=key) from None
    return mail_id


def letters_of(session: Session, run_id: UUID) -> list[Letter]:
    """The letters to a run, oldest first, with the payloads exactly as they were sent."""
    rows = session.query("mail", run_id=run_id)
    masked = any(row["codec"] & _MASKED for row in rows)
    exact = read_exact(session, run_id, "mail") if masked else {}
    letters = []
    for row in rows:
        sealed = exact.get(("mail", str(row["id"])))
        escaped = Codec.OUTPUT_ESCAPED in Codec(row.pop("codec"))
        payload = decode(row["payload"], escaped) if sealed is None else decode_exact(sealed)
        letters.append(Letter(**{**row, "payload": payload}))
    return letters


def wake(session: Session, run_id: UUID, looks: list[set[str]]) -> None:
    """Make a parked run due if a letter arrived since its waiting steps read the mail, or a
    cancellation at any time.

    ``looks`` has, for each step that read the mail, the ids of the letters that it found.
    """
    seen = UUIDS([UUID(letter) for letter in set.intersection(*looks)] if looks else [])
    session.query("wake", run_id=run_id, looked=bool(looks), seen=seen)


def wake_overlooked(session: Session, since: datetime) -> None:
    """Make parked runs due that missed a letter sent after this time."""
    session.query("overlooked", since=since)


def has_news(session: Session, run: FoundRun) -> bool:
    """Whether a held run has a letter that its journal does not have yet, or is due."""
    return run.due or bool(session.query("news", run_id=run.run_id))
