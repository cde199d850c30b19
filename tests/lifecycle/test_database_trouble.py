"""The database is away, full, closed to us or of another version: runs wait, or say what to do.

Every server here is real and the test's own: it is killed, stopped, started again, filled up and
given passwords. What shows that a run waited is its own report: the server comes back only once
the run has logged that it waits, so a run that did not wait or did not say so cannot pass.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from crashing import World
from openai import AsyncOpenAI, OpenAI
from servers import fill, free, kill, small_disk

import agentrun
from agentrun.store import connection, embedded
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply

WAITS = "waiting for the database"


class Report(logging.Handler):
    """What the harness reports; the first report of a wait calls ``then``, in its own thread."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.Thread(target=then)

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        self.lines.append(line)
        if line.startswith(WAITS) and self._thread.ident is None:
            self._thread.start()

    def __enter__(self) -> Report:
        logging.getLogger("agentrun").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("agentrun").removeHandler(self)
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def waited(self) -> bool:
        return any(line.startswith(WAITS) for line in self.lines)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


ENDS = [kill, embedded.stop]


# -- lost in the middle of a run -----------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS, ids=["killed", "stopped"])
def test_a_run_whose_server_goes_away_waits_says_so_and_goes_on(
    new_home: Path, provider: Provider, world: World, end: Callable[[Path], object]
) -> None:
    provider.say([Reply(tool_calls=[Call("act", {"n": n})]) for n in range(3)] + ["done"])

    @agentrun.tool
    def act(n: int) -> int:
        world.act(f"act {n}")
        if n == 1:
            end(new_home)
        return n

    @agentrun.agent
    def talk() -> str | None:
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
        messages: list[Any] = [{"role": "user", "content": "go"}]
        while True:
            reply = client.chat.completions.create(model="gpt-5-mini", messages=messages)
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content
            messages += agentrun.call_tools(reply, [act])

    with (
        agentrun.connect(embedded.start(new_home)) as db,
        Report(then=lambda: embedded.start(new_home)) as report,
    ):
        assert talk.with_options(key="k").run() == "done"
        events, _ = read_events(db, find_run(db, "k").run_id)
    assert report.waited
    assert world.effects == ["act 0", "act 1", "act 2"]
    assert provider.billed() == 4
    assert [event.event for event in events].count("claimed") == 1


def test_an_async_run_waits_for_its_server_without_blocking_the_event_loop(
    new_home: Path, provider: Provider, world: World
) -> None:
    back = threading.Event()

    @agentrun.tool
    async def act(n: int) -> int:
        world.act(f"act {n}")
        if n == 1:
            kill(new_home)
        return n

    @agentrun.agent
    async def talk() -> int:
        async with AsyncOpenAI(base_url=provider.base_url, api_key="k") as client:
            await agentrun.wrap(client).chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": "go"}]
            )
        return sum([await act(n) for n in range(4)])

    async def main() -> int:
        async def restart() -> None:  # only a loop that turns can bring the server back
            while not back.is_set():
                await asyncio.sleep(0.01)
            await asyncio.to_thread(embedded.start, new_home)

        answer, _ = await asyncio.gather(talk.arun(), restart())
        return answer

    with agentrun.connect(embedded.start(new_home)), Report(then=back.set):
        assert asyncio.run(main()) == 6
    assert world.effects == [f"act {n}" for n in range(4)]
    assert provider.billed() == 1


@agentrun.tool(effect="transaction")
def count(n: int) -> int:
    conn = agentrun.current_step().connection
    conn.execute("INSERT INTO counted VALUES (%s)", (n,))
    return n


@pytest.fixture
def counted(new_home: Path) -> Callable[[], list[int]]:
    dsn = embedded.start(new_home)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE counted (n int)")

    def read() -> list[int]:
        with psycopg.connect(dsn) as conn:
            return [n for (n,) in conn.execute("SELECT n FROM counted ORDER BY n")]

    return read


