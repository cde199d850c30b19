"""The public face as a type checker sees it: checked by `tests/test_typing.py`, never executed.

What must be an error carries an ignore comment, and an ignore that is not needed is an error too.
"""

from __future__ import annotations

import datetime as dt
import random
from typing import Any, assert_type
from uuid import UUID

from anthropic import Anthropic
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

import agentrun

# -- agents --------------------------------------------------------------------------------------


@agentrun.agent
def answer(question: str, tries: int = 1) -> str:
    return question * tries


@agentrun.agent
async def aanswer(question: str) -> list[int]:
    return [len(question)]


@agentrun.agent(name="named")
def named(n: int) -> dict[str, int]:
    return {"n": n}


@agentrun.agent(name="anamed")
async def anamed() -> bool:
    return True


assert_type(answer.run("why"), str)
assert_type(answer.run("why", tries=2), str)
assert_type(aanswer.run("why"), list[int])
assert_type(named.run(1), dict[str, int])
assert_type(anamed.run(), bool)
answer.run(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
answer.run()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
aanswer.run("why", tries=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

keyed = answer.with_options(key="k", on_busy="raise", on_held="wait", on_divergence="accept")
assert_type(keyed.run("why"), str)
answer.with_options(
    on_busy="later",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
)


async def from_async_code() -> None:
    assert_type(await answer.arun("why", tries=2), str)
    assert_type(await aanswer.with_options(key="k").arun("why"), list[int])
    assert_type(await anamed.arun(), bool)
    assert_type(await answer.asubmit("why"), agentrun.Handle[str])
    await aanswer.arun(2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- tools and steps -----------------------------------------------------------------------------


@agentrun.tool
def look(order: str) -> dict[str, int]:
    return {order: 1}


@agentrun.tool(effect="idempotent", retries=2, timeout=3.0)
def refund(order: str, cents: int, idempotency_key: str = "") -> int:
    return cents


@agentrun.tool(effect="read")
async def fetch(url: str) -> bytes:
    return url.encode()


def find(key: str, order: str) -> agentrun.Happened | agentrun.NotHappened | agentrun.Unknown:
    return agentrun.Happened({"key": key}) if order else agentrun.NotHappened()


@agentrun.tool(on_doubt="tell_model", reconcile=find)
def post(order: str) -> dict[str, str]:
    return {"order": order}


@agentrun.step(effect="transaction")
def move(cents: int) -> None:
    agentrun.current_step().connection.execute("SELECT 1")


def plain(n: int) -> float:
    return n / 2


async def aplain(n: int) -> float:
    return n / 2


assert_type(look("7"), dict[str, int])
assert_type(refund("7", cents=5), int)
assert_type(post("7"), dict[str, str])
assert_type(agentrun.step(plain)(3), float)
assert_type(look.name, str)
refund("7", "5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
agentrun.tool(effect="twice")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def awaited() -> None:
    assert_type(await fetch("u"), bytes)
    assert_type(await agentrun.step(aplain)(3), float)
    assert_type(await agentrun.acall_tools({}, [fetch, look]), list[dict[str, Any]])


assert_type(agentrun.call_tools({}, [look, refund]), list[dict[str, Any]])
assert_type(agentrun.schemas(look, refund, fetch), list[dict[str, Any]])
assert_type(agentrun.current_step().key, str)
assert_type(agentrun.current_step().attempt, int)

# -- clients -------------------------------------------------------------------------------------

assert_type(agentrun.wrap(OpenAI()), OpenAI)
assert_type(agentrun.wrap(AsyncOpenAI(), strict=True, retries=3), AsyncOpenAI)
assert_type(agentrun.wrap(AzureOpenAI()), AzureOpenAI)
assert_type(agentrun.wrap(Anthropic()), Anthropic)
assert_type(agentrun.wrap(OpenAI()).chat.completions.create(model="m", messages=[]).id, str)

# -- runs from outside ---------------------------------------------------------------------------

handle = agentrun.get("k")
assert_type(handle, agentrun.Handle[Any])
assert_type(answer.submit("why"), agentrun.Handle[str])
assert_type(aanswer.submit("why").result(timeout=1.0), list[int])
answer.submit(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(handle.transcript(), agentrun.Transcript)
assert_type(agentrun.transcript("k"), agentrun.Transcript)
assert_type(agentrun.as_text(handle.transcript()), str)
assert_type(agentrun.as_html(handle.transcript()), str)
if handle.status() == "done":
    print("done")
agentrun.resolve("k", 3, agentrun.Happened({"id": 1}), by="ada", reason="seen in the ledger")
agentrun.resolve("k", 3, agentrun.NotHappened())
agentrun.resolve("k", 3, agentrun.Unknown())
agentrun.resolve(
    "k",
    "3",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "happened",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
)

with agentrun.connect("postgresql:///shop") as database:
    assert_type(database, agentrun.Database)

# -- recorded values -----------------------------------------------------------------------------

assert_type(agentrun.now(), dt.datetime)
assert_type(agentrun.uuid(), UUID)
assert_type(agentrun.rng(), random.Random)

try:
    answer.run("why")
except agentrun.RunFailed as failed:
    assert_type(failed.key, str | None)
except agentrun.RunHeld as held:
    assert_type(held.step, int | None)
