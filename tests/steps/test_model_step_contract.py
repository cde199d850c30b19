"""What everything that implements `core.recorder.ModelStep` must do, as the transport relies on it.

There are two implementations: the step of a durable run, and the one in memory on which the tests
of the transport stand. A double that did something else would prove nothing about the transport.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from model_doubles import MemoryRecorder, MemoryStep

import agentrun
from agentrun.core import recorder
from agentrun.core.errors import Diverging, RunError
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.recorder import CallFailed, ModelReply, ModelRequest, ModelStep
from agentrun.steps.model_step import RecordedCall

BODY = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hello"}]}
REQUEST = ModelRequest(
    api="chat.completions",
    method="POST",
    url="http://127.0.0.1/v1/chat/completions",
    body=BODY,
    canonical=BODY,
    stream=False,
    model="gpt-5-mini",
)
ANSWER = b'{"id": "c-1",  "choices": [{"message": {"role": "assistant", "content": "hi"}}]}'
REPLY = ModelReply(
    status=200,
    headers=(("content-type", "application/json"), ("x-request-id", "r-1")),
    raw=ANSWER,
    body={"id": "c-1", "choices": [{"message": {"role": "assistant", "content": "hi"}}]},
    model="gpt-5-mini",
    reason="OK",
)
PIECE = b'data: {"choices": [{"index": 0, "delta": {"content": "h"}}]}\n\n'
REPLIES = {
    "whole": REPLY,
    "compact": replace(REPLY, raw=b'{"id":"c-1"}', body={"id": "c-1"}),
    "refused": replace(REPLY, status=429, reason="Too Many Requests"),
    "abandoned": replace(REPLY, raw=PIECE, stream=True, ending="abandoned"),
    "cut": replace(REPLY, raw=PIECE, stream=True, ending="cut", error=("ReadError", "reset")),
    "no response": ModelReply(0, (), b"", None, error=("ConnectError", "refused"), reason=None),
}
FAILED = CallFailed("HTTP 500", status=500, billed=True)

Code = Callable[[Any], Flow[Any]]


class InMemory:
    """The double: a process is a recorder, and the next process has what the last one recorded."""

    kind = MemoryStep

    def __init__(self, drive: Callable[[Flow[Any]], Any]) -> None:
        self._drive = drive
        self._recorder = MemoryRecorder()

    def crash_after(self, code: Code) -> Any:
        """Run the code in a process that then ends."""
        found = self._drive(code(self._recorder))
        self._recorder = self._recorder.again()
        return found

    resume = crash_after


class InRun:
    """A durable run, whose process ends once all that it recorded is durable."""

    kind = RecordedCall

    def __init__(self, drive: Callable[[Flow[Any]], Any], reincarnate: Callable[[], Any]) -> None:
        self._drive = drive
        self._reincarnate = reincarnate

    def crash_after(self, code: Code) -> Any:
        """Run the code in a process that then ends."""
        found: list[Any] = []

        @agentrun.agent(name="contract")
        def contract() -> None:
            point: Any = recorder.current.get()
            found.append(self._drive(code(point)))
            if point.run.interrupt is None:
                point.run.database.writer.wait(point.run.append())
            raise SystemExit("the process ends")

        with pytest.raises((SystemExit, RunError)):
            contract.with_options(key="contract").run()
        self._reincarnate()
        return found[0]

    resume = crash_after


@pytest.fixture(params=["sync", "async"])
def drive(request: pytest.FixtureRequest) -> Callable[[Flow[Any]], Any]:
    if request.param == "sync":
        return run_sync
    return lambda flow: asyncio.run(run_async(flow))


@pytest.fixture(params=["in memory", "in a run"])
def process(request: pytest.FixtureRequest, drive: Callable[[Flow[Any]], Any]) -> Any:
    if request.param == "in memory":
        return InMemory(drive)
    return InRun(drive, request.getfixturevalue("reincarnate"))


def test_it_has_every_part_of_the_protocol(process: Any) -> None:
    parts = [name for name in vars(ModelStep) if not name.startswith("_")]
    fields = process.kind.__dataclass_fields__
    assert [name for name in parts if name not in fields and not hasattr(process.kind, name)] == []
    for name in parts:
        declared, own = getattr(ModelStep, name), getattr(process.kind, name, None)
        if inspect.isfunction(declared):
            assert [*inspect.signature(own).parameters] == [*inspect.signature(declared).parameters]


def test_a_new_step_has_nothing_recorded(process: Any) -> None:
    def code(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        return step.recorded, step.accepted, step.cap, step.prior_failures, step.unwanted, step.key

    *found, key = process.crash_after(code)
    assert found == [None, None, None, 0, False]
    assert key


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_a_recorded_reply_comes_back_as_it_was(process: Any, reply: ModelReply) -> None:
    def call(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        assert (yield from step.attempt()) is None, "no answer came late"
        step.publish_partial(lambda: {"choices": []})
        step.finish(reply)
        return step.key, step.unwanted

    def again(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        return step.key, step.recorded

    key, unwanted = process.crash_after(call)
    assert unwanted, "nobody waits for more of an answer that is recorded"
    assert process.resume(again) == (key, reply)
    assert process.resume(again) == (key, reply), "however often it is resumed"


def test_an_attempt_without_an_outcome_is_made_again_under_the_same_key(process: Any) -> None:
    def call(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        yield from step.attempt()
        return step.key

    def again(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        assert step.recorded is None
        assert (yield from step.attempt()) is None
        step.finish(REPLY)
        return step.key

    first = process.crash_after(call)
    assert process.resume(again) == first


def test_an_interrupted_attempt_keeps_no_outcome(process: Any) -> None:
    def call(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        yield from step.attempt()
        step.abandon_attempt()

    def again(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        return step.recorded, step.prior_failures

    process.crash_after(call)
    assert process.resume(again) == (None, 0)


def test_failed_attempts_count_after_a_crash_too(process: Any) -> None:
    def call(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        for _ in range(2):
            yield from step.attempt()
            step.record_failure(FAILED, 0.0)

    def again(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        return step.recorded, step.prior_failures

    process.crash_after(call)
    assert process.resume(again) == (None, 2)


def test_a_response_in_the_background_is_picked_up_after_a_crash(process: Any) -> None:
    def call(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        yield from step.attempt()
        yield from step.accept("resp-1")
        assert step.age >= 0.0
        return step.accepted

    def again(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        accepted = step.accepted
        yield from step.pick_up()
        yield from step.wait_to_poll(0.0, "resp-1")
        step.check()
        step.finish(REPLY)
        return accepted, step.prior_failures

    assert process.crash_after(call) == "resp-1"
    assert process.resume(again) == ("resp-1", 0)


def test_a_failed_response_in_the_background_is_picked_up_no_more(process: Any) -> None:
    def call(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        yield from step.attempt()
        yield from step.accept("resp-1")
        step.record_failure(FAILED, 0.0)
        return step.accepted

    def again(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        return step.accepted, step.prior_failures

    assert process.crash_after(call) is None
    assert process.resume(again) == (None, 1)


def test_a_provider_that_cannot_be_reached_is_given_up_when_patience_is_over(process: Any) -> None:
    def call(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        yield from step.attempt()
        return (yield from step.await_provider(CallFailed("ConnectError"), 0.0))

    assert process.crash_after(call) is None


def test_another_request_than_the_recorded_one_is_refused(process: Any) -> None:
    def call(recorder: Any) -> Flow[Any]:
        step = yield from recorder.open_model_step(REQUEST)
        yield from step.attempt()
        step.finish(REPLY)

    def again(recorder: Any) -> Flow[Any]:
        other = {**BODY, "messages": [{"role": "user", "content": "something else"}]}
        with pytest.raises(Diverging):
            yield from recorder.open_model_step(replace(REQUEST, body=other, canonical=other))

    process.crash_after(call)
    process.resume(again)
