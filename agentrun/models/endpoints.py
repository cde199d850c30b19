"""Which HTTP requests are paid calls: the one table that decides it.

The rule depends on the client. A provider's *SDK* (a client given to `wrap`, or one whose
``User-Agent`` names an SDK) sends requests only to its provider. So each of its requests is
recorded, except those in `UNPAID` and looks at the list of models. A file that was looked at or
deleted may be gone on a resume, and the code has to see what it saw. Any *other* client may
send requests anywhere. So its request is recorded only if a row of `ENDPOINTS` has its path and its
fields, or if its body is a conversation with a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

from agentrun.core.apis import (
    CHAT,
    COHERE_CHAT,
    COMPLETIONS,
    CONVERSE,
    EMBEDDINGS,
    GENERATE_CONTENT,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
    RESPONSES,
    RETRIEVE_RESPONSE,
)
from agentrun.core.events import Json

__all__ = [
    "ENDPOINTS",
    "FREE",
    "RETRIEVE",
    "ApiAddress",
    "Endpoint",
    "is_recorded",
    "is_sdk",
    "locate",
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row: an API of a provider.

    ``fields`` are the body fields that a request of a client without SDK must have. ``model|prompt
    input`` means ``model`` or ``prompt``, and ``input``. Empty: the path alone decides, as for
    uploads. None: only requests of an SDK are recorded.
    """

    api: str  # its name in the journal
    path: str  # the end of the path; ``{}`` is one segment, ``{model}`` names the model
    fields: str | None
    root: str = "/v1"  # the prefix of the path at a provider double


_E = Endpoint
# The first row that matches a path counts.
ENDPOINTS: tuple[Endpoint, ...] = (
    # OpenAI, Azure, and compatible servers
    _E(CHAT, "chat/completions", "model messages"),
    _E(CHAT, "agents/completions", "agent_id messages"),
    _E("responses.input_tokens", "responses/input_tokens", "model|prompt"),
    _E("responses.compact", "responses/compact", "model"),
    _E("responses.cancel", "responses/{}/cancel", None),
    _E(RESPONSES, "responses", "model|prompt|previous_response_id|conversation"),
    _E(EMBEDDINGS, "embeddings", "model|dimensions|encoding_format input|inputs"),
    _E("moderations", "moderations", "input"),
    _E("images.generations", "images/generations", "prompt"),
    _E("images.edits", "images/edits", ""),
    _E("images.variations", "images/variations", ""),
    _E("audio.speech", "audio/speech", "model input"),
    _E("audio.transcriptions", "audio/transcriptions", ""),
    _E("audio.translations", "audio/translations", ""),
    _E("videos", "videos", "prompt"),
    _E(COMPLETIONS, "completions", "model prompt"),
    # Ollama
    _E(OLLAMA_CHAT, "api/chat", "model messages", root=""),
    _E(OLLAMA_GENERATE, "api/generate", "model prompt", root=""),
    _E(OLLAMA_EMBED, "api/embed", "model input", root=""),
    _E("ollama.embeddings", "api/embeddings", "model prompt", root=""),
    # Anthropic
    _E("messages.count_tokens", "messages/count_tokens", "model messages"),
    _E("messages.batches", "messages/batches", "requests"),
    _E("threads.messages", "threads/{}/messages", None),
    _E(MESSAGES, "messages", "model messages"),
    _E("complete", "complete", "model prompt"),
    # Google: Gemini, and Vertex with Anthropic's and other models
    _E("countTokens", "models/{model}:countTokens", "contents", "/v1beta"),
    _E(GENERATE_CONTENT, "models/{model}:generateContent", "contents", "/v1beta"),
    _E(GENERATE_CONTENT, "models/{model}:streamGenerateContent", "contents", "/v1beta"),
    _E("embedContent", "models/{model}:embedContent", "content", "/v1beta"),
    _E("embedContent", "models/{model}:batchEmbedContents", "requests", "/v1beta"),
    _E("messages.count_tokens", "models/count-tokens:rawPredict", "messages", "/v1"),
    _E("rawPredict", "models/{model}:rawPredict", "messages", "/v1"),
    _E("rawPredict", "models/{model}:streamRawPredict", "messages", "/v1"),
    _E("predict", "models/{model}:predict", "instances", "/v1"),
    _E("predict", "models/{model}:predictLongRunning", "instances", "/v1"),
    # Amazon Bedrock
    _E(CONVERSE, "model/{model}/converse", "messages", ""),
    _E(CONVERSE, "model/{model}/converse-stream", "messages", ""),
    _E("invoke", "model/{model}/invoke", "", ""),
    _E("invoke", "model/{model}/invoke-with-response-stream", "", ""),
    # Mistral, Cohere, Voyage, Jina, Hugging Face
    _E("ocr", "ocr", "model document"),
    _E("conversations", "conversations", "inputs model|agent_id"),
    _E("rerank", "rerank", "model query documents"),
    _E("embed", "embed", "model texts|inputs|images"),
    _E(COHERE_CHAT, "v1/chat", "message", root=""),
    _E(COHERE_CHAT, "v2/chat", "model messages", root=""),
    _E("generate", "generate", "inputs"),
    _E("generate", "generate_stream", "inputs"),
)

