"""How values are stored in the journal: as exact JSON text that any SQL query can read.

A value is stored as canonical ASCII JSON in a `json` column (not `jsonb`), so that 1e2, -0.0 and
the order of keys survive. NUL and lone surrogates are valid in JSON text, but Postgres fails on
them in `->>`, and one such value would break a query over all rows. A text that contains one is
*escaped*: ␛ (U+241B) and four hex digits stand for one code unit. ␛ itself is escaped too, and
a flag in the row says that the text is escaped. All other text is stored unchanged.

`encode` is the only write path: check → mask → share → text → claim check. `decode` is the only
read path, and undoes the last three steps. For a value over `LIMIT` the row holds a *claim check*
(digest, size, preview). Its compressed text is in the table `payloads`, or in an object store under
a name that is in that table.

If masking changes a value, the row holds the masked value, which people may see. The exact text is
sealed by `seal` and stored in the table `exact_values`, which only workers read, by `decode_exact`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntFlag
from functools import reduce
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from operator import or_

import zstandard

from agentrun.core.errors import AgentrunError
from agentrun.core.events import Json
from agentrun.core.plain import MAX_DEPTH, MAX_DIGITS, Unserialisable, check
from agentrun.core.secrets import Masker, mask, summary

__all__ = [
    "ENVELOPE",
    "LIMIT",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "Codec",
    "Encoded",
    "Payload",
    "SealedValue",
    "Undecodable",
    "Unserialisable",
    "attach",
    "canonical",
    "check",
    "check_in",
    "check_out",
    "decode",
    "decode_exact",
    "detach",
    "digest",
    "dumps",
    "encode",
    "fingerprint",
    "is_storable",
    "keyed_digest",
    "loads",
    "plain",
    "preview",
    "seal",
    "unseal",
]

LIMIT = 64 * 1024  # bytes of JSON text; a longer text becomes a claim check
ENVELOPE = 8  # levels of nesting that agentrun's own records add around a value
PREVIEW = 200  # characters

Fetch = Callable[[str], bytes]  # digest -> the zstd bytes of that payload
# (exact value, masked value) -> the same two with references to earlier values of the run.
Pack = Callable[[Json, Json], tuple[Json, Json]]


class Undecodable(AgentrunError, ValueError):
    """A stored value cannot be read, because its row or its payload was damaged or edited."""


class Codec(IntFlag):
    """The column ``codec``: how a row's ``input`` and ``output`` are encoded."""

    INPUT_ESCAPED = 1
    OUTPUT_ESCAPED = 2
    INPUT_PAYLOAD = 4
    OUTPUT_PAYLOAD = 8
    INPUT_SHARED = 16  # has references to earlier values of the run: core.sharing
    INPUT_MASKED = 32  # is masked: the exact input is in `exact_values`
    OUTPUT_MASKED = 64


_UNMARKED = Codec(0)


@dataclass(frozen=True, slots=True)
class Payload:
    """A row of the table ``payloads``: ``size`` bytes of JSON text, compressed.

    ``blob`` is the name of the bytes in the object store, if they are stored there.
    """

    digest: str
    size: int
    zstd: bytes
    blob: str | None = None


@dataclass(frozen=True, slots=True)
class SealedValue:
    """An exact value of which people see a masked form: JSON text or raw bytes.

    ``zstd`` are the ``size`` bytes, compressed. ``escaped`` says whether the text is escaped.
    """

    escaped: bool
    size: int
    zstd: bytes = field(repr=False)


