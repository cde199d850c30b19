"""What a model call may use and cost at most, before it is made: computed offline.

Of the request, tokens are counted (`agentrun.models.tokens`); of the reply, the worst is assumed
that the request allows. What the provider adds by itself (a conversation that it keeps, files,
searches) cannot be known here.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from agentrun.core.budget import Quote
from agentrun.core.events import Json
from agentrun.core.recorder import ModelRequest
from agentrun.models.tokens import estimate
from agentrun.models.usage import list_price

__all__ = ["capped", "expected", "quote"]

# Fields that limit a reply; the first one that a request has counts.
LIMITS = {
    "chat.completions": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
# The longest reply of OpenAI's models, which refuse a larger limit; the first that fits.
LONGEST = {
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
UNKNOWN = 8_192  # a limit that nearly every model takes
TYPICAL = 500  # tokens of a reply that nobody limits
ASKS = (
    "messages", "input", "system", "instructions", "tools", "functions", "response_format", "text",
)  # fmt: skip
FREE = frozenset({"messages.count_tokens", "responses.input_tokens", "moderations"})
PICTURES = frozenset({"image", "image_url", "input_image"})
PICTURE_TOKENS = 3_000  # each; a large one, by the rules of today's providers
MILLION = 1_000_000


def quote(asked: ModelRequest) -> Quote:
    """The worst case of a call."""
    if asked.api in FREE:
        return Quote(0, input_cost=Decimal(0), output_price=Decimal(0), how="free")
    body = asked.body
    input_tokens, counted_by = _input(body, asked.model)
    input_cost, output_price, priced_by = _prices(asked, input_tokens)
    output_tokens, bounded = _output(asked)
    replies = body.get("n")
    return Quote(
        input_tokens,
        output_tokens,
        bounded,
        least=_least(asked) if output_tokens else 0,
        replies=replies if isinstance(replies, int) and replies > 1 else 1,
        input_cost=input_cost,
        output_price=output_price,
        how=", ".join(filter(None, (priced_by, f"tokens by {counted_by}"))),
    )


def expected(asked: ModelRequest) -> int:
    """The tokens that a call may well use: what a shared limit is asked for."""
    if asked.api in FREE:
        return 0
    input_tokens, _ = _input(asked.body, asked.model)
    said = _said(asked)
    return input_tokens + (TYPICAL if said is None else said)


def capped(asked: ModelRequest, cap: int) -> dict[str, Json]:
    """What a request has to say so that its reply has ``cap`` tokens at most."""
    fields = [name for name in LIMITS[asked.api] if asked.body.get(name) is not None]
    return dict.fromkeys(fields or [_field(asked)], cap)


def _field(asked: ModelRequest) -> str:
    """Where a limit is said. OpenAI's own models refuse the older name, others know only that."""
    newer, older = LIMITS[asked.api][0], LIMITS[asked.api][-1]
    host = urlsplit(asked.url).hostname or ""
    openai = host.endswith(("openai.com", "azure.com")) or _longest(asked.model) is not None
    return newer if openai else older


def _input(body: dict[str, Json], model: str | None) -> tuple[int, str]:
    parts: list[Json] = []
    for name in ASKS:
        value = body.get(name)
        parts += value if isinstance(value, list) else [] if value is None else [value]
    pictures: list[Json] = []
    text = [_without(part, pictures) for part in parts]
    tokens, how = estimate(text, model)
    if how.startswith("bytes/"):  # scripts other than Latin have more tokens a byte
        tokens, how = 2 * tokens, "bytes/2"
    return tokens + PICTURE_TOKENS * len(pictures), how


def _without(value: Json, pictures: list[Json]) -> Json:
    """The value without its pictures, whose tokens have nothing to do with their bytes."""
    if isinstance(value, list):
        return [_without(item, pictures) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") in PICTURES:
        pictures.append(value)
        return None
    return {name: _without(item, pictures) for name, item in value.items()}


def _output(asked: ModelRequest) -> tuple[int, bool]:
    """The most tokens that a reply may have, and whether somebody already sees to that."""
    if asked.api not in LIMITS:
        return 0, True
    said = _said(asked)
    if said is not None:
        return said, True
    longest = _longest(asked.model)
    return (UNKNOWN, False) if longest is None else (longest, True)


def _said(asked: ModelRequest) -> int | None:
    """The limit that the request sets to its reply."""
    limits = [asked.body.get(name) for name in LIMITS.get(asked.api, ())]
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)


def _longest(model: str | None) -> int | None:
    name = (model or "").rpartition("/")[2]
    return next((n for prefix, n in LONGEST.items() if name.startswith(prefix)), None)


def _least(asked: ModelRequest) -> int:
    """The smallest limit that the provider takes."""
    if asked.api == "responses":
        return 16
    thinking = asked.body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    return budget + 1 if isinstance(budget, int) else 1


def _prices(
    asked: ModelRequest, input_tokens: int
) -> tuple[Decimal | None, Decimal | None, str | None]:
    """Of the input in all, of a token of output, and who says so."""

    def price(**tokens: int) -> Any:
        return list_price(asked.url, [asked.model or ""], input_tokens=input_tokens, **tokens)

    plain, priced_by = price()
    long, _ = price(output_tokens=MILLION)
    if plain is None or long is None:
        return None, None, None
    kept, _ = price(cache_write_tokens=input_tokens) if asked.api == "messages" else (None, None)
    return max(plain, kept or plain), (long - plain) / MILLION, priced_by
