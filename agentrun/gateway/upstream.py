"""What is asked of a provider, what of its response is handed on, and whether that is whole."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpx

from agentrun.core.codec import Unserialisable, digest, fingerprint
from agentrun.core.exact import without_secrets
from agentrun.core.recorder import ModelRequest
from agentrun.gateway.held import Head
from agentrun.models.quote import LIMITS
from agentrun.models.reply import tape_all
from agentrun.models.request import read_request
from agentrun.store.answers import Answer, Ending

__all__ = [
    "Ask",
    "client",
    "headers_for",
    "headers_from",
    "judged",
    "not_sent",
    "timeouts",
    "written",
]

Pairs = Sequence[tuple[str, str]]

CONNECT_TIMEOUT = 10.0  # seconds

# Of one connection, not of the message; and what we decide by ourselves.
_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_OURS = "agentrun-"
_PLAIN = frozenset({"accept-encoding", "content-length"})  # said anew where the answer is kept
_COOKIES = frozenset({"set-cookie", "set-cookie2"})
_REPLY_LIMITS = frozenset(name for names in LIMITS.values() for name in names)

# No connection: the request has not left. After anything else it may have arrived.
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
# An error by something in between, which gave up waiting: the call may go on behind it.
_IN_BETWEEN = frozenset({408, 502, 504, 520, 522, 524})


@dataclass(frozen=True)
class Ask:
    """A request with an idempotency key."""

    key: str
    upstream: str  # its name
    url: httpx.URL
    method: str
    headers: Pairs
    body: bytes
    fail_in_doubt: bool
    timeout: float

    @property
    def path(self) -> str:
        """Where it goes, without the query: that may hold a credential."""
        return self.url.path

    @property
    def place(self) -> Hashable:
        """Equal for requests that are told one answer."""
        return self.key, self.fingerprint, self.fail_in_doubt

    def request(self) -> httpx.Request:
        """As it is sent, a new one each time. Its answer comes plain: it has to be read here."""
        headers = [*headers_for(self.headers, _PLAIN), (b"accept-encoding", b"identity")]
        return httpx.Request(
            self.method,
            self.url,
            headers=headers,
            content=self.body,
            extensions={"timeout": timeouts(self.timeout)},
        )

    @cached_property
    def asked(self) -> ModelRequest | None:
        """The model call that this is; None if it is none."""
        return read_request(httpx, self.request())

    @cached_property
    def fingerprint(self) -> str:
        """Equal for requests that ask the same."""
        about = [self.upstream, self.method, self.url.path]
        if self.asked is not None:
            body = {k: v for k, v in self.asked.canonical.items() if k not in _REPLY_LIMITS}
            try:
                return fingerprint([*about, body])
            except Unserialisable:
                pass
        return fingerprint([*about, digest(self.body)])


def timeouts(silence: float) -> dict[str, float | None]:
    """How long a request may wait: for the upstream to say something, and to be reached."""
    return httpx.Timeout(silence, connect=CONNECT_TIMEOUT, pool=None).as_dict()


def client() -> httpx.AsyncClient:
    """The one client of a gateway: keeps no cookies and follows no redirects."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    made = httpx.AsyncClient(limits=limits, follow_redirects=False)
    made.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return made


def headers_for(headers: Pairs, dropped: Set[str] = frozenset()) -> list[tuple[bytes, bytes]]:
    """A caller's headers as they go upstream, without those that are ``dropped``."""
    dropped = dropped | _hop_by_hop(headers) | {"host"}
    return written(
        (name, value)
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith(_OURS)
    )


def headers_from(response: httpx.Response, *, decoded: bool = False) -> list[tuple[str, str]]:
    """A provider's headers as they are handed on; ``decoded`` if the body is, and may be kept."""
    raw = response.headers.raw
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
    dropped = _hop_by_hop(pairs)
    if decoded:
        dropped |= _COOKIES
        if "content-encoding" in response.headers:
            dropped |= {"content-encoding", "content-length"}
    return [(name, value) for name, value in pairs if name.lower() not in dropped]


def written(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as they stand in a message."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def not_sent(error: httpx.HTTPError) -> bool:
    """Whether a request that ended so has surely not left."""
    return isinstance(error, _UNSENT)


def judged(ask: Ask, head: Head, raw: bytes, error: httpx.HTTPError | None) -> Ending:
    """What became of a call with this response, of which ``error`` may have cut the rest."""
    status = head.status
    if status in _IN_BETWEEN:
        return Ending("broken", f"HTTP {status}", status)
    if status >= 300:
        return Ending("refused", f"HTTP {status}", status)
    response = httpx.Response(status, headers=written(head.headers))
    stream = response.headers.get("content-type", "").startswith("text/event-stream")
    if problem := _problem(ask.asked, response, raw, error):
        return Ending("broken", problem, status)
    body = without_secrets(raw, stream=stream)
    headers = [
        (name, str(len(body)) if name.lower() == "content-length" else value)
        for name, value in head.headers
    ]
    return Ending("answered", None, status, Answer(status, headers, body))


def _problem(
    asked: ModelRequest | None, response: httpx.Response, raw: bytes, error: httpx.HTTPError | None
) -> str | None:
    """Why these bytes are no whole answer; the transport of agentrun judges so, too."""
    lost = None if error is None else f"{type(error).__name__}: {error}"
    if asked is None:
        return lost
    tape = tape_all(asked, response, raw)
    if not tape.stream:
        body = None if lost else tape.reply().body
        return lost or ("it is no JSON" if body is None else _told(body))
    if not tape.ended:
        return lost or "the stream ended without its terminal event"
    return _told(tape.reply().body)


def _told(body: Any) -> str | None:
    """The error that a reply with a good status tells instead of an answer."""
    error = body.get("error") if isinstance(body, dict) else None
    return f"the reply tells of an error: {error}"[:500] if error else None


def _hop_by_hop(headers: Pairs) -> set[str]:
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    }
    return named | _HOP_BY_HOP
