"""Between events and rows: the one place where values are encoded and decoded.

Columns are listed once; the append statement's arrays carry their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias
from uuid import UUID

from agentrun.core.codec import Codec, Encoded, Payload, attach, decode, encode, plain
from agentrun.core.events import Event, Json, Usage
from agentrun.core.sharing import Shared
from agentrun.core.state import status_after
from agentrun.store.arrays import (
    BOOLS,
    BYTEAS,
    DECIMALS,
    INT2S,
    INT4S,
    INT8S,
    TEXTS,
    TIMESTAMPS,
    UUIDS,
    Array,
)

# Columns that are an Event's own fields, under the same name.
_PLAIN: dict[str, type[Array]] = {
    "event": TEXTS,
    "step": INT4S,
    "turn": INT4S,
    "kind": TEXTS,
    "name": TEXTS,
    "ident": TEXTS,
    "attempt": INT4S,
    "effect": TEXTS,
    "key": TEXTS,
    "status": TEXTS,
    "started_at": TIMESTAMPS,
    "fingerprint": TEXTS,
    "overlapping": BOOLS,
    "model": TEXTS,
    "by": TEXTS,
    "reason": TEXTS,
    "wake_at": TIMESTAMPS,
}
_USAGE: dict[str, type[Array]] = {
    "input_tokens": INT4S,
    "output_tokens": INT4S,
    "cached_tokens": INT4S,
    "reasoning_tokens": INT4S,
    "audio_tokens": INT4S,
    "cost": DECIMALS,
    "priced_by": TEXTS,
}
_STORED: dict[str, type[Array]] = {
    "run_id": UUIDS,
    "seq": INT8S,
    "epoch": INT8S,
    "worker": TEXTS,
    **_PLAIN,
    **_USAGE,
    "codec": INT2S,
    "input": TEXTS,
    "output": TEXTS,
}
_ITS_OWN = list(_STORED).index("event")
_COLUMNS: dict[str, type[Array]] = {**_STORED, "run_status": TEXTS}


# What a row holds of an event itself, in the order of the columns.
_of_event = attrgetter(*_PLAIN)
_of_usage = attrgetter(*_USAGE)
_NO_USAGE = (None,) * len(_USAGE)
# Columns that a person, a model or an exception may have filled.
_SAID = [list(_PLAIN).index(name) for name in ("name", "ident", "key", "status", "by", "reason")]
_SAID_OF_MODEL = list(_PLAIN).index("model")


@dataclass(slots=True)
class Row:
    """One encoded event, ready to be sent any number of times; never changed."""

    event: Event
    run_id: UUID
    seq: int
    epoch: int
    worker: str
    codec: int
    input: str | None
    output: str | None
    payloads: tuple[Payload, ...]

    @property
    def size(self) -> int:
        """About how many bytes travel."""
        values = len(self.input or "") + len(self.output or "")
        payloads = [len(payload.zstd) for payload in self.payloads if payload.blob is None]
        return 200 + values + sum(payloads)

    def values(self) -> tuple[Any, ...]:
        """The row as the append statement takes it, but for `head` and `run_status`."""
        usage = self.event.usage
        return (
            self.run_id,
            self.seq,
            self.epoch,
            self.worker,
            *_plain(_of_event(self.event)),
            *(_of_usage(usage) if usage is not None else _NO_USAGE),
            self.codec,
            self.input,
            self.output,
        )


# Arguments of steps under way, by number, and how they are stored: their outcomes repeat them.
Asked: TypeAlias = dict[int | None, tuple[Json, Encoded]]


def to_row(
    event: Event,
    run_id: UUID,
    seq: int,
    epoch: int,
    worker: str,
    shared: Shared,
    asked: Asked | None = None,
) -> Row:
    """Encode ``event``. Called in journal order, because model requests refer to earlier text.

    Raises:
        Unserialisable: a value that JSON cannot hold; the message gives its path.
    """
    # The output first: should it not be storable, `shared` has learned nothing of this row.
    came = encode(event.output, at="output") if event.has_output else None
    given = _given(event, shared, {} if asked is None else asked) if event.has_input else None
    if came is not None:
        _learn_encoded(event, came, shared)
    payloads = [encoded.payload for encoded in (given, came) if encoded and encoded.payload]
    if event.raw is not None:
        payloads.append(attach(event.raw))
    flags = int(given.as_input() if given else 0) | int(came.as_output() if came else 0)
    return Row(
        event,
        run_id,
        seq,
        epoch,
        worker,
        flags,
        given.text if given else None,
        came.text if came else None,
        tuple(payloads),
    )


def _given(event: Event, shared: Shared, asked: Asked) -> Encoded:
    """The encoded input; an outcome that repeats that of its intent is not encoded again."""
    value, known = asked.pop(event.step, (None, None))
    if known is not None and value is event.input:
        return known
    pack = shared.pack if _is_shared(event) else None
    given = encode(event.input, at="input", pack=pack)
    if pack is None:
        _learn_encoded(event, given, shared)
        if event.event == "attempt_started":
            asked[event.step] = event.input, given
    return given


def _learn_encoded(event: Event, encoded: Encoded, shared: Shared) -> None:
    large = encoded.payload is not None
    _learn(event.effect, encoded.value, encoded.text, encoded.escaped, large, shared)


def to_event(record: Mapping[str, Any], shared: Shared, fetch: Callable[[str], bytes]) -> Event:
    """Decode one row. Called in journal order; ``fetch`` gives a payload's bytes by digest."""
    flags, effect = Codec(record["codec"]), record["effect"]
    given = came = None
    if (text := record["input"]) is not None:
        escaped, large = Codec.INPUT_ESCAPED in flags, Codec.INPUT_PAYLOAD in flags
        is_shared = Codec.INPUT_SHARED in flags
        unpack = shared.unpack if is_shared else None
        given = decode(text, escaped, fetch if large else None, unpack)
        if not is_shared:
            _learn(effect, given, text, escaped, large, shared)
    if (text := record["output"]) is not None:
        escaped, large = Codec.OUTPUT_ESCAPED in flags, Codec.OUTPUT_PAYLOAD in flags
        came = decode(text, escaped, fetch if large else None)
        _learn(effect, came, text, escaped, large, shared)
    return Event(
        **{name: record[name] for name in ("run_id", "seq", "epoch", "worker", "at", *_PLAIN)},
        usage=_usage(record),
        input=given,
        output=came,
        has_input=record["input"] is not None,
        has_output=record["output"] is not None,
    )


