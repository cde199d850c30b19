"""`notebooks/fastapi_service.py`: a real uvicorn over HTTP, killed and started again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from agentrun.testing import Call, Fault, Provider, Reply

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
QUESTION = {"question": "refund 99 dollars for order 7"}
SCRIPT = [Reply(tool_calls=[Call("refund", {"order_id": "7", "cents": 9900})]), "it is done"]
RUN = "/runs/ticket-42"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(script=SCRIPT) as double:
        yield double


@contextmanager
def served(dsn: str, provider: Provider) -> Iterator[httpx.Client]:
    """The service in a process of its own, which the end of the ``with`` kills."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(NOTEBOOKS), "--port", "0"]
    settings = {
        "AGENTRUN_DATABASE_URL": dsn,
        "OPENAI_BASE_URL": provider.base_url,
        "OPENAI_API_KEY": "k",
    }
    with subprocess.Popen(
        [*command, "fastapi_service:app"],
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            log = ""
            while not (found := re.search(r"running on (\S+)", log)):
                line = process.stderr.readline()
                assert line, log
                log += line
            with httpx.Client(base_url=found[1], timeout=60) as http:
                yield http
        finally:
            process.kill()


def refunds(dsn: str) -> list[tuple[str, int]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute("SELECT order_id, cents FROM refunds").fetchall()


def test_a_run_outlives_its_service(dsn: str, provider: Provider) -> None:
    provider.arm(Fault.hold("received", when={"turn": 1}))
    with served(dsn, provider) as http:
        assert http.put(RUN, json=QUESTION).status_code == 200
        held = http.get(f"{RUN}/answer")
        assert held.status_code == 409
        assert "waits for an approval" in held.json()["detail"]
    with served(dsn, provider) as http:  # it was killed while a person was asked
        told = http.get(RUN).json()
        (waiting,) = told["waits"]
        assert (told["status"], waiting["name"]) == ("held", "refund")
        assert waiting["args"] == {"order_id": "7", "cents": 9900}
        assert http.put(RUN, json=QUESTION).json() == "held"
        approved = http.post(f"{RUN}/steps/{waiting['step']}/approve?by=ada")
        assert approved.status_code == 200
        provider.wait_for("held")
    assert refunds(dsn) == [("7", 9900)]
    with served(dsn, provider) as http:  # it was killed inside a model call
        assert http.get(f"{RUN}/answer").json() == "it is done"
        assert http.put(RUN, json=QUESTION).json() == "done"
        assert http.get(RUN).json() == {"status": "done", "waits": []}
    assert refunds(dsn) == [("7", 9900)]
    assert provider.billed() == 2


def test_what_it_answers_when_things_are_not_as_asked(dsn: str, provider: Provider) -> None:
    with served(dsn, provider) as http:
        http.put(RUN, json=QUESTION)
        assert http.get(f"{RUN}/answer").status_code == 409
        (waiting,) = http.get(RUN).json()["waits"]
        told = http.post(f"{RUN}/steps/{waiting['step']}/reject?by=ada&reason=no")
        assert told.status_code == 200
        assert http.get(f"{RUN}/answer").json() == "it is done"
        assert "not approved by ada: no" in str(provider.requests()[-1])
        assert http.post(f"{RUN}/steps/1/approve?by=ada").status_code == 409
        assert http.put(RUN, json={"question": "another"}).status_code == 409
        assert http.get("/runs/none").status_code == 404
        provider.arm(Fault.hold("received"))
        http.put("/runs/slow", json=QUESTION)
        assert http.get("/runs/slow/answer?wait=0.1").status_code == 504
    assert refunds(dsn) == []
