"""The only room that knows HTTP clients and providers.

Model calls are intercepted at the HTTP transport, because every way to use an SDK (sync, async,
streams, raw responses, ``.parse``) ends there. The transport reports to the `Recorder` protocol of
`agentrun.core.recorder`; this room does not know how calls are recorded.

::

    entry            wrap (one client), install (every client), transport (httpx and httpx2)
    one call         call, retries, request (HTTP to record), reply (HTTP to record and back)
    reply bodies     response_body, event_streams, stream_fold, reply_flaws, masked_replies
    background mode  background, background_support, background_response, background_stream,
                     missing_events
    money            endpoints (what is a paid call), usage, cost_estimate, tokens, rate_limits

Importing this package loads no HTTP client and no SDK.
"""

from __future__ import annotations

from agentrun.models.install import install
from agentrun.models.tokens import estimate
from agentrun.models.wrap import async_http_client, http_client, wrap

__all__ = ["async_http_client", "estimate", "http_client", "install", "wrap"]
