"""The tokens of a model call, as the provider counted them, and their list price.

Counts are recognised by the fields of the reply and not by the provider, because gateways serve the
models of any maker by any API. Prices come from the installed `genai-prices` package, never from
the network. A model that is not in its list is unpriced (`cost` None), never free. The same holds
for a service tier.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from math import ceil
from typing import Any

from agentrun.core.events import Json, Usage
from agentrun.core.recorder import ModelRequest
from agentrun.models.endpoints import FREE

__all__ = ["cost_of_lost_cache", "list_price", "token_counts", "usage_of"]

# The fields of a usage object that hold a count. The first field that the object has is used; a
# name with dots is a path through objects.
_INPUT = ("prompt_tokens", "input_tokens", "inputTokens", "promptTokenCount", "prompt_eval_count")
_OUTPUT = (
    "completion_tokens", "output_tokens", "outputTokens", "candidatesTokenCount", "eval_count",
)  # fmt: skip
_READ = (
    "cache_read_input_tokens",  # Anthropic
    "cacheReadInputTokens",  # Bedrock
    "cachedContentTokenCount",  # Gemini
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "input_token_details.cached_tokens",
    "prompt_cache_hit_tokens",  # DeepSeek
    "cached_tokens",  # Moonshot, Cohere
)
_WRITTEN = (
    "cache_creation_input_tokens",
    "cacheWriteInputTokens",
    "prompt_tokens_details.cache_write_tokens",
    "input_tokens_details.cache_write_tokens",
)
_REASONING = (
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "output_tokens_details.thinking_tokens",
    "thoughtsTokenCount",
)
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
# Usage objects with these fields count tokens read from a cache and written to it apart from the
# rest of the input.
_BESIDE_INPUT = frozenset(
    {
        "cache_read_input_tokens", "cache_creation_input_tokens", "cacheReadInputTokens",
        "cacheWriteInputTokens",
    }
)  # fmt: skip
_USUAL_TIERS = frozenset({"", "default", "standard", "auto", "on_demand"})
_BEDROCK = re.compile(r"([a-z]+\.)?(amazon|anthropic|meta|mistral|cohere|ai21|deepseek|openai)\.")
_LOCAL = re.compile(r"ollama\.")


def usage_of(request: ModelRequest, body: Json) -> Usage | None:
    """Tokens and price of a reply; None if the reply has no usage."""
    if FREE.fullmatch(request.api) and not request.is_lookup:
        return Usage(cost=Decimal(0), priced_by="free") if _is_answer(body) else None
    reported = _find_usage(body)
    if reported is None:
        return None
    named = [body.get("model"), body.get("modelVersion"), request.model]
    models = [name for name in named if isinstance(name, str)]
    cost, priced_by = _stated_price(reported)
    if cost is None:
        tier = _tier(request, body, reported)
        cost, priced_by = _price(request, models, _price_list_counts(reported), tier)
    return Usage(**_tokens(reported), cost=cost, priced_by=priced_by)


def token_counts(body: Json) -> dict[str, int | None] | None:
    """The tokens of a reply, as the fields of `Usage`; None if the reply has no usage."""
    reported = _find_usage(body)
    return None if reported is None else _tokens(reported)


def cost_of_lost_cache(request: ModelRequest, body: Json, lost: int) -> Decimal | None:
    """How many US dollars less a reply had cost if ``lost`` more tokens came from a cache."""
    reported = _find_usage(body)
    if reported is None or not isinstance(body, dict):
        return None
    used, named = _price_list_counts(reported), [body.get("model"), request.model]
    warm = {**used, "cache_read_tokens": used.get("cache_read_tokens", 0) + lost}
    for name in ("cache_write_1h_tokens", "cache_write_5m_tokens", "cache_write_tokens"):
        warm[name] = max(0, used.get(name, 0) - lost)
    warm = {name: count for name, count in warm.items() if count}
    models, tier = [n for n in named if isinstance(n, str)], _tier(request, body, reported)
    cold, _ = _price(request, models, used, tier)
    best, _ = _price(request, models, warm, tier)
    return None if cold is None or best is None else max(Decimal(0), cold - best)


def list_price(
    url: str, models: list[str], tokens: dict[str, int], tier: str = ""
) -> tuple[Decimal | None, str | None]:
    """The price in US dollars of the tokens (``{"input_tokens": …}``), and its source."""
    try:
        import genai_prices
    except ImportError:
        return None, None
    used = genai_prices.Usage(**tokens)
    for model in models:
        for name, where in _lookups(url, model):
            if (found := _price_at(genai_prices, used, name, where, tier)) is not None:
                cost, note = found
                return cost, f"genai-prices {genai_prices.__version__}{note}"
    return None, None


# -- tokens ----------------------------------------------------------------------------------------


def _find_usage(body: Json) -> dict[str, Json] | None:
    """The usage object of a reply; in Ollama's API it is the reply itself."""
    if not isinstance(body, dict):
        return None
    if isinstance(body.get("eval_count"), int) or isinstance(body.get("prompt_eval_count"), int):
        return body
    meta = body.get("meta")
    # `usage_info` is Mistral's (pages read), `meta` is Cohere's (units billed).
    found = (body.get("usage"), body.get("usageMetadata"), body.get("usage_info"), meta)
    reported = next((one for one in found if isinstance(one, dict)), None)
    if reported is None:
        return None
    for inner in ("billed_units", "tokens"):
        if isinstance(reported.get(inner), dict):
            return {**reported, **reported[inner]}
    return None if reported is meta else reported


