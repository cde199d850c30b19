"""A failed run keeps its evidence: the request, the reply, the step, and the line that failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from sayings import Saying, Server, completion

import agentrun
from agentrun.core.codec import LIMIT
from agentrun.core.pauses import Backoff
from agentrun.core.sharing import Packed
from agentrun.core.transcript import fold
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply
from agentrun.view.jsonl import read_jsonl, write_jsonl

PAGE = "<html>bad gateway</html>"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("agentrun.models.retries.BACKOFF", Backoff(0.0, 0.0))
    with Server() as server:
        yield server


def client_of(server: Any) -> openai.OpenAI:
    url = server.url if isinstance(server, Server) else server.base_url
    return agentrun.wrap(openai.OpenAI(base_url=url, api_key="k"))


def ask(client: openai.OpenAI, messages: list[Any], **more: Any) -> Any:
    made = client.chat.completions.create(model="gpt-5-mini", messages=messages, **more)
    return made.choices[0].message


@agentrun.tool(effect="read")
def weigh(parcel: str) -> int:
    return _weight(parcel)


def _weight(parcel: str) -> int:
    return int(json.loads(parcel))  # here


@agentrun.agent
def weighs_parcels(parcel: str) -> int:
    try:
        return weigh(parcel)
    except ValueError:
        return 0


@agentrun.agent
def needs_the_weight(parcel: str) -> int:
    return weigh(parcel)


def line_of(text: str) -> str:
    lines = Path(__file__).read_text("utf-8").splitlines()
    return str(next(n for n, line in enumerate(lines, 1) if text in line))


def test_the_error_of_a_tool_names_the_line_of_its_code(db: Any) -> None:
    """json raised it, but no line of json is at fault."""
    assert weighs_parcels.with_options(key="k").run("{") == 0
    transcript = agentrun.transcript("k")
    (step,) = transcript.steps
    assert step.error is not None
    assert step.failure_site == f"{__file__}:{line_of('# here')} in _weight"
    assert step.error.traceback is not None
    assert "in raw_decode" in step.error.traceback
    assert "# here" in step.error.traceback
    assert (transcript.error, transcript.failed_step) == (None, None)
    described = transcript.to_dict()["entries"][0]["error"]
    assert described["traceback"] == step.error.traceback


def test_the_error_of_a_run_names_its_step_and_line(db: Any) -> None:
    with pytest.raises(agentrun.RunFailed):
        needs_the_weight.with_options(key="k").run("{")
    transcript = agentrun.transcript("k")
    assert transcript.failed_step == 1
    assert transcript.to_dict()["failed_step"] == 1
    assert transcript.error is not None
    assert (transcript.error.site or "").startswith(f"{__file__}:")


def test_a_reply_that_the_agent_could_not_read_is_the_step_that_failed(db: Any) -> None:
    with Provider(script=["no JSON at all"]) as provider:
        client = client_of(provider)

        @agentrun.agent(name="reads JSON")
        def reads_json() -> Any:
            return json.loads(ask(client, [{"role": "user", "content": "JSON, please"}]).content)

        with pytest.raises(agentrun.RunFailed):
            reads_json.with_options(key="k").run()
    transcript = agentrun.transcript("k")
    (step,) = transcript.steps
    assert (step.status, transcript.failed_step) == ("ok", step.step)
    assert step.reply["choices"][0]["message"]["content"] == "no JSON at all"
    assert step.request == {"model": "gpt-5-mini",
                            "messages": [{"role": "user", "content": "JSON, please"}]}  # fmt: skip


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_reply_that_is_no_json_can_be_read(db: Any, told: Server, size: int) -> None:
    page = PAGE * size
    told.say(*[Saying((page.encode(),), headers=(("content-type", "text/html"),))] * 3)
    client = client_of(told)

    @agentrun.agent(name="asks a gateway")
    def asks() -> Any:
        return ask(client, [{"role": "user", "content": "hi"}]).content

    with pytest.raises(agentrun.RunFailed):
        asks.with_options(key="k").run()
    transcript = agentrun.transcript("k")
    (step,) = transcript.steps
    assert transcript.failed_step == step.step
    whole = f"{page[:LIMIT]}… (the beginning of {len(page)} bytes)"
    assert step.reply == (page if len(page) <= LIMIT else whole)
    stored = fold(read_jsonl(write_jsonl(read_events(db, find_run(db, "k").run_id)[0])))
    assert stored.steps[0].reply == step.reply


def test_a_secret_in_a_reply_that_is_no_json_is_masked(db: Any, told: Server) -> None:
    secret = "sk-proj-" + "Ab3dEf6hIj9k" * 4
    told.say(*[Saying((f"denied for {secret}".encode(),))] * 3)
    client = client_of(told)

    @agentrun.agent(name="is denied")
    def denied() -> Any:
        return ask(client, [{"role": "user", "content": "hi"}]).content

    with pytest.raises(agentrun.RunFailed):
        denied.with_options(key="k").run()
    reply = agentrun.transcript("k").steps[0].reply
    assert reply.startswith("denied for ")
    assert secret not in reply


def test_a_resume_builds_no_request_again(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compares requests by their fingerprints, and hands out recorded replies."""
    turns = 12
    script: list[Any] = [Reply(tool_calls=[Call("weigh", {"parcel": str(n)})])
                         for n in range(turns)]  # fmt: skip
    ends: list[bool] = []
    with Provider(script=[*script, "done", "done"]) as provider:
        client = client_of(provider)

        @agentrun.agent(name="talks at length")
        def talks() -> str:
            messages: list[Any] = [{"role": "user", "content": "weigh them " * 20}]
            while True:
                message = ask(client, messages, tools=agentrun.schemas(weigh))
                messages.append(message.model_dump(exclude_none=True))
                if not message.tool_calls:
                    break
                messages += agentrun.call_tools(message, [weigh])
            if not ends:
                ends.append(True)
                raise RuntimeError("at the end")
            return str(ask(client, messages).content)

        with pytest.raises(agentrun.RunFailed):
            talks.with_options(key="k").run()
        built: list[Packed] = []
        unpack = Packed.unpack

        def counted(packed: Packed) -> Any:
            built.append(packed)
            return unpack(packed)

        monkeypatch.setattr(Packed, "unpack", counted)
        assert agentrun.resume("k") == "done"
        assert not built
        assert provider.billed() == turns + 2
    monkeypatch.undo()
    asked = [step.request for step in agentrun.transcript("k").steps if step.kind == "model"]
    assert [len(body["messages"]) for body in asked] == [*range(1, 2 * turns + 2, 2), 2 * turns + 2]
    assert asked[0]["tools"] == asked[-2]["tools"] == agentrun.schemas(weigh)


def test_an_honest_reply_has_no_second_copy(db: Any, told: Server) -> None:
    told.say(Saying.json(completion("hello")))
    client = client_of(told)

    @agentrun.agent(name="greets")
    def greets() -> Any:
        return ask(client, [{"role": "user", "content": "hi"}]).content

    assert greets.with_options(key="k").run() == "hello"
    output = agentrun.transcript("k").steps[0].output
    assert "text" not in output
    assert "raw" not in output
