"""Write a procedure once, drive it from sync and from async code.

A *flow* is a generator that yields `Op`s: things that have to be waited for, each given as a
pair of a blocking call and an awaitable. All logic lives in the generator; the two drivers
below are the only code that differs between a sync and an async caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Op(Generic[T]):
    """One thing to wait for: ``sync()`` blocks, ``await asyn()`` does not."""

    sync: Callable[[], T]
    asyn: Callable[[], Awaitable[T]]


Flow = Generator[Op[Any], Any, T]


def run_sync(flow: Flow[T]) -> T:
    """Drive ``flow`` by blocking; errors of an operation are raised inside the flow."""
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
    """Drive ``flow`` by awaiting; errors of an operation are raised inside the flow."""
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
