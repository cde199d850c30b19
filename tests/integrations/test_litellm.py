"""LiteLLM loops: `install()` records every provider's calls, and `call_tools` takes its replies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import agentrun
from agentrun.testing import Call, Provider, Reply

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise importing it goes online
import litellm

# Its own models and clients warn, and a warning raised in the middle of a call breaks it.
pytestmark = pytest.mark.filterwarnings("ignore")

MODELS = ["openai/gpt-5-mini", "anthropic/claude-sonnet-4-5"]
SCRIPT = [Reply("I ship.", [Call("ship", {"order": "7"})]), "it is shipped"]
shipped: list[str] = []


@agentrun.tool
def ship(order: str) -> str:
    """Ship an order."""
    shipped.append(order)
    return f"{order} is on its way"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """LiteLLM leaves open what it caches, and the event loop that it asks this thread for."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    for kept in litellm.in_memory_llm_clients_cache.cache_dict.values():
        closing = getattr(kept, "close", lambda: None)()
        if closing is not None:
            loop.run_until_complete(closing)
    litellm.in_memory_llm_clients_cache.flush_cache()
    asyncio.set_event_loop(None)
    loop.close()


def asking(model: str, provider: Provider, **more: Any) -> dict[str, Any]:
    base = provider.url if model.startswith("anthropic/") else provider.base_url
    return {"model": model, "api_base": base, "api_key": "k", "num_retries": 0, **more}


def loop(ask: dict[str, Any]) -> str:
    messages: list[Any] = [{"role": "user", "content": "ship 7"}]
    while True:
        reply = litellm.completion(messages=messages, tools=agentrun.schemas(ship), **ask)
        messages.append(reply.choices[0].message.model_dump(exclude_none=True))
        told = agentrun.call_tools(reply, [ship])
        if not told:
            return str(reply.choices[0].message.content)
        messages += told


async def stream(ask: dict[str, Any]) -> str:
    messages = [{"role": "user", "content": "hello there"}]
    chunks = await litellm.acompletion(messages=messages, stream=True, **ask)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    await litellm.close_litellm_async_clients()  # they belong to this event loop, and are found
    litellm.in_memory_llm_clients_cache.flush_cache()  # again by its id, which the next may have
    return text


def crashed_and_resumed(
    agent: Callable[..., Any], seen: list[Any], provider: Provider
) -> list[Any]:
    """What the agent saw in its two lives; the second one paid nothing."""
    keyed = agent.with_options(key="k")  # type: ignore[attr-defined]
    with pytest.raises(SystemExit):
        keyed.run()
    asked = len(provider.ledger())
    keyed.run()
    assert len(provider.ledger()) == asked > 0
    return seen


@pytest.mark.parametrize("model", MODELS)
def test_a_loop_with_tools_resumes_without_paying_or_acting_again(
    model: str, db: Any, provider: Provider, unpatched: None
) -> None:
    provider.say(SCRIPT)
    agentrun.install()
    shipped.clear()
    seen: list[str] = []

    @agentrun.agent
    def clerk() -> None:
        seen.append(loop(asking(model, provider)))
        if len(seen) == 1:
            raise SystemExit

    assert crashed_and_resumed(clerk, seen, provider) == ["it is shipped"] * 2
    assert (shipped, provider.billed()) == (["7"], 2)


@pytest.mark.parametrize("model", MODELS)
def test_an_async_stream_resumes_without_paying_again(
    model: str, db: Any, provider: Provider, unpatched: None
) -> None:
    agentrun.install()
    seen: list[str] = []

    @agentrun.agent
    async def talker() -> None:
        seen.append(await stream(asking(model, provider)))
        if len(seen) == 1:
            raise SystemExit

    assert crashed_and_resumed(talker, seen, provider) == ["echo: hello there"] * 2
