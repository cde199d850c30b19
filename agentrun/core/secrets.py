"""Masks credentials in what people see: columns, views, logs, transcripts, the command line.

The agent's code always sees exact values. If masking changes a value, the exact one is stored
beside it in a table that only workers read (`store/values.py`). A mask has the kind of the secret,
its length and a keyed digest::

    curl -H "Authorization: Bearer [masked: bearer token, 40 chars, #a1b2c3]" https://…

Equal secrets have equal masks. Without the key, guesses cannot be tested against a mask.

Secrets are found in three ways:

* known texts: the keys of wrapped clients, and environment variables such as ``*_TOKEN``;
* the shapes of well-known credentials (`core/rules.py`);
* sensitive names such as ``password`` (`core/naming.py`): in dicts, in lists of header pairs, in
  JSON inside a text, and in plain text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from json.encoder import encode_basestring_ascii

from agentrun.core.events import Json
from agentrun.core.naming import fold, is_sensitive, looks_secret, values_of_names
from agentrun.core.rules import HINTS, RULES, CredentialRule

__all__ = ["MIN_KNOWN", "MaskedSecret", "Masker", "Rules", "mask", "summary"]

MIN_KNOWN = 8  # characters of a known secret; a shorter one would match inside ordinary words
SHORTEST = 6  # characters; a shorter text is not searched, unless its name is sensitive
DEEPEST = 4  # levels of JSON inside the strings of JSON

MEMO = 16_000_000  # characters of clean text to remember
MEMO_FROM = 256  # characters; shorter texts are not remembered

SECRET_TAG = "agentrun:secret"  # the beginning of the tags of pydantic's secrets, always masked
MASK = re.compile(r"\[masked: [^\]\[\n]{1,80}, \d+ chars, #[0-9a-f]{6}\]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class MaskedSecret:
    """One secret that was masked: its kind, and how many characters it had."""

    kind: str
    chars: int


def summary(findings: Iterable[MaskedSecret]) -> Json:
    """How much was masked, by kind: ``{"openai key": {"count": 1, "chars": 51}}``."""
    sums_of: dict[str, dict[str, int]] = {}
    for finding in findings:
        sums = sums_of.setdefault(finding.kind, {"count": 0, "chars": 0})
        sums["count"] += 1
        sums["chars"] += finding.chars
    return sums_of


def _short_digest(text: str, key: bytes) -> str:
    """Six hex digits, equal for equal texts. Without ``key``, guesses cannot be tested."""
    data = text.encode("utf-8", "surrogatepass")
    return blake2b(data, key=key, digest_size=3).hexdigest()


class Rules:
    """What a process masks: known texts, names and patterns.

    A thread may change the rules while others read them: a change replaces the immutable value of
    a field, so no reader iterates over a changing one.
    """

    def __init__(self) -> None:
        self.texts: set[str] = set()  # texts that are known to be secret
        self.spellings: tuple[str, ...] = ()  # the same texts in all spellings, longest first
        self.names: frozenset[str] = frozenset()
        self.patterns: tuple[CredentialRule, ...] = ()
        self.off = False
        self.left_out: frozenset[str] = frozenset()  # kinds that are not masked
        self._rebuild()

    def know(self, texts: Iterable[str]) -> None:
        """From now on mask these texts wherever they occur, except those that are too short."""
        new = {text for text in texts if len(text) >= MIN_KNOWN} - self.texts
        if new:
            self.texts |= new
            spelt = {way for text in new for way in _spellings(text)}
            self.spellings = tuple(
                sorted(spelt.union(self.spellings), key=lambda text: (-len(text), text))
            )
            self._rebuild()

    def add(self, names: Iterable[str] = (), patterns: Iterable[CredentialRule] = ()) -> None:
        """From now on mask values under these names and texts that match these patterns."""
        self.names = self.names.union(names)
        self.patterns = (*self.patterns, *patterns)
        self._rebuild()

    def switch(self, *, off: bool) -> None:
        """Switch all masking off or on."""
        self.off = off
        self._rebuild()

    def leave_out(self, kinds: Iterable[str]) -> None:
        """From now on do not mask secrets of these kinds."""
        self.left_out = self.left_out.union(kinds)
        self._rebuild()

    def _rebuild(self) -> None:
        every = (*RULES, *self.patterns)
        self.rules = tuple(rule for rule in every if rule.kind not in self.left_out)
        own = [fold(name)[-1] for name in self.names]
        known = [text.lower() for text in self.spellings]
        spelt = [encode_basestring_ascii(text)[1:-1] for text in known]  # as in ASCII JSON
        self.hints = tuple(dict.fromkeys((*HINTS, *own, *known, *spelt)))
        self.eager = any(not rule.hint for rule in self.patterns)
        self.clean: set[str] = set()  # texts without a secret
        self.size = 0  # characters in `clean`; only approximate, because threads may race

    def remember(self, text: str) -> None:
        """Remember that ``text`` has no secret. A request repeats all texts of its conversation."""
        if not MEMO_FROM <= len(text) <= MEMO // 8:
            return
        self.size += len(text)
        if self.size > MEMO:
            self.clean, self.size = set(), len(text)
        self.clean.add(text)


class Masker:
    """Masks secrets in values and texts by some rules. The masks have digests under one key."""

    def __init__(self, rules: Rules | None = None, key: bytes | None = None) -> None:
        self.rules = rules or Rules()
        self._key = key or secrets.token_bytes(32)

    def under(self, key: bytes) -> Masker:
        """A masker with the same rules and another key."""
        return Masker(self.rules, key)

    def use_key(self, key: bytes) -> None:
        """From now on use this key for digests."""
        self._key = key

    def know(self, texts: Iterable[str]) -> None:
        """`Rules.know`."""
        self.rules.know(texts)

    def may_change(self, text: str) -> bool:
        """Whether the value with this ASCII JSON text may hold a secret. False is certain.

        This is far cheaper than a search through the value, and most values hold no secret.
        """
        rules = self.rules
        return not rules.off and (rules.eager or any(map(text.lower().__contains__, rules.hints)))

    def __call__(self, value: Json) -> tuple[Json, list[MaskedSecret]]:
        """``value`` with its secrets masked, and a list of them.

        Nothing is changed in place. A part without a secret is returned as the same object.
        """
        search = _Search(self.rules, self._key)
        masked = value if self.rules.off else search.value(value)
        return masked, search.found

    def cover(self, secret: str, kind: str) -> str:
        """The mask for this text, whether or not it looks like a secret."""
        return _Search(self.rules, self._key).cover(secret, kind)

    def text(self, text: str) -> str:
        """``text`` with its secrets masked. The same object if it has none."""
        return text if self.rules.off else _Search(self.rules, self._key).text(text)


class _Search:
    """One search through a value. ``found`` collects the secrets."""

    def __init__(self, rules: Rules, key: bytes) -> None:
        self.found: list[MaskedSecret] = []
        self._rules, self._key = rules, key

    # -- values --------------------------------------------------------------------------------

    def value(self, value: Json, depth: int = 0) -> Json:
        if isinstance(value, str):
            return self.text(value, depth)
        if isinstance(value, dict):
            return self._mask_dict(value, depth)
        if isinstance(value, (list, tuple)):
            return self._mask_list(value, depth)
        return value

    def _mask_dict(self, value: dict[str, Json], depth: int) -> Json:
        masked: dict[str, Json] = {}
        same = True
        named = value.get("name", value.get("key"))  # {"name": "Cookie", "value": …}
        for name, item in value.items():
            about = named if name == "value" and isinstance(named, str) else name
            new_item = self._mask_named(about, item, depth)
            new_name = self.text(name, depth) if isinstance(name, str) else name
            if new_name is not name:
                new_name = _unique_name(new_name, value, masked)
            same = same and new_name is name and new_item is item
            masked[new_name] = new_item
        return value if same else masked

    def _mask_list(self, value: list[Json] | tuple[Json, ...], depth: int) -> Json:
        pairs = bool(value) and all(_is_pair(item) for item in value)
        masked = []
        for item in value:  # no comprehension: on Python 3.11 it costs a frame a level
            masked.append(self._mask_pair(item, depth) if pairs else self.value(item, depth))
        return value if _is_unchanged(masked, value) else masked

    def _mask_pair(self, header: list[str] | tuple[str, str], depth: int) -> Json:
        """A pair of name and value in a list of such pairs, for example of HTTP headers.

        A pair that is not in a list of pairs, such as ``["authorization", "body"]``, is a plain
        list of two texts.
        """
        name, item = header
        hidden = self._mask_named(name, item, depth)
        return header if hidden is item else [name, hidden]

    def _mask_named(self, name: Json, item: Json, depth: int) -> Json:
        """``item`` masked. A text, or a list of texts, is secret under a sensitive name."""
        if isinstance(name, str) and name.startswith(SECRET_TAG) and isinstance(item, str):
            return item if MASK.fullmatch(item) else self.cover(item, "secret")
        kind = is_sensitive(name, self._rules.names) if isinstance(name, str) else None
        if kind is None or kind in self._rules.left_out:
            return self.value(item, depth)
        if isinstance(item, str):
            if not looks_secret(item, kind, named=True) or MASK.fullmatch(item):
                return self.text(item, depth)
            return self.cover(item, kind)
        if isinstance(item, (list, tuple)) and all(isinstance(part, str) for part in item):
            masked = [self._mask_named(name, part, depth) for part in item]
            return item if _is_unchanged(masked, item) else masked
        return self.value(item, depth)

    # -- texts ---------------------------------------------------------------------------------

    def text(self, text: str, depth: int = 0) -> str:
        if len(text) < SHORTEST or text in self._rules.clean:
            return text
        lower = text.lower()
        if self._rules.eager or any(map(lower.__contains__, self._rules.hints)):
            spelt = self._mask_json(text, depth) if text[0] in "{[ \n\t\r" else None
            masked = self._mask_plain(text, lower) if spelt is None else spelt
            if masked is not text:
                return masked
        if "[masked: " not in text:
            self._rules.remember(text)
        return text

    def _mask_json(self, text: str, depth: int) -> str | None:
        """``text`` masked as JSON, with its layout unchanged. None if ``text`` is not JSON."""
        if depth >= DEEPEST or text.rstrip()[-1:] not in ("}", "]"):
            return None
        try:
            parsed = json.loads(text, object_pairs_hook=_Pairs)
            strings = list(_STRING.finditer(text))
            masked = list(self._mask_strings(parsed, depth + 1))
        except (ValueError, RecursionError):
            return None
        if len(strings) != len(masked):
            return None
        parts, end = [], 0
        for spelt, (was, now) in zip(strings, masked, strict=True):
            if now is not was:
                ascii = spelt[0].isascii()
                parts += [text[end : spelt.start()], json.dumps(now, ensure_ascii=ascii)]
                end = spelt.end()
        return "".join([*parts, text[end:]]) if parts else text

    def _mask_strings(self, value: Json, depth: int) -> Iterator[tuple[str, str]]:
        """The strings of parsed JSON in the order of its text, each with its masked form."""
        if isinstance(value, _Pairs):
            named = next((item for name, item in value if name in ("name", "key")), None)
            for name, item in value:
                yield name, self.text(name, depth)
                about = named if name == "value" and isinstance(named, str) else name
                texts = isinstance(item, list) and all(isinstance(part, str) for part in item)
                if isinstance(item, str):
                    yield item, self._mask_named(about, item, depth)
                elif texts and not isinstance(item, _Pairs):
                    for part in item:
                        yield part, self._mask_named(about, part, depth)
                else:
                    yield from self._mask_strings(item, depth)
        elif isinstance(value, list):
            pairs = bool(value) and all(_is_pair(item) for item in value)
            for item in value:
                if pairs:
                    yield item[0], self.text(item[0], depth)
                    yield item[1], self._mask_named(item[0], item[1], depth)
                else:
                    yield from self._mask_strings(item, depth)
        elif isinstance(value, str):
            yield value, self.text(value, depth)

    def _mask_plain(self, text: str, lower: str) -> str:
        existing = [found.span() for found in MASK.finditer(text)] if "[masked: " in text else []
        for first, last in existing:  # masks of `masked=` parameters count as found as well
            kind, chars, _ = text[first + len("[masked: ") : last].rsplit(", ", 2)
            self.found.append(MaskedSecret(kind, int(chars.removesuffix(" chars"))))
        spans = sorted(self._spans(text, lower))
        if not spans:
            return text
        parts, end = [], 0
        for start, stop, kind in _merge(spans):
            if any(start < last and first < stop for first, last in existing):
                continue  # masked already
            parts += [text[end:start], self.cover(text[start:stop], kind)]
            end = stop
        return "".join([*parts, text[end:]]) if parts else text

    def _spans(self, text: str, lower: str) -> Iterator[tuple[int, int, str]]:
        """The secrets in ``text``: start, end and kind of each."""
        for known in self._rules.spellings:
            at = text.find(known)
            while at >= 0:
                yield at, at + len(known), "known secret"
                at = text.find(known, at + len(known))
        for rule in self._rules.rules:
            if rule.hint in lower:
                for found in rule.pattern.finditer(text):
                    start, stop = found.span(rule.group)
                    if start < stop and (rule.test is None or rule.test(found)):
                        yield start, stop, rule.kind
        for start, stop, kind in values_of_names(text, lower, self._rules.names):
            if kind not in self._rules.left_out:
                yield start, stop, kind

    def cover(self, secret: str, kind: str) -> str:
        self.found.append(MaskedSecret(kind, len(secret)))
        return f"[masked: {kind}, {len(secret)} chars, #{_short_digest(secret, self._key)}]"


class _Pairs(list[tuple[str, Json]]):
    """An object of parsed JSON as pairs, because a name may occur twice."""


def _merge(spans: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Merge sorted spans that overlap. A merged span has the kind of the longest one."""
    start, stop, kind = spans[0]
    longest = stop - start
    for first, last, other in spans[1:]:
        if first >= stop:
            yield start, stop, kind
            start, stop, kind, longest = first, last, other, last - first
            continue
        if last - first > longest:
            kind, longest = other, last - first
        stop = max(stop, last)
    yield start, stop, kind


def _spellings(secret: str) -> set[str]:
    """``secret`` as it appears in text, in JSON, in a ``repr``, and in nestings of these."""
    spelt = {secret}
    for _ in range(3):
        quoted = ((json.dumps(s), json.dumps(s, ensure_ascii=False), repr(s)) for s in spelt)
        spelt |= {text[1:-1] for each in quoted for text in each}
    return spelt


def _is_pair(item: Json) -> bool:
    return (
        isinstance(item, (list, tuple))
        and not isinstance(item, _Pairs)
        and len(item) == 2
        and isinstance(item[0], str)
        and isinstance(item[1], str)
    )


def _is_unchanged(new: list[Json], old: list[Json] | tuple[Json, ...]) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def _unique_name(name: str, *taken: dict[str, Json]) -> str:
    """A name that is not taken. Two masked keys with equal masks must not become one entry."""
    free, count = name, 1
    while any(free in keys for keys in taken):
        count += 1
        free = f"{name} ({count})"
    return free


# The masker of the process. It learns secrets from the environment and from wrapped clients.
mask = Masker()
