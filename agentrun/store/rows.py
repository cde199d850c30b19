"""Encode events as journal rows and decode rows as events. No other module does either.

`JOURNAL_COLUMNS` lists the columns once. The parameters of the append statements have their names;
``tests/store/test_journal_columns.py`` compares the list with the table and with the statements.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias
from uuid import UUID

from agentrun.core.codec import (
    LIMIT,
    Codec,
    Encoded,
    Payload,
    SealedValue,
    Undecodable,
    attach,
    decode,
    decode_exact,
    encode,
    plain,
    seal,
    unseal,
)
from agentrun.core.events import Event, Json, Usage
from agentrun.core.secrets import Masker, mask
from agentrun.core.sharing import Packed, Shared
from agentrun.core.state import status_after
from agentrun.core.summary import last_message
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
from agentrun.store.exact_values import ExactValue

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
    "cache_write_tokens": INT4S,
    "cache_lost_tokens": INT4S,
    "reasoning_tokens": INT4S,
    "audio_tokens": INT4S,
    "cost": DECIMALS,
    "cache_lost": DECIMALS,
    "priced_by": TEXTS,
}
# All columns that a row has, with the type in which each is sent.
JOURNAL_COLUMNS: dict[str, type[Array]] = {
    "run_id": UUIDS,
    "seq": INT8S,
    "epoch": INT8S,
    "worker": TEXTS,
    "masked": TEXTS,
    "parked_for": TEXTS,
    **_PLAIN,
    **_USAGE,
    "codec": INT2S,
    "input": TEXTS,
    "output": TEXTS,
}
_FIRST_OF_EVENT = list(JOURNAL_COLUMNS).index("event")
_COLUMNS: dict[str, type[Array]] = {**JOURNAL_COLUMNS, "run_status": TEXTS, "message": TEXTS}


# These read the columns' values of an event and of its usage, in the order of the columns.
_of_event = attrgetter(*_PLAIN)
_of_usage = attrgetter(*_USAGE)
_NO_USAGE = (None,) * len(_USAGE)
# The columns that are read back unchanged. The flags are plain integers, as enum flags are slow.
_READ = ("run_id", "seq", "epoch", "worker", "at", "masked", "parked_for", *_PLAIN)
_usage_of = itemgetter(*_USAGE)
_INPUT_ESCAPED, _OUTPUT_ESCAPED = int(Codec.INPUT_ESCAPED), int(Codec.OUTPUT_ESCAPED)
_INPUT_PAYLOAD, _OUTPUT_PAYLOAD = int(Codec.INPUT_PAYLOAD), int(Codec.OUTPUT_PAYLOAD)
_INPUT_SHARED = int(Codec.INPUT_SHARED)
_INPUT_MASKED, _OUTPUT_MASKED = int(Codec.INPUT_MASKED), int(Codec.OUTPUT_MASKED)
# Columns with text of a person, a model or an exception, which Postgres may not be able to store.
_FREE_TEXT = [
    list(_PLAIN).index(name) for name in ("name", "ident", "key", "status", "by", "reason")
]
_MODEL = list(_PLAIN).index("model")


@dataclass(slots=True)
class Row:
    """One encoded event. It never changes, so it can be sent any number of times."""

    event: Event
    run_id: UUID
    seq: int
    epoch: int
    worker: str
    codec: int
    input: str | None
    output: str | None
    payloads: tuple[Payload, ...]
    masked: str | None = None
    exact: tuple[ExactValue, ...] = ()
    message: str | None = None  # for the summary of the run

    @property
    def size(self) -> int:
        """The approximate number of bytes that are sent."""
        values = len(self.input or "") + len(self.output or "")
        payloads = [len(payload.zstd) for payload in self.payloads if payload.blob is None]
        exact = [len(value.exact.zstd) for value in self.exact]
        return 200 + values + sum(payloads) + sum(exact)

    def values(self) -> tuple[Any, ...]:
        """The columns of the row."""
        usage = self.event.usage
        return (
            self.run_id,
            self.seq,
            self.epoch,
            self.worker,
            self.masked,
            self.event.parked_for,
            *_plain(_of_event(self.event)),
            *(_of_usage(usage) if usage is not None else _NO_USAGE),
            self.codec,
            self.input,
            self.output,
        )


# The inputs of steps in flight, by step number, and their encoding. The outcome of a step repeats
# the input of its intent, which is then not encoded again.
OpenInputs: TypeAlias = dict[int | None, tuple[Json, Encoded]]


def to_row(
    event: Event,
    run_id: UUID,
    seq: int,
    epoch: int,
    worker: str,
    shared: Shared,
    open_inputs: OpenInputs | None = None,
    mask: Masker = mask,
) -> Row:
    """Encode an event. Call it in journal order, because model requests refer to earlier texts.

    Raises:
        Unserialisable: a value cannot be stored as JSON; the message gives its path.
    """
    # The output comes first: if it cannot be stored, `shared` has learned nothing of this row.
    output = encode(event.output, at="output", mask=mask) if event.has_output else None
    opened = {} if open_inputs is None else open_inputs
    input_ = _encode_input(event, shared, opened, mask) if event.has_input else None
    if output is not None:
        _learn_encoded(event, output, shared)
    payloads = [encoded.payload for encoded in (input_, output) if encoded and encoded.payload]
    exact = _exact_values(seq, input_, output)
    if event.raw is not None and event.raw_name is None:
        payloads.append(attach(event.raw))
    elif event.raw is not None and event.raw_name is not None:
        exact.append(ExactValue("raw", event.raw_name, seal(event.raw)))
    payloads += map(attach, event.attached)
    flags = int(input_.as_input() if input_ else 0) | int(output.as_output() if output else 0)
    return Row(
        event,
        run_id,
        seq,
        epoch,
        worker,
        flags,
        input_.text if input_ else None,
        output.text if output else None,
        tuple(payloads),
        _masked_counts(input_, output),
        tuple(exact),
        _message(event, output),
    )


def _message(event: Event, output: Encoded | None) -> str | None:
    """The message that the summary of the run shows from now on; None if it stays."""
    message = last_message(event, output.shown) if output is not None else None
    return None if message is None else plain(message)


def _exact_values(seq: int, input_: Encoded | None, output: Encoded | None) -> list[ExactValue]:
    """The exact values of the row at ``seq``."""
    exact = []
    if input_ is not None and input_.exact is not None:
        exact.append(ExactValue("input", str(seq), input_.exact))
    if output is not None and output.exact is not None:
        exact.append(ExactValue("output", str(seq), output.exact))
    return exact


def _masked_counts(input_: Encoded | None, output: Encoded | None) -> str | None:
    """How many secrets of a row are masked, as JSON; None if there are none."""
    counts = {}
    if input_ is not None and input_.masked:
        counts["input"] = input_.masked
    if output is not None and output.masked:
        counts["output"] = output.masked
    return json.dumps(counts) if counts else None


def _encode_input(event: Event, shared: Shared, open_inputs: OpenInputs, mask: Masker) -> Encoded:
    """Encode the input, unless it is the very value that the intent of this step has encoded."""
    value, known = open_inputs.pop(event.step, (None, None))
    if known is not None and value is event.input:
        return known
    pack = shared.pack_both if _is_shared(event) else None
    encoded = encode(event.input, at="input", pack=pack, mask=mask)
    if pack is None:
        _learn_encoded(event, encoded, shared)
        if event.event == "attempt_started":
            open_inputs[event.step] = event.input, encoded
    return encoded


def _learn_encoded(event: Event, encoded: Encoded, shared: Shared) -> None:
    if event.effect == "transaction":
        return
    large = encoded.payload is not None
    if encoded.exact is None:
        _learn(event.effect, encoded.value, encoded.text, encoded.escaped, large, shared)
        return
    shared.split()
    _learn_exact(encoded.exact, encoded.value, shared)
    _learn_one(encoded.shown, encoded.text, encoded.escaped, large, shared.shown)


class Reader:
    """Decodes the rows of one run, in journal order.

    ``fetch`` returns a payload's bytes by digest. With ``exact``, the run's exact values by part
    and name, the events are as the agent's code saw them. Without it, they are as people see them.
    ``shared`` is the table of texts that later model requests may refer to.
    """

    def __init__(
        self,
        fetch: Callable[[str], bytes],
        exact: Mapping[tuple[str, str], SealedValue] | None = None,
    ) -> None:
        self.shared = Shared()
        self._fetch = fetch
        self._exact = exact
        # The inputs of steps in flight, stored and decoded. A step's outcome repeats its input.
        self._open_inputs: dict[int, tuple[str, Json]] = {}

    def event(self, record: Mapping[str, Any]) -> Event:
        """Decode the next row."""
        flags, text = record["codec"], record["output"]
        packed = None
        if record["input"] is not None and flags & _INPUT_SHARED:
            packed, input_ = self._receive(record), None
        else:
            input_ = None if record["input"] is None else self._decode_input(record)
        output = None
        if text is not None:
            escaped, large = bool(flags & _OUTPUT_ESCAPED), bool(flags & _OUTPUT_PAYLOAD)
            output = decode(text, escaped, self._fetch if large else None)
            if flags & _OUTPUT_MASKED and self._exact is not None:
                exact = self._exact_value(record, "output")
                output = self._unmask(record["effect"], exact, output, text, escaped, large)
            else:
                _learn(record["effect"], output, text, escaped, large, self.shared)
        event = Event(
            **{name: record[name] for name in _READ},
            usage=usage_in(record),
            input=input_,
            output=output,
            has_input=record["input"] is not None,
            has_output=text is not None,
        )
        if packed is not None:
            event.keep_packed(packed)
        return event

    def _decode_input(self, record: Mapping[str, Any]) -> Json:
        text, flags, step = record["input"], record["codec"], record["step"]
        known_text, known = self._open_inputs.pop(step, (None, None))
        masked = bool(flags & _INPUT_MASKED) and self._exact is not None
        if known_text == text and not masked:
            return known
        escaped, large = bool(flags & _INPUT_ESCAPED), bool(flags & _INPUT_PAYLOAD)
        value = decode(text, escaped, self._fetch if large else None)
        if masked:
            exact = self._exact_value(record, "input")
            return self._unmask(record["effect"], exact, value, text, escaped, large)
        _learn(record["effect"], value, text, escaped, large, self.shared)
        if record["event"] == "attempt_started" and not (escaped or large):
            self._open_inputs[step] = text, value
        return value

    def _exact_value(self, record: Mapping[str, Any], part: str) -> SealedValue:
        exact = (self._exact or {}).get((part, str(record["seq"])))
        if exact is None:
            raise Undecodable(
                f"the exact {part} of row {record['seq']} is not in agentrun.exact_values"
            )
        return exact

    def _unmask(
        self,
        effect: str | None,
        exact: SealedValue,
        shown: Json,
        text: str,
        escaped: bool,
        large: bool,
    ) -> Json:
        """Decode the exact value of a masked one. Later requests may refer to texts of either."""
        value = decode_exact(exact)
        if effect != "transaction":
            self.shared.split()
            _learn_exact(exact, value, self.shared)
            _learn_one(shown, text, escaped, large, self.shared.shown)
        return value

    def _receive(self, record: Mapping[str, Any]) -> Packed:
        """The request of a model call, whose references to earlier texts stay as they are."""
        text, flags = record["input"], record["codec"]
        escaped, large = bool(flags & _INPUT_ESCAPED), bool(flags & _INPUT_PAYLOAD)
        shown = decode(text, escaped, self._fetch if large else None)
        masked = bool(flags & _INPUT_MASKED) and self._exact is not None
        if masked:
            self.shared.split()
        if self.shared.shown is not self.shared:
            self.shared.shown.receive(shown)
        if masked:
            return self.shared.receive(decode_exact(self._exact_value(record, "input")))
        return self.shared.receive(shown)


def usage_in(record: Mapping[str, Any]) -> Usage | None:
    """The tokens and the price in a row that was read; None if it has none."""
    usage = _usage_of(record)
    return None if usage == _NO_USAGE else Usage(**dict(zip(_USAGE, usage, strict=True)))


def usage_columns(usage: Usage | None) -> dict[str, Any]:
    """The tokens and the price by column, to be written."""
    return dict(zip(_USAGE, _NO_USAGE if usage is None else _of_usage(usage), strict=True))


def columns(rows: Sequence[Row]) -> dict[str, Array]:
    """The array parameters of the append statement.

    Only the last status of a run in a batch changes the table `runs`. A column that is NULL in
    every row is sent as an empty array, since `unnest` fills shorter arrays with NULL.
    """
    values = zip(*[row.values() for row in rows], strict=True)
    arrays = {
        name: _array(name, column) for name, column in zip(JOURNAL_COLUMNS, values, strict=True)
    }
    arrays["head"] = BOOLS(_heads(rows))
    arrays["run_status"] = _array("run_status", _statuses(rows))
    arrays["message"] = _array("message", [row.message for row in rows])
    return arrays


def as_text(row: Row) -> list[str | None]:
    """The event's columns of a row, as the text parameters of `append_plain` in their order."""
    return [None if value is None else str(value) for value in row.values()[_FIRST_OF_EVENT:]]


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
    """For each row, the run's new status if this is the last row that changes it, else None."""
    statuses: list[str | None] = [status_after(row.event) for row in rows]
    moved: set[UUID] = set()
    for index in range(len(rows) - 1, -1, -1):
        if statuses[index] is not None:
            if rows[index].run_id in moved:
                statuses[index] = None
            moved.add(rows[index].run_id)
    return statuses


