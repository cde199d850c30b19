"""Reads model calls from HTTP requests, and rewrites requests; credentials are never recorded.

`agentrun.models.endpoints` decides which requests are model calls. A JSON body is recorded as a
value, a form by its parts. Any other body is recorded as text or as a claim check: its digest and
size in the row, its bytes in `payloads`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from agentrun.core.apis import CHAT, EMBEDDINGS, MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE, RESPONSES
from agentrun.core.codec import digest
from agentrun.core.events import Json
from agentrun.core.naming import is_worth_knowing
from agentrun.core.parse import parse_json
from agentrun.core.recorder import ModelRequest
from agentrun.core.secrets import mask
from agentrun.models.endpoints import ApiAddress, is_recorded, is_sdk, locate

__all__ = [
    "canonical_body",
    "comparable_body",
    "is_model_call",
    "mask_credentials",
    "read_request",
    "redirect",
    "with_fields",
]

# Body fields that do not change the question, so that the fingerprint leaves them out:
VOLATILE = frozenset(
    {
        "prompt_cache_key",  # openai-agents draws a random one for each run, on the real host only
        "prompt_cache_retention",  # how long the provider caches, like the key above
        "metadata",  # trace and request ids of the caller
        "user",  # the end user; session ids of the caller
        "safety_identifier",  # the newer name of `user`
        "store",  # whether the provider keeps a copy
    }
)
# The ids of messages and tool calls. Some clients draw random ones if the provider gave none.
ID_FIELDS = ("id", "call_id", "tool_call_id", "tool_use_id")

CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")  # headers
SECRET_QUERY = frozenset(
    {
        "key", "api_key", "api-key", "apikey", "token", "access_token", "sig", "x-amz-credential",
        "x-amz-security-token", "x-amz-signature", "x-amz-date", "x-goog-credential",
        "x-goog-signature", "x-goog-date",
    }
)  # fmt: skip
RETRIEVE_QUERY = frozenset({"stream", "starting_after"})  # of a GET of a background response
SECRET_TOOL_FIELDS = ("authorization", "headers")  # of an MCP server that the provider calls
REMOVED = "[removed]"

# APIs whose request is complete in its body. For any other API a resume compares the path too.
APIS_COMPARED_BY_BODY = frozenset({CHAT, RESPONSES, MESSAGES, EMBEDDINGS})
INLINE_LIMIT = 4096  # the most bytes of a form's field that are stored in the row
KEPT_LIMIT = 64 << 20  # the most bytes of an upload that are stored; else only digest and size


def mask_credentials(headers: Any) -> None:
    """Mask a client's credential wherever it occurs: a model or a tool may return it."""
    for name in CREDENTIALS:
        credential: str = headers.get(name, "").rpartition(" ")[2]  # after the scheme, as in Bearer
        if is_worth_knowing(credential, named=False):
            mask.know([credential])


def is_model_call(hx: Any, request: Any, *, sdk: bool = False) -> bool:
    """Whether ``request`` (of module ``hx``) is a model call.

    The body is read only if it is in memory; `read_request` requires that.
    """
    sdk = sdk or is_sdk(request.headers)
    in_memory = isinstance(request.stream, hx.ByteStream)
    if not sdk and not in_memory and not _is_form(request):
        return False  # the stream of a request that is no model call must not be consumed
    body = parse_json(request.content) if in_memory and _is_json(request) else None
    return is_recorded(request.method, _path(request), sdk, body)


def read_request(hx: Any, request: Any, *, sdk: bool = False) -> ModelRequest | None:
    """Read ``request``, whose body is in memory, as a model call; None if it is none."""
    if not is_model_call(hx, request, sdk=sdk):
        return None
    content, attached = _content(request)
    place = locate(_path(request), content, request.method)
    body = _without_secrets(content)
    model = next(filter(None, (_model(body), place.model)), None)
    api = _api_name(place, body)
    return ModelRequest(
        api=api,
        method=request.method,
        url=_url(request.url),
        body=body,
        canonical=comparable_body(api, _url(request.url), body),
        stream=_asks_for_stream(place, body),
        model=model,
        attached=attached,
        signed=request.headers.get("authorization", "").startswith("AWS4-"),
    )


