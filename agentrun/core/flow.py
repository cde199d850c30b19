"""Flows: a procedure is written once and runs from sync and from async code.

A *flow* is a generator that yields `Op`s. An `Op` is an operation to wait for, given in two forms:
a blocking call and an awaitable. All logic is in the generator. The two drivers below are the only
code that differs between a sync and an async caller. Example::

    def fetch(pool) -> Flow[Row]:
        connection = yield Op(pool.get, pool.aget)
        return (yield from read(connection))

    row = run_sync(fetch(pool))         # or: await run_async(fetch(pool))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Op(Generic[T]):
    """One operation to wait for: ``sync()`` blocks the thread, ``await asyn()`` does not."""

    sync: Callable[[], T]
    asyn: Callable[[], Awaitable[T]]


Flow = Generator[Op[Any], Any, T]


def pause(seconds: float) -> Op[None]:
    """The operation that waits ``seconds`` without blocking an event loop."""
    return Op(lambda: time.sleep(seconds), lambda: asyncio.sleep(seconds))


def run_sync(flow: Flow[T]) -> T:
    """Run ``flow`` by blocking calls. The error of an operation is raised inside the flow."""
    try:
        op = next(flow)
        while True:
            try:
                value = op.sync()
            except BaseException as error:
                op = flow.throw(error)
            else:
                op = flow.send(value)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        flow.close()


async def run_async(flow: Flow[T]) -> T:
    """Run ``flow`` by awaiting. The error of an operation is raised inside the flow."""
    try:
        op = next(flow)
        while True:
            try:
                value = await op.asyn()
            except BaseException as error:
                op = flow.throw(error)
            else:
                op = flow.send(value)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        flow.close()
