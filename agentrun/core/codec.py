"""Values as they lie in the journal: exact JSON text that every SQL reader can open.

A value is stored as canonical ASCII JSON in a `json` column, so that 1e2, -0.0 and the order of
keys survive. Two things JSON text can spell make Postgres `->>` fail for the whole row: NUL and
lone surrogates. A text with any of them is *escaped*: ␛ (U+241B) and four hex digits stand for
one code unit, ␛ itself included, and a flag in the row says so. No other text is touched.

One write path, `encode`: check → redact → share → text → claim check. One read path, `decode`,
undoes the last three. A value over `LIMIT` leaves a *claim check* (digest, size, preview) in its
row and its text, compressed, in the table `payloads`, or in a blob that is named there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntFlag
from functools import reduce
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from operator import or_

import zstandard

from agentrun.core.errors import AgentrunError
from agentrun.core.events import Json
from agentrun.core.secrets import Redactor, redact

__all__ = [
    "ENVELOPE",
    "LIMIT",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "Codec",
    "Encoded",
    "Payload",
    "Undecodable",
    "Unserialisable",
    "attach",
    "canonical",
    "check",
    "check_in",
    "check_out",
    "decode",
    "detach",
    "digest",
    "dumps",
    "encode",
    "fingerprint",
    "loads",
    "plain",
    "preview",
]

LIMIT = 64 * 1024  # bytes of JSON text that a row holds itself
MAX_DEPTH = 200  # Python's json shares the interpreter's 1000 frames with whoever calls it
ENVELOPE = 8  # further levels that our own records put around a value
MAX_DIGITS = 4300  # of an int: Python refuses to read or print a longer one
PREVIEW = 200  # characters

Fetch = Callable[[str], bytes]  # digest -> the zstd bytes of that payload
Trail = tuple["Trail | None", "str | int"]  # the way to a value, last key first


class Unserialisable(AgentrunError, ValueError):
    """A value that JSON cannot hold; ``path`` says where it is, as in ``result.items[3].price``."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path = path


class Undecodable(AgentrunError, ValueError):
    """A stored value that cannot be read back: the row or its payload was damaged or edited."""


class Codec(IntFlag):
    """The column ``codec``: what was done to a row's ``input`` and ``output``."""

    INPUT_ESCAPED = 1
    OUTPUT_ESCAPED = 2
    INPUT_PAYLOAD = 4
    OUTPUT_PAYLOAD = 8
    INPUT_SHARED = 16  # earlier text of the run is referenced: core.sharing
    REDACTED = 32  # a secret was removed from the input or the output


_UNMARKED = Codec(0)


@dataclass(frozen=True, slots=True)
class Payload:
    """A row of the table ``payloads``: ``size`` bytes of JSON text, compressed.

    ``blob`` is their name outside the database, if they lie there.
    """

    digest: str
    size: int
    zstd: bytes
    blob: str | None = None


@dataclass(slots=True)
class Encoded:
    """A value ready to be stored; never changed once made.

    ``value`` is what a reader will get back: the value given, less secrets. Fingerprint *that*,
    and a changed key or a resume that sees the redacted text is no divergence.
    """

    text: str
    escaped: bool
    redacted: bool
    shared: bool
    payload: Payload | None
    value: Json = field(repr=False, compare=False)

    def as_input(self) -> Codec:
        """The flags of a row that holds this in ``input``."""
        return self._flags(Codec.INPUT_ESCAPED, Codec.INPUT_PAYLOAD, Codec.INPUT_SHARED)

    def as_output(self) -> Codec:
        """The flags of a row that holds this in ``output``, where nothing is shared."""
        if self.shared:
            raise ValueError("an output is stored whole: encode it without pack=")
        return self._flags(Codec.OUTPUT_ESCAPED, Codec.OUTPUT_PAYLOAD, Codec(0))

    def _flags(self, escaped: Codec, payload: Codec, shared: Codec) -> Codec:
        marks = (
            (self.escaped, escaped),
            (self.payload is not None, payload),
            (self.shared, shared),
            (self.redacted, Codec.REDACTED),
        )
        marked = [flag for on, flag in marks if on]
        return reduce(or_, marked) if marked else _UNMARKED  # `|` of flags is slow