def redirect(hx: Any, request: Any, base_url: str) -> None:
    """Address a model call to a provider double at ``base_url``, which has the usual paths.

    Credentials are removed. A second call changes nothing.
    """
    body = parse_json(request.content) if _is_json(request) else None
    place = locate(_path(request), body, request.method)
    # Other query parameters concern only the provider (`api-version`).
    query = {n: v for n, v in request.url.params.items() if n in RETRIEVE_QUERY}
    double = urlsplit(base_url)
    root = double.path if place.root == "/v1" else place.root
    request.url = hx.URL(f"{double.scheme}://{double.netloc}{root}/{place.path}", params=query)
    request.headers["Host"] = request.url.netloc.decode("ascii")
    for name in ("authorization", "api-key", "x-api-key", "x-goog-api-key", "x-amz-security-token"):
        request.headers.pop(name, None)


def with_fields(hx: Any, request: Any, fields: dict[str, Json]) -> Any:
    """A copy of the HTTP request with ``fields`` set in its JSON body."""
    headers = [(k, v) for k, v in request.headers.raw if k.lower() != b"content-length"]
    body = {**json.loads(request.content), **fields}
    return hx.Request(
        request.method,
        request.url,
        headers=headers,
        content=json.dumps(body, separators=(",", ":")).encode(),
        extensions=request.extensions,
    )


def canonical_body(body: dict[str, Json]) -> dict[str, Json]:
    """The form of a body that is fingerprinted: equal for two requests with the same question.

    Ids in the conversation become numbers in the order of their appearance. So random ids of a
    client make no difference, but it still matters which call a result answers.
    """
    kept = {name: value for name, value in body.items() if name not in VOLATILE}
    numbers: dict[str, str] = {}

    def number(identifier: str) -> str:
        return numbers.setdefault(identifier, f"#{len(numbers) + 1}")

    for field in ("messages", "input"):
        if isinstance(kept.get(field), list):
            kept[field] = [_renumber_ids(item, number) for item in kept[field]]
    return kept


def _renumber_ids(item: Json, number: Callable[[str], str]) -> Json:
    """An item with its ids and those of its parts replaced; arguments are not changed."""
    if not isinstance(item, dict):
        return item
    item = {
        name: number(value) if name in ID_FIELDS and isinstance(value, str) else value
        for name, value in item.items()
    }
    for field in ("tool_calls", "content"):
        if isinstance(item.get(field), list):
            item[field] = [_renumber_ids(part, number) for part in item[field]]
    return item


def _without_secrets(body: dict[str, Json]) -> dict[str, Json]:
    """The body without the credentials of MCP servers among its tools."""
    if not isinstance(body.get("tools"), list):
        return body
    return {**body, "tools": [_without_tool_secrets(tool) for tool in body["tools"]]}


def _without_tool_secrets(tool: Json) -> Json:
    if not isinstance(tool, dict) or tool.get("type") != "mcp":
        return tool
    return {k: REMOVED if k in SECRET_TOOL_FIELDS else v for k, v in tool.items()}


def _url(url: Any) -> str:
    """Scheme, host, path and query, without user, password and keys."""
    query = parse_qsl(url.query.decode("latin-1"), keep_blank_values=True)
    public = [(k, REMOVED if k.lower() in SECRET_QUERY else v) for k, v in query]
    host = f"[{url.host}]" if ":" in url.host else url.host
    port = f":{url.port}" if url.port is not None else ""
    path = url.raw_path.partition(b"?")[0].decode("ascii")  # with its escapes
    return f"{url.scheme}://{host}{port}{path}" + (f"?{urlencode(public)}" if public else "")


def _path(request: Any) -> str:
    """The path with its escapes: the name of a model in it may hold an escaped slash."""
    path: str = request.url.raw_path.partition(b"?")[0].decode("ascii")
    return path


def _is_json(request: Any) -> bool:
    return "json" in request.headers.get("content-type", "")


def _is_form(request: Any) -> bool:
    kind: str = request.headers.get("content-type", "")
    return kind.startswith("multipart/form-data")


def _model(body: dict[str, Json]) -> str | None:
    """The model that a body names; the body may be a form."""
    named = _field(body, "model")
    return named if isinstance(named, str) else None


