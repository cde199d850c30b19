"""The process of the provider double: OpenAI's and Anthropic's API on loopback, with a ledger.

``python -m agentrun.testing.provider --rules rules.json --ledger bills.jsonl`` starts it by hand;
in tests `agentrun.testing.Provider` starts it. A rules file is a list of replies, or an object that
may hold ``rules``, ``script``, ``restream_s``, ``rpm``, ``exact`` and ``faults``, as the arguments
of `Provider` of these names.
"""

from __future__ import annotations

import math
import re
import time
from types import ModuleType
from typing import Any

from agentrun.testing import chat, embeddings, messages, other_apis, responses
from agentrun.testing.background import RESTREAM_S, BackgroundResponses
from agentrun.testing.double_base import DoubleState
from agentrun.testing.replies import choose, rules_from
from agentrun.testing.server import run
from agentrun.testing.speech import cut, mint
from agentrun.testing.threads import MessageThreads
from agentrun.testing.wire import HttpAnswer, HttpRequest, json_answer

__all__ = ["ProviderService"]

MODELS = ("gpt-5", "gpt-5-mini", "text-embedding-3-small")
KINDS = {
    401: "invalid_request_error",
    404: "invalid_request_error",
    400: "invalid_request_error",
    429: "requests",
}
CODES = {401: "invalid_api_key", 404: "unknown_url", 429: "rate_limit_exceeded"}

# The endpoints of OpenAI, Azure and Anthropic.
ENDPOINT = re.compile(
    r"/(?:v1|openai(?:/v1|/deployments/[^/]+)?)/(chat/completions|responses|embeddings|messages)"
)
# Requests about a background response: retrieve it, or cancel it.
BACKGROUND = re.compile(r"(?:GET /.*/responses/(resp_\w+)|POST /.*/responses/(resp_\w+)/cancel)")
DIALECTS = {"chat/completions": chat, "responses": responses, "messages": messages}


