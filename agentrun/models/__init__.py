"""The only room that knows HTTP clients and providers.

Model calls are intercepted at the HTTP transport: whatever shape of an SDK is used (sync, async,
streams, raw responses, ``.parse``), it ends there. The transport reports to the `Recorder` that
`agentrun.core.recorder` describes, and knows nothing of who records.

::

    wrap       clients            transport  classes for httpx and httpx2
    install    every client
    call       one model call     body       bytes on their way, recorded
    request    what is asked      reply      what was answered, and back again
    sse, fold  streamed replies   retry      when and how long
    usage      tokens and price   tokens     estimates, offline

Importing it loads no HTTP client and no SDK.
"""

from __future__ import annotations

from agentrun.models.install import install
from agentrun.models.tokens import estimate
from agentrun.models.wrap import async_http_client, http_client, wrap

__all__ = ["async_http_client", "estimate", "http_client", "install", "wrap"]
