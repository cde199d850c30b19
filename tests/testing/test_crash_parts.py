"""The parts of a crash test, each by itself: what is seen, what is compared, what is concluded."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import httpx
import psycopg
import pytest
from pydantic import BaseModel, PrivateAttr

import agentrun
from agentrun.core import recorder
from agentrun.store.database import OpenDatabase
from agentrun.testing import Carrier, Entry
from agentrun.testing.crash import code_owners, findings, shifted_clock
from agentrun.testing.crash.child import run_in_child
from agentrun.testing.crash.code_owners import CodeOwners
from agentrun.testing.crash.diary import Diary, Note, Trace, read_trace
from agentrun.testing.crash.findings import Case, Evidence, JournaledStep
from agentrun.testing.crash.outside_world import (
    VARIES,
    Outside,
    changes_left,
    common_part,
    describe_differences,
    difference_between,
)
from agentrun.testing.crash.seen_values import describe_value
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
            Watch(Diary(path), CodeOwners(AGENT), network=False).begin()
            recorder.current.set(SimpleNamespace())  # type: ignore[arg-type]
            action()

        return list(read_trace(path, run_in_child(act)).notes)

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
        (tmp_path / "folder").mkdir(exist_ok=True)  # it is there, so nothing is made
        with filelock.FileLock(tmp_path / "lock"):
            pass

    notes = told(act)
    assert [note["what"].partition(" ")[0] for note in notes] == [
        *("writes", "renames", "makes", "starts", "opens")
    ]
    assert [note["place"] for note in notes] == [line_of(act, n) for n in range(1, 6)]
    assert notes[0]["what"] == f"writes {file}"
    assert {note["key"] for note in notes} == {""}


@pytest.mark.parametrize("installed", [False, True])
def test_connections_are_seen_in_sync_and_async_code(
    told: Told, unpatched: None, installed: bool
) -> None:
    """With `install()`, too: what is no model call passes through agentrun, and is the agent's."""
    if installed:
        agentrun.install()
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


def test_the_rooms_and_the_files_that_pass_calls_on_are_there() -> None:
    assert all(Path(room).is_dir() for room in code_owners._OURS)
    assert all(Path(file).is_file() for file, _ in code_owners._PASSES_ON)


def test_what_a_library_does_for_the_agent_is_seen(tmp_path: Path, dsn: str) -> None:
    """As the body of a thread, as a tool, and in a task of `.run()`, with no line of the agent's
    between it and agentrun."""
    path, made = str(tmp_path / "diary"), [tmp_path / name for name in "abcde"]
    make = agentrun.tool(name="make", effect="idempotent")(os.mkdir)

    @agentrun.agent
    async def makes() -> None:
        thread = threading.Thread(target=os.mkdir, args=[made[0]])
        thread.start()
        thread.join()
        with ThreadPoolExecutor() as pool:
            pool.submit(os.mkdir, made[1]).result()
        await asyncio.to_thread(os.mkdir, made[2])
        await asyncio.gather(asyncio.to_thread(os.mkdir, made[3]))
        make(str(made[4]))
        program = await asyncio.create_task(asyncio.create_subprocess_exec("true"))
        await program.wait()

    def act() -> None:
        owners = CodeOwners(SimpleNamespace(function=makes.function, place=__file__))
        with agentrun.connect(dsn):
            Watch(Diary(path), owners, network=False).begin()
            makes.run()

    assert run_in_child(act) == 0
    notes = [note for note in read_trace(path, 0).notes if note["note"] == "touch"]
    assert [note["what"] for note in notes] == [*(f"makes {path}" for path in made), "starts true"]
    assert [bool(note["key"]) for note in notes] == [False, False, False, False, True, False]


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
        with socket.socket() as sock, pytest.raises(OSError, match="blocks connections"):
            sock.connect(("192.0.2.1", 80))

    (note,) = told(act)
    assert (note["note"], note["to"], note["place"]) == ("refused", "192.0.2.1:80", line_of(act, 2))


