"""Who uses the pages, and how they say so."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

from agentrun.core.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["NOBODY", "Authorize", "Person", "UrlEntry"]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who uses the web pages, as your ``authorize`` names them.

    Args:
        name: recorded with each decision of this person.
        may_decide: False: this person only reads.

    Raises:
        ConfigError: the name is no text, or empty: a decision would have nobody's name.

    Example:
        >>> agentrun.Person("ana@desk.example", may_decide=False).name
        'ana@desk.example'
    """

    name: str
    may_decide: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"a Person needs a name, and {self.name!r} is none")


class _Nobody(Person):
    """Somebody whom nothing names. They read."""

    def __post_init__(self) -> None:
        """Allow the empty name, which no `Person` of an application has."""


NOBODY = _Nobody("", may_decide=False)

Authorize: TypeAlias = "Callable[[Request], Person | Awaitable[Person | None] | None]"


class UrlEntry:
    """Lets one person in who knows a token, and knows them again by a cookie.

    The token of the printed URL works once, so a URL in a history or a log opens nothing. The token
    of a token file works each time, since several people or machines may use it.
    """

    def __init__(self, person: Person, *, cookie: str, token: str | None = None) -> None:
        self.person = person
        self.cookie = cookie  # its name
        self.one_time = secrets.token_urlsafe(32)
        self._used = False
        self._token = token
        self._sessions: set[bytes] = set()  # digests: the values themselves are not needed

    def open(self, token: str) -> str | None:
        """Begin a session; return the value of its cookie, or None for a wrong or used token."""
        if not self._used and hmac.compare_digest(token.encode(), self.one_time.encode()):
            self._used = True
        elif not self.is_lasting(token):
            return None
        value = secrets.token_urlsafe(32)
        self._sessions.add(sha256(value.encode()).digest())
        return value

    def is_lasting(self, token: str) -> bool:
        """Whether this is the token of the token file."""
        mine = self._token
        return mine is not None and hmac.compare_digest(token.encode(), mine.encode())

    def knows(self, value: str) -> bool:
        """Whether a cookie with this value was given out by this process."""
        return sha256(value.encode()).digest() in self._sessions
