"""Checks who may use the gateway, and limits the time and memory of a request.

Other servers on loopback check their requests by the same `Door`.

Every program and every web page on a machine can reach a gateway on its loopback interface. A
browser sets some headers itself, so a page cannot forge them, and the gateway uses them to refuse
web pages. `Host` gives away a page that had its own host name resolve to this machine (DNS
rebinding). `Origin` is added by the browser to the requests of a page.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from agentrun.gateway.shared_answer import GatewayRefusal

__all__ = ["Buffer", "Door", "GatewayLimits", "bind_key", "check_path"]

TOKEN = "agentrun-token"  # the header

# Headers that identify the caller or the account, recognised by their names.
_CREDENTIAL = re.compile(
    r"auth|key|token|secret|credential|cookie|organi[sz]ation|project|account|tenant|workspace"
)
_NO_CREDENTIAL = re.compile(r"idempotency-key|agentrun-.*|sec-websocket-key")


@dataclass(frozen=True)
class GatewayLimits:
    """Limits that keep one caller from using up the time or memory of the gateway."""

    silence: float = 30.0  # seconds to wait for the head of a request, or a piece of its body
    sending: float = 600.0  # seconds until the last piece of the body
    buffered: int = 128 << 20  # bytes of request bodies in memory at a time
    calls: int = 1000  # upstream calls at a time

    @property
    def connections(self) -> int:
        """The limit on open connections: two readers for each call, and some more."""
        return 2 * self.calls + 100


@dataclass(frozen=True)
class Door:
    """The check of each request. ``names`` are host names of the gateway besides localhost."""

    names: frozenset[str] = frozenset()
    token: str | None = None
    any_host: bool = False  # at a Unix socket: the permissions of its file decide who may connect
    place: str = "this gateway"  # as refusals name it
    remedy: str = "start it with --allow-host"

    @classmethod
    def of(cls, names: Iterable[str], token: str | None, *, any_host: bool) -> Door:
        return cls(frozenset(name.lower() for name in names), token, any_host)

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise GatewayRefusal for a request that this gateway does not accept."""
        if not self.any_host:
            host = headers.get("host")
            if host is None:
                raise _refusal(400, "no_host", "a request needs a Host header")
            if not self._is_own_name(_host_of(f"//{host}")):
                raise _refusal(403, "host", f"{self.place} is not {host}: {self.remedy}")
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) not in self.names:
            raise _refusal(403, "origin", f"web pages of {origin} may not ask {self.place}")
        if origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise _refusal(403, "origin", f"web pages may not ask {self.place}")
        if self.token is not None:
            token = headers.get(TOKEN, "").encode("latin-1", "replace")
            if not secrets.compare_digest(token, self.token.encode()):
                raise _refusal(401, "token", "this gateway requires the header Agentrun-Token")
        if "transfer-encoding" in headers and "content-length" in headers:
            raise _refusal(400, "two_lengths", "Content-Length and Transfer-Encoding contradict")

    def _is_own_name(self, name: str | None) -> bool:
        if name is None:
            return False
        if name == "localhost" or name in self.names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True  # a numeric address cannot be rebound to another machine, as a name can


def _host_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def check_path(rest: str) -> None:
    """Raise GatewayRefusal for a path that leads out of its upstream, in any encoding."""
    plain = rest
    for _ in range(5):  # a path may be percent-encoded several times
        if any(part in (".", "..") for part in re.split(r"[/\\]", plain)):
            raise _refusal(400, "bad_path", "the path has . or .. in it")
        plain, before = unquote(plain, "latin-1"), plain
        if plain == before:
            break
    else:
        raise _refusal(400, "bad_path", "the path is percent-encoded too many times")
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in plain):
        raise _refusal(400, "bad_path", "the path has control characters in it")


def bind_key(
    secret: bytes, key: str, upstream: str, query: bytes, headers: Iterable[tuple[str, str]]
) -> str:
    """The name of an idempotency key for one credential; the credential cannot be read from it.

    Two callers with the same key and different credentials get different names. A caller who knows
    the key and request of another, but not the credential, therefore cannot read the answer.
    """
    who = sorted(
        (name.lower(), value)
        for name, value in headers
        if _CREDENTIAL.search(name.lower()) and not _NO_CREDENTIAL.fullmatch(name.lower())
    )
    if any(name != "cookie" for name, _ in who):
        # With another credential present, cookies are ignored: they may change between attempts.
        who = [(name, value) for name, value in who if name != "cookie"]
    caller = json.dumps([key, upstream, query.decode("latin-1"), who])
    return hmac.new(secret, caller.encode(), hashlib.sha256).hexdigest()


class Buffer:
    """Counts the bytes of all request bodies in memory, up to a limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0

    def take(self, size: int, stack: AsyncExitStack) -> None:
        """Count ``size`` bytes until ``stack`` is closed. Raises GatewayRefusal at the limit."""
        if self._used + size > self._most:
            raise GatewayRefusal(503, "busy", "the gateway has no memory left for more requests")
        self._used += size
        stack.callback(self._free, size)

    def _free(self, size: int) -> None:
        self._used -= size


def _refusal(status: int, code: str, message: str) -> GatewayRefusal:
    return GatewayRefusal(status, code, message, retry=False)
