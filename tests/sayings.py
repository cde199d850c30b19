"""A server of fixed words: what the provider double of `agentrun.testing` does not say.

Other APIs, encodings, and answers that are broken byte by byte.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Saying:
    """One answer. ``pieces`` are sent chunked one by one; ``broken`` then drops the connection."""

    pieces: tuple[bytes, ...] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    broken: bool = False

    @classmethod
    def json(cls, body: Any, status: int = 200, **headers: str) -> Saying:
        every = {"content-type": "application/json", **headers}
        return cls((json.dumps(body).encode(),), status, tuple(every.items()))

    @classmethod
    def events(cls, *events: Any, named: bool = False, broken: bool = False) -> Saying:
        head = (("content-type", "text/event-stream"),)
        return cls(tuple(_event(e, named) for e in events), 200, head, broken)


class _Quiet(ThreadingHTTPServer):
    """A client that breaks off is no news here."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Server:
    """Answers each request with the next saying; keeps (path, headers, body) of every request."""

    def __init__(self, port: int = 0) -> None:
        self.sayings: list[Saying] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.http = _Quiet(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def say(self, *sayings: Saying) -> None:
        self.sayings += sayings

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self._chunks() or self.rfile.read(
                    int(self.headers.get("content-length") or 0)
                )
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append((self.path, headers, body))
                self._answer(server.sayings.pop(0))

            do_PUT = do_GET = do_DELETE = do_POST

            def _chunks(self) -> bytes:
                if self.headers.get("transfer-encoding") != "chunked":
                    return b""
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, saying: Saying) -> None:
                self.send_response(saying.status)
                for name, value in saying.headers:
                    self.send_header(name, value)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for piece in saying.pieces:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                if not saying.broken:
                    self.wfile.write(b"0\r\n\r\n")
                self.close_connection = saying.broken

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        return Handler

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self._thread.join()
        self.http.server_close()


def completion(text: str = "hello", **more: Any) -> dict[str, Any]:
    """A chat completion as a provider sends it."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-5-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        **more,
    }


def chunk(content: str | None = None, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """One chunk of a streamed chat completion."""
    if content is not None:
        delta["content"] = content
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-5-mini",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def _event(event: Any, named: bool) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    name = f"event: {event['type']}\n" if named else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()
