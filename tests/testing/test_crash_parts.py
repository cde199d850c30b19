"""The parts of a crash test, each by itself: what is seen, what is compared, what is concluded."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest

import agentrun
from agentrun.core import recorder
from agentrun.testing import Carrier, Entry
from agentrun.testing.crash import judge, later
from agentrun.testing.crash.child import in_child
from agentrun.testing.crash.diary import Diary, Note, Trace, read
from agentrun.testing.crash.judge import Case, Evidence, Step
from agentrun.testing.crash.outside import VARIES, Outside, change, differences, observed, steady
from agentrun.testing.crash.places import Places
from agentrun.testing.crash.watch import Watch

Told = Callable[[Callable[[], object]], list[Note]]


def entry() -> None:
    """Stands for an agent's function."""


AGENT = SimpleNamespace(function=entry, place=__file__)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """What the watch notes of an action, done on a line of a run outside any step."""

    def watched(action: Callable[[], object]) -> list[Note]:
        path = str(tmp_path / f"diary-{time.monotonic_ns()}")

        def act() -> None:
            Watch(Diary(path), Places(AGENT), network=False).begin()
            recorder.current.set(SimpleNamespace())  # type: ignore[arg-type]
            action()

        return list(read(path, in_child(act)).notes)

    return watched


def line_of(function: Callable[..., object], after: int = 1) -> str:
    return f"{__file__}:{function.__code__.co_firstlineno + after}"


# -- what is seen ----------------------------------------------------------------------------------


def test_effects_are_seen_with_their_line(told: Told, tmp_path: Path) -> None:
    file = tmp_path / "file"

    def act() -> None:
        file.write_text("x")
        file.rename(tmp_path / "other")
        os.mkdir(tmp_path / "folder")  # noqa: PTH102
        subprocess.run([sys.executable, "-c", ""], check=True)
        sqlite3.connect(tmp_path / "data").close()

    notes = told(act)
    assert [note["what"].partition(" ")[0] for note in notes] == [
        *("writes", "renames", "makes", "starts", "opens")
    ]
    assert [note["place"] for note in notes] == [line_of(act, n) for n in range(1, 6)]
    assert notes[0]["what"] == f"writes {file}"
    assert {note["key"] for note in notes} == {""}


def test_connections_are_seen_in_sync_and_async_code(told: Told) -> None:
    with Carrier() as carrier:

        def get() -> None:
            httpx.get(f"{carrier.url}/pickups", trust_env=False)

        async def aget() -> None:
            async with httpx.AsyncClient(trust_env=False) as client:
                await asyncio.gather(client.get(f"{carrier.url}/pickups"))

        (sync,), (asyn,) = told(get), told(lambda: asyncio.run(aget()))
    address = carrier.url.removeprefix("http://")
    assert sync["what"] == asyn["what"] == f"connects to {address}"
    assert sync["place"] == line_of(get)


def test_statements_that_write_are_seen(told: Told, dsn: str) -> None:
    def act() -> None:
        with psycopg.connect(dsn) as conn:
            conn.execute("SELECT 1 FOR UPDATE")
            conn.execute("CREATE TABLE t (n int)")
            conn.execute(psycopg.sql.SQL("INSERT INTO {} VALUES (1)").format(psycopg.sql.SQL("t")))
            conn.execute(b"DELETE FROM t")

    assert [note["what"][:12] for note in told(act)] == [
        *("runs CREATE ", "runs Compose", "runs DELETE ")
    ]


def test_what_is_no_effect_is_not_noted(told: Told, tmp_path: Path) -> None:
    module = tmp_path / "imported_by_an_agent.py"
    module.write_text("")

    def act() -> None:
        Path(__file__).read_text()
        Path("/dev/null").write_text("x")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "scratch").write_text("x")
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        logging.getLogger("test").addHandler(logging.FileHandler(tmp_path / "log", delay=True))
        logging.getLogger("test").warning("hello")
        sys.path.insert(0, str(tmp_path))
        __import__("imported_by_an_agent")

    assert told(act) == []


def test_other_machines_are_out_of_reach(told: Told) -> None:
    def act() -> None:
        with socket.socket() as sock, pytest.raises(OSError, match="lets nobody reach"):
            sock.connect(("192.0.2.1", 80))

    (note,) = told(act)
    assert (note["note"], note["to"], note["place"]) == ("refused", "192.0.2.1:80", line_of(act, 2))