def encode(
    value: Json,
    *,
    at: str = "value",
    redact: Redactor = redact,
    pack: Callable[[Json], Json] | None = None,
    limit: int = LIMIT,
) -> Encoded:
    """``value`` as it is stored, without secrets; ``at`` names it in errors.

    ``pack`` replaces what the run already holds by references: `sharing.Shared.pack`.
    Raises Unserialisable, and then has changed nothing.
    """
    check(value, at, MAX_DEPTH + ENVELOPE)
    clean, redacted = value, False
    # What is packed is long and repeats itself: the redactor remembers its texts.
    written = None if pack is not None else _write(value)
    if written is None or _may_change(redact, *written):
        clean, redacted = redact(value)
        written = _write(clean if pack is None else pack(clean))
    text, escaped = written
    text, payload = check_in(text, limit)
    return Encoded(text, escaped, redacted, pack is not None, payload, clean)


def decode(
    text: str,
    escaped: bool,
    fetch: Fetch | None = None,
    unpack: Callable[[Json], Json] | None = None,
) -> Json:
    """The value behind a row's text; ``fetch`` if it is a payload, ``unpack`` if it is shared.

    Raises Undecodable.
    """
    value = loads(text if fetch is None else check_out(text, fetch), escaped)
    return value if unpack is None else unpack(value)


# -- text ----------------------------------------------------------------------------------------

_Encoder = Callable[[Json], str]


def _encoder(*, ascii: bool, sort: bool) -> _Encoder:
    return json.JSONEncoder(
        ensure_ascii=ascii,
        sort_keys=sort,
        allow_nan=False,
        check_circular=False,  # `check` bounds the depth, which a cycle has none of
        separators=(",", ":"),
    ).encode


_ASCII = {sort: _encoder(ascii=True, sort=sort) for sort in (False, True)}
_EXACT = {sort: _encoder(ascii=False, sort=sort) for sort in (False, True)}

_SUSPECT = re.compile(r"\\u(?:0000|d[89a-f])")  # in ASCII text; also every astral character
_UNSTORABLE = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")  # in exact text
_TO_ESCAPE = re.compile(r"\\\\|\\u0000|[\ud800-\udfff\u241b]")
_NOT_ASCII = re.compile(r"[^\x00-\x7e]+")
_ESCAPED = re.compile(r"\\\\|\\u241b(0000|241b|d[89a-f][0-9a-f]{2})?")


def dumps(value: Json) -> tuple[str, bool]:
    """Canonical ASCII JSON of ``value``, and whether it is escaped. Tuples become lists.

    Raises Unserialisable.
    """
    check(value)
    return _write(value)


def _may_change(redact: Redactor, text: str, escaped: bool) -> bool:
    """Whether a value written so may hold a secret; an escaped text could spell one otherwise."""
    return escaped or redact.may_change(text)


def loads(text: str, escaped: bool) -> Json:
    """The value that `dumps` wrote. Raises Undecodable."""
    try:
        return _read(_ESCAPED.sub(_unescape, text) if escaped else text)
    except Undecodable:
        raise
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"stored text is not JSON as agentrun writes it: {error}") from error


def _read(text: str) -> Json:
    """What `JSONDecoder.decode` gives, which takes longer to look for space around it."""
    text = text.strip(" \t\n\r")
    value, end = _DECODER.raw_decode(text)
    return value if end == len(text) else _DECODER.decode(text)  # which says what is wrong


def _write(value: Json, *, sort: bool = False) -> tuple[str, bool]:
    text = _ASCII[sort](value)
    if not _SUSPECT.search(text):
        return text, False
    # Only the exact text tells a character from two surrogates that happen to spell it.
    exact = _EXACT[sort](value)
    if not _UNSTORABLE.search(exact):
        return text, False
    return _NOT_ASCII.sub(_to_ascii, _TO_ESCAPE.sub(_escape, exact)), True


def _escape(found: re.Match[str]) -> str:
    match found[0]:
        case "\\\\":
            return found[0]  # a backslash, so that what follows it is not taken for an escape
        case "\\u0000":
            return "␛0000"
        case unit:
            return f"␛{ord(unit):04x}"


