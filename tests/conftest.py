"""A throwaway Postgres for the test session, and a fresh database for each test that asks.

The session's folder holds AGENTRUN_HOME, so no test touches the user's own data. Every pytest
process of the session (a test may start further ones) holds a shared lock on ``clients.lock``; a
janitor, started first and outliving us all, waits for the exclusive one. It gets it when the last
client is gone, be it by SIGKILL, and then stops every server below the folder and removes it.

The server starts when the first test asks for it. Fixtures: ``dsn`` a migrated database, ``db``
the same connected, ``login`` logins that have a role of it, ``empty_dsn`` one without the schema,
``new_home`` a folder for an embedded server of one's own, ``disk_home`` one that is not in memory,
``impatient`` short deadlines, ``provider`` the double of a provider.

    pytest --pgbouncer     every dsn leads through PgBouncer in transaction mode; tests marked
                           `direct` are skipped, and listed with their reasons
    pytest --serializable  every transaction is SERIALIZABLE, and fails now and then; tests marked
                           `read_committed` are skipped, and listed with their reasons
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, partialmethod
from itertools import count
from pathlib import Path
from typing import Any

import faults
import httpx
import httpx2
import matrix  # noqa: F401  # draws the seed, before there are further processes
import pooler
import psycopg
import pytest
from invariants import assert_invariants
from psycopg.conninfo import make_conninfo
from slow import name_of, slow_tests

import agentrun
from agentrun.lifecycle import registry
from agentrun.store import connection, embedded, roles
from agentrun.store.database import OpenDatabase
from agentrun.store.migrate import migrate
from agentrun.store.opening import internals
from agentrun.testing import Provider

pytest_plugins = ["running", "hostile_runs"]

SESSION = "AGENTRUN_TEST_SESSION"  # the session's folder, for the processes we start
TEMPLATE = "migrated"

JANITOR = """
import fcntl, shutil, subprocess, sys
from pathlib import Path
folder = Path(sys.argv[1])
with open(folder / "clients.lock") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    import psutil
    for process in psutil.process_iter():
        try:
            if folder in Path(process.cwd()).parents:
                process.kill()
        except psutil.Error:
            pass
    for place in folder.glob("*/*"):
        if place.is_mount():  # a small disk of a test
            subprocess.run(["umount", "--lazy", place])
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
"""

_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the database is like; and how much of the proof runs: see `proof/conftest.py`."""
    group = parser.getgroup("database")
    group.addoption("--pgbouncer", action="store_true", help="reach it through PgBouncer")
    group.addoption("--serializable", action="store_true", help="SERIALIZABLE, with failures")
    group = parser.getgroup("proof")
    group.addoption("--whole", action="store_true", help="all cases, not a bounded share")
    group.addoption("--shard", default="1/1", metavar="I/N", help="only the I-th of N parts")
    group.addoption("--out", metavar="FILE", help="keep what was counted, a JSON line a case")


def pytest_configure(config: pytest.Config) -> None:
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background of a script; children that are to be interrupted inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("AGENTRUN_DATABASE_URL", "AGENTRUN_BLOBS", "OPENAI_API_KEY", "XDG_DATA_HOME"):
        os.environ.pop(name, None)
    inherited = Path(os.environ.get(SESSION, "/nonexistent"))
    folder = inherited if inherited.is_dir() else _new_folder()
    os.environ[SESSION] = str(folder)
    os.environ["AGENTRUN_HOME"] = str(folder / "home")
    config.add_cleanup(_enter(folder, first=folder != inherited))
    if config.getoption("--pgbouncer") and pooler.program() is None:
        raise pytest.UsageError(pooler.INSTALL)
    if config.getoption("--serializable"):
        os.environ["PGOPTIONS"] = faults.OPTIONS


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what `-m` does not want
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    listed = slow_tests()
    for item in items:
        if name_of(item.nodeid) in listed:
            item.add_marker(pytest.mark.slow)
    for option, name in ("--pgbouncer", "direct"), ("--serializable", "read_committed"):
        for item in items if config.getoption(option) else []:
            for mark in item.iter_markers(name):
                item.add_marker(pytest.mark.skip(f"{name}: {item.name}: {mark.args[0]}"))


