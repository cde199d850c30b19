"""DSPy: inside a run, each tool call of a program is a recorded step.

    from agentrun.integrations.dspy import durable

    agentrun.install()
    dspy.configure(lm=dspy.LM("openai/gpt-5-mini", engine="litellm", cache=False))
    program = dspy.ReAct("question -> answer", tools=durable([search], effects={"search": "read"}))

`agentrun.install()` records the language model, if its engine is LiteLLM: DSPy's own engine opens
sockets where nothing can record them. DSPy's cache has to be off: it answers from a file that
outlives the run, so a resumed run would ask for other steps than the live one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy

import agentrun
from agentrun.core.errors import Refusing
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import check_classes, check_names, choose_effect
from agentrun.integrations.recorded_functions import record_calls

__all__ = ["durable"]


def durable(
    tools: Sequence[Callable[..., Any] | dspy.Tool],
    *,
    effects: Mapping[str, Effect] | None = None,
    default: Effect = "once",
) -> list[dspy.Tool]:
    """The tools for a `dspy.ReAct` or another program, sync or async, as recorded steps.

    Args:
        tools: functions or `dspy.Tool` objects, which are changed in place.
        effects: effect classes by tool name.
        default: the effect class of a tool that has none in ``effects``.

    Raises:
        ConfigError: an effect class is misspelt, or a name in ``effects`` is no tool's.
        Refusing: a tool is called inside a run whose language model is not recorded. The run fails.

    Example:
        >>> program = dspy.ReAct("question -> answer", tools=durable([search]))
    """
    check_classes(effects, default)
    made = [tool if isinstance(tool, dspy.Tool) else dspy.Tool(tool) for tool in tools]
    check_names(effects, (str(tool.name) for tool in made), complete=True)
    for tool in made:
        effect = choose_effect(str(tool.name), effects, None, default)
        tool.func = _check_model_first(record_calls(tool.func, str(tool.name), effect=effect))
    return made


def _check_model_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which refuses to act for a language model that is not recorded."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def acall(**arguments: Any) -> Any:
            _check_model()
            return await function(**arguments)

        return acall

    @functools.wraps(function)
    def call(**arguments: Any) -> Any:
        _check_model()
        return function(**arguments)

    return call


def _check_model() -> None:
    model: Any = dspy.settings.lm
    if agentrun.current_run() is None or not isinstance(model, dspy.LM):
        return
    if model.engine != "litellm" or model.cache:
        raise Refusing(
            "inside a run the model of DSPy needs the engine that is recorded, and no cache: "
            f'dspy.LM({model.model!r}, engine="litellm", cache=False)'
        )