def columns(rows: Sequence[Row]) -> dict[str, Array]:
    """The append statement's arrays. Only the last status of a run in a batch moves `runs`.

    A column that is NULL in every row is an empty array: `unnest` fills up what is shorter.
    """
    values = zip(*[row.values() for row in rows], strict=True)
    arrays = {name: _array(name, column) for name, column in zip(_STORED, values, strict=True)}
    arrays["head"] = BOOLS(_heads(rows))
    arrays["run_status"] = _array("run_status", _statuses(rows))
    return arrays


def as_text(row: Row) -> list[str | None]:
    """What `append_plain` takes of a row, in its order: the columns of the event itself."""
    return [None if value is None else str(value) for value in row.values()[_ITS_OWN:]]


def _array(name: str, values: Sequence[Any]) -> Array:
    return _COLUMNS[name](() if values.count(None) == len(values) else values)


def _heads(rows: Sequence[Row]) -> list[bool]:
    """Which rows are the first of their run in the batch."""
    seen: set[UUID] = set()
    heads = []
    for row in rows:
        heads.append(row.run_id not in seen)
        seen.add(row.run_id)
    return heads


def _statuses(rows: Sequence[Row]) -> list[str | None]:
    """The status of a run at the last row that changes it, None elsewhere."""
    statuses: list[str | None] = [status_after(row.event) for row in rows]
    moved: set[UUID] = set()
    for index in range(len(rows) - 1, -1, -1):
        if statuses[index] is not None:
            if rows[index].run_id in moved:
                statuses[index] = None
            moved.add(rows[index].run_id)
    return statuses


def payload_columns(payloads: Sequence[Payload]) -> dict[str, Array]:
    """The arrays of payloads that travel with rows."""
    return {
        "payload_digest": TEXTS([payload.digest for payload in payloads]),
        "payload_size": INT8S([payload.size for payload in payloads]),
        "payload_zstd": BYTEAS([None if payload.blob else payload.zstd for payload in payloads]),
        "payload_blob": TEXTS([payload.blob for payload in payloads]),
    }


def _plain(values: tuple[Any, ...]) -> Sequence[Any]:
    """Names and reasons may be anything that a model or an exception said.

    One look at them all together: hardly ever is there anything to change.
    """
    said = "\n".join([value for n in _SAID if (value := values[n])])
    if values[_SAID_OF_MODEL] is None and plain(said) == said:
        return values
    return [plain(value) if isinstance(value, str) else value for value in values]


def _is_shared(event: Event) -> bool:
    """Model requests repeat the conversation; they alone are stored as references to it."""
    return event.kind == "model"


def _learn(
    effect: str | None, value: Json, text: str, escaped: bool, large: bool, shared: Shared
) -> None:
    """Make a stored value available to later requests; a ``large`` one is not in its row's text.

    Not those of `transaction` steps: their row may be rolled back with the tool's own work, and
    a reference to it would point nowhere.
    """
    if effect == "transaction":
        return
    if large:
        shared.learn(value)
    else:
        shared.learn_later(text, escaped)


def _usage(record: Mapping[str, Any]) -> Usage | None:
    values = {name: record[name] for name in _USAGE}
    return Usage(**values) if any(value is not None for value in values.values()) else None