def test_agents_see_a_later_day_and_libraries_do_not(tmp_path: Path) -> None:
    path = str(tmp_path / "diary")

    def look() -> None:
        later.shift(Places(AGENT))
        from datetime import datetime as imported_here

        moments = [datetime.now(), datetime.now(UTC), imported_here.utcnow(), datetime.today()]
        seconds = time.time()
        Diary(path).note(
            "seen",
            days=[moment.day for moment in moments] + [date.today().day],
            seconds=seconds,
            local=time.strftime("%d") == time.strftime("%d", time.localtime(seconds)),
            same=isinstance(moments[0], datetime) and isinstance(date.today(), date),
            made=str(datetime(2020, 1, 2, tzinfo=UTC) + timedelta(1)),
            parsed=type(datetime.fromisoformat("2020-01-02")).__name__,
            library=logging.LogRecord("", 0, "", 0, "", None, None).created,
        )

    before = time.time()
    assert in_child(look) == 0
    (seen,) = read(path, 0).notes
    assert seen["seconds"] - before == pytest.approx(later.AHEAD.total_seconds(), abs=60)
    assert set(seen["days"]) <= {
        (datetime.now() + later.AHEAD + timedelta(0, n)).day for n in (0, 9)
    }
    assert seen["library"] - before < 3600
    assert (seen["local"], seen["same"], seen["parsed"]) == (True, True, "datetime")
    assert seen["made"] == "2020-01-03 00:00:00+00:00"


# -- what is compared ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        (3, 5, 2),
        (None, 5, 5),
        ("a", "b", "b"),
        ([1, 2], [2, 1, 2], [2]),
        (None, [{"id": 1}], [{"id": 1}]),
        ({"a": 1, "b": [1]}, {"a": 1, "b": [1, 2], "c": 3}, {"b": [2], "c": 3}),
        (True, False, False),
    ],
)
def test_a_change_is_what_is_new(before: Any, after: Any, new: Any) -> None:
    assert change(before, after) == new


@pytest.mark.parametrize(
    ("one", "other", "seen", "told"),
    [
        ([1, 2], [2, 1], [2, 1], []),
        ([1, 2], [1, 2], [1, 2, 2], ["x: [1, 2, 2], not [1, 2]"]),
        ([{"at": 1}], [{"at": 2}], [{"at": 3}], []),
        ([{"at": 1}], [{"at": 2}], [{"at": 3}, {"at": 4}], ["x: 2 more, not 1"]),
        ({"key1": 5}, {"key2": 5}, {"key3": 5, "key4": 5}, ["x: 2 more, not 1"]),
        ({"n": 1, "at": 1}, {"n": 1, "at": 2}, {"n": 2, "at": 3}, ["x.n: 2, not 1"]),
        (1, 2, 3, []),
        ("a", "a", "b", ['x: "b", not "a"']),
    ],
)
def test_only_what_undisturbed_runs_agree_on_is_compared(
    one: Any, other: Any, seen: Any, told: list[str]
) -> None:
    assert list(differences(steady(one, other), seen, "x")) == told


def test_the_outside_is_the_world_and_files_and_tables(dsn: str, tmp_path: Path) -> None:
    text, data, base = (tmp_path / name for name in ("a.txt", "b.json", "c.db"))
    text.write_text("one\ntwo\n")
    data.write_text('[{"n": 1}]')
    with sqlite3.connect(base) as lite:
        lite.execute("CREATE TABLE t (n int)")
    lite.close()
    with psycopg.connect(dsn) as conn:
        conn.execute('CREATE TABLE "My table" AS SELECT 7 AS n')
    begun: list[int] = []

    def world() -> Callable[[], dict[str, int]]:
        begun.append(1)
        return lambda: {"runs": len(begun)}

    database = agentrun.Database(dsn)
    outside = Outside(world, database)
    outside.files |= {str(text), str(data), str(base), str(tmp_path / "absent")}
    before = outside.prepare()
    text.write_text("one\ntwo\nthree\n")
    seen = observed(before, outside.state())
    database.close()
    assert (before["world"], len(begun)) == ({"runs": 1}, 1)
    assert before[str(data)] == [{"n": 1}]
    assert before[str(tmp_path / "absent")] is None
    assert "CREATE TABLE t (n int);" in before[str(base)]
    assert before['table public."My table"'] == [{"n": 7}]
    assert seen[str(text)]["change"] == ["three"]