class ProviderService:
    """Answers conversations by rule in every dialect, `other_apis`, and the list of models."""

    def __init__(self) -> None:
        self.keeps_text = False
        self._conversations: dict[str, list[Any]] = {}  # by the response that ended them
        self._rules = rules_from({})
        self._background = BackgroundResponses()
        self._threads = MessageThreads()
        self._limit: Bucket | None = None

    def configure(self, settings: dict[str, Any]) -> None:
        """Replace the rules, the script and the other settings."""
        self._background.restream_s = settings.pop("restream_s", RESTREAM_S)
        self.keeps_text = settings.pop("exact", False)
        rpm = settings.pop("rpm", None)
        self._limit = None if rpm is None else Bucket(rpm / 60)
        self._rules = rules_from(settings)

    def describe(self, request: HttpRequest) -> dict[str, Any]:
        """The method and path of a request, and the facts of a conversation."""
        facts: dict[str, Any] = {"method": request.method, "path": request.path}
        body = request.content()
        dialect = DIALECTS.get(_endpoint(request))
        if dialect is not None and isinstance(body, dict):
            facts.update(dialect.describe(self._with_stored_context(dialect, body)))
            return facts
        return facts | other_apis.describe(request) if request.method == "POST" else facts

    def answer(self, request: HttpRequest, state: DoubleState) -> HttpAnswer:
        """Answer in the dialect of the request's path."""
        body, endpoint = request.content(), _endpoint(request)
        if request.method == "GET" and request.path == "/v1/models":
            answer = _models()
        elif found := BACKGROUND.fullmatch(f"{request.method} {request.path}"):
            answer = self._background_answer(request, found[1] or found[2])
        elif endpoint and not isinstance(body, dict):
            answer = _error(request, 400, "We could not parse the JSON body of your request.")
        elif dialect := DIALECTS.get(endpoint):
            answer = self._converse(request, dialect, self._with_stored_context(dialect, body))
        elif endpoint == "embeddings" and "input" in body:
            answer = embeddings.answer(body)
        elif (made := other_apis.answer(request, self._rules)) is not None:
            answer = made
        else:
            answer = _error(request, 404, f"Invalid URL ({request.method} {request.path})")
        return answer.with_headers(_headers(request))

    def refuse(self, request: HttpRequest, code: int, headers: dict[str, str]) -> HttpAnswer:
        """Answer with an error in the shape of the real API."""
        answer = _error(request, code, f"The double was armed to answer {code}.", headers)
        return answer.with_headers(_headers(request))

    def _converse(
        self, request: HttpRequest, dialect: ModuleType, body: dict[str, Any]
    ) -> HttpAnswer:
        if dialect is messages and (refused := self._threads.refusal(body)):
            return refused
        if wrong := dialect.problem(body):
            return _error(request, 400, wrong)
        if self._limit is not None and (wait := self._limit.take()) > 0:
            headers = {"retry-after": str(math.ceil(wait))}
            return _error(request, 429, "Rate limit reached for requests.", headers)
        limit = next((body[name] for name in dialect.LIMITS if body.get(name)), None)
        reply = cut(choose(self._rules, dialect.describe(body)), limit)
        background = dialect is responses and body.get("background")
        make = self._background.create if background else dialect.answer
        make = self._threads.answer if dialect is messages else make
        answer: HttpAnswer = make(body, reply)
        if dialect is responses and answer.effect is not None:
            message = [{"role": "user", "content": body["input"]}]
            items = message if isinstance(body["input"], str) else body["input"]
            last = {"role": "assistant", "content": reply.text or ""}
            self._conversations[answer.effect["response_id"]] = [*items, last]
        return answer

    def _with_stored_context(self, dialect: ModuleType, body: dict[str, Any]) -> dict[str, Any]:
        """Add to a request what it refers to: a stored prompt, the conversation before it."""
        if dialect is messages:
            return self._threads.expand(body)
        if dialect is not responses:
            return body
        if isinstance(body.get("prompt"), dict):
            stored = {"role": "developer", "content": f"prompt {body['prompt'].get('id')}"}
            body = {"model": "gpt-5-mini", "input": [stored], **body}
        before = self._conversations.get(body.get("previous_response_id") or "")
        if before is None:
            return body
        new = body.get("input") or []
        items = [{"role": "user", "content": new}] if isinstance(new, str) else new
        body = {k: v for k, v in body.items() if k != "previous_response_id"}
        return {"model": "gpt-5-mini", **body, "input": [*before, *items]}

    def _background_answer(self, request: HttpRequest, identifier: str) -> HttpAnswer:
        if wrong := self._background.problem(identifier, request):
            return _error(request, *wrong)
        return self._background.answer(identifier, request)


class Bucket:
    """A token bucket: holds the requests of two seconds, and refills at ``rate`` a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens, self._at = 2 * rate, time.monotonic()

    def take(self) -> float:
        """Take one request and return 0; if there is none, return the seconds until there is."""
        now = time.monotonic()
        self._tokens = min(2 * self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


def _endpoint(request: HttpRequest) -> str:
    """The name of the endpoint (``"responses"``, say) if the request posts to one; else empty."""
    found = ENDPOINT.fullmatch(request.path) if request.method == "POST" else None
    return found[1] if found else ""


def _models() -> HttpAnswer:
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "double"} for name in MODELS]
    return json_answer({"object": "list", "data": data})


def _error(
    request: HttpRequest, code: int, message: str, headers: dict[str, str] | None = None
) -> HttpAnswer:
    if _endpoint(request) == "messages":
        return messages.refusal(code, message, headers)
    error = {
        "message": message,
        "type": KINDS.get(code, "server_error"),
        "param": None,
        "code": CODES.get(code),
    }
    return json_answer({"error": error}, code, headers)


def _headers(request: HttpRequest) -> dict[str, str]:
    """The headers that the provider adds to every answer."""
    if _endpoint(request) == "messages":
        return {
            "request-id": mint("req_", 24),
            "anthropic-organization-id": "double",
            "anthropic-ratelimit-requests-limit": "10000",
            "anthropic-ratelimit-requests-remaining": "9999",
        }
    return {
        "x-request-id": mint("req_", 32),
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "openai-organization": "double",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "199000",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-reset-tokens": "300ms",
    }


if __name__ == "__main__":
    run(ProviderService(), config="rules", description=__doc__)