@pytest.mark.parametrize("end", ENDS, ids=["killed", "stopped"])
def test_a_transaction_begun_while_the_server_is_away_waits_for_it(
    new_home: Path, counted: Callable[[], list[int]], end: Callable[[Path], object]
) -> None:
    @agentrun.agent
    def run() -> int:
        count(1)
        end(new_home)
        return count(2)

    dsn = embedded.where(new_home).dsn()
    with agentrun.connect(dsn), Report(then=lambda: embedded.start(new_home)) as report:
        assert run.run() == 2
    assert report.waited
    assert counted() == [1, 2]


@pytest.mark.parametrize("end", ENDS, ids=["killed", "stopped"])
def test_a_transaction_whose_server_goes_away_is_done_again_whole(
    new_home: Path, counted: Callable[[], list[int]], end: Callable[[Path], object]
) -> None:
    bodies: list[int] = []

    @agentrun.tool(effect="transaction")
    def broken() -> int:
        conn = agentrun.current_step().connection
        conn.execute("INSERT INTO counted VALUES (1)")
        bodies.append(1)
        if len(bodies) == 1:
            end(new_home)
            conn.execute("INSERT INTO counted VALUES (2)")
        return len(bodies)

    @agentrun.agent
    def run() -> int:
        return broken()

    dsn = embedded.where(new_home).dsn()
    with agentrun.connect(dsn), Report(then=lambda: embedded.start(new_home)) as report:
        assert run.run() == 2
    assert report.waited
    assert counted() == [1]


def test_a_transaction_whose_server_goes_away_before_its_commit_is_done_again_whole(
    new_home: Path, counted: Callable[[], list[int]]
) -> None:
    bodies: list[int] = []

    @agentrun.tool(effect="transaction")
    def last_moment() -> int:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (1)")
        bodies.append(1)
        if len(bodies) == 1:
            kill(new_home)
        return len(bodies)

    @agentrun.agent
    def run() -> int:
        return last_moment()

    dsn = embedded.where(new_home).dsn()
    with agentrun.connect(dsn), Report(then=lambda: embedded.start(new_home)) as report:
        assert run.run() == 2
    assert report.waited
    assert counted() == [1]


# -- away at the start, or closed to us ----------------------------------------------------------


@pytest.fixture
def never() -> Iterator[Any]:
    """An agent that must not be reached."""
    calls: list[int] = []

    @agentrun.agent
    def untouched() -> None:
        calls.append(1)

    yield untouched
    assert calls == []


