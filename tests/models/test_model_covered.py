"""Replies whose tool calls hold what is never to be stored, in the forms that providers send."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from model_doubles import MemoryRecorder
from sayings import Saying, Server, completion

from agentrun.core.covered import ToolPaths, mask_arguments, register
from agentrun.core.errors import ConfigError
from agentrun.core.secrets import MASK
from agentrun.models import http_client
from agentrun.models.masked_replies import mask_reply

CARD = "4111 1111 1111 1111"
TOOLS = [{"type": "function", "function": {"name": "pay_by_card", "parameters": {}}}]


@pytest.fixture(autouse=True)
def paths() -> ToolPaths:
    paths = ToolPaths("pay_by_card", [("card",), ("all", "pin")], ["card", "to", "all", "n"])
    register(paths, "here")
    return paths


def sent(arguments: Any) -> dict[str, Any]:
    function = {"name": "pay_by_card", "arguments": arguments}
    told = completion(None)
    told["choices"][0]["message"]["tool_calls"] = [{"id": "c", "type": "function",
                                                    "function": function}]  # fmt: skip
    return told


def test_a_gzipped_reply_is_masked_and_its_headers_fit(
    server: Server, recorder: MemoryRecorder
) -> None:
    body = gzip.compress(json.dumps(sent(json.dumps({"card": CARD, "to": "me"}))).encode())
    headers = (("content-type", "application/json"), ("content-encoding", "gzip"))
    server.say(Saying((body,), headers=headers))
    asked = {"model": "m", "messages": [{"role": "user", "content": "pay"}], "tools": TOOLS}
    with http_client() as client:
        with recorder.active():
            live = client.post(f"{server.url}/chat/completions", json=asked)
        with recorder.again().active():
            resumed = client.post(f"{server.url}/chat/completions", json=asked)
    assert live.content == resumed.content == recorder.outcome.raw
    (call,) = live.json()["choices"][0]["message"]["tool_calls"]
    given = json.loads(call["function"]["arguments"])
    assert MASK.fullmatch(given["card"])
    assert given["to"] == "me"
    assert "content-length" not in live.headers
    assert "content-encoding" not in live.headers


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", {"toolUse": {"name": "pay_by_card", "input": {"card": CARD}}}),
        ("application/json", {"functionCall": {"name": "pay_by_card", "args": {"card": CARD}}}),
        ("application/json", sent({"all": [{"pin": CARD}, {"pin": 4111}], "card": None})),
        ("application/json", sent('{"card": "' + CARD)),
        ("application/x-ndjson", sent({"card": CARD})),
    ],
)
def test_arguments_are_masked_as_each_api_has_them(kind: str, content: Any) -> None:
    hidden = mask_reply(kind, json.dumps(content).encode() + b"\n")
    assert b"4111" not in hidden
    assert MASK.search(hidden.decode())
    json.loads(hidden)
    assert mask_reply(kind, hidden) == hidden


@pytest.mark.parametrize("between", ["\n\n", "\r\n\r\n"])
def test_pieces_of_a_stream_are_put_together(between: str) -> None:
    def delta(index: int, **function: Any) -> str:
        calls = [{"index": index, "function": function}]
        return "data: " + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})

    other = delta(1, name="other", arguments='{"ca')
    events = [delta(0, name="pay_by_card", arguments=""), delta(0, arguments='{"card": "41'), other,
              delta(0, arguments='11 1111"}'), delta(1, arguments='rd": "4"}'), "data: [DONE]",
              ""]  # fmt: skip
    hidden = mask_reply("text/event-stream", between.join(events).encode()).decode()
    assert other in hidden
    assert "11 1111" not in hidden
    pieces: dict[int, str] = {0: "", 1: ""}
    for event in hidden.split(between)[:-2]:
        (call,) = json.loads(event[6:])["choices"][0]["delta"]["tool_calls"]
        pieces[call["index"]] += call["function"]["arguments"]
    assert MASK.fullmatch(json.loads(pieces[0])["card"])
    assert json.loads(pieces[1]) == {"card": "4"}


def test_the_parameters_of_another_tool_of_that_name_are_left_alone(paths: ToolPaths) -> None:
    other = ToolPaths("pay_by_card", [], ["what"])
    register(other, "elsewhere")
    assert mask_arguments("pay_by_card", {"what": "one"}) == {"what": "one"}
    assert mask_arguments("pay_by_card", {"who": "one"}) != {"who": "one"}


def test_what_calls_no_such_tool_is_the_same_object(paths: ToolPaths) -> None:
    plain = json.dumps(completion("pay_by_card is a tool")).encode()
    assert mask_reply("application/json", plain) is plain
    stream = b'data: {"choices": []}\n\ndata: [DONE]\n\n'
    assert mask_reply("text/event-stream", stream) is stream
    with pytest.raises(ConfigError, match="Make the call without streaming"):
        mask_reply("application/vnd.amazon.eventstream", b"")
