"""Agents with a planted fault each, and some without: what `agentrun crashtest` is tried on.

They act in the folder OUTSIDE, at the carrier CARRIER_URL, and ask a provider that is not there.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, PrivateAttr

import agentrun

client = agentrun.wrap(OpenAI(base_url="https://models.invalid/v1", api_key="a real one"))
aclient = agentrun.wrap(AsyncOpenAI(base_url="https://models.invalid/v1", api_key="a real one"))
plain = OpenAI(api_key="a real one")  # nobody wrapped it


def line(file: str, text: str) -> None:
    with Path(os.environ["OUTSIDE"], file).open("a") as opened:  # here
        opened.write(f"{text}\n")


def book(reference: str, **headers: str) -> None:
    data = json.dumps({"reference": reference}).encode()
    url = f"{os.environ['CARRIER_URL']}/pickups"
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()


def loop(messages: list[Any], tools: list[Any], ask: Callable[..., Any]) -> str:
    while True:
        reply = ask(model="gpt-5-mini", messages=messages, tools=agentrun.schemas(*tools))
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return str(message.content)
        messages += agentrun.call_tools(message, tools)


def asked(question: str, *tools: Any) -> str:
    messages = [{"role": "user", "content": question}]
    return loop(messages, list(tools), client.chat.completions.create)


# -- tools -----------------------------------------------------------------------------------------


@agentrun.tool(effect="read")
def look_up(order: str) -> str:
    """Look an order up."""
    return f"order {order}"


@agentrun.tool(effect="idempotent")
def note(order: str) -> str:
    """Declared idempotent, and is not."""
    line("notes.txt", order)
    return "noted"


@agentrun.tool(effect="idempotent")
def keep(order: str, idempotency_key: str = "") -> str:
    """Idempotent by its key."""
    Path(os.environ["OUTSIDE"], f"{idempotency_key}.kept").write_text(order)
    return "kept"


@agentrun.tool(effect="idempotent")
def order_van(order: str) -> str:
    """Sends a POST that nobody can tell from another one."""
    book(order)
    return "ordered"


@agentrun.tool(effect="idempotent")
def order_keyed(order: str, idempotency_key: str = "") -> str:
    """Sends the key along."""
    book(order, **{"idempotency-key": idempotency_key})
    return "ordered"


@agentrun.tool(effect="idempotent")
def order_derived(order: str, idempotency_key: str = "") -> str:
    """Sends what it makes of the key."""
    book(str(uuid.uuid5(uuid.NAMESPACE_URL, idempotency_key)))
    return "ordered"


@agentrun.tool
def pay(order: str) -> str:
    """Once, and nothing can tell whether it happened."""
    line("paid.txt", order)
    return "paid"


def never(key: str, order: str) -> agentrun.NotHappened:
    return agentrun.NotHappened()


@agentrun.tool(reconcile=never)
def pay_carelessly(order: str) -> str:
    """Once, with a reconcile that does not look."""
    line("paid.txt", order)
    return "paid"


class Price(BaseModel):
    """Holds the day on which it was made, and is made anew of its record."""

    cents: int
    _day: str = PrivateAttr(default_factory=lambda: str(date.today()))


@agentrun.tool(effect="read")
def price(order: str) -> Price:
    """Its record gives back another day."""
    return Price(cents=len(order))


class NoSuchOrder(Exception):
    """Its arguments are computed when somebody looks: in each process they are others."""

    args = property(lambda self: (os.getpid(),))  # type: ignore[assignment]


@agentrun.tool(effect="read")
def refuse(order: str) -> str:
    raise NoSuchOrder(order)


# -- agents ----------------------------------------------------------------------------------------


@agentrun.agent
def sound(question: str) -> str:
    return asked(question, look_up, keep)


@agentrun.agent
def clocked(question: str) -> str:
    messages = [
        {"role": "system", "content": f"Today is {date.today()}."},
        {"role": "user", "content": question},
    ]
    return loop(messages, [look_up], client.chat.completions.create)


@agentrun.agent
def careless(question: str) -> str:
    return asked(question, note)


@agentrun.agent
def outspoken(question: str) -> str:
    line("audit.log", question)
    return asked(question, look_up)


@agentrun.agent
def van(question: str) -> str:
    return asked(question, order_van, order_keyed, order_derived)


@agentrun.agent
def payer(question: str) -> str:
    return asked(question, pay)


@agentrun.agent
def trusting(question: str) -> str:
    return asked(question, pay_carelessly)


@agentrun.agent
def unwrapped(question: str) -> str:
    return loop([{"role": "user", "content": question}], [], plain.chat.completions.create)


@agentrun.agent
def unordered(question: str) -> str:
    words = ", ".join({"apples", "pears", "plums", "figs", "dates", "limes", "kiwis"})
    return asked(f"{question}: {words}", look_up)


@agentrun.agent
def far(question: str) -> str:
    with urllib.request.urlopen("http://192.0.2.1/", timeout=5) as answer:
        return str(answer.read())


@agentrun.agent
def broken(question: str) -> str:
    raise ValueError("out of order")


@agentrun.agent
def endless(question: str) -> str:
    return str(agentrun.receive("never sent"))


@agentrun.agent
def dated(question: str) -> str:
    return f"{price('7').cents}: {asked(question, look_up)}"


@agentrun.agent
def refused(question: str) -> str:
    try:
        refuse("7")
    except Exception:
        return asked(question, look_up)
    return "?"


@agentrun.agent
async def busy(question: str) -> str:
    """Streams, tools at once, and a child."""
    asked: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": question}]}
    asked["tools"] = agentrun.schemas(look_up, keep)
    async with aclient.chat.completions.stream(**asked) as stream:
        message: Any = (await stream.get_final_completion()).choices[0].message
    results = await agentrun.acall_tools(message, [look_up, keep])
    told = await asyncio.gather(*(child(str(n)) for n in range(2)))
    return f"{len(results)} {told}"


@agentrun.agent
async def child(name: str) -> str:
    return await asyncio.to_thread(look_up, name)