def _tokens(reported: dict[str, Json]) -> dict[str, Any]:
    """The counts of a usage object of any API; ``input_tokens`` includes all input."""
    input_, read, written = (_first_count(reported, names) for names in (_INPUT, _READ, _WRITTEN))
    if not _BESIDE_INPUT.isdisjoint(reported):
        input_ = (input_ or 0) + (read or 0) + (written or 0)
    if (tools := _first_count(reported, ("toolUsePromptTokenCount",))) is not None:
        input_ = (input_ or 0) + tools
    output, reasoning = _first_count(reported, _OUTPUT), _first_count(reported, _REASONING)
    if "thoughtsTokenCount" in reported:  # Gemini counts them beside the rest of the output
        output = (output or 0) + (reasoning or 0)
    audio = [_audio(reported, side) for side in ("input", "output")]
    return {
        "input_tokens": input_,
        "output_tokens": output,
        "cached_tokens": read,
        "cache_write_tokens": written,
        "reasoning_tokens": reasoning,
        "audio_tokens": None if audio == [None, None] else sum(n or 0 for n in audio),
    }


def _audio(reported: dict[str, Json], side: str) -> int | None:
    names = _INPUT_DETAILS if side == "input" else _OUTPUT_DETAILS
    plain = _first_count(reported, tuple(f"{name}.audio_tokens" for name in names))
    if plain is not None:
        return plain
    name = "promptTokensDetails" if side == "input" else "candidatesTokensDetails"
    return _modality(reported.get(name), "AUDIO")


