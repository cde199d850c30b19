"""What a call may cost at most, and how a request is told what a budget leaves it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest
from model_doubles import MemoryRecorder
from sayings import Saying, Server, completion

from agentrun import wrap
from agentrun.core.recorder import ModelRequest
from agentrun.models import tokens
from agentrun.models.cost_estimate import capped_fields, estimate_worst_case
from agentrun.models.usage import list_price

OPENAI = "https://api.openai.com/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "hello"}]


def asked(api: str = "chat.completions", url: str = OPENAI, **body: Any) -> ModelRequest:
    body = {"model": "gpt-4o", **body}
    return ModelRequest(api, "POST", url, body, body, False, body["model"])


def test_a_quote_is_the_list_price_of_the_longest_reply() -> None:
    found = estimate_worst_case(asked(messages=HELLO, max_completion_tokens=2_000, n=3))
    cost, source = list_price(
        OPENAI, ["gpt-4o"], {"input_tokens": found.input_tokens, "output_tokens": 6_000}
    )
    assert found.cost(2_000) == cost
    assert (found.output_tokens, found.bounded, found.replies) == (2_000, True, 3)
    assert source is not None
    assert found.how.startswith(f"{source}, tokens by ")


@pytest.mark.parametrize(
    ("api", "body", "longest", "bounded"),
    [
        ("chat.completions", {"max_tokens": 70}, 70, True),
        ("chat.completions", {"max_completion_tokens": 80, "max_tokens": 70}, 80, True),
        ("responses", {"max_output_tokens": 90}, 90, True),
        ("messages", {"model": "claude-sonnet-4-5", "max_tokens": 100}, 100, True),
        ("chat.completions", {}, 16_384, True),
        ("chat.completions", {"model": "openai/gpt-5-mini"}, 128_000, True),
        ("chat.completions", {"model": "house-7b"}, 8_192, False),
        ("embeddings", {}, 0, True),
    ],
)
def test_how_long_a_reply_may_be(
    api: str, body: dict[str, Any], longest: int, bounded: bool
) -> None:
    found = estimate_worst_case(asked(api, input="hello", **body))
    assert (found.output_tokens, found.bounded) == (longest, bounded)


def test_everything_that_is_said_counts_and_pictures_by_the_piece() -> None:
    plain = estimate_worst_case(asked(messages=HELLO)).input_tokens
    tool = {"type": "function", "function": {"name": "f", "description": "look " * 400}}
    assert estimate_worst_case(asked(messages=HELLO, tools=[tool])).input_tokens > plain + 300
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 900_000}}
    shown = [{"role": "user", "content": [picture]}]
    assert 3_000 < estimate_worst_case(asked(messages=shown)).input_tokens < 3_100


def test_without_a_table_the_estimate_is_stated_and_generous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    byte = (lambda text: -(-len(text.encode()) // 4), "bytes/4")
    monkeypatch.setattr(tokens, "_counter", lambda encoding: byte)
    found = estimate_worst_case(asked(messages=[{"role": "user", "content": "語" * 1000}]))
    assert found.how.endswith("tokens by bytes/2")
    assert 1_500 < found.input_tokens < 1_600


def test_input_that_goes_into_a_cache_costs_more() -> None:
    url = "https://api.anthropic.com/v1/messages"
    found = estimate_worst_case(
        asked("messages", url, model="claude-sonnet-4-5", max_tokens=9, messages=HELLO)
    )
    plain, _ = list_price(url, ["claude-sonnet-4-5"], {"input_tokens": found.input_tokens})
    assert found.input_cost is not None
    assert plain is not None
    assert found.input_cost > plain


def test_an_unknown_model_has_no_price_and_counting_is_free() -> None:
    assert estimate_worst_case(asked(model="house-7b", messages=HELLO)).cost(1) is None
    assert estimate_worst_case(asked("messages.count_tokens", messages=HELLO)).cost(0) == Decimal(0)


@pytest.mark.parametrize(
    ("api", "url", "body", "field"),
    [
        ("chat.completions", OPENAI, {}, "max_completion_tokens"),
        ("chat.completions", OPENAI, {"max_tokens": 9}, "max_tokens"),
        ("chat.completions", "http://localhost/v1", {"model": "house-7b"}, "max_tokens"),
        ("responses", OPENAI, {}, "max_output_tokens"),
        ("messages", OPENAI, {"max_tokens": 9}, "max_tokens"),
    ],
)
def test_where_a_limit_is_said(api: str, url: str, body: dict[str, Any], field: str) -> None:
    request = asked(api, url, **body)
    told = request.body | capped_fields(request, 5)
    assert told == {**request.body, field: 5}


def test_what_is_sent_is_capped_and_what_is_recorded_is_not(
    server: Server, recorder: MemoryRecorder
) -> None:
    reply = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": []}
    server.say(Saying.json({**reply, "usage": {"input_tokens": 1, "output_tokens": 1}}))
    recorder.next["cap"] = 50
    with wrap(anthropic.Anthropic(base_url=server.url, api_key="k")) as client, recorder.active():
        client.messages.create(model="c", max_tokens=90, messages=HELLO)
    ((_, headers, body),) = server.requests
    assert json.loads(body)["max_tokens"] == 50
    assert int(headers["content-length"]) == len(body)
    assert "anthropic-version" in headers
    assert recorder.step.request.body["max_tokens"] == 90


def test_a_request_that_fits_is_sent_as_it_is(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json(completion()))
    with wrap(openai.OpenAI(base_url=server.url, api_key="k")) as client, recorder.active():
        client.chat.completions.create(model="m", messages=HELLO)
    assert "max_tokens" not in json.loads(server.requests[0][2])
