"""Agents that are generator functions: each item that they yield is recorded before it is read.

The run executes the whole generator, and its result is the list of all items. A reader asks for one
item at a time; the generator goes on only when the next item is asked for. If the reader stops, the
run is handed back. On a resume the recorded items are yielded again, and then the new ones.

`collect_items` is the side of the run: it executes the generator and records its items. `Items` and
`AsyncItems` are the side of the reader. An `ItemExchange` connects the two, across threads and
tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future, InvalidStateError
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar, get_args

from agentrun.core.errors import Parking
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.steps.execution_point import ExecutionPoint, current_point
from agentrun.steps.function_step import StepBody, perform
from agentrun.steps.step import StepRequest
from agentrun.values.annotations import hints_of
from agentrun.values.typed_values import Result

R = TypeVar("R")

# The exchange for the items of the run that the current code is about to start.
_reader: ContextVar[ItemExchange | None] = ContextVar("agentrun_reader", default=None)


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether the function is a generator function, plain or async."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


class ItemExchange:
    """Passes items from a run to its reader, one at a time, between any threads and tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Done once the reader wants the next item, or has closed.
        self._item_request: Future[None] = Future()
        # The item that the reader waits for.
        self._awaited_item: Future[tuple[str, Any]] | None = None
        self._end: tuple[str, Any] | None = None
        self._closed = False
        self._had = 0  # items that were passed on

    def ask(self) -> Future[tuple[str, Any]]:
        """Ask for the next item: ("item", item), or the end: ("result", list), ("error", error).

        Raises RuntimeError if another reader waits for an item, as a generator does.
        """
        with self._lock:
            if self._awaited_item is not None and not (self._awaited_item.done() or self._closed):
                raise RuntimeError("another task or thread waits for the next item of this run")
            self._awaited_item = Future()
            if self._end is not None:
                self._awaited_item.set_result(self._end)
            else:
                _complete(self._item_request)
            return self._awaited_item

    def close(self) -> None:
        """The reader wants no more items.

        Takes no lock: Python may collect the reader, which closes it, in the middle of `give`.
        """
        self._closed = True
        _complete(self._item_request)

    def next_request(self) -> Future[None]:
        """A future that is done when the reader asks for an item, or has closed."""
        return self._item_request

    def give(self, line: ExecutionPoint, item: Any) -> None:
        """Pass on the item that the reader asked for. Raises Parking if the reader has closed."""
        self.check(line)
        with self._lock:
            self._had += 1
            self._item_request = Future()
            # Checked after the new future is set: `close` sets the flag first and completes the
            # future last, so one of the two completes the new future.
            if self._closed:
                _complete(self._item_request)
            if self._awaited_item is not None:
                self._awaited_item.set_result(("item", item))

    def is_new(self, items: list[Any]) -> bool:
        """Whether the last of these items was not passed on by an earlier claim of the run."""
        return len(items) > self._had

    def check(self, line: ExecutionPoint) -> None:
        """Raise Parking if the reader has closed."""
        if self._closed:
            raise line.run.stop(Parking("the reader has stopped"))

    def end(self, how: str, value: Any) -> None:
        """Pass on the end of the run: "result" and the list, or "error" and the error."""
        with self._lock:
            self._end = (how, value)
            if self._awaited_item is not None and not self._awaited_item.done():
                self._awaited_item.set_result(self._end)


def _complete(asked: Future[None]) -> None:
    with contextlib.suppress(InvalidStateError):  # the future is done already
        asked.set_result(None)