def _enter(folder: Path, *, first: bool) -> Callable[[], None]:
    """Be a client of the folder; returns how to leave it. The first one brings the janitor."""
    folder.chmod(0o755)  # as root, Postgres runs as somebody else, who must pass
    lease = os.open(folder / "clients.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lease, fcntl.LOCK_SH)
    janitor = _start_janitor(folder) if first else None

    def leave() -> None:
        os.close(lease)
        if janitor is not None:
            janitor.wait(timeout=120)

    return leave


def _new_folder() -> Path:
    """In memory where there is room: ext4 is slow to make files where many were just removed.

    Measured for one database: 20 to 45 ms in memory, 50 to 350 ms on disk.
    """
    memory = Path("/dev/shm")
    place = None
    if memory.is_dir() and os.access(memory, os.W_OK):
        system = os.statvfs(memory)
        room = system.f_bavail * system.f_frsize > 2 << 30
        if room and not system.f_flag & os.ST_NOEXEC:
            place = memory
    return Path(tempfile.mkdtemp(prefix="agentrun-tests-", dir=place)).resolve()


def _start_janitor(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", JANITOR, str(folder)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tally = Path(os.environ[SESSION], "thrown")
    if tally.exists():
        thrown = [[int(n) for n in line.split()] for line in tally.read_text().splitlines()]
        throws, failures = map(sum, zip(*thrown, strict=True))
        terminalreporter.section(f"serializable, AGENTRUN_SEED={faults.SEED}")
        terminalreporter.write_line(f"{failures} of {throws} writes and commits were made to fail")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> embedded.Files:
    """The session's own server, running."""
    embedded.start()
    files = embedded.where()
    assert files.root.parent == Path(os.environ[SESSION])
    with psycopg.connect(files.dsn(), autocommit=True) as admin:
        (data,) = admin.execute("SHOW data_directory").fetchone() or ("",)
        assert Path(data) == files.data, "these tests run on no server but their own"
        admin.execute("SELECT pg_advisory_lock(1)")  # other pytest processes of this session
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone():
            admin.execute("DROP DATABASE IF EXISTS unfinished")
            admin.execute("CREATE DATABASE unfinished")
            migrate(files.dsn("unfinished"))
            if request.config.getoption("--serializable"):
                faults.install(files.dsn("unfinished"))
            admin.execute(f"ALTER DATABASE unfinished RENAME TO {TEMPLATE}")
    return files


@pytest.fixture(scope="session")
def reach(request: pytest.FixtureRequest, server: embedded.Files) -> Iterator[Callable[[str], str]]:
    """The dsn by which a test reaches a database of the session's server."""
    if not request.config.getoption("--pgbouncer"):
        yield server.dsn
        return
    with pooler.pooler(server) as folder:
        yield lambda name: pooler.through(server.dsn(name), folder)


def _database(server: embedded.Files, reach: Callable[[str], str], template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield reach(name)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def databases(
    request: pytest.FixtureRequest, server: embedded.Files, reach: Callable[[str], str]
) -> Callable[[], AbstractContextManager[str]]:
    """Makes fresh databases with the schema agentrun, for a test of many cases."""
    fresh = contextmanager(partial(_database, server, reach, TEMPLATE))
    if not request.config.getoption("--serializable"):
        return fresh

    @contextmanager
    def faulty() -> Iterator[str]:
        with fresh() as dsn:
            faults.seed(dsn, os.environ["PYTEST_CURRENT_TEST"])
            yield dsn
            with Path(os.environ[SESSION], "thrown").open("a") as tally:
                print(*faults.thrown(dsn), file=tally)

    return faulty


@pytest.fixture
def dsn(
    request: pytest.FixtureRequest, databases: Callable[[], AbstractContextManager[str]]
) -> Iterator[str]:
    """A fresh database with the schema agentrun, in which all must be well after the test."""
    with databases() as dsn:
        yield dsn
        if request.node.get_closest_marker("tampers") is None:
            assert_invariants(dsn)


@pytest.fixture
def login(dsn: str) -> Iterator[Callable[[str], str]]:
    """The DSN of a login that has one role of the database `dsn`, and no more."""
    made: list[str] = []
    with connection.connect(dsn) as conn:
        database = conn.info.dbname
        names = roles.create(conn, prefix=database)

    def login_of(role: str) -> str:
        user = f"{database}_{role}_login"
        if user not in made:
            with connection.connect(dsn) as conn:
                conn.execute(f"CREATE ROLE {user} LOGIN")
                made.append(user)
                roles.grant(conn, role, user)
        return make_conninfo(dsn, user=user)

    yield login_of
    with psycopg.connect(dsn, autocommit=True) as conn:
        for role in [*made, *names.values()]:
            conn.execute(f"DROP OWNED BY {role}")
            conn.execute(f"DROP ROLE {role}")


@pytest.fixture
def db(dsn: str) -> Iterator[OpenDatabase]:
    """That of `dsn`, connected: the process default."""
    with agentrun.connect(dsn) as database:
        yield internals(database)


@pytest.fixture
def provider() -> Iterator[Provider]:
    """The double of a provider, a process of its own."""
    with Provider() as double:
        yield double


@pytest.fixture
def empty_dsn(server: embedded.Files, reach: Callable[[str], str]) -> Iterator[str]:
    """A fresh database with nothing in it."""
    yield from _database(server, reach, "template0")


@pytest.fixture
def new_home() -> Iterator[Path]:
    """A folder for an embedded server that the test starts; stopped and removed afterwards."""
    home = Path(tempfile.mkdtemp(dir=os.environ[SESSION])).resolve()
    yield home
    embedded.stop(home)
    shutil.rmtree(home)


@pytest.fixture
def disk_home() -> Iterator[Path]:
    """`new_home` on a disk, where a commit takes its time: in memory hardly one is under way."""
    folder = Path(tempfile.mkdtemp(prefix="agentrun-tests-", dir="/var/tmp")).resolve()
    leave = _enter(folder, first=True)
    yield folder / "home"
    leave()


@pytest.fixture
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `agentrun.install()` patches is as before after the test."""
    for module in (httpx, httpx2):
        for kind in (module.Client, module.AsyncClient):
            monkeypatch.setattr(kind, "_transport_for_url", kind._transport_for_url)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database call is given up after 0.4 s; the first of a connection after 2, libpq's least."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 2)
    monkeypatch.setitem(connection.connect.__kwdefaults__, "deadline", 0.4)
    monkeypatch.setattr(connection._Lent, "deadline", 0.4)


@pytest.fixture(autouse=True)
def closed_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The connections of clients that a test has made are closed after it.

    A client that a test drops is part of a cycle, so the garbage collector finalizes its sockets in
    any order, at any later time. A socket that comes before its client warns in a test of others.
    """
    opened = weakref.WeakSet[httpx.HTTPTransport | httpx2.HTTPTransport]()

    def made(transport: Any, *args: Any, make: Callable[..., None], **options: Any) -> None:
        make(transport, *args, **options)
        opened.add(transport)

    for kind in (httpx.HTTPTransport, httpx2.HTTPTransport):
        monkeypatch.setattr(kind, "__init__", partialmethod(made, make=kind.__init__))
    yield
    for transport in opened:
        transport.close()


@pytest.fixture(autouse=True)
def fresh_agents(request: pytest.FixtureRequest) -> Iterator[None]:
    """Agents that a test defines are gone after it, and those of other folders before: two files
    may use one name."""
    before = dict(registry._agents)
    here = str(request.path.parent)
    near = {name: agent for name, agent in before.items() if agent.place.startswith(here)}
    registry._agents.clear()
    registry._agents.update(near)
    yield
    registry._agents.clear()
    registry._agents.update(before)