def free_port() -> int:
    """A port of loopback on which nobody listens: the system chose it, and we left it again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_server_that_is_down_at_the_start_is_named_with_the_setting(
    never: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    dsn = f"postgresql://somebody:s3cr3t@127.0.0.1:{port}/shop"
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", dsn)
    with pytest.raises(agentrun.StoreUnavailable) as refused:
        never.run()
    text = "".join(traceback.format_exception(refused.value))
    assert f"127.0.0.1:{port}, database shop cannot be reached" in text
    assert "Start it, or correct the DSN" in text
    assert "AGENTRUN_DATABASE_URL" in text
    assert "s3cr3t" not in text


def test_a_server_that_says_nothing_at_the_start_is_given_up(
    never: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        dsn = f"postgresql://somebody@127.0.0.1:{silent.getsockname()[1]}/shop"
        monkeypatch.setenv("AGENTRUN_DATABASE_URL", dsn)
        with pytest.raises(agentrun.StoreUnavailable, match=r"timeout|timed out"):
            never.run()


@pytest.fixture
def guarded(new_home: Path) -> Callable[[str], str]:
    """A server that asks for a password; returns the DSN of a login with this one."""
    dsn = embedded.start(new_home)
    files = embedded.where(new_home)
    rules = files.data / "pg_hba.conf"
    rules.write_text("local all guarded scram-sha-256\n" + rules.read_text())
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'the right one'")
        admin.execute("SELECT pg_reload_conf()")
    agentrun.connect(dsn).close()

    def login(password: str) -> str:
        user = f"guarded:{quote(password)}" if password else "guarded"
        return dsn.replace("postgres@", f"{user}@", 1)

    return login


@pytest.mark.parametrize("password", ["s3cr3t wrong", ""])
def test_a_refused_login_is_a_clear_error_without_the_password(
    guarded: Callable[[str], str], never: Any, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", guarded(password))
    with pytest.raises(agentrun.ConfigError, match="refused the login") as refused:
        never.run()
    text = "".join(traceback.format_exception(refused.value))
    assert "password" in text
    assert "AGENTRUN_DATABASE_URL" in text
    assert "s3cr3t" not in text
    assert quote("s3cr3t wrong") not in text


def test_a_login_that_fits_runs_and_its_password_is_written_nowhere(
    guarded: Callable[[str], str], provider: Provider
) -> None:
    @agentrun.tool
    def leak(dsn: str) -> str:
        return f"connected to {dsn}"

    @agentrun.agent
    def talk(dsn: str) -> str:
        return leak(dsn)

    dsn = guarded("the right one")
    with agentrun.connect(dsn) as db:
        talk.with_options(key="k").run(dsn)
        with db.connection() as conn:
            rows = conn.execute("SELECT j::text AS row FROM agentrun.journal j").fetchall()
    assert rows
    assert quote("the right one") not in "".join(row["row"] for row in rows)


# -- a schema that is not this code's ------------------------------------------------------------

CHANGES = {
    "older": ("DELETE FROM agentrun.migrations", "agentrun migrate"),
    "newer": (
        "INSERT INTO agentrun.migrations (number, name, checksum) VALUES (9999, 'x.sql', '')",
        "pip install --upgrade agentrun-harness",
    ),
    "edited": (
        "UPDATE agentrun.migrations SET checksum = 'other' WHERE number = 1",
        "a released migration is never edited",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_schema_of_another_version_is_refused_before_anything_happens(
    dsn: str, never: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    statement, way_out = CHANGES[change]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement.encode())
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", dsn)
    with pytest.raises(agentrun.SchemaMismatch, match=way_out):
        never.with_options(key="k").run()
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM agentrun.runs").fetchone() == (0,)


# -- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def full_home(new_home: Path) -> Iterator[Path]:
    """A folder for a server, on a small disk of its own."""
    new_home.chmod(0o755)  # as root, Postgres runs as somebody else, who must pass
    disk = new_home / "disk"
    with small_disk(disk, megabytes=160):
        yield disk
        embedded.stop(disk)


@pytest.mark.parametrize("full", ["tables", "log"])
def test_a_run_whose_database_has_a_full_disk_waits_says_so_and_goes_on(
    full_home: Path, world: World, full: str
) -> None:
    """Where there is no room for a table the statement fails; where for the log, the server."""
    text = os.urandom(30_000).hex()  # 60 KB that no compression makes smaller than half
    settings = {"checkpoint_timeout": "1h", "max_wal_size": "64MB", "wal_recycle": "off"}
    dsn = embedded.start(full_home, options=settings)

    def fill_up() -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("SELECT pg_switch_wal()")
            conn.execute("CHECKPOINT")  # of the log one new file of 16 MB is left
            if full == "log":
                nearly = "SELECT pg_logical_emit_message(false, '', repeat('x', 15_500_000))"
                conn.execute(nearly)
        fill(full_home, but=8 << 20 if full == "log" else 0)

    def free_again() -> None:
        free(full_home)
        embedded.start(full_home)  # should it have given up

    @agentrun.tool
    def act(n: int) -> str:
        world.act(f"act {n}")
        if n == 3:
            fill_up()
        return f"{n}{text}"

    @agentrun.agent
    def work() -> None:
        for n in range(60):
            act(n)

    with agentrun.connect(dsn) as db, Report(then=free_again) as report:
        work.with_options(key="k").run()
        events, _ = read_events(db, find_run(db, "k").run_id)
    if full == "tables":
        assert any("No space left on device" in line for line in report.lines if WAITS in line)
    else:
        assert "PANIC:  could not write" in embedded.where(full_home).log.read_text()
    assert report.waited
    assert world.effects == [f"act {n}" for n in range(60)]
    outcomes = [event.output["result"] for event in events if event.event == "step_finished"]
    assert outcomes == [f"{n}{text}" for n in range(60)]
    assert [event.event for event in events].count("claimed") == 1
