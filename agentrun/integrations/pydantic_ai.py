"""pydantic-ai: inside a run, each tool call of an agent is a recorded step.

A call that needs an approval waits in agentrun's inbox, and a call that is executed elsewhere waits
for its result as a signal.

    from agentrun.integrations.pydantic_ai import Durability

    agent = Agent(model, capabilities=[Durability()])

Give the model a client that is recorded: `agentrun.wrap(client)`, or call `agentrun.install()`
before the model is made. A tool says its effect class in its metadata,
``metadata={"effect": "read"}``. A tool that `agentrun.tool` decorates is recorded as it declares.

What it cannot do: tools that run at the provider are part of the model call. Hooks of other
capabilities run again on a resume. Models that send no HTTP requests need ``model_steps=True``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, SkipToolExecution
from pydantic_ai.messages import ModelResponse, ToolReturn, ToolReturnContent
from pydantic_ai.tools import DeferredToolResults, ToolApproved, ToolDenied

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import (
    check_classes,
    check_names,
    choose_effect,
    is_recorded_tool,
)

__all__ = ["Durability"]

_CONTENT: TypeAdapter[Any] = TypeAdapter(ToolReturnContent)
_RETURN: TypeAdapter[Any] = TypeAdapter(ToolReturn)
_RESPONSE: TypeAdapter[ModelResponse] = TypeAdapter(ModelResponse)
_MADE_UP = "pyd_ai_"  # begins the ids that pydantic-ai draws for providers which give none
_CONTROL_FLOW = (ApprovalRequired, CallDeferred, SkipToolExecution)


class Durability(AbstractCapability[Any]):
    """The capability that records the tool calls of an agent; outside a run it changes nothing.

    What a tool returns is recorded as the model reads it. A pydantic model that a tool returned
    is therefore plain JSON in the message history, both live and after a crash.

    A call that needs an approval (``requires_approval=True`` or `ApprovalRequired`) is asked for in
    the inbox: the run is held until a person decides with `agentrun.approve` or `agentrun.reject`.
    A call that is executed elsewhere (`CallDeferred`, external tools) waits for a signal named
    ``"<tool> <tool call id>"``, whose payload is the result; if the provider gives no ids, the name
    is the tool's.

    Args:
        effects: effect classes by tool name; they precede the tools' metadata.
        default: the effect class of a tool that declares none.
        inbox: answer deferred tool calls as above. False leaves them to the code, as
            `DeferredToolRequests`.
        model_steps: record the model's answers as steps. This is for models that send no HTTP
            requests, or by another client than httpx, since those cannot be recorded below the
            SDK. Such a step has no price and no usage, its request is not compared on a resume, and
            its stream is not live when it is replayed. A call in flight at a crash is made again.

    Raises:
        ConfigError: an effect class is misspelt. If a name in ``effects`` is the misspelt name of
            a tool, or a tool's metadata names no effect class, the run fails with this error before
            its first model call.

    Example:
        >>> agent = Agent(model, capabilities=[Durability(effects={"search": "read"})])
    """

    def __init__(
        self,
        *,
        effects: Mapping[str, Effect] | None = None,
        default: Effect = "once",
        inbox: bool = True,
        model_steps: bool = False,
    ) -> None:
        check_classes(effects, default)
        self.effects = effects
        self.default: Effect = default
        self.inbox = inbox
        self.model_steps = model_steps

    def get_default_run_id(self) -> str | None:
        """The same id for a resumed run as for the live one."""
        return str(agentrun.uuid()) if agentrun.current_run() is not None else None

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> Any:
        """Record the answer of the model, or give the recorded one, if there are `model_steps`."""
        if agentrun.current_run() is None:
            return await handler(request_context)
        self._check_tools(ctx, request_context.model_request_parameters)
        if not self.model_steps:
            return await handler(request_context)

        async def model_request() -> Any:
            return _RESPONSE.dump_python(await handler(request_context), mode="json")

        recorded = await agentrun.step(effect="idempotent")(model_request)()
        return _RESPONSE.validate_python(recorded)

    def _check_tools(self, ctx: Any, offered: Any) -> None:
        """Refuse what is misspelt, before a model is paid that is offered these tools."""
        names = {tool.name for tool in (*offered.function_tools, *offered.output_tools)}
        for toolset in getattr(ctx.agent, "toolsets", ()):
            names.update(getattr(toolset, "tools", ()))
        check_names(self.effects, names, complete=False)
        for tool in offered.function_tools:
            self._choose_effect(tool)

    def _choose_effect(self, tool_def: Any) -> Effect:
        declared = (tool_def.metadata or {}).get("effect")
        return choose_effect(tool_def.name, self.effects, declared, self.default)

    async def handle_deferred_tool_calls(
        self, ctx: Any, *, requests: Any
    ) -> DeferredToolResults | None:
        """Wait for people to decide, and for the results of what is executed elsewhere."""
        if not self.inbox or agentrun.current_run() is None:
            return None
        decisions, results = await asyncio.gather(
            asyncio.gather(*map(_await_approval, requests.approvals)),
            asyncio.gather(*map(_await_result, requests.calls)),
        )
        return DeferredToolResults(
            approvals=dict(zip(_ids(requests.approvals), decisions, strict=True)),
            calls=dict(zip(_ids(requests.calls), results, strict=True)),
        )

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

        try:
            recorded = await agentrun.acall(
                tool_def.name,
                sent,
                act,
                call_id=call.tool_call_id,
                effect=self._choose_effect(tool_def),
                passes=_CONTROL_FLOW,
                by_model=not self.model_steps,
            )
        except agentrun.ToolFailed as failed:
            return str(failed)  # the model reads it, such as: nobody knows what became of the call
        match recorded:
            case {"tool_return": value, **others} if not others:
                return _RETURN.validate_python(value)
            case {"content": value, **others} if not others:
                return _CONTENT.validate_python(value)
        return _CONTENT.validate_python(recorded)  # what a person said that the tool returned


async def _await_approval(call: Any) -> ToolApproved | ToolDenied:
    """Ask in the inbox whether a call may be made, and with which arguments."""
    asked = call.args_as_dict()
    name = f"approve {call.tool_name}"
    try:
        given = await agentrun.acall(
            name, asked, _same, effect="read", approve=True, by_model=False
        )
    except agentrun.ToolFailed as refusal:
        return ToolDenied(str(refusal))
    return ToolApproved(override_args=None if given == asked else given)


def _ids(calls: Sequence[Any]) -> list[str]:
    return [call.tool_call_id for call in calls]


def _same(**given: Any) -> dict[str, Any]:
    return given


async def _await_result(call: Any) -> Any:
    """Wait for the signal with the result of a call that is executed elsewhere."""
    made_up = call.tool_call_id.startswith(_MADE_UP)  # and another one on a resume
    return await agentrun.areceive(
        call.tool_name if made_up else f"{call.tool_name} {call.tool_call_id}"
    )


def _function(ctx: Any, name: str) -> Any:
    """The function of a tool that was given to the agent; None for a tool of another origin."""
    for toolset in getattr(ctx.agent, "toolsets", ()):
        tool = getattr(toolset, "tools", {}).get(name)
        if tool is not None:
            return getattr(tool, "function", None)
    return None
