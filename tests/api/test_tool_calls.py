"""`call_tools` and `schemas`: whatever a model sends is answered, recorded and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from enum import Enum
from typing import Any, Literal

import pytest
from crashing import until
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun.testing import Call, Provider, Reply


@agentrun.tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first
            of them
        b: the second
    """
    return a + b


@agentrun.tool
def fail() -> None:
    raise ValueError("out of stock")


@agentrun.tool
def weigh(x: Any) -> Any:
    return x


@agentrun.agent
def loop(client_url: str) -> list[Any]:
    client = agentrun.wrap(OpenAI(base_url=client_url, api_key="k"))
    messages: list[Any] = [{"role": "user", "content": "go"}]
    while True:
        completion = client.chat.completions.create(
            model="gpt-5-mini", messages=messages, tools=agentrun.schemas(add, fail)
        )
        reply = completion.choices[0].message
        messages.append(reply.model_dump(exclude_none=True))
        if not reply.tool_calls:
            return messages
        messages += agentrun.call_tools(completion, [add, fail, weigh])


def answers(messages: list[Any]) -> list[str]:
    return [m["content"] for m in messages if m["role"] == "tool"]


def test_calls_are_validated_performed_and_answered(db: Any, provider: Provider) -> None:
    provider.say([
        Reply(tool_calls=[Call("add", {"a": 2, "b": 3}), Call("add", {"a": 2, "b": None}),
                          Call("fail")]),
        "done",
    ])  # fmt: skip
    told = answers(loop.run(provider.base_url))
    assert told == ["5", "3", json.dumps({"error": "ValueError: out of stock"})]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (Call("nobody", {}), "there is no tool 'nobody'; tools: add, fail, weigh"),
        (Call("add", "{not json"), "not valid JSON"),
        (Call("add", "[1]"), "must be a JSON object"),
        (Call("add", {"a": "many"}), "a: Input should be a valid integer"),
        (Call("add", {"a": 1, "c": 2}), "c: Extra inputs are not permitted"),
        (Call("\x00bad", {}), "there is no tool"),
        (Call("weigh", '{"x": NaN}'), "weigh: the arguments cannot be recorded: "),
        (Call("weigh", '{"x": -1e999}'), "is -Infinity, which JSON cannot hold"),
        (Call("weigh", '{"x": %s}' % ("[" * 250 + "]" * 250)), "more than 200 levels deep"),
        (Call("weigh", '{"x": %s}' % ("[" * 300 + "]" * 300)), "the arguments cannot be recorded"),
    ],
)
def test_a_call_that_cannot_be_made_is_recorded_and_told(
    db: Any, provider: Provider, call: Call, says: str, events: Any
) -> None:
    provider.say([Reply(tool_calls=[call]), "sorry"])
    (told,) = answers(loop.with_options(key="k").run(provider.base_url))
    assert says in json.loads(told)["error"]
    (outcome,) = [e for e in events("k") if e.event == "step_finished" and e.kind == "tool"]
    assert (outcome.status, outcome.ident) == ("error", "1#0")
    assert str(agentrun.transcript("k"))


@pytest.mark.parametrize("ids", [["", ""], [None, None], ["same", "same"]])
def test_empty_missing_and_repeated_call_ids(db: Any, provider: Provider, ids: list[Any]) -> None:
    provider.say([
        Reply(tool_calls=[Call("add", {"a": n}, id=id_) for n, id_ in enumerate(ids)]),
        Reply(tool_calls=[Call("add", {"a": n}, id=id_) for n, id_ in enumerate(ids)]),
        "done",
    ])  # fmt: skip
    completion_loop = agentrun.agent(name="ids")(_ids)
    assert completion_loop.run(provider.base_url) == [["1", "2"], ["1", "2"]]


def _ids(url: str) -> list[list[str]]:
    """A double refuses a history with such ids, as the provider does: ask anew each time."""
    client = agentrun.wrap(OpenAI(base_url=url, api_key="k"))
    told = []
    for _ in range(2):
        reply = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "go"}]
        )
        told.append(answers(agentrun.call_tools(reply, [add])))
    return told


def test_malformed_calls_are_bounded(db: Any, provider: Provider) -> None:
    provider.say([Reply(tool_calls=[Call("add", "{")])] * 10)
    with pytest.raises(agentrun.RunFailed, match="4 replies in a row"):
        loop.run(provider.base_url)
    assert provider.billed() == 4


def test_async_tools_are_gathered(db: Any, provider: Provider) -> None:
    running: list[int] = []

    @agentrun.tool
    async def wait(n: int) -> int:
        running.append(n)
        while len(running) < 3:
            await asyncio.sleep(0.001)
        return n

    provider.say([Reply(tool_calls=[Call("wait", {"n": n}) for n in range(3)])])

    @agentrun.agent
    async def aloop() -> list[str]:
        async with AsyncOpenAI(base_url=provider.base_url, api_key="k") as client:
            reply = await agentrun.wrap(client).chat.completions.create(
                model="m", messages=[{"role": "user", "content": "go"}]
            )
        return answers(await agentrun.acall_tools(reply, [wait, add]))

    assert aloop.run() == ["0", "1", "2"]