def collect_items(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Make a function that executes a generator function and returns the list of its items.

    Each item is recorded as a step.
    """
    hints = hints_of(function)
    item_type = (get_args(hints.get("return")) or (Any,))[0]
    result = Result(item_type)
    made: Any

    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def acollect(*args: Any, **kwargs: Any) -> list[Any]:
            items: list[Any] = []
            with _take_reader() as reader:
                if reader is not None:
                    await _await_request(reader.next_request())
                async with contextlib.aclosing(function(*args, **kwargs)) as generator:
                    async for item in generator:
                        line = _execution_point()
                        items.append(await run_async(_record_item(line, item, result)))
                        if reader is not None and reader.is_new(items):
                            reader.give(line, items[-1])
                            await _await_request(reader.next_request())
                            reader.check(line)
            return items

        made = acollect
    else:

        @functools.wraps(function)
        def collect(*args: Any, **kwargs: Any) -> list[Any]:
            items: list[Any] = []
            with _take_reader() as reader:
                if reader is not None:
                    reader.next_request().result()
                with contextlib.closing(function(*args, **kwargs)) as generator:
                    for item in generator:
                        line = _execution_point()
                        items.append(run_sync(_record_item(line, item, result)))
                        if reader is not None and reader.is_new(items):
                            reader.give(line, items[-1])
                            reader.next_request().result()
                            reader.check(line)
            return items

        made = collect
    made.__annotations__ = {**hints, "return": list[item_type]}  # type: ignore[valid-type]
    return made  # type: ignore[no-any-return]


async def _await_request(asked: Future[None]) -> None:
    await asyncio.shield(asyncio.wrap_future(asked))


@contextlib.contextmanager
def _take_reader() -> Iterator[ItemExchange | None]:
    """The exchange with the reader of this run. Child runs must not find it, so it is hidden.

    It is set again at the end: if the run waits for a person in place, its next claim needs it.
    """
    reader = _reader.get()
    _reader.set(None)
    try:
        yield reader
    finally:
        _reader.set(reader)


def _execution_point() -> ExecutionPoint:
    line = current_point()
    assert line is not None, "a generator agent executes in a run"
    return line


def _record_item(line: ExecutionPoint, item: Any, result: Result) -> Flow[Any]:
    """Record an item as a step, and return the recorded item once it is durable."""
    request = StepRequest(kind="function", name="yield", effect="read", input={"args": {}})
    kept = yield from perform(line, request, StepBody(lambda _info: item, result))
    yield line.run.flushed()
    return kept


# -- readers -----------------------------------------------------------------------------------


class _ItemReader(Generic[R]):
    """The common part of `Items` and `AsyncItems`.

    Items come through the exchange while the run executes here. If another process executed the
    run, the remaining items come from its result.
    """

    def __init__(self) -> None:
        self._hand = ItemExchange()
        self._had = 0
        self._rest: list[Any] | None = None

    def _next(self, answer: tuple[str, Any]) -> Any:
        how, value = answer
        if how == "item":
            self._had += 1
            return value
        if how == "error":
            raise value
        if self._rest is None:
            self._rest = list(value[self._had :])
        return self._rest.pop(0) if self._rest else _DONE

    def close(self) -> None:
        """Stop reading. A run that has not ended is handed back; another `stream` resumes it."""
        self._hand.close()

    def __del__(self) -> None:
        self.close()


_DONE = object()


class Items(_ItemReader[R], Iterator[R]):
    """Iterates over the items of a run that executes in a thread, which starts at once."""

    def __init__(self, run: Callable[[], list[R]]) -> None:
        super().__init__()
        hand, context = self._hand, copy_context()

        def work() -> None:
            _reader.set(hand)
            _execute_for_reader(hand, run)

        threading.Thread(target=context.run, args=(work,), daemon=True).start()

    def __next__(self) -> R:
        asked = self._hand.ask()
        try:
            item = self._next(asked.result())
        except BaseException:
            self.close()
            raise
        if item is _DONE:
            raise StopIteration
        return item  # type: ignore[no-any-return]


def _execute_for_reader(hand: ItemExchange, run: Callable[[], Any]) -> None:
    try:
        value = run()
    except BaseException as error:
        hand.end("error", error)
    else:
        hand.end("result", value)


class AsyncItems(_ItemReader[R], AsyncIterator[R]):
    """Iterates over the items of a run that executes in a task. The first item starts the task.

    Awaited, it is the list of all items.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__()
        self._run = run
        self._task: asyncio.Task[None] | None = None

    async def __anext__(self) -> R:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                _aexecute_for_reader(self._hand, self._run)
            )
        asked = self._hand.ask()
        try:
            answer = await asyncio.shield(asyncio.wrap_future(asked))
            item = self._next(answer)
        except BaseException:
            self.close()
            raise
        if item is _DONE:
            raise StopAsyncIteration
        return item  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self._all().__await__()

    async def _all(self) -> list[R]:
        return [item async for item in self]

    async def aclose(self) -> None:
        """Like `close`, and wait until the run has been handed back."""
        self.close()
        if self._task is not None:
            await self._task


async def _aexecute_for_reader(hand: ItemExchange, run: Callable[[], Any]) -> None:
    _reader.set(hand)
    try:
        value = await run()
    except asyncio.CancelledError as error:
        hand.end("error", error)
        raise
    except BaseException as error:
        hand.end("error", error)
    else:
        hand.end("result", value)