@dataclass(slots=True)
class Encoded:
    """A value ready to be stored. It is never changed once made.

    ``text`` is the text of the row, which people see, and ``shown`` is the value of that text.
    If masking has changed the value, ``exact`` holds the exact text, and ``masked`` says how much
    was masked, by kind.
    """

    text: str
    escaped: bool
    shared: bool
    payload: Payload | None
    value: Json = field(repr=False, compare=False)
    shown: Json = field(repr=False, compare=False)
    masked: Json = None
    exact: SealedValue | None = None

    def as_input(self) -> Codec:
        """The flags of a row that holds this in ``input``."""
        return self._flags(
            Codec.INPUT_ESCAPED, Codec.INPUT_PAYLOAD, Codec.INPUT_SHARED, Codec.INPUT_MASKED
        )

    def as_output(self) -> Codec:
        """The flags of a row that holds this in ``output``. An output is never shared."""
        if self.shared:
            raise ValueError("an output is stored whole: encode it without pack=")
        return self._flags(
            Codec.OUTPUT_ESCAPED, Codec.OUTPUT_PAYLOAD, Codec(0), Codec.OUTPUT_MASKED
        )

    def _flags(self, escaped: Codec, payload: Codec, shared: Codec, masked: Codec) -> Codec:
        marks = (
            (self.escaped, escaped),
            (self.payload is not None, payload),
            (self.shared, shared),
            (self.exact is not None, masked),
        )
        flags = [flag for on, flag in marks if on]
        return reduce(or_, flags) if flags else _UNMARKED  # `|` of flags is slow


def encode(
    value: Json,
    *,
    at: str = "value",
    mask: Masker = mask,
    pack: Pack | None = None,
    limit: int = LIMIT,
) -> Encoded:
    """Encode ``value`` for storage: the text that people see, and the exact text if it differs.

    Args:
        value: plain JSON data.
        at: the name of the value in error messages.
        mask: finds the secrets and masks them.
        pack: replaces parts that the run already holds by references, see
            `sharing.Shared.pack_both`.
        limit: bytes of text from which on the value becomes a claim check.

    Raises:
        Unserialisable: JSON cannot hold the value. Then ``pack`` has not been called.
    """
    check(value, at, MAX_DEPTH + ENVELOPE)
    shown, masked, exact = value, None, None
    if pack is None:
        written = exactly = _write(value)
        if _may_change(mask, *written):
            shown, found = mask(value)
            written, masked = (_write(shown), summary(found)) if found else (exactly, None)
    else:  # such values are long and repeat themselves, and the masker remembers clean texts
        shown, found = mask(value)
        masked = summary(found) if found else None
        packed, packed_shown = pack(value, shown)
        written = exactly = _write(packed)
        if packed_shown is not packed:
            written = _write(packed_shown)
    if written != exactly:
        exact = seal(exactly[0].encode("ascii"), escaped=exactly[1])
    text, payload = check_in(written[0], limit)
    return Encoded(text, written[1], pack is not None, payload, value, shown, masked, exact)


def decode(
    text: str,
    escaped: bool,
    fetch: Fetch | None = None,
    unpack: Callable[[Json], Json] | None = None,
) -> Json:
    """The value that a row stores as ``text``.

    ``fetch`` is given if the text is a claim check, and ``unpack`` if the value has references.

    Raises:
        Undecodable: the text or its payload is damaged.
    """
    value = loads(text if fetch is None else check_out(text, fetch), escaped)
    return value if unpack is None else unpack(value)


def decode_exact(exact: SealedValue, unpack: Callable[[Json], Json] | None = None) -> Json:
    """The exact value. ``unpack`` is given if it has references. Raises Undecodable."""
    return decode(unseal(exact).decode("ascii"), exact.escaped, None, unpack)


def seal(data: bytes, *, escaped: bool = False) -> SealedValue:
    """``data`` in the form that `exact_values` stores. Every exact value is sealed here."""
    return SealedValue(escaped, len(data), zstandard.ZstdCompressor().compress(data))


def unseal(exact: SealedValue) -> bytes:
    """The bytes that `seal` was given. Raises Undecodable."""
    if _frame_size(exact.zstd) != exact.size:
        raise Undecodable("an exact value is damaged: it does not have the size in its row")
    try:
        return zstandard.ZstdDecompressor().decompress(exact.zstd)
    except zstandard.ZstdError as error:
        raise Undecodable(f"an exact value cannot be decompressed: {error}") from error


