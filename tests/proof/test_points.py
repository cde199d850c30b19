"""The points are all there, and all are reached: no commit and no effect stands without them.

A statement that writes is named in `core.points` and passed between its two points, wherever it is
sent from; and the shapes of agents that the matrices strike pass every point there is.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import shapes
from children import Child
from crashing import in_child, until
from test_schedules import DOUBTS, answered_late

import agentrun
from agentrun.core import points
from agentrun.core.codec import attach
from agentrun.store.answers import Answers, CallEnd
from agentrun.store.connection import AsyncToolConnection, ToolConnection
from agentrun.store.limits import LimitedCall
from agentrun.store.mail import send_letter
from agentrun.store.runs import find_run
from agentrun.store.sending import _APPEND, _APPEND_PLAIN
from agentrun.store.sql import QUERIES

WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b(?! SKIP)|agentrun\.(send|prune|permit|release)\(")
# Statements that stand between the points of what they are a part of.
PART_OF = {
    "append": {"append", "claim", "checkpoint"},
    "append_plain": {"append"},
    "settle_tree": {"reserve"},  # in one transaction
    "count_calls": {"reserve"},  # likewise
}
NAMES = {sql: name for name, sql in QUERIES.items()} | {
    _APPEND: "append",
    _APPEND_PLAIN: "append_plain",
}
Trace = list[tuple[str, str]]  # who (thread and task), and what: a point, or a statement


def writing() -> set[str]:
    return {name for name, sql in QUERIES.items() if WRITES.search(sql)}


def test_each_statement_that_writes_has_its_points() -> None:
    known = points.COMMITS | {"checkpoint"}
    assert {name for name in writing() if not PART_OF.get(name, {name}) <= known} == set()
    # A claim is an append, and the COMMIT is a tool's.
    assert points.COMMITS - writing() == {"claim", "commit"}


@pytest.fixture(scope="module")
def traces(grounds: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    """What the shapes do when nothing strikes them, each in a process of its own."""
    file = tmp_path_factory.mktemp("traces") / "trace"
    found = []
    with grounds() as dsn:
        for shape in shapes.SHAPES:
            shape.prepare(shape.name)
            assert in_child(lambda s=shape: watched(partial(s.see_through, dsn, s.name), file)) == 0
            found.append(json.loads(file.read_text()))
    return found


def watched(action: Callable[[], object], file: Path) -> None:
    """Note the points that this process passes and the statements that it sends."""
    trace: Trace = []

    def note(what: str) -> None:
        try:
            task = id(asyncio.current_task())
        except RuntimeError:
            task = 0
        trace.append((f"{threading.get_ident()} {task}", what))

    points.arm(note)
    for cursor in (psycopg.Cursor, psycopg.AsyncCursor):
        _noting(cursor, "execute", lambda _self, query, *_: NAMES.get(query, ""), note)
    for connection in (ToolConnection, AsyncToolConnection):
        _noting(connection, "commit", lambda _self: "commit", note)
    action()
    file.write_text(json.dumps(trace))


def _noting(kind: Any, method: str, name_of: Callable[..., str], note: Any) -> None:
    plain = getattr(kind, method)

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        note(f"sends {name_of(self, *args)}")
        return plain(self, *args, **options)

    setattr(kind, method, noted)


@pytest.mark.read_committed("a statement that failed is sent once more before the point behind it")
def test_each_write_is_passed_between_its_points(traces: list[Trace]) -> None:
    sent = set()
    for trace in traces:
        for who in {who for who, _ in trace}:
            passed = [what for its, what in trace if its == who]
            for at, what in enumerate(passed):
                name = what.removeprefix("sends ")
                if name != what and name in writing() | {"commit"}:
                    sent.add(name)
                    around = _around(passed, at)
                    assert around in PART_OF.get(name, {name}), f"{name} within {around}"
    assert sent >= {"append", "append_plain", "claim_ready", "commit", "create", "reserve", "wake"}


def _around(passed: list[str], at: int) -> str | None:
    """Between which points a statement was sent."""
    before = next((p for p in reversed(passed[:at]) if not p.startswith("sends ")), "")
    after = next((p for p in passed[at:] if not p.startswith("sends ")), "")
    name, _, side = before.partition(":")
    return name if side == "before" and after == f"{name}:after" else None


def tidy(dsn: str) -> None:
    with agentrun.connect(dsn):
        agentrun.prune(timedelta(days=30), forget_keys=timedelta(days=365))


def confide(dsn: str) -> None:
    """A letter in which something is masked."""
    with agentrun.connect(dsn) as db:
        db.create("confided", "nobody", {"args": {}}, "")
        secret = {"password": "hV7-tq2Lx9"}
        send_letter(db, "confided", "signal", by=None, payload=secret)


def hold_calls(dsn: str) -> None:
    """What a gateway writes: a call begun and ended, one that another's death lost, old ones."""
    with agentrun.connect(dsn) as dead:
        Answers(dead).begin("lost", 1, fingerprint="", upstream="openai", path="/v1")
    with agentrun.connect(dsn) as db:
        answers = Answers(db)
        opened = answers.begin("ended", 1, fingerprint="", upstream="openai", path="/v1")
        assert opened is not None
        answers.end(opened, CallEnd("refused"))
        answers.remove_old_calls(timedelta(0))


