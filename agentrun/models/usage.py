"""What a model call used, from the provider's own count, and what that costs by list price.

Prices come from the `genai-prices` package on this machine, never from the network. A model in no
list is unpriced (`cost` None), never free.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from agentrun.core.events import Json, Usage

__all__ = ["list_price", "usage_of"]

# How genai-prices names the three ways to report usage: provider, flavour of its API.
REPORTED_BY = {
    "chat.completions": ("openai", "chat"),
    "responses": ("openai", "responses"),
    "embeddings": ("openai", "embeddings"),
    "messages": ("anthropic", "default"),
}


def usage_of(api: str, url: str, model: str | None, body: Json) -> Usage | None:
    """Tokens and price of a reply; None where the reply does not say what it used.

    ``model`` is what the request named; the reply's own name, more exact, goes first.
    """
    reported = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(reported, dict):
        return None
    models = [name for name in (body.get("model"), model) if isinstance(name, str)]
    cost, priced_by = _price(api, url, models, body)
    return Usage(**_tokens(reported), cost=cost, priced_by=priced_by)


def _tokens(reported: dict[str, Json]) -> dict[str, int | None]:
    """The five counts, from the usage object of any of the three APIs."""
    input_ = _first(reported, "prompt_tokens", "input_tokens")
    details = _first_dict(reported, "prompt_tokens_details", "input_tokens_details")
    cached = _count(details.get("cached_tokens"))
    if "cache_read_input_tokens" in reported:  # Anthropic counts cached input beside the rest
        cached = _count(reported["cache_read_input_tokens"])
        written = _count(reported.get("cache_creation_input_tokens"))
        input_ = (input_ or 0) + (cached or 0) + (written or 0)
    spent = _first_dict(reported, "completion_tokens_details", "output_tokens_details")
    audio = [_count(part.get("audio_tokens")) for part in (details, spent)]
    return {
        "input_tokens": input_,
        "output_tokens": _first(reported, "completion_tokens", "output_tokens"),
        "cached_tokens": cached,
        "reasoning_tokens": _count(spent.get("reasoning_tokens")),
        "audio_tokens": None if audio == [None, None] else sum(n or 0 for n in audio),
    }


def _price(
    api: str, url: str, models: list[str], body: dict[str, Json]
) -> tuple[Decimal | None, str | None]:
    """The price in US dollars and who says so."""
    try:
        import genai_prices
    except ImportError:
        return None, None
    provider, flavor = REPORTED_BY.get(api, ("openai", "chat"))
    try:
        used = genai_prices.extract_usage(body, provider_id=provider, api_flavor=flavor).usage
    except Exception:  # a strange usage object must not cost the reply that was paid for
        return None, None
    return _first_price(genai_prices, url, models, used)


def list_price(url: str, models: list[str], **tokens: int) -> tuple[Decimal | None, str | None]:
    """The price in US dollars of so many tokens (``input_tokens=…``), and who says so."""
    try:
        import genai_prices
    except ImportError:
        return None, None
    return _first_price(genai_prices, url, models, genai_prices.Usage(**tokens))


def _first_price(
    prices: Any, url: str, models: list[str], used: Any
) -> tuple[Decimal | None, str | None]:
    for model in models:
        for where in ({"provider_api_url": url}, {}):  # at this provider, else at its maker
            cost = _price_at(prices, used, model, where)
            if cost is not None:
                return cost, f"genai-prices {prices.__version__}"
    return None, None


def _price_at(prices: Any, used: Any, model: str, where: dict[str, str]) -> Decimal | None:
    try:
        return Decimal(prices.calc_price(used, model, **where).total_price)
    except Exception:  # LookupError: in no list; others as above
        return None


def _first(reported: dict[str, Json], *names: str) -> int | None:
    return next((c for name in names if (c := _count(reported.get(name))) is not None), None)


def _first_dict(reported: dict[str, Json], *names: str) -> dict[str, Json]:
    return next((d for name in names if isinstance(d := reported.get(name), dict)), {})


def _count(value: Json) -> int | None:
    """A number of tokens; None for what is none, or would not fit its column."""
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
    return value if usable else None