def test_calls_that_were_cancelled_before_they_began_keep_no_run_from_parking(
    db: Any, provider: Provider
) -> None:
    provider.say([Reply(tool_calls=[Call("act", {"n": 1})])])

    @agentrun.tool(effect="idempotent")
    async def act(n: int) -> int:
        return n

    @agentrun.agent
    async def run() -> str:
        ask: Any = [{"role": "user", "content": "go"}]
        async with agentrun.wrap(AsyncOpenAI(base_url=provider.base_url, api_key="k")) as client:
            create = client.chat.completions.create
            reply = await create(model="m", messages=ask, tools=agentrun.schemas(act))
        calls = asyncio.ensure_future(agentrun.acall_tools(reply, [act]))
        await asyncio.sleep(0)  # it has begun, and its own tasks have not
        calls.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calls
        return str(await agentrun.areceive("go"))

    handle = run.with_options(key="k").submit()
    with agentrun.Worker([run]):
        until(lambda: handle.status() == "waiting")
        agentrun.send("k", "go", "gone")
        assert handle.result(timeout=30) == "gone"


def test_async_tools_in_call_tools_name_the_twin() -> None:
    @agentrun.tool
    async def wait() -> None: ...

    message = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "wait"}}]}
    with pytest.raises(agentrun.ConfigError, match="acall_tools"):
        agentrun.call_tools(message, [wait])


def test_outside_a_run_tools_are_plain() -> None:
    message = {"role": "assistant", "tool_calls": [
        {"id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}},
    ]}  # fmt: skip
    assert agentrun.call_tools(message, [add]) == [
        {"role": "tool", "tool_call_id": "1", "content": "2"}
    ]


def test_what_is_no_reply_is_refused() -> None:
    with pytest.raises(agentrun.ConfigError, match="not str"):
        agentrun.call_tools("hello", [add])


# -- schemas -------------------------------------------------------------------------------------


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


def test_a_schema_is_strict_and_described() -> None:
    (schema,) = agentrun.schemas(add)
    assert schema == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "the first of them"},
                    "b": {"anyOf": [{"type": "integer"}, {"type": "null"}],
                          "description": "the second"},
                },
                "required": ["a", "b"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }  # fmt: skip


def test_the_idempotency_key_is_left_out() -> None:
    @agentrun.tool(effect="idempotent")
    def pay(cents: int, idempotency_key: str = "") -> None: ...

    parameters = agentrun.schemas(pay)[0]["function"]["parameters"]
    assert list(parameters["properties"]) == ["cents"]


def test_nested_types_and_free_objects() -> None:
    @agentrun.tool
    def typed(size: Size, mode: Literal["a", "b"], many: list[int]) -> None: ...

    @agentrun.tool
    def free(options: dict[str, Any]) -> None: ...

    strict, loose = agentrun.schemas(typed, free)
    assert strict["function"]["strict"] is True
    assert "strict" not in loose["function"]
    json.dumps([strict, loose])


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(agentrun.ConfigError, match="two tools are named 'add'"):
        agentrun.schemas(add, add)
    with pytest.raises(agentrun.ConfigError, match="not a tool"):
        agentrun.schemas(len)  # type: ignore[arg-type]


# -- the other reply types -------------------------------------------------------------------------

RESPONSE: dict[str, Any] = {
    "object": "response",
    "status": "completed",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "fail", "arguments": "{}"},
    ],
}
MESSAGE: dict[str, Any] = {
    "type": "message",
    "role": "assistant",
    "stop_reason": "tool_use",
    "content": [
        {"type": "text", "text": "I add."},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "fail", "input": {}},
    ],
}
OUT_OF_STOCK = json.dumps({"error": "ValueError: out of stock"})


def test_a_response_is_answered_with_function_call_outputs() -> None:
    assert agentrun.call_tools(RESPONSE, [add, fail]) == [
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {"type": "function_call_output", "call_id": "c2", "output": OUT_OF_STOCK},
    ]


def test_an_anthropic_message_is_answered_with_one_user_message() -> None:
    (told,) = agentrun.call_tools(MESSAGE, [add, fail])
    assert told == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": "2"},
            {
                "type": "tool_result",
                "tool_use_id": "c2",
                "content": OUT_OF_STOCK,
                "is_error": True,
            },
        ],
    }


@pytest.mark.parametrize(
    "reply", [{"output": []}, {"content": [], "type": "message"}, {"content": "hi"}]
)
def test_a_reply_without_calls_has_no_answer(reply: dict[str, Any]) -> None:
    assert agentrun.call_tools(reply, [add]) == []


@pytest.mark.parametrize(
    "reply",
    [
        {
            "choices": [
                {
                    "finish_reason": "length",
                    "message": {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "add", "arguments": "{"}}],
                    },
                }
            ]
        },
        {
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [{"type": "function_call", "name": "add", "arguments": "{"}],
        },
        {
            "stop_reason": "max_tokens",
            "content": [{"type": "tool_use", "name": "add", "input": "{"}],
        },
    ],
    ids=["chat", "responses", "anthropic"],
)
def test_a_call_that_was_cut_off_is_told_so(reply: dict[str, Any]) -> None:
    assert "cut off at its length limit" in json.dumps(agentrun.call_tools(reply, [add]))


def test_the_three_apis_describe_the_same_tool() -> None:
    (chat,), (responses,), (anthropic,) = (
        agentrun.schemas(add, api=api) for api in ("chat", "responses", "anthropic")
    )
    assert responses == {"type": "function", **chat["function"]}
    assert anthropic == {
        "name": "add",
        "description": "Add two numbers.",
        "input_schema": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "the first of them"},
                "b": {"type": "integer", "default": 1, "description": "the second"},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
    }


def test_what_cannot_be_strict_says_so_where_strict_is_the_default() -> None:
    @agentrun.tool
    def free(options: dict[str, Any]) -> None: ...

    assert agentrun.schemas(free, api="responses")[0]["strict"] is False


def test_an_unknown_api_is_refused() -> None:
    with pytest.raises(agentrun.ConfigError, match="one of 'chat', 'responses', 'anthropic'"):
        agentrun.schemas(add, api="gemini")  # type: ignore[arg-type]
