"""`DurableMiddleware`: the tool calls of langchain's `create_agent` as recorded steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain.agents.middleware import AgentMiddleware

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.langgraph.tools import check_tools, durable_tools

__all__ = ["DurableMiddleware"]


class DurableMiddleware(AgentMiddleware[Any, Any, Any]):
    """Inside a run, each tool call of an agent of langchain is a recorded step.

    Put it last in the list of middleware, so that it is nearest to the tool: retries, limits and
    approvals of other middleware then happen around the recorded step. `interrupt()` and `Command`
    inside a tool are control flow: a resumed run takes the same way.

    What it does not do: tools that run at the provider are part of the model call; hooks of other
    middleware (``before_model`` and its like) are called again by a resume.

    Args:
        effects: effect classes by tool name; they precede the tools' metadata.
        default: the effect class of a tool that declares none.

    Raises:
        ConfigError: an effect class is misspelt. If a name in ``effects`` is the misspelt name of
            a tool, or a tool's metadata names no effect class, the run fails with this error before
            its first model call.

    Example:
        >>> agent = create_agent(model, [search], middleware=[DurableMiddleware()])
    """

    def __init__(
        self, *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
    ) -> None:
        super().__init__()
        self._effects = effects
        self._wrappers = durable_tools(effects=effects, default=default)

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Refuse what is misspelt, before a model is paid that is offered the tools."""
        self._check(request)
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Like `wrap_model_call`."""
        self._check(request)
        return await handler(request)

    def _check(self, request: Any) -> None:
        if agentrun.current_run() is not None:
            check_tools(request.tools, self._effects)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Record the call of a tool."""
        return self._wrappers["wrap_tool_call"](request, handler)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Like `wrap_tool_call`."""
        return await self._wrappers["awrap_tool_call"](request, handler)
