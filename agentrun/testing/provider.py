"""The process of the provider double: OpenAI's and Anthropic's API on loopback, with a ledger.

``python -m agentrun.testing.provider --rules rules.json --ledger bills.jsonl`` serves it by
hand; in tests `agentrun.testing.Provider` starts it. A rules file holds any of ``rules``,
``script``, ``restream_s``, ``rpm`` and ``faults``, as the constructors of those names take them.
"""

from __future__ import annotations

import math
import re
import time
from types import ModuleType
from typing import Any

from agentrun.testing import chat, embeddings, messages, responses
from agentrun.testing.background import RESTREAM_S, Shelf
from agentrun.testing.bench import Bench
from agentrun.testing.replies import choose, rules_from
from agentrun.testing.server import run
from agentrun.testing.speech import cut, mint
from agentrun.testing.wire import Answer, Request, json_answer

__all__ = ["ProviderService"]

MODELS = ("gpt-5", "gpt-5-mini", "text-embedding-3-small")
KINDS = {
    401: "invalid_request_error",
    404: "invalid_request_error",
    400: "invalid_request_error",
    429: "requests",
}
CODES = {401: "invalid_api_key", 404: "unknown_url", 429: "rate_limit_exceeded"}

# Where OpenAI, Azure and Anthropic have their endpoints.
ENDPOINT = re.compile(
    r"/(?:v1|openai(?:/v1|/deployments/[^/]+)?)/(chat/completions|responses|embeddings|messages)"
)
# One that is under way there.
UNDER_WAY = re.compile(r"(?:GET /.*/responses/(resp_\w+)|POST /.*/responses/(resp_\w+)/cancel)")
DIALECTS = {"chat/completions": chat, "responses": responses, "messages": messages}


class ProviderService:
    """Conversations by rule in every dialect, embeddings, and the list of models."""

    def __init__(self) -> None:
        self._rules = rules_from({})
        self._shelf = Shelf()
        self._limit: Bucket | None = None

    def configure(self, settings: dict[str, Any]) -> None:
        """Replace the rules and the script, and for how long a response is streamed again."""
        self._shelf.restream_s = settings.pop("restream_s", RESTREAM_S)
        rpm = settings.pop("rpm", None)
        self._limit = None if rpm is None else Bucket(rpm / 60)
        self._rules = rules_from(settings)

    def describe(self, request: Request) -> dict[str, Any]:
        """Method and path, and of a conversation its facts."""
        facts: dict[str, Any] = {"method": request.method, "path": request.path}
        body = request.content()
        dialect = DIALECTS.get(_endpoint(request), chat)
        return facts | dialect.describe(body) if isinstance(body, dict) else facts

    def answer(self, request: Request, bench: Bench) -> Answer:
        """The reply in the dialect of the path that was asked."""
        body, endpoint = request.content(), _endpoint(request)
        if request.method == "GET" and request.path == "/v1/models":
            answer = _models()
        elif found := UNDER_WAY.fullmatch(f"{request.method} {request.path}"):
            answer = self._under_way(request, found[1] or found[2])
        elif request.method == "POST" and not isinstance(body, dict):
            answer = _error(request, 400, "We could not parse the JSON body of your request.")
        elif dialect := DIALECTS.get(endpoint):
            answer = self._converse(request, dialect, body)
        elif endpoint == "embeddings" and "input" in body:
            answer = embeddings.answer(body)
        else:
            answer = _error(request, 404, f"Invalid URL ({request.method} {request.path})")
        return answer.with_headers(_headers(request))

    def refuse(self, request: Request, code: int, headers: dict[str, str]) -> Answer:
        """An error in the shape of the real API."""
        answer = _error(request, code, f"The double was armed to answer {code}.", headers)
        return answer.with_headers(_headers(request))

    def _converse(self, request: Request, dialect: ModuleType, body: dict[str, Any]) -> Answer:
        if wrong := dialect.problem(body):
            return _error(request, 400, wrong)
        if self._limit is not None and (wait := self._limit.take()) > 0:
            told = {"retry-after": str(math.ceil(wait))}
            return _error(request, 429, "Rate limit reached for requests.", told)
        limit = next((body[name] for name in dialect.LIMITS if body.get(name)), None)
        reply = cut(choose(self._rules, dialect.describe(body)), limit)
        kept = dialect is responses and body.get("background")
        answer: Answer = (self._shelf.create if kept else dialect.answer)(body, reply)
        return answer

    def _under_way(self, request: Request, identifier: str) -> Answer:
        if wrong := self._shelf.problem(identifier, request):
            return _error(request, *wrong)
        return self._shelf.answer(identifier, request)


class Bucket:
    """What a limit lets through: as many as two seconds bring at once, then as they come."""

    def __init__(self, rate: float) -> None:
        self._rate = rate  # a second
        self._left, self._at = 2 * rate, time.monotonic()

    def take(self) -> float:
        """Take one; or the seconds until there is one."""
        now = time.monotonic()
        self._left = min(2 * self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


def _endpoint(request: Request) -> str:
    """The end of the path if it is one of ours, posted to; else empty."""
    found = ENDPOINT.fullmatch(request.path) if request.method == "POST" else None
    return found[1] if found else ""


def _models() -> Answer:
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "double"} for name in MODELS]
    return json_answer({"object": "list", "data": data})


def _error(
    request: Request, code: int, message: str, headers: dict[str, str] | None = None
) -> Answer:
    if _endpoint(request) == "messages":
        return messages.refusal(code, message, headers)
    error = {
        "message": message,
        "type": KINDS.get(code, "server_error"),
        "param": None,
        "code": CODES.get(code),
    }
    return json_answer({"error": error}, code, headers)


def _headers(request: Request) -> dict[str, str]:
    """What the provider says with every answer."""
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
