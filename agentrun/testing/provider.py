"""The process of the provider double: OpenAI's API on loopback, billed to a ledger.

``python -m agentrun.testing.provider --rules rules.json --ledger bills.jsonl`` serves it by
hand; in tests `agentrun.testing.Provider` starts it. A rules file holds any of ``rules``,
``script`` and ``faults``, as the constructors of those names take them.
"""

from __future__ import annotations

from typing import Any

from agentrun.testing import chat, embeddings
from agentrun.testing.bench import Bench
from agentrun.testing.replies import choose, rules_from
from agentrun.testing.server import run
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


class ProviderService:
    """Chat completions by rule, embeddings, and the list of models."""

    def __init__(self) -> None:
        self._rules = rules_from({})

    def configure(self, settings: dict[str, Any]) -> None:
        """Replace the rules and the script."""
        self._rules = rules_from(settings)

    def describe(self, request: Request) -> dict[str, Any]:
        """Method and path, and of a conversation its facts."""
        facts: dict[str, Any] = {"method": request.method, "path": request.path}
        body = request.content()
        return facts | chat.describe(body) if isinstance(body, dict) else facts

    def answer(self, request: Request, bench: Bench) -> Answer:
        """The reply in the dialect of the path that was asked."""
        body = request.content()
        match request.method, request.path:
            case "POST", _ if not isinstance(body, dict):
                answer = _error(400, "We could not parse the JSON body of your request.")
            case "POST", "/v1/chat/completions":
                answer = self._chat(body)
            case "POST", "/v1/embeddings" if "input" in body:
                answer = embeddings.answer(body)
            case "GET", "/v1/models":
                answer = _models()
            case method, path:
                answer = _error(404, f"Invalid URL ({method} {path})")
        return _with_headers(answer)

    def refuse(self, code: int, headers: dict[str, str]) -> Answer:
        """An error in the shape of the real API."""
        return _with_headers(_error(code, f"The double was armed to answer {code}.", headers))

    def _chat(self, body: dict[str, Any]) -> Answer:
        if wrong := chat.problem(body):
            return _error(400, wrong)
        return chat.answer(body, choose(self._rules, chat.describe(body)))


def _models() -> Answer:
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "double"} for name in MODELS]
    return json_answer({"object": "list", "data": data})


def _error(code: int, message: str, headers: dict[str, str] | None = None) -> Answer:
    error = {
        "message": message,
        "type": KINDS.get(code, "server_error"),
        "param": None,
        "code": CODES.get(code),
    }
    return json_answer({"error": error}, code, headers)


def _with_headers(answer: Answer) -> Answer:
    return answer.with_headers(
        {
            "x-request-id": chat.mint("req_", 32),
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
    )


if __name__ == "__main__":
    run(ProviderService(), config="rules", description=__doc__)
