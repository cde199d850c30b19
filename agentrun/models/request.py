"""Which HTTP requests are model calls, and what of one is kept: never credentials.

A model call is recognised by its shape (a JSON body with a model and a conversation), not by its
path: gateways choose their own paths, and other protocols use ours (MCP has a ``/messages``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from agentrun.core.events import Json
from agentrun.core.parse import parsed
from agentrun.core.recorder import ModelRequest

__all__ = ["canonical", "read_request", "redirect", "rewritten"]

# Body fields that say nothing about what is asked, so the fingerprint leaves them out:
VOLATILE = frozenset(
    {
        "prompt_cache_key",  # openai-agents draws a random one for each run, on the real host only
        "prompt_cache_retention",  # how long the provider caches, like the key above
        "metadata",  # trace and request ids of the caller
        "user",  # who asks; session ids of the caller
        "safety_identifier",  # the newer name of `user`
        "store",  # whether the provider keeps a copy
    }
)
# The ids of messages and tool calls: some clients draw their own when the provider gave none.
ID_FIELDS = ("id", "call_id", "tool_call_id", "tool_use_id")

SECRET_QUERY = frozenset({"key", "api_key", "api-key", "apikey", "token", "access_token", "sig"})
FOLLOWS = frozenset({"stream", "starting_after"})  # how a response under way is asked for
SECRET_TOOL_FIELDS = ("authorization", "headers")  # of an MCP server given to the provider
REMOVED = "[removed]"

API_ROOTS = ("chat", "responses", "messages", "embeddings", "audio", "moderations")


def read_request(hx: Any, request: Any) -> ModelRequest | None:
    """The model call that ``request`` (of module ``hx``) is; None if it is none.

    A body that is not in memory (multipart, a streamed upload) is never touched.
    """
    if request.method != "POST" or not isinstance(request.stream, hx.ByteStream):
        return None
    if "json" not in request.headers.get("content-type", ""):
        return None
    body = parsed(request.content)
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return None
    if "messages" not in body and "input" not in body:
        return None
    body = _without_secrets(body)
    return ModelRequest(
        api=_api(request.url.path, body),
        method=request.method,
        url=_url(request.url),
        body=body,
        canonical=canonical(body),
        stream=body.get("stream") is True,
        model=body["model"],
    )


def redirect(hx: Any, request: Any, base_url: str) -> None:
    """Address a model call to a double instead, below whose ``base_url`` paths are the usual ones.

    Credentials are left out. Doing it twice changes nothing.
    """
    api = _api(request.url.path, parsed(request.content))
    # The rest of a query speaks to the provider (`api-version`).
    query = {n: v for n, v in request.url.params.items() if n in FOLLOWS}
    request.url = hx.URL(f"{base_url}/{api.replace('.', '/')}", params=query)
    request.headers["Host"] = request.url.netloc.decode("ascii")
    for name in ("authorization", "api-key", "x-api-key"):
        request.headers.pop(name, None)


def rewritten(hx: Any, request: Any, fields: dict[str, Json]) -> Any:
    """A model call as it is sent, with these fields in its body."""
    headers = [(k, v) for k, v in request.headers.raw if k.lower() != b"content-length"]
    body = {**json.loads(request.content), **fields}
    return hx.Request(
        request.method,
        request.url,
        headers=headers,
        content=json.dumps(body, separators=(",", ":")).encode(),
        extensions=request.extensions,
    )


def canonical(body: dict[str, Json]) -> dict[str, Json]:
    """What the fingerprint is taken from: equal for two requests that ask the same.

    Ids in the conversation become numbers in the order they appear, so that ids drawn by the
    client do not count, and which call a result answers still does.
    """
    kept = {name: value for name, value in body.items() if name not in VOLATILE}
    numbers: dict[str, str] = {}

    def number(identifier: str) -> str:
        return numbers.setdefault(identifier, f"#{len(numbers) + 1}")

    for field in ("messages", "input"):
        if isinstance(kept.get(field), list):
            kept[field] = [_renumbered(item, number) for item in kept[field]]
    return kept


def _renumbered(item: Json, number: Callable[[str], str]) -> Json:
    """An item with its own ids, and those of its parts, replaced; arguments are not entered."""
    if not isinstance(item, dict):
        return item
    item = {
        name: number(value) if name in ID_FIELDS and isinstance(value, str) else value
        for name, value in item.items()
    }
    for field in ("tool_calls", "content"):
        if isinstance(item.get(field), list):
            item[field] = [_renumbered(part, number) for part in item[field]]
    return item


def _without_secrets(body: dict[str, Json]) -> dict[str, Json]:
    """The body less the credentials it may carry: those of MCP servers among its tools."""
    if not isinstance(body.get("tools"), list):
        return body
    return {**body, "tools": [_open_tool(tool) for tool in body["tools"]]}


def _open_tool(tool: Json) -> Json:
    if not isinstance(tool, dict) or tool.get("type") != "mcp":
        return tool
    return {k: REMOVED if k in SECRET_TOOL_FIELDS else v for k, v in tool.items()}


def _url(url: Any) -> str:
    """Scheme, host, path and query; no user, password or key."""
    query = parse_qsl(url.query.decode("latin-1"), keep_blank_values=True)
    public = [(k, REMOVED if k.lower() in SECRET_QUERY else v) for k, v in query]
    host = f"[{url.host}]" if ":" in url.host else url.host
    port = f":{url.port}" if url.port is not None else ""
    return f"{url.scheme}://{host}{port}{url.path}" + (f"?{urlencode(public)}" if public else "")


def _api(path: str, body: dict[str, Json]) -> str:
    """The provider's interface: named by the path where it is a usual one, else by the body."""
    parts = path.strip("/").split("/")
    root = next((at for at, part in enumerate(parts) if part in API_ROOTS), None)
    if root is not None:
        return ".".join(parts[root:])
    return "chat.completions" if "messages" in body else "responses"