def _to_ascii(found: re.Match[str]) -> str:
    return encode_basestring_ascii(found[0])[1:-1]


def _unescape(found: re.Match[str]) -> str:
    if found[0] == "\\\\":
        return found[0]
    match found[1]:
        case None:
            raise Undecodable("an escaped text has ␛ without the code of a character after it")
        case "0000" | "241b" as code:
            return f"\\u{code}"
        case code:
            return chr(int(code, 16))  # raw: json would join two spelt ones into one character


def _refuse_constant(name: str) -> None:
    raise Undecodable(f"stored text has {name}, which agentrun never writes")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")


def plain(text: str) -> str:
    """``text`` as a text column can hold it, without secrets: NUL and lone surrogates, which
    Postgres refuses, become visible codes. Not reversible: for names and reasons, not values."""
    return _NO_TEXT.sub(lambda found: f"␛{ord(found[0]):04x}", redact.text(text))


# -- what JSON can hold --------------------------------------------------------------------------

_ALWAYS_PLAIN = frozenset({str, bool, type(None)})
_TOO_LARGE = 10**MAX_DIGITS
_SHALLOW = 10  # levels that a value hardly ever has more of
_INT64 = 1 << 63


def check(value: Json, at: str = "value", depth: int = MAX_DEPTH) -> None:
    """Raise Unserialisable, naming the path below ``at``, unless ``value`` is plain finite JSON."""
    if _is_plain(value, _SHALLOW):
        return
    pending: list[tuple[Json, Trail, int]] = [(value, (None, at), depth)]
    while pending:
        item, trail, left = pending.pop()
        if not isinstance(item, (dict, list, tuple)):
            if flaw := _flaw(item):
                raise Unserialisable(_path(trail), flaw)
            continue
        if left == 0:
            raise Unserialisable(
                _path(trail),
                f"is more than {depth} levels deep (or contains itself): store it as a string",
            )
        for key, child in _children(item, trail):
            if type(child) not in _ALWAYS_PLAIN:
                pending.append((child, (trail, key), left - 1))


def _is_plain(item: Json, levels: int) -> bool:
    """Whether an ordinary value is plain JSON, told quickly; False: look closer."""
    kind = type(item)
    if kind is dict:
        if levels == 0:
            return False
        for key, child in item.items():
            if type(key) is not str:
                return False
            if type(child) not in _ALWAYS_PLAIN and not _is_plain(child, levels - 1):
                return False
        return True
    if kind is list:
        if levels == 0:
            return False
        for child in item:
            if type(child) not in _ALWAYS_PLAIN and not _is_plain(child, levels - 1):
                return False
        return True
    if kind is int:
        return bool(-_INT64 < item < _INT64)
    return kind in _ALWAYS_PLAIN or (kind is float and math.isfinite(item))


def _children(item: Json, trail: Trail) -> Iterable[tuple[str | int, Json]]:
    if not isinstance(item, dict):
        return enumerate(item)
    for key in item:
        if not isinstance(key, str):
            raise Unserialisable(
                _path(trail), f"has the key {key!r} ({type(key).__name__}): use a string as key"
            )
    return item.items()


def _flaw(item: Json) -> str | None:
    if item is None or isinstance(item, (str, bool)):
        return None
    if isinstance(item, float):
        if math.isfinite(item):
            return None
        name = "NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"
        return f"is {name}, which JSON cannot hold: use None or a string"
    if isinstance(item, int):
        if -_TOO_LARGE < item < _TOO_LARGE:
            return None
        return f"is an integer of more than {MAX_DIGITS} digits: store it as a string"
    return (
        f"is of type {type(item).__name__}, which JSON cannot hold: "
        "use dict, list, str, int, float, bool or None"
    )


def _path(trail: Trail) -> str:
    """``result.items[3]["odd key"]``; long ways and keys are cut, secrets removed."""
    parts: list[str] = []
    here: Trail | None = trail
    while here is not None:
        above, key = here
        parts.append(str(key) if above is None else _subscript(key))
        here = above
    parts.reverse()
    if len(parts) > 12:
        parts[6:-5] = ["…"]
    return redact.text("".join(parts))