def _field(body: dict[str, Json], name: str) -> Json:
    if name in body or not isinstance(body.get("parts"), list):
        return body.get(name)
    return next((p.get("value") for p in body["parts"] if p.get("name") == name), None)


def _asks_for_stream(place: ApiAddress, body: dict[str, Json]) -> bool:
    """Whether the request asks for a stream. Ollama streams unless the request says no."""
    if place.api in (OLLAMA_CHAT, OLLAMA_GENERATE):
        return body.get("stream") is not False
    by_field = _field(body, "stream") in (True, "true") or body.get("stream_format") == "sse"
    return by_field or place.streams


def _api_name(place: ApiAddress, body: dict[str, Json]) -> str:
    """The name of the API. Anthropic's messages are recognised in other clouds too."""
    if place.api in ("invoke", "rawPredict") and "anthropic_version" in body:
        return MESSAGES
    return place.api


def comparable_body(api: str, url: str, body: dict[str, Json]) -> dict[str, Json]:
    """The value that a request is compared by on resume, for recorded and new requests."""
    address = urlsplit(url)
    comparable, place = canonical_body(body), locate(address.path, body)
    model = _model(body) or place.model
    if model is not None and "parts" not in body:
        comparable.setdefault("model", model)
    if isinstance(body.get("parts"), list):
        comparable["parts"] = [_without_filename(part) for part in body["parts"]]
    if api.endswith((".get", ".delete")):  # a page of a list is named by its query
        comparable["query"] = address.query
    return comparable if api in APIS_COMPARED_BY_BODY else {"path": place.path, **comparable}


def _without_filename(part: dict[str, Json]) -> dict[str, Json]:
    """A part of a form without its file name, which may be the random one of a temporary file."""
    return {name: value for name, value in part.items() if name != "filename"}


# -- bodies ----------------------------------------------------------------------------------------

_NAMED = re.compile(r'\bname="([^"]*)"')
_FILENAME = re.compile(r'\bfilename\*?="?([^";]*)')
_BOUNDARY = re.compile(r'boundary="?([^";]+)')


def _content(request: Any) -> tuple[dict[str, Json], tuple[bytes, ...]]:
    """The body as it is recorded, and the bytes of its claim checks."""
    raw: bytes = request.content
    kind: str = request.headers.get("content-type", "")
    value = parse_json(raw) if _is_json(request) else None
    if isinstance(value, dict):
        return value, ()
    if not raw:
        return {}, ()
    if _is_form(request) and (found := _BOUNDARY.search(kind)) is not None:
        parts, attached = [], []
        for part, claimed in _parts(raw, found[1].encode()):
            parts.append(part)
            attached += claimed
        return {"parts": parts}, tuple(attached)
    whole, claimed = _keep_bytes(raw, limit=KEPT_LIMIT)
    return {"content_type": kind, **whole}, tuple(claimed)


def _parts(raw: bytes, boundary: bytes) -> list[tuple[dict[str, Json], list[bytes]]]:
    """The parts of a form, in order, without the boundary, which is random in each request."""
    found = []
    for piece in (b"\r\n" + raw).split(b"\r\n--" + boundary)[1:-1]:
        head, _, value = piece.partition(b"\r\n\r\n")
        headers = head.decode("utf-8", "replace")
        part: dict[str, Json] = {}
        for field, pattern in (("name", _NAMED), ("filename", _FILENAME)):
            if (match := pattern.search(headers)) is not None:
                part[field] = match[1]
        whole, claimed = _keep_bytes(value, limit=0 if "filename" in part else INLINE_LIMIT)
        found.append(({**part, **whole}, claimed))
    return found


def _keep_bytes(value: bytes, *, limit: int) -> tuple[dict[str, Json], list[bytes]]:
    """A text of up to ``limit`` bytes as a value; else a claim check, and its bytes."""
    try:
        if len(value) <= limit:
            return {"value": value.decode()}, []
    except UnicodeDecodeError:
        pass
    claim: dict[str, Json] = {"payload": digest(value), "size": len(value)}
    return claim, [value] if len(value) <= KEPT_LIMIT else []
