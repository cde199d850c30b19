"""Estimates, before a model call, what it may use and cost at most. Works offline.

The tokens of the request are counted (`agentrun.models.tokens`). For the reply, the longest one is
assumed that the request allows. Input that the provider adds (a stored conversation, files,
searches) cannot be known here, and is not counted.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from agentrun.core.apis import (
    CHAT,
    COHERE_CHAT,
    COMPLETIONS,
    CONVERSE,
    GENERATE_CONTENT,
    IMAGE_APIS,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    RESPONSES,
)
from agentrun.core.budget import Quote
from agentrun.core.events import Json
from agentrun.core.recorder import ModelRequest
from agentrun.models.endpoints import FREE
from agentrun.models.tokens import estimate
from agentrun.models.usage import list_price

__all__ = ["capped_fields", "estimate_worst_case", "expected_tokens"]

# Fields that limit the length of a reply, each a path through objects. The first one that a request
# has counts.
LIMITS = {
    CHAT: ("max_completion_tokens", "max_tokens"),
    COMPLETIONS: ("max_tokens",),
    RESPONSES: ("max_output_tokens",),
    MESSAGES: ("max_tokens",),
    GENERATE_CONTENT: ("generationConfig.maxOutputTokens",),
    CONVERSE: ("inferenceConfig.maxTokens",),
    OLLAMA_CHAT: ("options.num_predict",),
    OLLAMA_GENERATE: ("options.num_predict",),
    COHERE_CHAT: ("max_tokens",),
}
# What one picture may take, at most, where an API makes them: no request can limit it.
PICTURE_OUTPUT_TOKENS: dict[str, int] = dict.fromkeys(IMAGE_APIS, 6_300)
# The longest reply of OpenAI's models, which refuse a larger limit; the first prefix that fits.
MODEL_LIMITS = {
    "gpt-3.5": 4_096,
    "gpt-4o": 16_384,
    "gpt-4.1": 32_768,
    "gpt-4-": 4_096,
    "gpt-4": 8_192,
    "gpt-5-chat": 16_384,
    "gpt-5": 128_000,
    "o1": 32_768,
    "o3": 100_000,
    "o4": 100_000,
}
UNKNOWN_MODEL_LIMIT = 8_192  # a limit that nearly every model accepts
TYPICAL_REPLY = 500  # tokens assumed for a reply without a limit
REQUEST_FIELDS = (
    "messages", "input", "system", "instructions", "tools", "functions", "response_format", "text",
    "prompt", "contents", "systemInstruction", "inputs", "message", "query", "documents", "texts",
)  # fmt: skip
PICTURES = ("image", "image_url", "input_image")
INLINE_PICTURES = frozenset({"inlineData", "inline_data", "fileData", "image"})  # without a type
PICTURE_TOKENS = 3_000  # each; a large one, by the rules of today's providers
MILLION = 1_000_000


def estimate_worst_case(request: ModelRequest) -> Quote:
    """The most tokens that a call may use, and the most that it may cost."""
    if FREE.fullmatch(request.api):
        return Quote(0, input_cost=Decimal(0), output_price=Decimal(0), how="free")
    body = request.body
    input_tokens, counted_by = _count_input(body, request.model)
    input_cost, output_price, priced_by = _prices(request, input_tokens)
    output_tokens, bounded = _count_output(request)
    replies = body.get("n")
    return Quote(
        input_tokens,
        output_tokens,
        bounded,
        # A signature covers the body, so no smaller limit can be set in a signed request.
        least=output_tokens if request.signed else _smallest_limit(request) if output_tokens else 0,
        replies=replies if isinstance(replies, int) and replies > 1 else 1,
        input_cost=input_cost,
        output_price=output_price,
        how=", ".join(filter(None, (priced_by, f"tokens by {counted_by}"))),
    )


def expected_tokens(request: ModelRequest) -> int:
    """The tokens that a call is likely to use, which are requested from a shared limit."""
    if FREE.fullmatch(request.api):
        return 0
    input_tokens, _ = _count_input(request.body, request.model)
    limit = _requested_limit(request)
    return input_tokens + (TYPICAL_REPLY if limit is None else limit)


def capped_fields(request: ModelRequest, cap: int) -> dict[str, Json]:
    """The body fields that limit the reply of a request to ``cap`` tokens."""
    paths = [path for path in LIMITS[request.api] if _at(request.body, path) is not None]
    fields: dict[str, Json] = {}
    for path in paths or [_limit_path(request)]:
        name, _, inner = path.partition(".")
        beside = request.body.get(name)
        around = beside if isinstance(beside, dict) else {}
        fields[name] = {**around, inner: cap} if inner else cap
    return fields


def _limit_path(request: ModelRequest) -> str:
    """The path of the field for a limit.

    OpenAI's own models refuse the older name; other servers know only the older name.
    """
    newer, older = LIMITS[request.api][0], LIMITS[request.api][-1]
    host = urlsplit(request.url).hostname or ""
    openai = host.endswith(("openai.com", "azure.com")) or _model_limit(request.model) is not None
    return newer if openai else older


def _count_input(body: dict[str, Json], model: str | None) -> tuple[int, str]:
    parts: list[Json] = []
    for name in REQUEST_FIELDS:
        value = body.get(name)
        parts += value if isinstance(value, list) else [] if value is None else [value]
    pictures: list[Json] = []
    text = [_remove_pictures(part, pictures) for part in parts]
    tokens, how = estimate(text, model)
    if how.startswith("bytes/"):  # scripts other than Latin have more tokens per byte
        tokens, how = 2 * tokens, "bytes/2"
    return tokens + PICTURE_TOKENS * len(pictures), how


def _remove_pictures(value: Json, pictures: list[Json]) -> Json:
    """The value without its pictures, whose tokens do not depend on their bytes."""
    if isinstance(value, list):
        return [_remove_pictures(item, pictures) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") in PICTURES or not INLINE_PICTURES.isdisjoint(value):
        pictures.append(value)
        return None
    return {name: _remove_pictures(item, pictures) for name, item in value.items()}


def _count_output(request: ModelRequest) -> tuple[int, bool]:
    """The most tokens that a reply may have, and whether that limit is enforced already."""
    if request.api not in LIMITS:
        return PICTURE_OUTPUT_TOKENS.get(request.api, 0), True
    limit = _requested_limit(request)
    if limit is not None:
        return limit, True
    longest = _model_limit(request.model)
    return (UNKNOWN_MODEL_LIMIT, False) if longest is None else (longest, True)


def _requested_limit(request: ModelRequest) -> int | None:
    """The limit that the request sets for its reply."""
    limits = [_at(request.body, path) for path in LIMITS.get(request.api, ())]
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)


def _at(body: Json, path: str) -> Json:
    for name in path.split("."):
        body = body.get(name) if isinstance(body, dict) else None
    return body


def _model_limit(model: str | None) -> int | None:
    name = (model or "").rpartition("/")[2]
    return next((n for prefix, n in MODEL_LIMITS.items() if name.startswith(prefix)), None)


def _smallest_limit(request: ModelRequest) -> int:
    """The smallest limit that the provider accepts."""
    if request.api == RESPONSES:
        return 16
    thinking = request.body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    return budget + 1 if isinstance(budget, int) else 1


def _prices(
    request: ModelRequest, input_tokens: int
) -> tuple[Decimal | None, Decimal | None, str | None]:
    """The price of the whole input, the price of one output token, and their source."""

    requested_tier = request.body.get("service_tier")
    tier = (
        requested_tier
        if isinstance(requested_tier, str) and requested_tier not in ("auto", "default", "standard")
        else ""
    )

    def price(**tokens: int) -> Any:
        used = {"input_tokens": input_tokens, **tokens}
        return list_price(request.url, [request.model or ""], used, tier)

    plain, priced_by = price()
    long, _ = price(output_tokens=MILLION)
    if plain is None or long is None:
        return None, None, None
    cached = None
    if request.api in (MESSAGES, CONVERSE):
        hour = {"cache_write_1h_tokens": input_tokens} if '"1h"' in json.dumps(request.body) else {}
        cached, _ = price(cache_write_tokens=input_tokens, **hour)
    return max(plain, cached or plain), (long - plain) / MILLION, priced_by