@pytest.mark.parametrize("world", [lambda: object(), lambda: 1 / 0])
def test_a_world_that_cannot_be_told_is_a_wrong_set_up(dsn: str, world: Any) -> None:
    database = agentrun.Database(dsn)
    with pytest.raises(agentrun.ConfigError, match="world"):
        Outside(world, database).prepare()
    database.close()


# -- what is concluded -----------------------------------------------------------------------------


def trace(*notes: Note, code: int = 0, **end: Any) -> Trace:
    ended = {"note": "end", **{"how": "done", "result": 1, **end}}
    return Trace(code, (*notes, ended), "printed")


def body(side: str, key: str = "k") -> Note:
    return {"note": "point", "name": f"body:{side}", "n": 0, "key": key}


def killed(*notes: Note) -> Trace:
    return Trace(-9, notes, "")


def evidence(*cases: Case, step: Step | None = None, **more: Any) -> Evidence:
    calm = Case("calm", trace(), None, {})
    step = step or Step("run", 3, "tool", "act", "idempotent", "1#0", "k")
    given: dict[str, Any] = {"bills": [], "steps": {step.key: step}, "claims": {"run": 2}} | more
    return Evidence((calm, calm), cases, entry="agent.py:1", has_world=False, **given)


def kinds(found: Evidence) -> Iterator[tuple[str, str]]:
    return ((finding.kind, finding.name) for finding in judge.findings(found))


def test_a_recorded_step_that_is_performed_again() -> None:
    case = Case("run", killed(body("before")), trace(body("before")), {})
    for recorded, found in ((None, []), (2, []), (1, [("repeated", "act")])):
        step = Step("run", 3, "tool", "act", "idempotent", "1#0", "k", recorded=recorded)
        assert list(kinds(evidence(case, step=step))) == found


def test_a_model_call_that_is_billed_more_often_than_it_was_attempted() -> None:
    bill = Entry("r1", 0, "POST", "/", {"idempotency-key": "k"}, {}, "")
    for attempts, found in ((2, []), (1, [("paid twice", "m")])):
        step = Step("run", 1, "model", "m", "idempotent", "1", "k", attempts=attempts)
        assert list(kinds(evidence(step=step, bills=[bill, bill]))) == found


def test_a_run_that_ends_otherwise() -> None:
    case = Case("run", killed(body("after")), trace(body("before"), result=2), {}, "body:after")
    (found,) = judge.findings(evidence(case))
    assert (found.kind, found.what) == ("result", "the run ended otherwise: result: 2, not 1")
    assert (found.points, found.kills) == (("body:after",), 1)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (Trace(-11, (), "printed"), "ended with -11"),
        (Trace(-14, (), "printed"), "was not done in time"),
        (trace(how="error", message="OSError: x"), "ended in OSError: x"),
    ],
)
def test_a_process_that_does_not_come_to_its_end(last: Trace, told: str) -> None:
    (found,) = judge.findings(evidence(Case("run", killed(body("after")), last, {})))
    assert found.kind == "no end"
    assert told in found.what
    assert found.detail == "printed"


@pytest.mark.parametrize(
    ("effect", "again", "kind"),
    [
        ("read", True, "a `read` step changes nothing"),
        ("transaction", True, "a `transaction` body does SQL"),
        ("idempotent", True, "hand its idempotency_key on"),
        ("idempotent", False, "do everything that acts in a tool"),
    ],
)
def test_an_outside_that_differs(effect: Any, again: bool, kind: str) -> None:
    def left(number: int) -> dict[str, Any]:
        return {"world": {"change": number, "now": VARIES}}

    step = Step("run", 3, "tool", "act", effect, "1#0", "k")
    second = trace(body("before")) if again else trace()
    case = Case("run", killed(body("before"), body("after")), second, left(2))
    found = evidence(case, step=step)
    calm = Case("calm", trace(), None, left(1))
    (finding,) = judge.findings(Evidence(**{**vars(found), "calm": (calm, calm)}))
    assert "world: 2, not 1" in finding.what
    assert finding.way_out.startswith(kind)


def test_whose_code_it_is() -> None:
    places = Places(AGENT)
    installed = Places(SimpleNamespace(function=entry, place=f"{httpx.__file__}"))
    assert places.entry == line_of(entry, 0)
    assert places.owner(__file__) == installed.owner(httpx.__file__) == "agent"
    assert {places.owner(module.__file__) for module in (httpx, logging)} == {"library"}
    assert places.owner(judge.__file__) == "agentrun"
    assert places.owner("<frozen importlib._bootstrap>") == "library"
