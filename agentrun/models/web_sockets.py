"""Model calls over a WebSocket are refused inside a run, because they cannot be recorded.

The realtime APIs of OpenAI, and the WebSocket mode of its Responses API, hold a conversation in one
connection, outside the HTTP transport. A crash would lose what was paid there. The SDKs open such a
connection with the package `websockets`. Its two clients, sync and async, parse the address before
they open a socket, so that is where a connection is refused.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Any

from agentrun.core import recorder
from agentrun.core.errors import Refusing

__all__ = ["refuse_model_web_sockets"]

_CLIENTS = ("websockets.sync.client", "websockets.asyncio.client")
# A path with one of these segments belongs to a model; other WebSockets pass.
_SEGMENTS = frozenset({"realtime", "responses", "live"})


@functools.cache  # once in a process
def refuse_model_web_sockets() -> None:
    """From now on refuse WebSockets to a model inside a run, except in the body of a step.

    Does nothing where the package `websockets` is not installed: the SDKs cannot do without it.
    """
    for name in _CLIENTS:
        with contextlib.suppress(ImportError):
            _patch(importlib.import_module(name))


def _patch(module: Any) -> None:
    original = module.parse_uri

    @functools.wraps(original)
    def parse_uri(uri: str) -> Any:
        address, line = original(uri), recorder.current.get()
        if line is not None and not line.in_step and _SEGMENTS & set(address.path.split("/")):
            raise Refusing(
                f"{address.host}{address.path} is a model call over a WebSocket, which cannot be "
                "recorded: use the HTTP API, or hold the whole conversation in one @agentrun.step"
            )
        return address

    module.parse_uri = parse_uri