def _subscript(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    key = redact.text(key)
    if len(key) > 60:
        key = key[:59] + "…"
    return f".{key}" if key.isidentifier() else f"[{encode_basestring_ascii(key)}]"


# -- digests -------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    """The name of ``data``: 32 hex digits (BLAKE2b)."""
    return blake2b(data, digest_size=16).hexdigest()


def canonical(value: Json, *, sort: bool = False) -> bytes:
    """Bytes that differ wherever two values differ: in type (1, 1.0, True), in the sign of zero,
    and, unless ``sort``, in the order of keys.

    Raises Unserialisable for what JSON cannot hold, but does not look for keys that are no
    strings: `check` a value that nobody has checked.
    """
    return _bytes(*_written(value, sort=sort))


def _written(value: Json, *, sort: bool) -> tuple[str, bool]:
    try:
        return _write(value, sort=sort)
    except (TypeError, ValueError):
        check(value)
        raise


def _bytes(text: str, escaped: bool) -> bytes:
    return text.encode() + b"\0" * escaped


def fingerprint(value: Json, redact: Redactor | None = None) -> str:
    """32 hex digits that are equal for equal values, however their keys are ordered.

    1, 1.0 and True are three values, and so are 0.0 and -0.0. With ``redact``, of the value
    without secrets.
    """
    written = _written(value, sort=True)
    if redact is not None and _may_change(redact, *written):
        written = _write(redact(value)[0], sort=True)
    return digest(_bytes(*written))


# -- claim checks --------------------------------------------------------------------------------

_SPELT = re.compile(r"\\\\|(?:\\u[0-9a-f]{4})+")


def preview(text: str) -> str:
    """The beginning of a JSON text, for people: characters readable, none that act."""
    head = _SPELT.sub(_spell_out, text[: 6 * PREVIEW])
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in head[:PREVIEW])
    return shown if len(head) <= PREVIEW and len(text) <= 6 * PREVIEW else shown + "…"


def _spell_out(found: re.Match[str]) -> str:
    return found[0] if found[0] == "\\\\" else str(json.loads(f'"{found[0]}"'))


def check_in(text: str, limit: int = LIMIT) -> tuple[str, Payload | None]:
    """``text`` itself, or over ``limit`` bytes a claim check and the payload it stands for."""
    if len(text) <= limit:  # ASCII: a character is a byte
        return text, None
    data = text.encode("ascii")
    payload = attach(data)
    claim = {"payload": payload.digest, "size": payload.size, "preview": preview(text)}
    return _ASCII[False](claim), payload


def attach(data: bytes) -> Payload:
    """``data`` as a payload of its own, for exact bytes that a row names by their `digest`."""
    return Payload(digest(data), len(data), zstandard.ZstdCompressor().compress(data))


def detach(payload: bytes, name: str) -> bytes:
    """The bytes that `attach` compressed, proved by their digest. Raises Undecodable."""
    try:
        data = zstandard.ZstdDecompressor().decompress(payload)
    except zstandard.ZstdError as error:
        raise Undecodable(f"payload {name} cannot be decompressed: {error}") from error
    if digest(data) != name:
        raise Undecodable(f"payload {name} is damaged: its bytes do not have that digest")
    return data


def check_out(row_json: str, fetch: Fetch) -> str:
    """The text that `check_in` replaced, proved by its digest. Raises Undecodable."""
    claim = loads(row_json, escaped=False)
    match claim:
        case {"payload": str(name), "size": int(size)} if size >= 0:
            pass
        case _:
            raise Undecodable("the row is marked as a claim check but holds none")
    compressed = fetch(name)
    # Asked before: what the frame claims decides how much memory zstd takes.
    if _claimed_size(compressed) != size:
        raise Undecodable(f"payload {name} is damaged: it has not the size its row names")
    return detach(compressed, name).decode("ascii")


def _claimed_size(compressed: bytes) -> int | None:
    try:
        return zstandard.frame_content_size(compressed)
    except zstandard.ZstdError:
        return None
