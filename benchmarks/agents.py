"""The agents that are measured. Nothing in here, or in any figure, is private to agentrun."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from openai import OpenAI

import agentrun
from benchmarks import sizes

INSERT: LiteralString = "INSERT INTO plain (v) VALUES (%s)"
WORDS = "x" * 200


@agentrun.tool
def once(n: int) -> int:
    return n


@agentrun.tool
async def aonce(n: int) -> int:
    return n


@agentrun.tool
async def slow(n: int) -> int:
    await asyncio.sleep(sizes.SLEEP)
    return n


@agentrun.tool
def moment() -> float:
    return time.time()


@agentrun.tool
async def amoment() -> float:
    return time.time()


@agentrun.agent
def sequential(steps: int) -> None:
    for n in range(steps):
        once(n)


@agentrun.agent
def alternating(steps: int, turns: int, dsn: str) -> list[float]:
    """Steps and plain inserts in turns, so that both have the same disk; seconds of each."""
    spent = [0.0, 0.0]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS plain (n bigserial PRIMARY KEY, v text)")
        for _ in range(10):
            conn.execute(INSERT, [WORDS])
        for turn in range(turns):
            for measured in (0, 1):
                begun = time.perf_counter()
                for n in range(steps // turns):
                    if measured == 0:
                        once(turn * steps + n)
                    else:
                        conn.execute(INSERT, [WORDS])
                spent[measured] += time.perf_counter() - begun
    return [seconds / steps for seconds in spent]


@agentrun.agent
async def asequential(steps: int) -> None:
    for n in range(steps):
        await aonce(n)


@agentrun.agent
async def parallel(count: int) -> None:
    async def one(n: int) -> int:
        with agentrun.branch(str(n)):
            return await slow(n)

    await asyncio.gather(*(one(n) for n in range(count)))


@agentrun.agent
async def started() -> float:
    """One step, which says when it began."""
    return await amoment()


@agentrun.agent
async def claimed() -> None:
    """Never executed: a claim is all that is measured of it."""


@agentrun.agent
async def sleeping() -> None:
    await agentrun.asleep(10 * 86_400)


@agentrun.agent
async def waiting() -> None:
    """Reads one letter, and waits for another."""
    await agentrun.areceive("first")
    await agentrun.areceive("second")


_gathered = asyncio.Barrier(sizes.ACTIVE)


@agentrun.agent
async def active(steps: int) -> list[float]:
    """Steps without a pause, once all such runs are here; seconds between one and the next."""
    await _gathered.wait()
    at = [time.perf_counter()]
    for n in range(steps):
        await aonce(n)
        at.append(time.perf_counter())
    return [after - before for before, after in pairwise(at)]


@agentrun.agent
def long(steps: int, marker: str) -> float:
    """Many steps; then it waits to be killed, or, resumed, says how long it took to be here."""
    begun = time.perf_counter()
    for n in range(steps):
        once(n)
    took = time.perf_counter() - begun
    if not Path(marker).exists():
        Path(marker).write_text("here")
        time.sleep(3600)
    return took


@agentrun.agent
def killed(marker: str) -> float:
    """One step, a wait in which it is killed, and the step after, which says when it began."""
    once(1)
    if not Path(marker).exists():
        Path(marker).write_text("here")
        time.sleep(3600)
    return moment()


def talk(client: OpenAI, texts: Iterable[str]) -> None:
    """A conversation in which every turn brings another text."""
    messages: list[Any] = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        answer = client.chat.completions.create(model="gpt-5-mini", messages=messages)
        messages.append(answer.choices[0].message.model_dump(exclude_none=True))


def ask(client: OpenAI, calls: int) -> None:
    """Short calls, each of its own."""
    for n in range(calls):
        message: Any = {"role": "user", "content": f"hello {n}"}
        client.chat.completions.create(model="gpt-5-mini", messages=[message])
