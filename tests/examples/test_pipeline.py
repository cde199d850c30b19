"""`notebooks/pipeline.py`, killed half-way: finished steps are not performed again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest

import agentrun

PIPELINE = Path(__file__).parents[2] / "notebooks" / "pipeline.py"
AT_ONCE = 8  # documents that the pipeline has under way
FIRST = 5  # documents that are served at once; the others when the gate is open
DOCUMENTS = [f"/{n}" for n in range(FIRST + AT_ONCE + 3)]


class Library(ThreadingHTTPServer):
    """Serves documents, and remembers each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Document)
        self.asked: Counter[str] = Counter()
        self.changed = threading.Condition()
        self.open = threading.Event()

    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self.server_port}{path}" for path in DOCUMENTS]

    def wait_for(self, requests: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.asked.total() >= requests, timeout=60)


class Document(BaseHTTPRequestHandler):
    server: Library

    def do_GET(self) -> None:
        with self.server.changed:
            self.server.asked[self.path] += 1
            self.server.changed.notify_all()
        if self.path in DOCUMENTS[FIRST:]:
            self.server.open.wait(60)
        page = f"<p>Document {'x' * int(self.path[1:])}z of the library</p>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def library() -> Iterator[Library]:
    with Library() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.open.set()
        server.shutdown()


def indexed(dsn: str) -> Counter[str]:
    """How many rows each document has in the index."""
    with psycopg.connect(dsn) as conn:
        return Counter(url for (url,) in conn.execute("SELECT url FROM words").fetchall())


def test_a_pipeline_killed_half_way_repeats_no_finished_step(dsn: str, library: Library) -> None:
    urls = library.urls()
    command = [sys.executable, str(PIPELINE), "monday", *urls]
    env = {**os.environ, "AGENTRUN_DATABASE_URL": dsn}
    with subprocess.Popen(command, env=env) as first:
        library.wait_for(FIRST + AT_ONCE)  # a document is indexed before the next is asked for
        first.kill()
    assert set(indexed(dsn)) == set(urls[:FIRST])
    library.open.set()
    for _ in range(2):  # the run is resumed; then it is done, and its answer recorded
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert told.stdout == f"{5 * len(urls)} words indexed\n"
    assert indexed(dsn) == Counter(dict.fromkeys(urls, 5))
    finished, under_way, later = (
        DOCUMENTS[:FIRST], DOCUMENTS[FIRST : FIRST + AT_ONCE], DOCUMENTS[FIRST + AT_ONCE :],
    )  # fmt: skip
    once, twice = dict.fromkeys([*finished, *later], 1), dict.fromkeys(under_way, 2)
    assert library.asked == Counter(once | twice)
    with agentrun.connect(dsn):
        run = agentrun.transcript("monday")
    assert Counter(step.name for step in run.steps) == dict.fromkeys(
        ("fetch", "parse", "index"), len(urls)
    )
