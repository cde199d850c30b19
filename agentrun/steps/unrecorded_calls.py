"""Notices a tool call that was answered without a step.

Such a call is in no transcript, and a resumed run may make it again. That happens if a tool is not
decorated, or if the adapter of a framework was forgotten. The next request to the model shows it:
it answers a call of a recorded reply, and no step made that call.
"""

from __future__ import annotations

import re

from agentrun.core.events import Json
from agentrun.core.identity import Scope
from agentrun.core.log import logger
from agentrun.core.messages import item_messages, request_parts
from agentrun.steps.run_context import RunContext

__all__ = ["warn_of_unrecorded_calls"]

_ITEMS = 40  # last items of a request in which their results are looked for
# Frameworks offer these to the model as tools. They hand a conversation on, or end it, and act on
# nothing.
_CONTROL = re.compile(r"transfer_to_|transfer_back_to_|handoff|final_(answer|result|output)")

_warned: set[tuple[str, str]] = set()  # agent and tool


def warn_of_unrecorded_calls(run: RunContext, scope: Scope, body: Json) -> None:
    """Log a warning, once for a tool of an agent, if the request answers such a call.

    Only the calls of the run's latest reply are looked at: after a later reply, an agent inside
    a tool may have made them. The body of a tool is a part of that tool's step.
    """
    open_calls = {} if scope.body else _find_open_calls(run, scope)
    if not open_calls:
        return
    for items in request_parts(body)[1]:
        for message in item_messages(items[-_ITEMS:] if isinstance(items, list) else None):
            tool = open_calls.get(message.call_id) if message.role == "tool" else None
            if tool is not None and not _CONTROL.match(tool):
                _warn(run, tool)


def _find_open_calls(run: RunContext, scope: Scope) -> dict[str, str]:
    """The names of the tools that the latest reply asks for and no step has called, by call id."""
    with run.lock:
        asked = scope.top.all_replies[-1]
        reply = run.history.steps.get(asked[0].ident.partition("#")[0])
        if reply is None or reply.step != run.last_reply:
            return {}
        # A decorated tool may be called in a task of its own, without the id of its call.
        known = run.history.by_number.items()
        made = {step.name for number, step in known if number > reply.step}
        return {
            call.call_id: call.name
            for call in asked
            if call.call_id and not call.was_made and call.name not in made
        }


def _warn(run: RunContext, tool: str) -> None:
    if (run.agent, tool) in _warned:
        return
    _warned.add((run.agent, tool))
    logger.warning(
        "run %r: a call of the tool %r was answered without a step. If the tool acted, a resumed "
        "run calls it again: decorate it with @agentrun.tool, or use the adapter of your framework",
        run.key,
        tool,
    )