# -- text ----------------------------------------------------------------------------------------

_Encoder = Callable[[Json], str]


def _encoder(*, ascii: bool, sort: bool) -> _Encoder:
    return json.JSONEncoder(
        ensure_ascii=ascii,
        sort_keys=sort,
        allow_nan=False,
        check_circular=False,  # `check` limits the depth, and so refuses a cycle
        separators=(",", ":"),
    ).encode


_ASCII = {sort: _encoder(ascii=True, sort=sort) for sort in (False, True)}
_EXACT = {sort: _encoder(ascii=False, sort=sort) for sort in (False, True)}

# In ASCII text: NUL, surrogates, and also every astral character, which is a pair of surrogates.
_SUSPECT = re.compile(r"\\u(?:0000|d[89a-f])")
# In text that is not ASCII, only NUL and lone surrogates.
_UNSTORABLE = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")
_TO_ESCAPE = re.compile(r"\\\\|\\u0000|[\ud800-\udfff\u241b]")
_NOT_ASCII = re.compile(r"[^\x00-\x7e]+")
_ESCAPED = re.compile(r"\\\\|\\u241b(0000|241b|d[89a-f][0-9a-f]{2})?")


def dumps(value: Json) -> tuple[str, bool]:
    """``value`` as canonical ASCII JSON, and whether that text is escaped. Tuples become lists.

    Raises Unserialisable.
    """
    check(value)
    return _write(value)


def _may_change(mask: Masker, text: str, escaped: bool) -> bool:
    """Whether the value with this text may hold a secret.

    True for an escaped text: escapes may hide a secret from a search for literals.
    """
    return escaped or mask.may_change(text)


def loads(text: str, escaped: bool) -> Json:
    """Read a text that `dumps` wrote. Raises Undecodable."""
    try:
        return _read(_ESCAPED.sub(_unescape, text) if escaped else text)
    except Undecodable:
        raise
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"stored text is not JSON as agentrun writes it: {error}") from error


def _read(text: str) -> Json:
    """Like `JSONDecoder.decode`, which is slower because it searches for space with a regex."""
    text = text.strip(" \t\n\r")
    value, end = _DECODER.raw_decode(text)
    return value if end == len(text) else _DECODER.decode(text)  # this raises the error


def _write(value: Json, *, sort: bool = False) -> tuple[str, bool]:
    text = _ASCII[sort](value)
    if not _SUSPECT.search(text):
        return text, False
    # ASCII text spells an astral character and two lone surrogates alike. This text does not.
    exact = _EXACT[sort](value)
    if not _UNSTORABLE.search(exact):
        return text, False
    return _NOT_ASCII.sub(_to_ascii, _TO_ESCAPE.sub(_escape, exact)), True


def _escape(found: re.Match[str]) -> str:
    match found[0]:
        case "\\\\":
            return found[0]  # an escaped backslash, after which `u0000` is ordinary text
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
            return chr(int(code, 16))  # not as \\uXXXX: json would join two to one character


def _refuse_constant(name: str) -> None:
    raise Undecodable(f"stored text has {name}, which agentrun never writes")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")


def plain(text: str) -> str:
    """``text`` with secrets masked and without characters that a text column cannot hold.

    NUL and lone surrogates become visible codes, because Postgres refuses them. This cannot be
    undone, so it is for names and reasons, not for values.
    """
    return _NO_TEXT.sub(lambda found: f"␛{ord(found[0]):04x}", mask.text(text))


def is_storable(text: str) -> bool:
    """Whether a text column can hold ``text`` unchanged."""
    return _NO_TEXT.search(text) is None


# -- digests -------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    """The BLAKE2b digest of ``data``: 32 hex digits."""
    return blake2b(data, digest_size=16).hexdigest()


