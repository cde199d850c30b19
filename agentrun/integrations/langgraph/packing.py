"""Values of LangGraph in the journal: as its own serializers write them, in base64."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command

from agentrun.core.events import Json

__all__ = ["pack", "unpack"]

_SERIALIZER = JsonPlusSerializer()


def pack(value: Any, serializer: SerializerProtocol = _SERIALIZER) -> Json:
    """A value as JSON that the journal can hold."""
    kind, data = serializer.dumps_typed(value)
    return {"packed": kind, "data": base64.b64encode(data).decode()}


def unpack(recorded: Json, serializer: SerializerProtocol = _SERIALIZER) -> Any:
    """The value that `pack` wrote."""
    value = serializer.loads_typed((recorded["packed"], base64.b64decode(recorded["data"])))
    return _restore(value)


def _restore(value: Any) -> Any:
    """Give a command what LangGraph looks for by identity, and what its serializer changes."""
    if isinstance(value, list):
        return [_restore(one) for one in value]
    if not isinstance(value, Command):
        return value
    graph = Command.PARENT if value.graph == Command.PARENT else value.graph
    return replace(value, graph=graph, goto=() if value.goto == [] else value.goto)