def _modality(details: Json, modality: str) -> int | None:
    """The tokens of a modality in Gemini's list."""
    found = [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []
    counts = (_count(d.get("tokenCount")) for d in found if d.get("modality") == modality)
    return next(counts, None)


def _price_list_counts(reported: dict[str, Json]) -> dict[str, int]:
    """The counts of a usage object, by the names that the price list uses."""
    tokens = _tokens(reported)
    write_5m = _first_count(reported, ("cache_creation.ephemeral_5m_input_tokens",))
    write_1h = _first_count(reported, ("cache_creation.ephemeral_1h_input_tokens",))
    details: Json = reported.get("cacheDetails")  # Bedrock
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and detail.get("ttl") == "1h":
            write_1h = _count(detail.get("inputTokens"))
    images = [
        _first_count(reported, tuple(f"{name}.image_tokens" for name in names))
        for names in (_INPUT_DETAILS, _OUTPUT_DETAILS)
    ]
    named = {
        "input_tokens": tokens["input_tokens"],
        "output_tokens": tokens["output_tokens"],
        "cache_read_tokens": tokens["cached_tokens"],
        "cache_write_tokens": tokens["cache_write_tokens"],
        "cache_write_5m_tokens": write_5m,
        "cache_write_1h_tokens": write_1h,
        "output_reasoning_tokens": tokens["reasoning_tokens"],
        "input_audio_tokens": _audio(reported, "input"),
        "output_audio_tokens": _audio(reported, "output"),
        "input_image_tokens": images[0],
        "output_image_tokens": images[1],
        "input_document_pages": _count(reported.get("pages_processed")),
        "web_searches": _first_count(reported, ("server_tool_use.web_search_requests",)),
        "audio_seconds": _seconds(reported),
    }
    return {name: count for name, count in named.items() if count}


def _seconds(reported: dict[str, Json]) -> int | None:
    seconds = reported.get("seconds")
    if reported.get("type") != "duration" or not isinstance(seconds, int | float):
        return None
    return ceil(seconds)


# -- prices ----------------------------------------------------------------------------------------


def _stated_price(reported: dict[str, Json]) -> tuple[Decimal | None, str | None]:
    """The price of the call that the reply itself states, as OpenRouter's does."""
    cost = reported.get("cost")
    if isinstance(cost, dict):  # Perplexity
        cost = cost.get("total_cost")
    if not _is_amount(cost):
        return None, None
    total = Decimal(str(cost))
    details = reported.get("cost_details")
    upstream = details.get("upstream_inference_cost") if isinstance(details, dict) else None
    if reported.get("is_byok") is True and _is_amount(upstream):  # paid to the maker, in addition
        total += Decimal(str(upstream))
    return total, "usage.cost of the reply, as OpenRouter gives it"


def _is_amount(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _tier(request: ModelRequest, body: dict[str, Json], reported: dict[str, Json]) -> str:
    """The service tier of the call, from the reply, else from the request."""
    answered = (body.get("service_tier"), reported.get("service_tier"), reported.get("trafficType"))
    for name in (*answered, request.body.get("service_tier"), request.body.get("serviceTier")):
        if isinstance(name, str):
            tier = name.lower()
            return "" if tier in _USUAL_TIERS else tier
    return "fast" if reported.get("speed") == "fast" else ""


def _price(
    request: ModelRequest, models: list[str], used: dict[str, int], tier: str
) -> tuple[Decimal | None, str | None]:
    """The price in US dollars, and its source."""
    if not used:
        return None, None
    if _LOCAL.match(request.api):  # the server is not the model's maker: list prices do not hold
        return None, None
    try:
        return list_price(request.url, models, used, tier)
    except Exception:  # a strange usage object must not lose a reply that was paid for
        return None, None


def _lookups(url: str, model: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The names and providers under which a model may be listed: at this URL, else its maker."""
    yield model, {"provider_api_url": url}
    yield model, {}
    if _BEDROCK.match(model):
        yield model, {"provider_id": "aws"}
    maker, _, name = model.rpartition("/")
    if maker:  # a gateway's name, `openai/gpt-5-mini`; a gateway's own price is in its reply
        yield name, {}
        yield model, {"provider_id": "openrouter"}


def _price_at(
    prices: Any, used: Any, model: str, where: dict[str, str], tier: str
) -> tuple[Decimal | None, str] | None:
    """The price, and a note on it; the price is None if the list has the model without the tier."""
    context = _contexts(tier)
    try:
        found = prices.calc_price(used, model, **where, price_context=context)
    except Exception:  # LookupError: the model is not listed; for others see `_price`
        return None
    if context and not _has_variant(found.model, context):
        return None, f": {tier!r} is no tier that it lists for {model}"
    total = Decimal(found.total_price)
    if total == 0 and not _is_free(found.model_price):
        return None  # billed by a unit that the reply does not count
    return total, f", {tier}" if tier else ""


def _contexts(tier: str) -> dict[str, str] | None:
    if not tier:
        return None
    return {"processing": "batch"} if tier == "batch" else {"service_tier": tier, "speed": tier}


def _has_variant(model: Any, context: dict[str, str]) -> bool:
    """Whether the list has a separate price for this context."""
    return any(
        all(context.get(name) == value for name, value in variant.when.items())
        for variant in model.price_variants or ()
    )


def _is_free(price: Any) -> bool:
    """Whether the list states a price for tokens, so that a total of 0 means free."""
    return getattr(price, "input_mtok", None) is not None


# -- reading ---------------------------------------------------------------------------------------


def _is_answer(body: Json) -> bool:
    return isinstance(body, dict) and not body.get("error")


def _first_count(reported: dict[str, Json], names: tuple[str, ...]) -> int | None:
    """The first of these fields that holds a count."""
    found = (_count(_at(reported, name)) for name in names)
    return next((count for count in found if count is not None), None)


def _at(reported: Json, path: str) -> Json:
    for name in path.split("."):
        reported = reported.get(name) if isinstance(reported, dict) else None
    return reported


def _count(value: Json) -> int | None:
    """A number of tokens; None for other values, and for numbers too large for the column."""
    if isinstance(value, float) and value.is_integer():  # Cohere's
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31:
        return value
    return None
