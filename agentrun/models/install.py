"""`install`: make every HTTP client of this process record model calls.

LiteLLM, smolagents and mini-swe-agent create their clients internally, where `wrap` cannot reach
them. An httpx client, whatever its class, gets the transport of each request from its method
``_transport_for_url``. `install` patches that method, and puts our transport before the one that it
returns. The method is private, and the same in httpx 0.28 and httpx2 2. To patch the transport
classes instead would miss those that are not httpx's own: LiteLLM puts aiohttp behind its async
clients.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from agentrun.core.errors import ConfigError
from agentrun.models.retries import DEFAULT_PATIENCE, DEFAULT_RETRIES
from agentrun.models.transport import RecordingBase, Settings, transports
from agentrun.models.web_sockets import refuse_model_web_sockets
from agentrun.models.wrap import FAMILIES, make_settings

__all__ = ["install", "patch"]

ORIGINAL = "_agentrun_original"  # attribute of our patch that holds the original method


def install(
    *,
    strict: bool = False,
    retries: int | None = DEFAULT_RETRIES,
    patience: float = DEFAULT_PATIENCE,
) -> None:
    """Record the model calls of every ``httpx`` and ``httpx2`` client of this process.

    For code that creates its own client, where `wrap` and `http_client` cannot be used: LiteLLM,
    smolagents, module-level ``openai.*``. It covers clients that exist already and clients made
    later. Requests that are no model calls, and requests outside a run, pass through unchanged. A
    wrapped client keeps its own settings. Imports those of the two packages that are installed.

    Calling it again changes the settings.

    Args:
        strict: as in `wrap`.
        retries: how many further attempts a failed call gets; each is recorded. The last answer is
            final, and is marked so that an SDK does not retry it too. With None, clients retry by
            themselves: each of their attempts is then a step of its own, sent without our
            idempotency key.
        patience: as in `wrap`; seconds that a call waits for a provider that cannot be reached.

    Raises:
        ConfigError: a number is negative, or neither package is installed.

    Example:
        >>> agentrun.install()   # before or after the library makes its clients
    """
    settings = make_settings(strict, retries, patience)
    found = [name for name in FAMILIES if importlib.util.find_spec(name)]
    if not found:
        raise ConfigError("install() found neither httpx nor httpx2: there is no client to record")
    refuse_model_web_sockets()
    for name in found:
        patch(importlib.import_module(name), settings)


def patch(module: Any, settings: Settings) -> None:
    """Make the clients of ``module`` (httpx or httpx2) record; replaces our earlier patch."""
    kinds = transports(module)
    _patch(module.Client, kinds.sync, settings)
    _patch(module.AsyncClient, kinds.asyn, settings)


def _patch(client: Any, kind: type[Any], settings: Settings) -> None:
    found = client._transport_for_url
    original: Callable[[Any, Any], Any] = getattr(found, ORIGINAL, found)

    @functools.wraps(original)
    def transport_for_url(self: Any, url: Any) -> Any:
        inner = original(self, url)
        return inner if isinstance(inner, RecordingBase) else kind(inner, settings)

    setattr(transport_for_url, ORIGINAL, original)
    client._transport_for_url = transport_for_url
