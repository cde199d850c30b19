"""pydantic-ai: inside a run, each tool call of an agent is a recorded step.

    from agentrun.integrations.pydantic_ai import Durability

    agent = Agent(model, capabilities=[Durability()])

Give the model a client that is recorded: `agentrun.wrap(client)`, or call `agentrun.install()`
before the model is made. A tool says its effect class in its metadata,
``metadata={"effect": "read"}``. A tool that `agentrun.tool` decorates is recorded as it declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, SkipToolExecution
from pydantic_ai.messages import ToolReturn, ToolReturnContent

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import choose_effect, is_recorded_tool

__all__ = ["Durability"]

_CONTENT: TypeAdapter[Any] = TypeAdapter(ToolReturnContent)
_RETURN: TypeAdapter[Any] = TypeAdapter(ToolReturn)
_CONTROL_FLOW = (ApprovalRequired, CallDeferred, SkipToolExecution)


class Durability(AbstractCapability[Any]):
    """The capability that records the tool calls of an agent; outside a run it changes nothing.

    What a tool returns is recorded as the model reads it. A pydantic model that a tool returned
    is therefore plain JSON in the message history, both live and after a crash.

    Args:
        effects: effect classes by tool name; they precede the tools' metadata.
        default: the effect class of a tool that declares none.

    Example:
        >>> agent = Agent(model, capabilities=[Durability(effects={"search": "read"})])
    """

    def __init__(
        self, *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
    ) -> None:
        self.effects = effects
        self.default: Effect = default

    def get_default_run_id(self) -> str | None:
        """The same id for a resumed run as for the live one."""
        return str(agentrun.uuid()) if agentrun.current_run() is not None else None

    async def wrap_tool_execute(
        self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any
    ) -> Any:
        """Record the call of a tool, or give its recorded result."""
        if agentrun.current_run() is None or is_recorded_tool(_function(ctx, tool_def.name)):
            return await handler(args)
        sent = call.args_as_dict()

        async def act(**given: Any) -> Any:
            # `args` are the validated arguments of `sent`. A person may have edited those.
            value = await handler(args if given == sent else given)
            if isinstance(value, ToolReturn):
                return {"tool_return": _RETURN.dump_python(value, mode="json")}
            return {"content": _CONTENT.dump_python(value, mode="json")}

        declared = (tool_def.metadata or {}).get("effect")
        recorded = await agentrun.acall(
            tool_def.name,
            sent,
            act,
            call_id=call.tool_call_id,
            effect=choose_effect(tool_def.name, self.effects, declared, self.default),
            passes=_CONTROL_FLOW,
        )
        if "tool_return" in recorded:
            return _RETURN.validate_python(recorded["tool_return"])
        return _CONTENT.validate_python(recorded["content"])


def _function(ctx: Any, name: str) -> Any:
    """The function of a tool that was given to the agent; None for a tool of another origin."""
    for toolset in getattr(ctx.agent, "toolsets", ()):
        tool = getattr(toolset, "tools", {}).get(name)
        if tool is not None:
            return getattr(tool, "function", None)
    return None
