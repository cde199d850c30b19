"""`install`: every HTTP client of this process records, for code that makes its own.

LiteLLM, smolagents and mini-swe-agent make their clients where nobody can wrap them. Each request
of an httpx client, whatever its class and however it was made, asks ``_transport_for_url`` for
its transport; there ours goes before it. The method is private, and the same in httpx 0.28 and
httpx2 2; patching the transport classes instead would miss those that are not httpx's own
(LiteLLM puts aiohttp behind its async clients).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from agentrun.core.errors import ConfigError
from agentrun.models.retry import DEFAULT_RETRIES
from agentrun.models.transport import Recording, Settings, transports
from agentrun.models.wrap import FAMILIES, settings

__all__ = ["install", "patch"]

ORIGINAL = "_agentrun_original"  # on our patch: the method it stands before


def install(*, strict: bool = False, retries: int | None = DEFAULT_RETRIES) -> None:
    """Record the model calls of every ``httpx`` and ``httpx2`` client of this process.

    For code that owns its client, where `wrap` and `http_client` do not reach: LiteLLM,
    smolagents, module-level ``openai.*``. It serves clients that exist already and those made
    later; what is no model call, and what happens outside a run, passes through untouched. A
    wrapped client keeps its own settings. Loads those of the two packages that are installed.

    A failed call gets ``retries`` further attempts, recorded ones; whatever is answered then is
    final, and says so to an SDK that would retry as well. None leaves failures to the clients:
    each of their attempts is then a step of its own, sent without our idempotency key.

    ``strict`` as in `wrap`. To call it again changes the settings.

    Raises `ConfigError` for a negative number, and if neither package is installed.
    """
    told = settings(strict, retries)
    found = [name for name in FAMILIES if importlib.util.find_spec(name)]
    if not found:
        raise ConfigError("install() found neither httpx nor httpx2: there is no client to record")
    for name in found:
        patch(importlib.import_module(name), told)


def patch(module: Any, told: Settings) -> None:
    """Have the clients of ``module`` (httpx or httpx2) record; a patch of ours is replaced."""
    kinds = transports(module)
    _patch(module.Client, kinds.sync, told)
    _patch(module.AsyncClient, kinds.asyn, told)


def _patch(client: Any, kind: type[Any], told: Settings) -> None:
    found = client._transport_for_url
    original: Callable[[Any, Any], Any] = getattr(found, ORIGINAL, found)

    @functools.wraps(original)
    def transport_for_url(self: Any, url: Any) -> Any:
        inner = original(self, url)
        return inner if isinstance(inner, Recording) else kind(inner, told)

    setattr(transport_for_url, ORIGINAL, original)
    client._transport_for_url = transport_for_url
