"""Notices a tool call that was made without a step.

Such a call is in no transcript, and a resumed run makes it again. That happens if a tool is not
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

_REPLIES = 8  # latest replies of the run whose calls are looked for
_ITEMS = 40  # last items of a request in which their results are looked for
# Frameworks offer these to the model as tools. They hand a conversation on, or end it, and act on
# nothing.
_CONTROL = re.compile(r"transfer_to_|transfer_back_to_|handoff|final_(answer|result|output)")

_warned: set[tuple[str, str]] = set()  # agent and tool


def warn_of_unrecorded_calls(run: RunContext, scope: Scope, body: Json) -> None:
    """Log a warning, once for a tool of an agent, if the request answers such a call."""
    with run.lock:
        asked = [call for reply in scope.top.all_replies[-_REPLIES:] for call in reply]
        open_calls = {call.call_id: call.name for call in asked if call.call_id}
        for call in asked:
            if call.was_made:
                open_calls.pop(call.call_id, None)
    if not open_calls:
        return
    for items in request_parts(body)[1]:
        for message in item_messages(items[-_ITEMS:] if isinstance(items, list) else None):
            tool = open_calls.get(message.call_id) if message.role == "tool" else None
            if tool is not None and not _CONTROL.match(tool):
                _warn(run, tool)


def _warn(run: RunContext, tool: str) -> None:
    if (run.agent, tool) in _warned:
        return
    _warned.add((run.agent, tool))
    logger.warning(
        "run %r: the tool %r was called without a step, so a resumed run calls it again. Decorate "
        "it with @agentrun.tool, or give the adapter to your framework (docs/frameworks.md)",
        run.key,
        tool,
    )
