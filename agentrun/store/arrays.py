"""Array parameters in Postgres's binary format, each with a fixed type.

psycopg derives an array's type from its elements: small integers, large integers and a list of
None have three different types. So a statement with thirty arrays would hardly ever match a
prepared statement. Here the column determines the type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = Struct("!iiIii")  # dimensions, has null, element type, length, lower bound
_LENGTH = Struct("!i")
_NULL = _LENGTH.pack(-1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Array:
    """The values of one column. Each subclass has one element type."""

    element: int  # oid
    oid: int
    encode: Callable[[Any], bytes]

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values

    def dump(self) -> bytes:
        """The array in Postgres's binary format."""
        if not self.values:
            return _HEADER.pack(0, 0, self.element, 0, 1)[:12]
        encode, length = type(self).encode, _LENGTH.pack
        parts = [_HEADER.pack(1, 1, self.element, len(self.values), 1)]
        known: dict[Any, bytes] = {None: _NULL}  # most columns have few different values
        for value in self.values:
            part = known.get(value)
            if part is None:
                data = encode(value)
                part = known[value] = length(len(data)) + data
            parts.append(part)
        return b"".join(parts)


def _type(name: str, encode: Callable[[Any], bytes]) -> type[Array]:
    info = psycopg.adapters.types[name]

    class Typed(Array):
        element, oid = info.oid, info.array_oid

    Typed.encode = staticmethod(encode)

    class TypedDumper(Dumper):
        oid, format = info.array_oid, Format.BINARY

        def dump(self, obj: Array) -> bytes:
            return obj.dump()

    psycopg.adapters.register_dumper(Typed, TypedDumper)
    return Typed


def _text(value: str) -> bytes:
    return value.encode()


def _timestamp(value: datetime) -> bytes:
    return _int8((value - _EPOCH) // _MICROSECOND)


_int8 = Struct("!q").pack

UUIDS = _type("uuid", lambda value: value.bytes)
INT8S = _type("int8", _int8)
INT4S = _type("int4", Struct("!i").pack)
INT2S = _type("int2", Struct("!h").pack)
BOOLS = _type("bool", Struct("!?").pack)
TEXTS = _type("text", _text)
BYTEAS = _type("bytea", bytes)
TIMESTAMPS = _type("timestamptz", _timestamp)
DECIMALS = _type("text", lambda value: str(value).encode())  # the statement casts to numeric
