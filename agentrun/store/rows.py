"""Between events and rows: the one place where values are encoded and decoded.

Columns are listed once; the append statement's arrays carry their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
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
# What is read back of a row; flags as plain integers, since those of an enum are slow.
_READ = ("run_id", "seq", "epoch", "worker", "at", *_PLAIN)
_usage_of = itemgetter(*_USAGE)
_INPUT_ESCAPED, _OUTPUT_ESCAPED = int(Codec.INPUT_ESCAPED), int(Codec.OUTPUT_ESCAPED)
_INPUT_PAYLOAD, _OUTPUT_PAYLOAD = int(Codec.INPUT_PAYLOAD), int(Codec.OUTPUT_PAYLOAD)
_INPUT_SHARED = int(Codec.INPUT_SHARED)
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


class Reader:
    """Decodes the rows of one run, in journal order; ``fetch`` gives a payload's bytes by digest.

    ``shared`` is the table of texts that later requests may refer to.
    """

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self.shared = Shared()
        self._fetch = fetch
        # Arguments of steps under way, as they are stored and decoded: outcomes repeat them.
        self._asked: dict[int, tuple[str, Json]] = {}

    def event(self, record: Mapping[str, Any]) -> Event:
        """Decode the next row."""
        flags, text = record["codec"], record["output"]
        given = None if record["input"] is None else self._given(record)
        came = None
        if text is not None:
            escaped, large = bool(flags & _OUTPUT_ESCAPED), bool(flags & _OUTPUT_PAYLOAD)
            came = decode(text, escaped, self._fetch if large else None)
            _learn(record["effect"], came, text, escaped, large, self.shared)
        return Event(
            **{name: record[name] for name in _READ},
            usage=usage_in(record),
            input=given,
            output=came,
            has_input=record["input"] is not None,
            has_output=text is not None,
        )

    def _given(self, record: Mapping[str, Any]) -> Json:
        text, flags, step = record["input"], record["codec"], record["step"]
        known_text, known = self._asked.pop(step, (None, None))
        if known_text == text:
            return known
        escaped, large = bool(flags & _INPUT_ESCAPED), bool(flags & _INPUT_PAYLOAD)
        fetch = self._fetch if large else None
        if flags & _INPUT_SHARED:
            return decode(text, escaped, fetch, self.shared.unpack)
        given = decode(text, escaped, fetch)
        _learn(record["effect"], given, text, escaped, large, self.shared)
        if record["event"] == "attempt_started" and not (escaped or large):
            self._asked[step] = text, given
        return given


def usage_in(record: Mapping[str, Any]) -> Usage | None:
    """What a row that was read says of tokens and price."""
    usage = _usage_of(record)
    return None if usage == _NO_USAGE else Usage(**dict(zip(_USAGE, usage, strict=True)))


def usage_columns(usage: Usage | None) -> dict[str, Any]:
    """The same, by column, to be written."""
    return dict(zip(_USAGE, _NO_USAGE if usage is None else _of_usage(usage), strict=True))


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
