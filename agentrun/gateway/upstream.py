"""The request to a provider, the headers that are passed on, and the check for a whole answer."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import DefaultCookiePolicy

import httpx

from agentrun.core.codec import Unserialisable, digest, fingerprint
from agentrun.core.recorder import ModelRequest
from agentrun.gateway.shared_answer import AnswerHead
from agentrun.models.cost_estimate import LIMITS
from agentrun.models.reply import build_whole
from agentrun.models.request import read_request
from agentrun.store.answers import CallEnd, StoredAnswer

__all__ = [
    "GatewayRequest",
    "client",
    "encode_headers",
    "headers_for",
    "headers_from",
    "judge_response",
    "timeouts",
    "was_not_sent",
]

Pairs = Sequence[tuple[str, str]]

CONNECT_TIMEOUT = 10.0  # seconds

# Headers that belong to one connection and not to the message (hop-by-hop headers).
_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_OURS = "agentrun-"
_CORS = "access-control-"  # a provider must not decide which web pages may read the gateway
_PLAIN = frozenset({"accept-encoding", "content-length"})  # replaced if the answer is stored
_COOKIES = frozenset({"set-cookie", "set-cookie2"})
_REPLY_LIMITS = frozenset(name for names in LIMITS.values() for name in names)

# Errors before a connection: the request was surely not sent. After any other error it may have
# arrived.
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
# Statuses of a proxy between us and the provider that gave up waiting. The call may still be under
# way behind the proxy, so it is possibly billed.
_IN_BETWEEN = frozenset({408, 502, 504, 520, 522, 524})


@dataclass(frozen=True)
class GatewayRequest:
    """A request with an idempotency key."""

    key: str
    name: str  # of the key and the caller's credential together: see `guard.bind_key`
    upstream: str  # the name of the upstream
    url: httpx.URL
    method: str
    headers: Pairs
    body: bytes
    fail_in_doubt: bool
    timeout: float

    @property
    def path(self) -> str:
        """The path of the URL, without the query, which may hold a credential."""
        return self.url.path

    @property
    def place(self) -> Hashable:
        """Equal for requests that share one answer."""
        return self.name, self.fingerprint, self.fail_in_doubt

    def request(self) -> httpx.Request:
        """A new request to send. It asks for an unencoded answer, because the gateway reads it."""
        headers = [*headers_for(self.headers, _PLAIN), (b"accept-encoding", b"identity")]
        return httpx.Request(
            self.method,
            self.url,
            headers=headers,
            content=self.body,
            extensions={"timeout": timeouts(self.timeout)},
        )

    @cached_property
    def model_call(self) -> ModelRequest | None:
        """The model call that this request makes; None if it makes none."""
        return read_request(httpx, self.request())

    @cached_property
    def fingerprint(self) -> str:
        """Equal for requests that make the same call."""
        about = [self.upstream, self.method, self.url.path]
        if self.model_call is not None:
            body = {k: v for k, v in self.model_call.canonical.items() if k not in _REPLY_LIMITS}
            try:
                return fingerprint([*about, body])
            except Unserialisable:
                pass
        return fingerprint([*about, digest(self.body)])


def timeouts(silence: float) -> dict[str, float | None]:
    """The timeouts of a request: ``silence`` of the upstream, and a fixed time to connect."""
    return httpx.Timeout(silence, connect=CONNECT_TIMEOUT, pool=None).as_dict()


def client() -> httpx.AsyncClient:
    """The HTTP client of a gateway. It keeps no cookies and follows no redirects."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    made = httpx.AsyncClient(limits=limits, follow_redirects=False)
    made.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return made


def headers_for(headers: Pairs, dropped: Set[str] = frozenset()) -> list[tuple[bytes, bytes]]:
    """The headers of a caller's request that go upstream, without the ``dropped`` ones."""
    dropped = dropped | _hop_by_hop(headers) | {"host"}
    return encode_headers(
        (name, value)
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith(_OURS)
    )


def headers_from(response: httpx.Response, *, decoded: bool = False) -> list[tuple[str, str]]:
    """The headers of a provider's response that are passed on.

    ``decoded`` means that the body is decoded and may be stored: then its encoding and its cookies
    are dropped.
    """
    raw = response.headers.raw
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
    dropped = _hop_by_hop(pairs) | {
        name.lower() for name, _ in pairs if name.lower().startswith(_CORS)
    }
    if decoded:
        dropped |= _COOKIES
        if "content-encoding" in response.headers:
            dropped |= {"content-encoding", "content-length"}
    return [(name, value) for name, value in pairs if name.lower() not in dropped]


def encode_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Encode headers for an HTTP message."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def was_not_sent(error: httpx.HTTPError) -> bool:
    """Whether a request that ended with this error was surely not sent."""
    return isinstance(error, _UNSENT)


def judge_response(
    request: GatewayRequest, head: AnswerHead, raw: bytes, error: httpx.HTTPError | None
) -> CallEnd:
    """Decide from its response how a call ended. ``error`` is the error that cut the body."""
    status = head.status
    if status in _IN_BETWEEN:
        return CallEnd("broken", f"HTTP {status}", status)
    if status >= 300:
        return CallEnd("refused", f"HTTP {status}", status)
    response = httpx.Response(status, headers=encode_headers(head.headers))
    if problem := _incompleteness(request.model_call, response, raw, error):
        return CallEnd("broken", problem, status)
    return CallEnd("answered", None, status, StoredAnswer(status, head.headers, raw))


def _incompleteness(
    model_call: ModelRequest | None,
    response: httpx.Response,
    raw: bytes,
    error: httpx.HTTPError | None,
) -> str | None:
    """The reason why these bytes are no whole answer, by the same rules as agentrun's transport."""
    lost = None if error is None else f"{type(error).__name__}: {error}"
    if model_call is None:
        return lost
    tape = build_whole(model_call, response, raw, clean=error is None)
    if tape.stream and not tape.ended:
        return lost or "the stream ended without its terminal event"
    if lost and not tape.stream:
        return lost
    flaw = tape.reply().flaw
    return flaw.text if flaw else None


def _hop_by_hop(headers: Pairs) -> set[str]:
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    }
    return named | _HOP_BY_HOP
