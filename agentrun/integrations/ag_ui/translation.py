"""Turns the journal of a run, and texts that are still being written, into events of AG-UI.

The events are a function of the journal and of the place up to which the client has read. So a
client that comes back gets what follows, from any process, and nothing of it twice. Only the cut of
a text into pieces depends on time.

One durable run is several AG-UI runs: one ends where the run is held for a person or has ended, and
the next begins with the row after that. A text that was sent and that the reply then does not have,
since another attempt wrote another one, is replaced by MESSAGES_SNAPSHOT.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from ag_ui.core import (
    PROTOCOL_VERSION,
    AssistantMessage,
    BaseEvent,
    FunctionCall,
    Message,
    MessagesSnapshotEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
)

from agentrun.core.events import Event, Json
from agentrun.core.folding import Fold
from agentrun.core.history import listed_steps
from agentrun.core.messages import reply_messages, request_messages
from agentrun.integrations.ag_ui.interrupts import (
    OpenRequests,
    clean_text,
    describe_interrupts,
)
from agentrun.integrations.ag_ui.positions import LAST, Position, SentText
from agentrun.store.partials import Partial

__all__ = ["SentEvent", "Translation"]

_RUN_EVENTS = {"created", "parked", "run_finished", "run_failed", "run_cancelled"}
_COUNTS = {  # of TokenUsage, and of our `Usage`
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "cached_input_tokens": "cached_tokens",
    "cache_write_input_tokens": "cache_write_tokens",
}


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event of AG-UI, and the id by which a client says that it has read up to here."""

    id: str
    event: BaseEvent


