"""Between events and rows: the one place where values are encoded and decoded.

Columns are listed once; the append statement's arrays carry their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from agentrun.core.codec import Codec, Payload, attach, decode, encode, plain
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
_COLUMNS: dict[str, type[Array]] = {
    "run_id": UUIDS,
    "seq": INT8S,
    "head": BOOLS,
    "epoch": INT8S,
    "worker": TEXTS,
    **_PLAIN,
    **_USAGE,
    "codec": INT2S,
    "input": TEXTS,
    "output": TEXTS,
    "run_status": TEXTS,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded event, ready to be sent any number of times."""

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
        return 200 + values + sum(len(payload.zstd) for payload in self.payloads)


def to_row(event: Event, run_id: UUID, seq: int, epoch: int, worker: str, shared: Shared) -> Row:
    """Encode ``event``. Called in journal order, because model requests refer to earlier text.

    Raises:
        Unserialisable: a value that JSON cannot hold; the message gives its path.
    """
    # The output first: should it not be storable, `shared` has learned nothing of this row.
    came = encode(event.output, at="output") if event.has_output else None
    given = None
    if event.has_input:
        given = encode(event.input, at="input", pack=shared.pack if _is_shared(event) else None)
        if not given.shared:
            _learn(event, given.value, shared)
    if came is not None:
        _learn(event, came.value, shared)
    payloads = [encoded.payload for encoded in (given, came) if encoded and encoded.payload]
    if event.raw is not None:
        payloads.append(attach(event.raw))
    flags = (given.as_input() if given else Codec(0)) | (came.as_output() if came else Codec(0))
    return Row(
        event,
        run_id,
        seq,
        epoch,
        worker,
        int(flags),
        given.text if given else None,
        came.text if came else None,
        tuple(payloads),
    )


def to_event(record: Mapping[str, Any], shared: Shared, fetch: Callable[[str], bytes]) -> Event:
    """Decode one row. Called in journal order; ``fetch`` gives a payload's bytes by digest."""
    flags = Codec(record["codec"])
    event = Event(
        **{name: record[name] for name in ("run_id", "seq", "epoch", "worker", "at", *_PLAIN)},
        usage=_usage(record),
        has_input=record["input"] is not None,
        has_output=record["output"] is not None,
    )
    values: dict[str, Json] = {}
    if event.has_input:
        values["input"] = decode(
            record["input"],
            Codec.INPUT_ESCAPED in flags,
            fetch if Codec.INPUT_PAYLOAD in flags else None,
            shared.unpack if Codec.INPUT_SHARED in flags else None,
        )
        if Codec.INPUT_SHARED not in flags:
            _learn(event, values["input"], shared)
    if event.has_output:
        values["output"] = decode(
            record["output"],
            Codec.OUTPUT_ESCAPED in flags,
            fetch if Codec.OUTPUT_PAYLOAD in flags else None,
        )
        _learn(event, values["output"], shared)
    return replace(event, **values) if values else event


def columns(rows: Iterable[Row]) -> dict[str, Array]:
    """The append statement's arrays. Only the last status of a run in a batch moves `runs`."""
    arrays: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    seen: set[UUID] = set()
    moved: dict[UUID, int] = {}
    for index, row in enumerate(rows):
        event, usage = row.event, row.event.usage or Usage()
        values = (
            row.run_id,
            row.seq,
            row.run_id not in seen,
            row.epoch,
            row.worker,
            *(_column(getattr(event, name)) for name in _PLAIN),
            *(getattr(usage, name) for name in _USAGE),
            row.codec,
            row.input,
            row.output,
        )
        for array, value in zip(arrays.values(), values, strict=False):
            array.append(value)
        status = status_after(event)
        arrays["run_status"].append(status)
        if status is not None:
            if row.run_id in moved:
                arrays["run_status"][moved[row.run_id]] = None
            moved[row.run_id] = index
        seen.add(row.run_id)
    return {name: _COLUMNS[name](values) for name, values in arrays.items()}


def payload_columns(payloads: Sequence[Payload]) -> dict[str, Array]:
    """The arrays of payloads that travel with rows."""
    return {
        "payload_digest": TEXTS([payload.digest for payload in payloads]),
        "payload_size": INT8S([payload.size for payload in payloads]),
        "payload_zstd": BYTEAS([payload.zstd for payload in payloads]),
    }


def _column(value: Any) -> Any:
    """Names and reasons may be anything that a model or an exception said."""
    return plain(value) if isinstance(value, str) else value


def _is_shared(event: Event) -> bool:
    """Model requests repeat the conversation; they alone are stored as references to it."""
    return event.kind == "model"


def _learn(event: Event, value: Json, shared: Shared) -> None:
    """Make a stored value available to later requests.

    Not those of `transaction` steps: their row may be rolled back with the tool's own work, and
    a reference to it would point nowhere.
    """
    if event.effect != "transaction":
        shared.learn(value)


def _usage(record: Mapping[str, Any]) -> Usage | None:
    values = {name: record[name] for name in _USAGE}
    return Usage(**values) if any(value is not None for value in values.values()) else None