def _datagram(address: tuple[str, int]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", address)


def _message(address: tuple[str, int]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendmsg([b"x"], [], 0, address)


@pytest.mark.parametrize(
    ("reach", "to"),
    [
        (lambda: _datagram(("192.0.2.1", 53)), "192.0.2.1:53"),
        (lambda: _message(("192.0.2.1", 53)), "192.0.2.1:53"),
        (lambda: socket.getaddrinfo("host.invalid", 443), "host.invalid"),
        (lambda: socket.getaddrinfo(b"host.invalid", 443), "host.invalid"),
        (lambda: socket.create_connection(("host.invalid", 443)), "host.invalid"),
        (lambda: socket.gethostbyname("host.invalid"), "host.invalid"),
        (lambda: socket.gethostbyname_ex("host.invalid"), "host.invalid"),
        (lambda: socket.gethostbyaddr("192.0.2.1"), "192.0.2.1"),
        (lambda: socket.getnameinfo(("192.0.2.1", 443), 0), "192.0.2.1:443"),
    ],
)
def test_datagrams_and_names_of_other_machines_are_out_of_reach(
    told: Told, reach: Callable[[], object], to: str
) -> None:
    def act() -> None:
        with pytest.raises(OSError, match="blocks connections"):
            reach()

    refused = [note for note in told(act) if note["note"] == "refused"]
    assert [note["to"] for note in refused] == [to]


def test_this_machine_is_within_reach(told: Told) -> None:
    def act() -> None:
        _datagram(("127.0.0.1", 9))
        socket.getaddrinfo("localhost", 80)
        socket.getaddrinfo(None, 80)
        socket.getaddrinfo("::1", 80)
        socket.getaddrinfo("192.0.2.1", 80)  # asks nobody
        socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        with contextlib.suppress(OSError):
            socket.gethostbyname(socket.gethostname())

    assert not [note for note in told(act) if note["note"] == "refused"]


def test_agents_see_a_later_day_and_libraries_do_not(tmp_path: Path) -> None:
    path = str(tmp_path / "diary")

    def look() -> None:
        shifted_clock.shift_clock(CodeOwners(AGENT))
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
    assert run_in_child(look) == 0
    (seen,) = read_trace(path, 0).notes
    assert seen["seconds"] - before == pytest.approx(shifted_clock.AHEAD.total_seconds(), abs=60)
    assert set(seen["days"]) <= {
        (datetime.now() + shifted_clock.AHEAD + timedelta(0, n)).day for n in (0, 9)
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
    assert difference_between(before, after) == new


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
    assert list(describe_differences(common_part(one, other), seen, "x")) == told


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

    database = OpenDatabase(dsn)
    outside = Outside(world, database)
    outside.files |= {str(text), str(data), str(base), str(tmp_path / "absent")}
    before = outside.prepare()
    text.write_text("one\ntwo\nthree\n")
    seen = changes_left(before, outside.state())
    database.close()
    assert (before["world"], len(begun)) == ({"runs": 1}, 1)
    assert before[str(data)] == [{"n": 1}]
    assert before[str(tmp_path / "absent")] is None
    assert "CREATE TABLE t (n int);" in before[str(base)]
    assert before['table public."My table"'] == [{"n": 7}]
    assert seen[str(text)]["change"] == ["three"]


@pytest.mark.parametrize("world", [lambda: object(), lambda: 1 / 0])
def test_a_world_that_cannot_be_told_is_a_wrong_set_up(dsn: str, world: Any) -> None:
    database = OpenDatabase(dsn)
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


def evidence(*cases: Case, step: JournaledStep | None = None, **more: Any) -> Evidence:
    calm = Case("calm", trace(), None, {})
    step = step or JournaledStep("run", 3, "tool", "act", "idempotent", "1#0", "k")
    given: dict[str, Any] = {"bills": [], "steps": {step.key: step}, "claims": {"run": 2}} | more
    return Evidence((calm, calm), cases, entry="agent.py:1", has_world=False, **given)


def kinds(found: Evidence) -> Iterator[tuple[str, str]]:
    return ((finding.kind, finding.name) for finding in findings.find_faults(found))


def test_a_recorded_step_that_is_performed_again() -> None:
    case = Case("run", killed(body("before")), trace(body("before")), {})
    for recorded, found in ((None, []), (2, []), (1, [("repeated", "act")])):
        step = JournaledStep("run", 3, "tool", "act", "idempotent", "1#0", "k", recorded=recorded)
        assert list(kinds(evidence(case, step=step))) == found


def test_a_model_call_that_is_billed_more_often_than_it_was_attempted() -> None:
    bill = Entry("r1", 0, "POST", "/", {"idempotency-key": "k"}, {}, "")
    for attempts, found in ((2, []), (1, [("paid twice", "m")])):
        step = JournaledStep("run", 1, "model", "m", "idempotent", "1", "k", attempts=attempts)
        assert list(kinds(evidence(step=step, bills=[bill, bill]))) == found


def test_a_run_that_ends_otherwise() -> None:
    case = Case("run", killed(body("after")), trace(body("before"), result=2), {}, "body:after")
    (found,) = findings.find_faults(evidence(case))
    assert (found.kind, found.what) == ("result", "the run ended differently: result: 2, not 1")
    assert (found.points, found.kills) == (("body:after",), 1)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (Trace(-11, (), "printed"), "ended with -11"),
        (Trace(-14, (), "printed"), "did not end in time"),
        (trace(how="error", message="OSError: x"), "ended in OSError: x"),
    ],
)
def test_a_process_that_does_not_come_to_its_end(last: Trace, told: str) -> None:
    (found,) = findings.find_faults(evidence(Case("run", killed(body("after")), last, {})))
    assert found.kind == "no end"
    assert told in found.what
    assert found.detail == "printed"


@pytest.mark.parametrize(
    ("effect", "again", "kind"),
    [
        ("read", True, "a `read` step must change nothing"),
        ("transaction", True, "the body of a `transaction` step"),
        ("idempotent", True, "pass its idempotency_key"),
        ("idempotent", False, "move every effect into a tool"),
    ],
)
def test_an_outside_that_differs(effect: Any, again: bool, kind: str) -> None:
    def left(number: int) -> dict[str, Any]:
        return {"world": {"change": number, "now": VARIES}}

    step = JournaledStep("run", 3, "tool", "act", effect, "1#0", "k")
    second = trace(body("before")) if again else trace()
    case = Case("run", killed(body("before"), body("after")), second, left(2))
    found = evidence(case, step=step)
    calm = Case("calm", trace(), None, left(1))
    (finding,) = findings.find_faults(Evidence(**{**vars(found), "calm": (calm, calm)}))
    assert "world: 2, not 1" in finding.what
    assert finding.way_out.startswith(kind)


def test_whose_code_it_is() -> None:
    owners = CodeOwners(AGENT)
    installed = CodeOwners(SimpleNamespace(function=entry, place=f"{httpx.__file__}"))
    assert owners.entry == line_of(entry, 0)
    assert owners.owner(__file__) == installed.owner(httpx.__file__) == "agent"
    assert {owners.owner(module.__file__) for module in (httpx, logging)} == {"library"}
    assert owners.owner(findings.__file__) == "agentrun"
    assert owners.owner("<frozen importlib._bootstrap>") == "library"


class _Colour(enum.Enum):
    RED = 1


@dataclass
class _Point:
    x: int
    y: Any = None


class _Model(BaseModel):
    name: str
    _hidden: int = PrivateAttr(default=1)


class _Failure(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("failed")
        self.code = code


def _hidden(name: str, value: int) -> _Model:
    made = _Model(name=name)
    made._hidden = value
    return made


def _noted(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),  # the code can see the order
        ({1, 2, 3}, {3, 2, 1}, True),
        ((1,), [1], False),
        (True, 1, False),
        (_Colour.RED, 1, False),
        ("1", 1, False),
        (b"1", "1", False),
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (_Point(1), _Point(1), True),
        (_Point(1, [1]), _Point(1, (1,)), False),
        (_Model(name="a"), _Model(name="a"), True),
        (_Model(name="a"), {"name": "a"}, False),
        (_Model(name="a"), _hidden("a", 2), False),
        (object(), object(), True),
        (_Failure(1), _Failure(1), True),
        (_Failure(1), _Failure(2), False),
        (_Failure(1), Exception("failed"), False),
        (ValueError("1"), ValueError(1), False),
        (_noted(ValueError(), "a"), _noted(ValueError(), "b"), False),
        (ExceptionGroup("g", [ValueError(1)]), ExceptionGroup("g", [ValueError(2)]), False),
    ],
)
def test_pictures_are_equal_for_what_code_cannot_tell_apart(
    one: Any, other: Any, equal: bool
) -> None:
    assert (describe_value(one) == describe_value(other)) is equal


def test_a_picture_of_a_thing_that_holds_itself_ends() -> None:
    thing: list[Any] = []
    thing.append(thing)
    assert describe_value(thing).endswith("]")


def test_the_functions_that_call_code_of_others_exist() -> None:
    """They are named in text, so that a rename elsewhere would hide what the agent does there."""
    for file, name in code_owners._PASSES_ON:
        assert f"def {name}(" in Path(file).read_text("utf-8"), f"{file} has no {name}"
