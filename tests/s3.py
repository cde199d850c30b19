"""An S3 of a test's own: moto in a process, and before it a door that can be shut.

with S3() as s3:
    s3.door = 503  # what everybody is answered; None: moto answers
    s3.names()     # what is in the bucket, asked behind the door
"""

from __future__ import annotations

import re
import subprocess
import sys
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Self

BUCKET = "blobs"

_MOTO = """
import contextlib, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", port=0)
with contextlib.redirect_stdout(sys.stderr):
    server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class S3:
    """``door`` is the status of every answer, 0 a cut connection, None an open door."""

    def __init__(self) -> None:
        self.door: int | None = None
        self.asked = 0  # requests that came to the door
        self._moto = subprocess.Popen(
            [sys.executable, "-c", _MOTO],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._moto.stdout is not None
        self._port = int(self._moto.stdout.readline())
        self._front = ThreadingHTTPServer(("127.0.0.1", 0), _door_of(self))
        Thread(target=self._front.serve_forever, daemon=True).start()
        self.ask("PUT", f"/{BUCKET}")

    @property
    def environment(self) -> dict[str, str]:
        """What a client finds it by."""
        return {
            "AWS_ACCESS_KEY_ID": "key-of-a-test",
            "AWS_SECRET_ACCESS_KEY": "secret-of-a-test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._front.server_port}",
            "AWS_ALLOW_HTTP": "true",
        }

    def names(self) -> list[str]:
        """The names in the bucket."""
        _, _, listed = self.ask("GET", f"/{BUCKET}?list-type=2")
        return re.findall("<Key>([^<]*)</Key>", listed.decode())

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask moto itself."""
        moto = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            moto.request(method, path, body, headers or {})
            answer = moto.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            moto.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._front.shutdown()
        self._front.server_close()
        self._moto.communicate()  # it ends with its input


def _door_of(s3: S3) -> type[BaseHTTPRequestHandler]:
    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            s3.asked += 1
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if s3.door == 0:
                self.close_connection = True
                return
            if s3.door is not None:
                self._answer(s3.door, [], b"<Error><Code>Shut</Code></Error>")
                return
            self._answer(*s3.ask(self.command, self.path, body, dict(self.headers)))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    return Door
