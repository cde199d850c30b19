"""Removes credentials from values before anything is stored, logged or shown.

Three nets, each total on its own: values the caller knows to be secret (such as those of
``*_KEY`` environment variables), patterns of well-known credentials, and whatever stands under
a name such as ``authorization`` in a dict or a list of header pairs.

What is found becomes ``[removed: openai key]``: stable text, which no net catches again. Ids
that only look random (``call_…``, ``resp_…``, digests, UUIDs, base64) are left alone.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii

from agentrun.core.events import Json

__all__ = ["MIN_KNOWN", "Redactor", "redact"]

MIN_KNOWN = 12  # characters; a shorter known value would also be found inside ordinary words

SHORTEST = 8  # characters; nothing a net looks for is shorter
PASSES = 10  # removing one secret may bring another to light; nothing real needs three

MEMO = 16_000_000  # characters of clean text to remember; texts from MEMO_FROM on
MEMO_FROM = 256

SENSITIVE_NAMES = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "api-key",
        "x-api-key",
        "x-goog-api-key",
        "cookie",
        "set-cookie",
    }
)

Replace = str | Callable[[re.Match[str]], str]


def _removed(kind: str) -> str:
    return f"[removed: {kind}]"


@dataclass(frozen=True, slots=True)
class _Rule:
    """``hint`` must occur, in lower case, for ``pattern`` to match: a search for it is cheap."""

    hint: str
    pattern: re.Pattern[str]
    replace: Replace


def _token(kind: str, hint: str, head: str, tail: str) -> _Rule:
    """A credential known by its first characters, ``head``, which must match a fixed length.

    No word character or hyphen may stand before it, nor + or /: inside a longer run, such as
    base64, it is chance. The look-behind follows ``head``, so that the search is for a literal.
    """
    return _Rule(hint, re.compile(rf"{head}(?<![\w+/-]{head}){tail}", re.ASCII), _removed(kind))


def _after(kind: str, hint: str, pattern: str) -> _Rule:
    """A credential known by the words around it: only the group ``secret`` is removed."""

    def replace(found: re.Match[str]) -> str:
        start, end = (found.span("secret")[side] - found.start() for side in (0, 1))
        return found[0][:start] + _removed(kind) + found[0][end:]

    return _Rule(hint, re.compile(pattern, re.IGNORECASE | re.ASCII), replace)


def _basic(found: re.Match[str]) -> str:
    """Only base64 of ``user:password`` is a credential; "basic understanding" is English."""
    try:
        pair = b64decode(found["secret"], validate=True).decode()
    except ValueError:
        return found[0]
    is_pair = ":" in pair and pair.isprintable()
    return f"{found['scheme']}{_removed('basic credentials')}" if is_pair else found[0]


# Where code or documentation has a password to be filled in; also what we put there ourselves.
_BLANK = (
    r"(?!(?:\$\{?(?-i:[A-Z_]+)\}?|\{[\w.]*\}|%s|%\(\w+\)s|<[\w -]*>|\*+|\[removed: password\])"
    r"(?:[\s'\"&;),@]|\Z))"
)
_PEM = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"

_RULES = (
    _Rule(
        "private key",  # cut short or not
        re.compile(rf"-----BEGIN {_PEM}[\s\S]*?(?:-----END {_PEM}|\Z)"),
        _removed("private key"),
    ),
    _token("anthropic key", "sk-ant-", "sk-ant-", r"[\w-]{10,}"),
    _token("openai key", "sk-", "sk-", r"[\w-]{16,}"),
    _token("stripe key", "k_live_", "[rs]k_live_", r"[0-9A-Za-z]{16,}"),
    _token("stripe key", "k_test_", "[rs]k_test_", r"[0-9A-Za-z]{16,}"),
    _token("github token", "gh", "gh[opsur]_", r"[0-9A-Za-z]{20,}"),
    _token("github token", "github_pat_", "github_pat_", r"\w{20,}"),
    _token("gitlab token", "glpat-", "glpat-", r"[\w-]{16,}"),
    _token("hugging face token", "hf_", "hf_", r"[0-9A-Za-z]{30,}"),
    _token("slack token", "xox", "xox[a-z]-", r"[\w-]{10,}"),
    _token("google key", "aiza", "AIza", r"[\w-]{35}(?![\w-])"),
    _token("aws key id", "akia", "AKIA", r"[0-9A-Z]{16}(?![\w+/-])"),
    _token("aws key id", "asia", "ASIA", r"[0-9A-Z]{16}(?![\w+/-])"),
    _token("jwt", "eyj", "eyJ", r"[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
    _after(
        "aws secret",
        "secret",
        r"secret_?(?:access_?)?key[\\'\"\s:=]{1,12}(?P<secret>[0-9a-z/+]{40})(?![\w+/=])",
    ),
    _after("bearer token", "bearer", r"\bbearer\s+(?P<secret>[\w.~+/-]{16,}=*)"),
    _Rule(
        "basic",
        re.compile(r"(?P<scheme>\bbasic\s+)(?P<secret>[0-9a-z+/]{4,}={0,2})", re.IGNORECASE),
        _basic,
    ),
    _after("api key", "api-key", r"\bapi-key['\"]?\s*:\s*['\"]?(?P<secret>[\w.~+/=-]{16,})"),
    _after(
        "cookie",
        "cookie",
        r"cookie['\"]?\s*:\s*['\"]?(?P<secret>[\w.-]+=[^\s;'\"]{8,}(?:;\s*[\w.-]+=[^\s;'\"]*)*)",
    ),
    _after("password", "://", rf"://[^\s/:@?#'\"]*:(?P<secret>{_BLANK}[^\s/?#'\"]+)@"),
    _after(
        "password",
        "passw",
        r"passw(?:or)?d\s*=\s*(?P<secret>'(?:[^'\\]|\\.)+'|\"(?:[^\"\\]|\\.)+\")",
    ),
    _after("password", "passw", rf"passw(?:or)?d=(?P<secret>{_BLANK}[^\s'\"&;]+)"),
)


# One of these is in the JSON text, in lower case, of every value that a net might change. The
# Kelvin sign is there because it is the one character beyond ASCII that `lower` makes ASCII.
_HINTS = ("\\u212a", *{rule.hint for rule in _RULES}, *(f'"{name}"' for name in SENSITIVE_NAMES))


class Redactor:
    """Removes secrets from values. ``known`` are texts that are secret wherever they occur.

    They are found as JSON and Python spell them, too. A value shorter than `MIN_KNOWN` characters
    is passed over.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._marker = _removed("known secret")
        self._known: list[str] = []
        self._clean: set[str] = set()
        self._size = 0  # characters in _clean, roughly: threads may race, and no harm is done
        self.know(known)

    def know(self, secrets: Iterable[str]) -> None:
        """Remove these texts too, from now on."""
        usable = {
            spelt
            for secret in secrets
            if len(secret) >= MIN_KNOWN and secret not in self._marker
            for spelt in _spellings(secret)
        }
        self._known = sorted(usable.union(self._known), key=lambda secret: (-len(secret), secret))
        self._clean, self._size = set(), 0
        spelt = (encode_basestring_ascii(secret)[1:-1].lower() for secret in self._known)
        self._hints = (*_HINTS, *spelt)

    def may_change(self, text: str) -> bool:
        """Whether the value with this ASCII JSON text may hold a secret; False is a promise.

        Far cheaper than to walk through a small value, and most hold nothing.
        """
        return any(map(text.lower().__contains__, self._hints))

    def __call__(self, value: Json) -> tuple[Json, bool]:
        """``value`` without secrets, and whether there were any.

        Nothing is changed in place; what held no secret is the same object.
        """
        clean = self._value(value)
        return clean, clean is not value

    def text(self, text: str) -> str:
        """``text`` without secrets; the same object if it held none."""
        if len(text) < SHORTEST or text in self._clean:
            return text
        clean = self._once(text)
        if clean == text:
            self._remember(text)
            return text
        for _ in range(PASSES):
            before, clean = clean, self._once(clean)
            if clean == before:
                break
        return clean

    def _remember(self, text: str) -> None:
        """Every request repeats its conversation: what was found clean is not searched again."""
        if not MEMO_FROM <= len(text) <= MEMO // 8:
            return
        self._size += len(text)
        if self._size > MEMO:
            self._clean, self._size = set(), len(text)
        self._clean.add(text)

    def _once(self, text: str) -> str:
        for secret in self._known:
            text = text.replace(secret, self._marker)
        lower = text.lower()
        for rule in _RULES:
            if rule.hint in lower:
                text = rule.pattern.sub(rule.replace, text)
        return text

    def _value(self, value: Json) -> Json:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, (list, tuple)):
            return self._list(value)
        return value

    def _dict(self, value: dict[str, Json]) -> Json:
        clean: dict[str, Json] = {}
        same = True
        for name, item in value.items():
            new_item = self._hidden(name, item) if _is_sensitive(name) else self._value(item)
            new_name = self.text(name)
            if new_name is not name:
                new_name = _free(new_name, value, clean)
            same = same and new_name is name and new_item is item
            clean[new_name] = new_item
        return value if same else clean

    def _list(self, value: list[Json] | tuple[Json, ...]) -> Json:
        pairs = bool(value) and all(_is_pair(item) for item in value)
        clean = []
        for item in value:  # no comprehension: on Python 3.11 it costs a frame a level
            clean.append(self._pair(item) if pairs else self._value(item))
        return value if _all_same(clean, value) else clean

    def _pair(self, header: list[str] | tuple[str, str]) -> Json:
        """One header in a list of them; ``["authorization", "body"]`` alone is just a list."""
        name, item = header
        if not _is_sensitive(name):
            return self._list(header)
        hidden = self._hidden(name, item)
        return header if hidden is item else [name, hidden]

    def _hidden(self, name: str, item: Json) -> Json:
        """``item`` under a sensitive name: a text, or a list of texts, is secret as it stands."""
        if isinstance(item, str):
            marker = _removed(name.lower())
            return item if item in ("", marker) else marker
        if isinstance(item, (list, tuple)) and all(isinstance(part, str) for part in item):
            clean = [self._hidden(name, part) for part in item]
            return item if _all_same(clean, item) else clean
        return self._value(item)


def _spellings(secret: str) -> set[str]:
    """``secret`` as it stands in a text, in JSON, in a ``repr``, and in one of these in another."""
    spelt = {secret}
    for _ in range(3):
        quoted = ((json.dumps(s), json.dumps(s, ensure_ascii=False), repr(s)) for s in spelt)
        spelt |= {text[1:-1] for each in quoted for text in each}
    return spelt


def _is_pair(item: Json) -> bool:
    return (
        isinstance(item, (list, tuple))
        and len(item) == 2
        and isinstance(item[0], str)
        and isinstance(item[1], str)
    )


def _all_same(new: list[Json], old: list[Json] | tuple[Json, ...]) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def _is_sensitive(name: Json) -> bool:
    return isinstance(name, str) and name.lower() in SENSITIVE_NAMES


def _free(name: str, *taken: dict[str, Json]) -> str:
    """Two secrets used as keys must not become one entry."""
    free, count = name, 1
    while any(free in keys for keys in taken):
        count += 1
        free = f"{name} ({count})"
    return free


# The process's own; whoever reads the environment tells it what is secret there.
redact = Redactor()