class Translation:
    """The events of one AG-UI run, from a place on. Take the journal from its first row.

    ``messages`` is the conversation that the client sent, which a snapshot repeats.
    """

    def __init__(
        self,
        run: UUID,
        *,
        thread_id: str,
        run_id: str,
        first_run_id: str,
        messages: Sequence[Message] = (),
        after: Position | None = None,
    ) -> None:
        self._name = run.hex[:12]
        self._thread_id, self._run_id, self._first_run_id = thread_id, run_id, first_run_id
        self._after = self._place = after or Position(0)
        self._conversation = messages
        self._agent = ""
        self._seq = 0  # of the last row
        self._texts: dict[int, SentText] = {}
        self._calls: dict[str, str] = {}  # ids of the tool calls of replies, by ident of the call
        self._call_of: dict[int, str] = {}  # ids of tool calls, by the step that makes them
        self._provider_ids: dict[str, str] = {}  # ids of tool calls, by the provider's id
        self._results: dict[str, int] = {}  # how many results a tool call has
        self._requests = OpenRequests()
        self._aside: set[int] = set()  # steps that a divergence set aside
        self._writing: set[int] = set()  # model calls without an outcome
        self._open_steps: dict[int, str] = {}  # steps without STEP_FINISHED, by number
        self._active = False  # RUN_STARTED was sent, and nothing that ends the run
        self.ended = False  # the AG-UI run has ended in an event that was handed on
        self._begin()

    def _begin(self) -> None:
        """Forget what belongs to the AG-UI run that has ended."""
        self._messages: list[tuple[int, Message]] = []  # with their steps
        self._unanswered: dict[str, int] = {}  # tool calls without a result, with their steps
        self._usage: dict[str | None, dict[str, int]] = {}
        self._texts.clear()
        self._open_steps.clear()

    @property
    def expects_text(self) -> bool:
        """Whether a model call is under way, so that partial texts may come."""
        return bool(self._writing) and self._seq >= self._after.seq

    def take(self, rows: Iterable[Event], partials: Iterable[Partial] = ()) -> Iterator[SentEvent]:
        """The events of the next rows, and then of the texts as they are by now."""
        for row in rows:
            yield from self._take_row(row)
            if self.ended:
                return
        if self._seq >= self._after.seq:
            for partial in partials:
                if partial.step in self._writing:
                    yield from self._send_text(partial.step, _text_of(partial.body), final=False)

    # -- rows --------------------------------------------------------------------------------------

    def _take_row(self, row: Event) -> Iterator[SentEvent]:
        if row.seq == self._after.seq:
            self._texts = dict(self._after.texts)
        is_reply = row.kind == "model" and row.event == "step_finished"
        if is_reply and row.seq > self._after.seq and row.step is not None:
            yield from self._send_text(row.step, _reply_text(row), final=True)
        self._seq = row.seq
        events = list(self._events_of(row))
        for slot, event in enumerate(events):
            last = slot == len(events) - 1
            if last:
                self._finish_row(row, event)
            if not self._after.covers(row.seq, LAST if last else slot):
                self._place = Position(row.seq, LAST if last else slot, self._texts)
                yield SentEvent(str(self._place), event)
        if not events:
            self._finish_row(row, None)
        if row.seq >= self._after.seq:
            self._place = Position(row.seq, LAST, self._texts)

    def _finish_row(self, row: Event, last: BaseEvent | None) -> None:
        """Forget what the row has ended: texts, or the AG-UI run."""
        for step in self._aside & self._texts.keys():
            del self._texts[step]
        if row.kind == "model" and row.event == "step_finished":
            self._texts.pop(row.step or 0, None)
        if isinstance(last, RunFinishedEvent | RunErrorEvent):
            self._active = False
            self.ended = not self._after.covers(row.seq, LAST)
            self._begin()

    def _events_of(self, row: Event) -> Iterator[BaseEvent]:
        """The events that a row makes, whether or not the client has read them."""
        if not self._active:
            self._active = True
            yield RunStartedEvent(
                thread_id=self._thread_id, run_id=self._run_id, protocol_version=PROTOCOL_VERSION
            )
        self._requests.add(row)
        if row.event in _RUN_EVENTS:
            yield from self._run_event(row)
        elif row.event in ("diverged", "step_reused"):
            yield from self._set_aside(row)
        elif row.kind == "tool" and row.step is not None:
            yield from self._tool_call(row, row.step)
        elif row.step is not None and row.event == "attempt_started":
            yield from self._begin_step(row, row.step)
        elif row.step is not None and row.event == "step_finished":
            yield from self._end_step(row, row.step)

    def _run_event(self, row: Event) -> Iterator[BaseEvent]:
        if row.event == "created":
            self._agent = row.name or ""
        elif row.event == "run_failed":
            failed = Fold()
            failed.add(row)
            text = failed.error.message if failed.error else row.reason
            code = failed.error.type if failed.error else None
            usage = self._usage_so_far()
            yield RunErrorEvent(message=_clean(text) or "the run failed", code=code, usage=usage)
        elif row.event == "run_finished":
            yield from self._close()
            pending = [call for call, step in self._unanswered.items() if step not in self._aside]
            yield self._finish(
                RunFinishedSuccessOutcome(pending_tool_call_ids=pending or None), row.output
            )
        elif row.event == "run_cancelled":
            yield from self._close()
            yield self._finish(RunFinishedCancelledOutcome())
        elif row.event == "parked" and row.status == "held":
            yield from self._close()
            interrupts = describe_interrupts(
                self._first_run_id, self._agent, row, self._requests, self._call_of
            )
            yield self._finish(RunFinishedInterruptOutcome(interrupts=interrupts))

    def _finish(self, outcome: Any, result: Json = None) -> RunFinishedEvent:
        return RunFinishedEvent(
            thread_id=self._thread_id,
            run_id=self._run_id,
            outcome=outcome,
            result=_clean(result),
            usage=self._usage_so_far(),
        )

    def _close(self) -> Iterator[BaseEvent]:
        """Close what is open, as the protocol wants it before RUN_FINISHED."""
        for step, text in self._texts.items():
            if text.state == "open":
                yield self._end_of_text(step)
        for name in self._open_steps.values():
            yield StepFinishedEvent(step_name=name)

    # -- steps -------------------------------------------------------------------------------------

    def _begin_step(self, row: Event, step: int) -> Iterator[BaseEvent]:
        if row.kind == "model":
            self._writing.add(step)
            yield from self._results_in_request(row)
        if step not in self._open_steps:
            self._open_steps[step] = f"{step}: {row.name or row.kind}"
            yield StepStartedEvent(step_name=self._open_steps[step])

    def _end_step(self, row: Event, step: int) -> Iterator[BaseEvent]:
        self._writing.discard(step)
        if step not in self._open_steps:
            self._open_steps[step] = f"{step}: {row.name or row.kind}"
            yield StepStartedEvent(step_name=self._open_steps[step])
        if row.kind == "model":
            self._count(row)
            yield from self._reply(row, step)
        yield StepFinishedEvent(step_name=self._open_steps.pop(step))

    def _reply(self, row: Event, step: int) -> Iterator[BaseEvent]:
        """The end of a reply's text, and the tool calls that it asks for."""
        text = _reply_text(row)
        message_id = self._message_id(step)
        if text:
            yield TextMessageEndEvent(message_id=message_id)
        calls = [call for message in _reply_of(row) for call in message.calls]
        made = []
        for index, call in enumerate(calls):
            call_id = f"call_{self._name}_{step}_{index}"
            self._calls[f"{row.ident}#{index}"] = call_id
            if call.id:
                self._provider_ids[call.id] = call_id
            made.append(_tool_call(call_id, call.name, call.arguments))
            yield from self._announce(made[-1], step, message_id)
        if text or made:
            message = AssistantMessage(id=message_id, content=text or None, tool_calls=made or None)
            self._messages.append((step, message))

    def _announce(self, call: ToolCall, step: int, parent: str | None) -> Iterator[BaseEvent]:
        self._unanswered[call.id] = step
        yield ToolCallStartEvent(
            tool_call_id=call.id, tool_call_name=call.function.name, parent_message_id=parent
        )
        if call.function.arguments:
            yield ToolCallArgsEvent(tool_call_id=call.id, delta=call.function.arguments)
        yield ToolCallEndEvent(tool_call_id=call.id)

    # -- tool calls --------------------------------------------------------------------------------

    def _tool_call(self, row: Event, step: int) -> Iterator[BaseEvent]:
        """A call of a reply gets its result; a call of the agent's own code is announced before."""
        if step not in self._call_of:
            call_id = self._calls.get(row.ident or "")
            if call_id is None:
                call_id = f"call_{self._name}_{step}"
                args = row.input.get("args") if isinstance(row.input, dict) else None
                call = _tool_call(call_id, row.name or "", json.dumps(args, ensure_ascii=False))
                self._messages.append((step, AssistantMessage(id=call_id, tool_calls=[call])))
                yield from self._announce(call, step, None)
            self._call_of[step] = call_id
        if row.event == "step_finished":
            yield from self._result(step, self._call_of[step], _result_text(row.output))

    def _result(self, step: int, call_id: str, text: str) -> Iterator[BaseEvent]:
        self._unanswered.pop(call_id, None)
        # A call that failed has a second result if the run was resumed and made it again.
        number = self._results[call_id] = self._results.get(call_id, 0) + 1
        result_id = f"result_{call_id}" + (f"_{number}" if number > 1 else "")
        text = _clean(text)
        self._messages.append((step, ToolMessage(id=result_id, content=text, tool_call_id=call_id)))
        yield ToolCallResultEvent(
            message_id=result_id, tool_call_id=call_id, content=text, role="tool"
        )

    def _results_in_request(self, row: Event) -> Iterator[BaseEvent]:
        """Results of calls that are no recorded steps: the next request shows them to the model."""
        if not self._unanswered or not isinstance(row.input, dict):
            return
        found: dict[str, str] = {}  # the last message counts: a model may repeat an id
        for message in request_messages(row.input.get("body")):
            if message.role == "tool" and message.call_id:
                found[message.call_id] = message.text
        for provider_id, text in found.items():
            call_id = self._provider_ids.get(provider_id)
            if call_id in self._unanswered:
                yield from self._result(row.step or 0, call_id, text)

    # -- texts -------------------------------------------------------------------------------------

    def _send_text(self, step: int, text: str, *, final: bool) -> Iterator[SentEvent]:
        """What the client lacks of a text. ``final``: it is the text of the outcome.

        A text that is shorter than what was sent is no reason to replace that: another attempt
        writes it anew, and may come to the same.
        """
        sent = self._texts.get(step, SentText())
        differs = final or len(text) >= sent.length
        if sent.state == "open" and differs and not sent.begins(text):
            yield self._note(step, replace(sent, state="closed"), self._end_of_text(step))
            sent = self._texts[step]
        if sent.state == "closed":
            new = SentText(sent.version + 1)
            yield self._note(step, new, self._snapshot())
            sent = new
        if sent.state == "new":
            if not text:
                self._texts.pop(step, None)
                return
            sent = SentText.of(sent.version, "")
            self._texts[step] = sent
            start = TextMessageStartEvent(message_id=self._message_id(step), role="assistant")
            yield self._note(step, sent, start)
        if len(text) > sent.length:
            content = TextMessageContentEvent(
                message_id=self._message_id(step), delta=text[sent.length :]
            )
            yield self._note(step, SentText.of(sent.version, text), content)

    def _note(self, step: int, sent: SentText, event: BaseEvent) -> SentEvent:
        self._texts[step] = sent
        self._place = replace(self._place, texts=self._texts)
        return SentEvent(str(self._place), event)

    def _end_of_text(self, step: int) -> BaseEvent:
        return TextMessageEndEvent(message_id=self._message_id(step))

    def _message_id(self, step: int) -> str:
        version = self._texts[step].version if step in self._texts else 0
        return f"msg_{self._name}_{step}" + (f"_{version}" if version else "")

    # -- what is replaced --------------------------------------------------------------------------

    def _set_aside(self, row: Event) -> Iterator[BaseEvent]:
        """Steps whose messages count no more, or again."""
        before = self._shown()
        if row.event == "diverged":
            self._aside |= listed_steps(row, "set_aside")
            self._writing -= self._aside
        else:
            self._aside -= listed_steps(row, "steps")
        gone = [step for step in self._texts if step in self._aside]
        for step in gone:
            if self._texts[step].state == "open":
                yield self._end_of_text(step)
        if gone or self._shown() != before:
            yield self._snapshot()

    def _snapshot(self) -> MessagesSnapshotEvent:
        return MessagesSnapshotEvent(messages=[*self._conversation, *self._shown()])

    def _shown(self) -> list[Message]:
        return [message for step, message in self._messages if step not in self._aside]

    # -- usage -------------------------------------------------------------------------------------

    def _count(self, row: Event) -> None:
        if row.usage is None:
            return
        counts = self._usage.setdefault(row.model, {})
        for theirs, ours in _COUNTS.items():
            if (number := getattr(row.usage, ours)) is not None:
                counts[theirs] = counts.get(theirs, 0) + number

    def _usage_so_far(self) -> list[TokenUsage] | None:
        found = []
        for model, counts in self._usage.items():
            total = counts.get("input_tokens", 0) + counts.get("output_tokens", 0)
            sums = {**counts, "model": model, "total_tokens": total}
            found.append(TokenUsage.model_validate(sums))
        return found or None


def _reply_of(row: Event) -> list[Any]:
    body = row.output.get("body") if isinstance(row.output, dict) else None
    return reply_messages(body) if row.status in ("ok", "abandoned") else []


def _reply_text(row: Event) -> str:
    return _join_texts(_reply_of(row))


def _text_of(body: Json) -> str:
    return _join_texts(reply_messages(body))


def _join_texts(messages: Iterable[Any]) -> str:
    texts = [message.text for message in messages if message.role != "reasoning"]
    return clean_text("\n".join(filter(None, texts)))


def _tool_call(call_id: str, name: str, arguments: str) -> ToolCall:
    function = FunctionCall(name=_clean(name), arguments=_clean(arguments))
    return ToolCall(id=call_id, function=function)


def _result_text(output: Json) -> str:
    """What a tool call returned, as the model reads it."""
    if isinstance(output, dict) and isinstance(output.get("error"), dict):
        value: Json = {"error": output["error"].get("message")}
    else:
        value = output.get("result") if isinstance(output, dict) else output
    return str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _clean(value: Any) -> Any:
    """A JSON value without lone surrogates."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return value