# GET of a stored response, which may be one that the provider still works on.
RETRIEVE = Endpoint(RETRIEVE_RESPONSE, "responses/{}", None)

# Requests of an SDK that cost nothing: administration, and heartbeats of a provider's worker.
UNPAID = re.compile(
    r"/(organizations?|webhook_endpoints|vaults)(/|$)"
    r"|/projects/[^/]+/(groups|roles|users)(/|$)"
    r"|/environments/[^/]+/work(/|$)"
)

# Looks at the list of models. Programs ask for it once in a process, so a resume asks elsewhere.
CATALOGUE = re.compile(r"/models(/[^/]+)?/?$")

# Names of APIs that are recorded and known to cost nothing.
FREE = re.compile(
    r".*\.get|.*\.delete"
    r"|messages\.count_tokens|responses\.input_tokens|countTokens|moderations|.*\.cancel"
    r"|responses\.retrieve|(files|uploads|conversations|assistants)(\..*)?|threads(\.\*)?"
    r"|threads\.(\*\.)?messages.*"
)

ACTS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MANAGES = frozenset({"GET", "DELETE"})  # stored objects; no model is asked
_SDK = re.compile(r"(Async)?(Azure)?(OpenAI|Anthropic)\w*/")
_VERSION = re.compile(r"v\d+\w*|openai")
_WORD = re.compile(r"[a-z]+([_-][a-z]+)*")


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """The API that a path leads to: its name, the path below its root, and the model it names."""

    api: str
    path: str
    root: str
    model: str | None = None
    streams: bool = False  # the path asks for a stream
    is_known: bool = True  # found by a row of the table, or by the body


def is_sdk(headers: Any) -> bool:
    """Whether a provider's SDK made a request with these headers."""
    return _SDK.match(headers.get("user-agent", "")) is not None


def locate(path: str, body: Json = None, method: str = "POST") -> ApiAddress:
    """The API of a request: by its path, else by a conversation in its body."""
    looks = method == "GET" and _pattern(RETRIEVE.path).search(path) is not None
    if method in _MANAGES and not looks:
        return _locate_stored(path, method)
    for row in (*ENDPOINTS, RETRIEVE):
        if (found := _pattern(row.path).search(path)) is not None:
            return _address(row, found)
    if isinstance(body, dict) and isinstance(body.get("messages"), list):
        return ApiAddress(CHAT, "chat/completions", "/v1")
    if isinstance(body, dict) and "model" in body and "input" in body:
        return ApiAddress(RESPONSES, "responses", "/v1")
    rest = _after_version(path)
    return ApiAddress(_name(rest) or "call", "/".join(rest), "/v1", is_known=False)


def _locate_stored(path: str, method: str) -> ApiAddress:
    """The API of a look at a stored object or list, or of a deletion: ``files.get``."""
    rest = _after_version(path)
    name = f"{_name(rest).removesuffix('.*')}.{method.lower()}"
    return ApiAddress(name, "/".join(rest), "/v1", is_known=False)


def _name(parts: list[str]) -> str:
    return ".".join(part if _WORD.fullmatch(part) else "*" for part in parts)


def is_recorded(method: str, path: str, sdk: bool, body: Json) -> bool:
    """Whether a request is recorded; ``body`` is its JSON, None if its body is not JSON."""
    if sdk:
        looks = method == "GET" and CATALOGUE.search(path) is None
        return (looks or method in ACTS) and UNPAID.search(path) is None
    if method != "POST":
        return False
    fields = body if isinstance(body, dict) else {}
    row = next((row for row in ENDPOINTS if _pattern(row.path).search(path)), None)
    by_row = row is not None and row.fields is not None and _has_fields(fields, row.fields)
    return by_row or _is_conversation(fields)


def _is_conversation(body: dict[str, Json]) -> bool:
    """Whether a body names a model and holds its input. Gateways choose their own paths."""
    named = isinstance(body.get("model"), str) or "anthropic_version" in body
    return named and ("messages" in body or "input" in body)


def _has_fields(body: dict[str, Json], fields: str) -> bool:
    return all(any(name in body for name in names.split("|")) for names in fields.split())


def _address(row: Endpoint, found: re.Match[str]) -> ApiAddress:
    named = found.groupdict().get("model")
    return ApiAddress(
        row.api,
        found[0].strip("/"),
        row.root,
        unquote(named) if named else None,
        streams="stream" in row.path.lower(),
    )


@cache
def _pattern(path: str) -> re.Pattern[str]:
    text = re.escape(path).replace(r"\{model\}", r"(?P<model>[^/]+)").replace(r"\{\}", "[^/]+")
    return re.compile(f"(?:^|/){text}/?$")


def _after_version(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    versions = [at for at, part in enumerate(parts) if _VERSION.fullmatch(part)]
    return parts[versions[-1] + 1 :] if versions else parts
