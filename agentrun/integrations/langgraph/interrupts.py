"""Interrupts of a graph as requests in the inbox.

`interrupt(value)` in a node ends the call of the graph, and `Command(resume=answer)` goes on. Here
a person gives the answer in the inbox: the run waits, holds nothing meanwhile, and a crash at any
moment loses neither the question nor the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langgraph.types import Command, Interrupt

import agentrun
from agentrun.core.events import Json

__all__ = ["ainvoke_and_ask", "invoke_and_ask"]

STEP = "interrupt"


def invoke_and_ask(graph: Any, input: Any, config: Any = None, **options: Any) -> Any:
    """Invoke a graph and have a person answer each of its interrupts in the inbox.

    An interrupt is a request with the name ``interrupt`` and its value as the argument ``value``.
    What the person decides is what `interrupt()` returns in the node:

    * `agentrun.approve(key, step)`: True.
    * `agentrun.approve(key, step, arguments={"answer": ANSWER})`: the answer.
    * `agentrun.reject(key, step)`: False.

    Interrupts of langchain's `HumanInTheLoopMiddleware` are approved or rejected as its decisions.
    Several interrupts are asked for at once, and the graph goes on when all are answered. Outside a
    run the graph is invoked, and its interrupts are returned as always.

    Args:
        graph: a compiled graph with a checkpointer: an `InMemorySaver` that the run makes itself,
            or a `DurableSaver`.
        input: what `graph.invoke` gets; so are ``config`` and the options.

    Returns:
        What `graph.invoke` returns once nothing interrupts it any more.

    Raises:
        ConfigError: the graph has no checkpointer, or the value of an interrupt is no JSON.
        RunHeld: seen by the caller of `.run()`, while a person has to answer.

    Example:
        >>> state = invoke_and_ask(compiled, {"order": 7}, {"configurable": {"thread_id": "7"}})
    """
    _check(graph)
    result = graph.invoke(input, config, **options)
    while asked := _interrupts(result):
        if len(asked) == 1:
            answers = [_ask(asked[0])]
        else:
            with ThreadPoolExecutor(len(asked)) as pool:
                answers = list(pool.map(_ask, asked))
        result = graph.invoke(_resume(asked, answers), config, **options)
    return result


async def ainvoke_and_ask(graph: Any, input: Any, config: Any = None, **options: Any) -> Any:
    """Like `invoke_and_ask`, with `graph.ainvoke`.

    Example:
        >>> state = await ainvoke_and_ask(compiled, {"order": 7}, config)
    """
    _check(graph)
    result = await graph.ainvoke(input, config, **options)
    while asked := _interrupts(result):
        answers = await asyncio.gather(*map(_aask, asked))
        result = await graph.ainvoke(_resume(asked, answers), config, **options)
    return result


def _check(graph: Any) -> None:
    if agentrun.current_run() is not None and not getattr(graph, "checkpointer", None):
        raise agentrun.ConfigError(
            "a graph needs a checkpointer to go on after an interrupt: "
            "graph.compile(checkpointer=DurableSaver(…))"
        )


def _interrupts(result: Any) -> Sequence[Interrupt]:
    """The interrupts that ended a call of the graph, in an order that a resume repeats."""
    if agentrun.current_run() is None:
        return ()
    found = getattr(result, "interrupts", None)
    if found is None and isinstance(result, dict):
        found = result.get("__interrupt__")
    return sorted(found or (), key=lambda asked: _text(asked.value))


def _text(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise agentrun.ConfigError(
            f"the value of an interrupt cannot be shown in the inbox: {error}; give interrupt() "
            "what JSON can hold"
        ) from None


def _ask(asked: Interrupt) -> Any:
    try:
        return agentrun.step(name=STEP, effect="read", approve=True)(_answer)(asked.value)
    except agentrun.ToolFailed as refused:
        return _refusal(asked.value, refused)


async def _aask(asked: Interrupt) -> Any:
    try:
        return await agentrun.step(name=STEP, effect="read", approve=True)(_aanswer)(asked.value)
    except agentrun.ToolFailed as refused:
        return _refusal(asked.value, refused)


def _answer(value: Json = None, answer: Json = True) -> Json:
    """What `interrupt()` returns after an approval."""
    if answer is True and (actions := _actions(value)):
        return {"decisions": [{"type": "approve"} for _ in actions]}
    return answer


async def _aanswer(value: Json = None, answer: Json = True) -> Json:
    return _answer(value, answer)


def _refusal(value: Json, refused: agentrun.ToolFailed) -> Json:
    """What `interrupt()` returns after a rejection."""
    if actions := _actions(value):
        decision = {"type": "reject", "message": str(refused)}
        return {"decisions": [decision for _ in actions]}
    return False


def _actions(value: Json) -> Sequence[Any]:
    """The tool calls that langchain's `HumanInTheLoopMiddleware` asks about; none for others."""
    found = value.get("action_requests") if isinstance(value, dict) else None
    return found if isinstance(found, list) else ()


def _resume(asked: Sequence[Interrupt], answers: Sequence[Any]) -> Command[Any]:
    if len(asked) == 1:
        return Command(resume=answers[0])
    return Command(resume={one.id: answer for one, answer in zip(asked, answers, strict=True)})