def payload_columns(payloads: Sequence[Payload]) -> dict[str, Array]:
    """The array parameters for payloads."""
    return {
        "payload_digest": TEXTS([payload.digest for payload in payloads]),
        "payload_size": INT8S([payload.size for payload in payloads]),
        "payload_zstd": BYTEAS([None if payload.blob else payload.zstd for payload in payloads]),
        "payload_blob": TEXTS([payload.blob for payload in payloads]),
    }


def _plain(values: tuple[Any, ...]) -> Sequence[Any]:
    """Make names and reasons storable: a model or an exception may have put anything in them.

    All are checked at once, because hardly ever is there anything to change.
    """
    text = "\n".join([value for n in _FREE_TEXT if (value := values[n])])
    if values[_MODEL] is None and plain(text) == text:
        return values
    return [plain(value) if isinstance(value, str) else value for value in values]


def _is_shared(event: Event) -> bool:
    """Whether the input is stored as references to earlier texts.

    Only model requests are, since each repeats the conversation so far.
    """
    return event.kind == "model"


def _learn(
    effect: str | None, value: Json, text: str, escaped: bool, large: bool, shared: Shared
) -> None:
    """Let later model requests refer to a stored value. A ``large`` one is not in the row's text.

    Values of `transaction` steps are left out: their row may be rolled back with the tool's work,
    and a reference to it would have no target.
    """
    if effect == "transaction":
        return
    _learn_one(value, text, escaped, large, shared)
    if shared.shown is not shared:
        _learn_one(value, text, escaped, large, shared.shown)


def _learn_one(value: Json, text: str, escaped: bool, large: bool, shared: Shared) -> None:
    if large:
        shared.learn(value)
    else:
        shared.learn_later(text, escaped)


def _learn_exact(exact: SealedValue, value: Json, shared: Shared) -> None:
    if exact.size > LIMIT:
        shared.learn(value)
    else:
        shared.learn_later(unseal(exact).decode("ascii"), exact.escaped)
