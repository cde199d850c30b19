"""The outside world of the refund agent: a shop that refunds orders and sends mails.

A refund with an ``Idempotency-Key`` is made once for each key. A mail has no such thing, as in
life.
"""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Shop"]


class Shop:
    """``refunds`` and ``mails`` are what was done so far."""

    def __init__(self) -> None:
        self.refunds: list[dict[str, Any]] = []
        self.mails: list[dict[str, Any]] = []
        self._keys: set[str] = set()
        self._guard = threading.Lock()
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not body:
                    return  # the client was killed in between
                result = shop.act(self.path, json.loads(body), self.headers["Idempotency-Key"])
                answer = json.dumps(result).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def act(self, path: str, body: dict[str, Any], key: str | None) -> str:
        """Do what a request asks for."""
        with self._guard:
            if path == "/orders":
                return f"order {body['order_id']}: one cup, 1200 cents, arrived broken"
            if path == "/mails":
                self.mails.append(body)
                return "sent"
            if key is None or key not in self._keys:
                self.refunds.append(body)
            if key is not None:
                self._keys.add(key)
            return f"refunded {body['cents']} cents"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
