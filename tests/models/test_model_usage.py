"""What a reply says that it used is read by its shape; the price follows tier, cache and maker."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agentrun.core.recorder import ModelRequest
from agentrun.models.usage import cost_of_lost_cache, usage_of

HOST = "http://127.0.0.1:1/v1/anything"


def asked(api: str = "chat.completions", model: str | None = None, **body: Any) -> ModelRequest:
    return ModelRequest(api, "POST", HOST, body, body, False, model)


def of(body: dict[str, Any], api: str = "chat.completions", model: str | None = None, **more: Any):  # type: ignore[no-untyped-def]
    usage = usage_of(asked(api, model, **more), body)
    assert usage is not None
    return usage


CHAT = {"prompt_tokens": 1000, "completion_tokens": 100}
COUNTS: list[tuple[str, Any, tuple[int | None, ...]]] = [
    # input, output, read, written, reasoning
    ("chat", {"usage": CHAT}, (1000, 100, None, None, None)),
    (
        "chat with a cache",
        {"usage": {**CHAT, "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 3}}},
        (1000, 100, 7, 3, None),
    ),
    (
        "responses",
        {
            "usage": {
                "input_tokens": 10,
                "output_tokens": 5,
                "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
                "output_tokens_details": {"reasoning_tokens": 2},
            }
        },
        (10, 5, 4, 1, 2),
    ),
    (
        "anthropic",
        {
            "usage": {
                "input_tokens": 50,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 30,
                "output_tokens": 9,
            }
        },
        (180, 9, 100, 30, None),
    ),
    (
        "converse",
        {
            "usage": {
                "inputTokens": 50,
                "outputTokens": 9,
                "cacheReadInputTokens": 100,
                "cacheWriteInputTokens": 30,
            }
        },
        (180, 9, 100, 30, None),
    ),
    (
        "gemini",
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "candidatesTokenCount": 20,
                "thoughtsTokenCount": 5,
                "cachedContentTokenCount": 40,
                "toolUsePromptTokenCount": 7,
            }
        },
        (107, 25, 40, None, 5),
    ),
    ("ollama", {"prompt_eval_count": 26, "eval_count": 9, "done": True}, (26, 9, None, None, None)),
    (
        "deepseek",
        {"usage": {**CHAT, "prompt_cache_hit_tokens": 600, "prompt_cache_miss_tokens": 400}},
        (1000, 100, 600, None, None),
    ),
    ("embeddings", {"usage": {"prompt_tokens": 8, "total_tokens": 8}}, (8, None, None, None, None)),
    (
        "images",
        {"usage": {"input_tokens": 50, "output_tokens": 4160, "input_tokens_details": {}}},
        (50, 4160, None, None, None),
    ),
    (
        "cohere",
        {"usage": {"billed_units": {"input_tokens": 5.0, "output_tokens": 2.0}, "tokens": {}}},
        (5, 2, None, None, None),
    ),
    (
        "cohere v1",
        {"meta": {"billed_units": {"input_tokens": 5, "output_tokens": 2}}},
        (5, 2, None, None, None),
    ),
]


@pytest.mark.parametrize(("name", "body", "counts"), COUNTS)
def test_counts_are_read_by_the_shape_of_the_reply(name: str, body: Any, counts: Any) -> None:
    used = of(body, api="whatever")
    found = (
        used.input_tokens,
        used.output_tokens,
        used.cached_tokens,
        used.cache_write_tokens,
        used.reasoning_tokens,
    )
    assert found == counts


# By the list of genai-prices, for a thousand input and a hundred output tokens.
PRICED: list[tuple[str, str]] = [
    ("gpt-5-mini", "0.00045"),
    ("openai/gpt-5-mini", "0.00045"),
    ("mistral-large-latest", "0.0026"),
    ("claude-sonnet-4-5", "0.0045"),
    ("anthropic/claude-sonnet-4.5", "0.0045"),
    ("gemini-2.5-flash", "0.00055"),
]


@pytest.mark.parametrize(("model", "cost"), PRICED)
def test_any_makers_models_over_chat_completions_are_priced(model: str, cost: str) -> None:
    assert of({"model": model, "usage": CHAT}).cost == Decimal(cost)


def test_a_bedrock_model_is_priced_as_amazon_lists_it() -> None:
    body = {"usage": {"inputTokens": 1000, "outputTokens": 0}}
    used = of(body, "converse", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert used.cost == Decimal("0.0033")


def anthropic(**used: Any) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-5",
        "usage": {"input_tokens": 0, "output_tokens": 0, **used},
    }


def test_cache_writes_cost_more_than_plain_input_and_reads_less() -> None:
    plain = of(anthropic(input_tokens=1000), "messages").cost
    read = of(anthropic(cache_read_input_tokens=1000), "messages").cost
    wrote = of(
        anthropic(
            cache_creation_input_tokens=1000,
            cache_creation={"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 0},
        ),
        "messages",
    ).cost
    hour = of(
        anthropic(
            cache_creation_input_tokens=1000,
            cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 1000},
        ),
        "messages",
    ).cost
    assert plain == Decimal("0.003")
    assert read == plain / 10
    assert wrote == plain * Decimal("1.25")
    assert hour == plain * 2


def test_a_lost_cache_costs_the_difference_to_a_read_one() -> None:
    cold = anthropic(cache_creation_input_tokens=1000, input_tokens=5)
    assert cost_of_lost_cache(asked("messages"), cold, 1000) == Decimal("0.00345")
    plain = anthropic(input_tokens=1005)
    assert cost_of_lost_cache(asked("messages"), plain, 1000) == Decimal("0.0027")


def test_what_openrouter_says_is_the_cost() -> None:
    usage = {**CHAT, "cost": 0.0123}
    used = of({"model": "gpt-5-mini", "usage": usage})
    assert used.cost == Decimal("0.0123")
    assert "OpenRouter" in str(used.priced_by)
    own_key = {**usage, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}
    assert of({"usage": own_key}).cost == Decimal("0.0323")


@pytest.mark.parametrize(
    ("tier", "cost"), [("flex", "0.000225"), ("priority", "0.00081"), ("default", "0.00045")]
)
def test_service_tiers_have_their_own_price(tier: str, cost: str) -> None:
    body = {"model": "gpt-5-mini", "usage": CHAT, "service_tier": tier}
    assert of(body).cost == Decimal(cost)
    assert of({"model": "gpt-5-mini", "usage": CHAT}, service_tier=tier).cost == Decimal(cost)


def test_the_tier_that_answered_counts_and_not_the_one_asked_for() -> None:
    body = {"model": "gpt-5-mini", "usage": CHAT, "service_tier": "default"}
    assert of(body, service_tier="flex").cost == Decimal("0.00045")


def test_anthropics_batches_cost_half() -> None:
    assert of(anthropic(input_tokens=1000, service_tier="batch"), "messages").cost == Decimal(
        "0.0015"
    )


def test_a_tier_that_the_list_does_not_know_is_unpriced_and_says_why() -> None:
    used = of(anthropic(input_tokens=1000, service_tier="priority"), "messages")
    assert used.cost is None
    assert "priority" in str(used.priced_by)
    assert used.input_tokens == 1000


def test_a_model_at_home_is_not_priced_as_at_its_maker() -> None:
    body = {"model": "deepseek-chat", "prompt_eval_count": 1000, "eval_count": 100}
    assert of(body, "ollama.chat").cost is None


def test_a_price_by_the_second_needs_the_seconds() -> None:
    unknown = of({"usage": {"prompt_tokens": 1000}}, "audio.transcriptions", "whisper-1")
    assert unknown.cost is None
    minute = {"usage": {"type": "duration", "seconds": 60}}
    assert of(minute, "audio.transcriptions", "whisper-1").cost == Decimal("0.006")


def test_what_is_known_to_be_free_costs_nothing_and_the_unknown_is_no_usage() -> None:
    assert of({"input_tokens": 9}, "messages.count_tokens").cost == 0
    assert of({"id": "file-1"}, "files").cost == 0
    assert usage_of(asked("batches"), {"id": "batch_1"}) is None
    assert usage_of(asked("brand.new"), None) is None


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "many",
        {},
        {"prompt_tokens": "9"},
        {"prompt_tokens": True, "completion_tokens": -1},
        {"cost": "free"},
        {"cost": True},
        {"prompt_tokens": 1 << 40, "prompt_tokens_details": [1]},
        {"cache_creation_input_tokens": 5, "cache_creation": "odd"},
    ],
)
def test_a_strange_usage_object_costs_nobody_the_reply(usage: Any) -> None:
    usage_of(asked(), {"model": "gpt-5-mini", "usage": usage})
