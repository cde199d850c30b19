"""An agent called inside a run is a child run, whose key derives from the parent's.

The parent has a step for it. After a crash the parent's step finds the child by its key, done,
half-way or not begun. A child that parks lets its parent park too; its end wakes the parent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentrun.core.errors import RunError, RunFailed, RunHeld
from agentrun.core.events import Json
from agentrun.core.flow import Flow
from agentrun.core.identity import History
from agentrun.runner import execute, failures
from agentrun.runner.context import Line
from agentrun.runner.execute import Options
from agentrun.runner.step import Step, Wanted, open_step
from agentrun.runner.waits import Letter, await_letter, consume

if TYPE_CHECKING:
    from agentrun.runner.agent import DurableAgent


def call(agent: DurableAgent[..., Any], line: Line, arguments: dict[str, Json]) -> Flow[Any]:
    """The child's result, recorded in the parent; raises what the child failed with."""
    wanted = Wanted(kind="child", name=agent.name, effect="idempotent", asked={"args": arguments})
    step = yield from open_step(line, wanted)
    try:
        if step.outcome is None:
            yield from step.attempt(adopts=False)
            yield from _see_through(agent, line, step, arguments)
    finally:
        step.done()
    assert step.outcome is not None
    if step.outcome.status == "error":
        raise failures.rebuild(step.outcome.output["error"])
    return agent.arguments.result.decode(step.outcome.output["result"])


def child_key(parent: str, ident: str) -> str:
    """The key of the child run that a step of the parent is."""
    return f"{parent}/{ident}"


def _see_through(
    agent: DurableAgent[..., Any], line: Line, step: Step, arguments: dict[str, Json]
) -> Flow[None]:
    run = line.run
    key = agent.options.key or child_key(run.key, step.ident)
    options = _options(agent.options, line)
    while True:
        try:
            value = yield from execute.start(
                agent, run.database, key, options, arguments, parent=(line, step.number)
            )
        except RunHeld as held:
            run.check(step.scope)
            reason = f"waits for its child: {held}" if run.in_place else f"waits for child {key!r}"
            letter = yield from await_letter(
                step, lambda sent: _is_end(sent, step), None, reason, held=True
            )
            if letter is not None:
                consume(step, letter)
        except RunFailed as error:
            step.finish("error", {"error": failures.describe(error.__cause__ or error)})
            return
        except RunError as error:
            run.check(step.scope)
            step.finish("error", {"error": failures.describe(error)})
            return
        else:
            step.finish("ok", {"result": agent.arguments.result.encode(value)})
            return


def _options(given: Options, line: Line) -> Options:
    """How a child run waits: as its parent does, but in place where no parent can park."""
    run = line.run
    if line.scope.body or run.within:
        return replace(given, in_place=True, on_held="wait")
    if not run.in_place:
        return replace(given, in_place=False, on_held="raise")
    return replace(given, on_held="wait") if run.on_held == "wait" else given


def _is_end(letter: Letter, step: Step) -> bool:
    return bool(letter["kind"] == "child" and letter["step"] == step.number)


def open_children(key: str, history: History) -> list[str]:
    """The keys of a run's child runs that have not ended, as far as its journal knows."""
    return [
        child_key(key, known.ident)
        for known in history.steps.values()
        if known.kind == "child" and known.outcome is None
    ]