def keyed_digest(data: bytes, key: bytes) -> str:
    """A digest with a key. Without the key, guesses of ``data`` cannot be tested against it."""
    return blake2b(data, digest_size=16, key=key).hexdigest()


def canonical(value: Json, *, sort: bool = False) -> bytes:
    """Canonical bytes: different for two values that differ.

    Values differ also in type (1, 1.0 and True), in the sign of zero and, unless ``sort``, in the
    order of keys.

    Raises Unserialisable for a value that JSON cannot hold, but does not notice keys that are not
    strings. Pass a value through `check` first.
    """
    return _to_bytes(*_write_checked(value, sort=sort))


def _write_checked(value: Json, *, sort: bool) -> tuple[str, bool]:
    try:
        return _write(value, sort=sort)
    except (TypeError, ValueError):
        check(value)
        raise


def _to_bytes(text: str, escaped: bool) -> bytes:
    return text.encode() + b"\0" * escaped


def fingerprint(value: Json, key: bytes = b"") -> str:
    """32 hex digits that are equal for equal values, whatever the order of their keys.

    1, 1.0 and True are three different values, and so are 0.0 and -0.0. A fingerprint that people
    can read needs a ``key``: without one, they could test guesses of a masked value against it.
    """
    return keyed_digest(canonical(value, sort=True), key)


# -- claim checks --------------------------------------------------------------------------------

_SPELT = re.compile(r"\\\\|(?:\\u[0-9a-f]{4})+")


def preview(text: str) -> str:
    """The beginning of a JSON text for people: readable, and without control characters."""
    head = _SPELT.sub(_spell_out, text[: 6 * PREVIEW])
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in head[:PREVIEW])
    return shown if len(head) <= PREVIEW and len(text) <= 6 * PREVIEW else shown + "…"


def _spell_out(found: re.Match[str]) -> str:
    return found[0] if found[0] == "\\\\" else str(json.loads(f'"{found[0]}"'))


def check_in(text: str, limit: int = LIMIT) -> tuple[str, Payload | None]:
    """``text`` itself, or for more than ``limit`` bytes a claim check and its payload."""
    if len(text) <= limit:  # ASCII: a character is a byte
        return text, None
    data = text.encode("ascii")
    payload = attach(data)
    claim = {"payload": payload.digest, "size": payload.size, "preview": preview(text)}
    return _ASCII[False](claim), payload


def attach(data: bytes) -> Payload:
    """``data`` as a payload: compressed bytes that a row refers to by their `digest`."""
    return Payload(digest(data), len(data), zstandard.ZstdCompressor().compress(data))


def detach(payload: bytes, name: str) -> bytes:
    """The bytes that `attach` compressed, verified by their digest. Raises Undecodable."""
    try:
        data = zstandard.ZstdDecompressor().decompress(payload)
    except zstandard.ZstdError as error:
        raise Undecodable(f"payload {name} cannot be decompressed: {error}") from error
    if digest(data) != name:
        raise Undecodable(f"payload {name} is damaged: its bytes do not have that digest")
    return data


def check_out(row_json: str, fetch: Fetch) -> str:
    """The text that `check_in` replaced, verified by its digest. Raises Undecodable."""
    claim = loads(row_json, escaped=False)
    match claim:
        case {"payload": str(name), "size": int(size)} if size >= 0:
            pass
        case _:
            raise Undecodable("the row is flags as a claim check but holds none")
    compressed = fetch(name)
    # Checked before decompressing: zstd allocates as much memory as the frame header claims.
    if _frame_size(compressed) != size:
        raise Undecodable(f"payload {name} is damaged: it does not have the size in its row")
    return detach(compressed, name).decode("ascii")


def _frame_size(compressed: bytes) -> int | None:
    try:
        return zstandard.frame_content_size(compressed)
    except zstandard.ZstdError:
        return None