def limit_calls(dsn: str) -> None:
    """What a model call writes under limits, and who sets them; that of a model that failed."""
    with agentrun.connect(dsn) as db:
        db.query("set_limit", model="*", rpm=6000, tpm=None, concurrency=None)
        db.create("limited", "agent", {"args": {}}, "")
        db.limits.load()
        worker = db.heart.worker
        call = LimitedCall(find_run(db, "limited").run_id, "k", worker, "openai/m", 1)
        assert db.limits.request_permit(call)[0] == 0.0
        db.limits.finish_call(call, 1)
        db.limits.hold("openai/m", worker, 0.0, "it failed", circuit=True)
        until(lambda: "openai/m" in db.limits._holds)
        until(lambda: db.limits.request_permit(call)[0] == 0.0)
        db.limits.record_success("openai/m")
        db.query("remove_limit", model="*")
        assert not agentrun.response_ended("resp_1")
        db.partials.publish(call.run_id, 1, 1, worker, 1, {"choices": []})


def put_outside(dsn: str, folder: Path) -> set[str]:
    """The points of blobs: one is put for a run that is there already, which is none of its own."""
    passed: list[str] = []
    with agentrun.connect(dsn, blobs=f"file://{folder}") as database:
        database.create("outside", "agent", {"args": {}}, "")
        claimed = database.claim(find_run(database, "outside"), "first claim")
        assert claimed is not None
        assert database.blobs is not None
        points.arm(passed.append)
        try:
            database.blobs.keep(attach(bytes(100_000)), claimed[0].run_id, "0-ab")
            agentrun.prune(timedelta(days=30))
        finally:
            points.arm(None)
    return set(passed)


def test_each_point_is_reached(traces: list[Trace], grounds: Any, tmp_path: Path) -> None:
    reached = {what for trace in traces for _, what in trace}
    with grounds() as dsn:
        reached |= put_outside(dsn, tmp_path)
        tidier = Child(partial(tidy, dsn))
        assert tidier.wait() == 0
        reached |= set(tidier.passed())
        confidant = Child(partial(confide, dsn))
        assert confidant.wait() == 0
        reached |= set(confidant.passed())
        limited = Child(partial(limit_calls, dsn))
        assert limited.wait() == 0
        reached |= set(limited.passed())
        gateway = Child(partial(hold_calls, dsn))
        assert gateway.wait() == 0
        reached |= set(gateway.passed())
        reached |= set(answered_late(dsn, DOUBTS[0], "body:after", "claim:after"))
        stream = partial(shapes.BY_NAME["stream"].see_through, dsn, "stream")
        assert Child(stream, "body:after").wait() == -signal.SIGKILL
        successor = Child(stream)
        assert successor.wait() == 0
        reached |= set(successor.passed())
    assert points.POINTS - reached == set()
