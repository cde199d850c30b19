"""MCP clients: inside a run, each tool call to a server is a recorded step.

    from agentrun.integrations.mcp import durable

    async with mcp.Client("http://localhost:8000/mcp") as client:
        durable(client)

A tool's hints give its effect class: ``readOnlyHint`` means ``read``, ``idempotentHint`` means
``idempotent``; any other tool is ``once``. The server gets the step's idempotency key in the call's
``_meta``, under ``agentrun/idempotency-key``, so that a server can refuse to act twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from mcp.types import CallToolResult

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import choose_effect, hinted_effect

__all__ = ["KEY", "durable", "record_call"]

KEY = "agentrun/idempotency-key"  # in the call's `_meta`


class _CallsTools(Protocol):
    """A `Client` or a `ClientSession`."""

    async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> Any: ...

    async def list_tools(self, *args: Any, **kwargs: Any) -> Any: ...


C = TypeVar("C", bound=_CallsTools)


def durable(
    client: C, *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
) -> C:
    """Make the tool calls of an MCP ``client`` recorded steps, and return the same client.

    Outside a run nothing changes. Calls with ``allow_input_required`` or ``allow_claimed`` return
    other types than results, and are passed on without a record.

    Args:
        client: a `Client` or a `ClientSession` of the package ``mcp``.
        effects: effect classes by tool name, for tools whose hints are missing or wrong.
        default: the effect class of a tool without hints.

    Raises:
        ConfigError: the client is durable already.

    Example:
        >>> async with mcp.Client(url) as client:
        ...     result = await durable(client).call_tool("refund", {"order_id": "7"})
    """
    if hasattr(client.call_tool, "__agentrun_durable__"):
        raise agentrun.ConfigError("the MCP client is durable already: call durable() once")
    send = client.call_tool
    hints: dict[str, Effect] = {}

    async def call_tool(
        name: str, arguments: dict[str, Any] | None = None, *args: Any, **options: Any
    ) -> Any:
        other_types = options.get("allow_input_required") or options.get("allow_claimed")
        if agentrun.current_run() is None or other_types:
            return await send(name, arguments, *args, **options)
        if name not in hints:
            hints.update(await _read_hints(client))
        effect = choose_effect(name, effects, hints.get(name), default)

        async def act(given: dict[str, Any] | None, key: dict[str, Any]) -> CallToolResult:
            meta = {**(options.get("meta") or {}), **key}
            result: CallToolResult = await send(name, given, *args, **{**options, "meta": meta})
            return result

        return await record_call(name, arguments, act, effect=effect)

    call_tool.__agentrun_durable__ = True  # type: ignore[attr-defined]
    client.call_tool = call_tool  # type: ignore[method-assign]
    return client


async def record_call(
    name: str,
    arguments: dict[str, Any] | None,
    act: Callable[[dict[str, Any] | None, dict[str, Any]], Awaitable[CallToolResult]],
    **options: Any,
) -> CallToolResult:
    """Record one call to a server, or give its recorded result, for adapters of MCP clients.

    Args:
        name: the tool's name, as the model called it.
        arguments: the arguments of the call.
        act: sends the call. It gets the arguments and what to add to the call's ``_meta``.
        options: options of `agentrun.acall`, such as ``effect``.

    Example:
        >>> await record_call("refund", {"order_id": "7"}, send, effect="once")
    """

    async def send(**given: Any) -> Any:
        sent = None if arguments is None and not given else given
        result = await act(sent, {KEY: agentrun.current_step().key})
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)

    recorded = await agentrun.acall(name, arguments or {}, send, **options)
    return CallToolResult.model_validate(recorded)


async def _read_hints(client: _CallsTools) -> dict[str, Effect]:
    """The effect classes that the server's hints name, by tool, from all pages of its list."""
    found: dict[str, Effect] = {}
    cursor = None
    while True:
        page = await (client.list_tools(cursor=cursor) if cursor else client.list_tools())
        for tool in page.tools:
            if effect := hinted_effect(tool.annotations):
                found[tool.name] = effect
        cursor = page.next_cursor
        if not cursor:
            return found
