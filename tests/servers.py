"""Real servers of a test's own: killed as by a power cut, on a small disk, following each other."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from crashing import until
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentrun.store import binaries, embedded
from agentrun.store.embedded_account import account_for, change_owner, running_as


def postmaster(home: Path) -> psutil.Process:
    """The first process of the server in this folder."""
    pid_file = embedded.where(home).data / "postmaster.pid"
    return psutil.Process(int(pid_file.read_text().split()[0]))


def kill(home: Path) -> None:
    """What a power cut does to the server: SIGKILL for all its processes, by their ids.

    None may be begun meanwhile and outlive it, waiting for a lock in memory that a dead one holds.
    """
    first = postmaster(home)
    first.suspend()
    processes = [first, *first.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[None]:
    """Mount a disk of its own there, which is soon full; skips the test where that is refused."""
    place.mkdir()
    options = f"size={megabytes}m,mode=755"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        place.rmdir()
        pytest.skip(f"a small disk cannot be mounted here: {getattr(error, 'stderr', error)}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, *, but: int) -> None:
    """Take the room that is left, but for so many bytes; `free` gives it back."""
    with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    assert os.statvfs(disk).f_bavail == 0
    os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - but)


def free(disk: Path) -> None:
    (disk / "ballast").unlink()


class Pair:
    """A primary, and a standby that follows it by streaming replication, which change places."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)  # as root, Postgres runs as somebody else, who must pass
        self.primary, self.standby = folder / "a", folder / "b"
        embedded.start(self.primary)
        self.follow()

    @property
    def dsn(self) -> str:
        """Of whichever of the two takes writes."""
        given = conninfo_to_dict(embedded.where(self.primary).dsn())
        sockets = [
            str(embedded.where(home).socket) for home in sorted((self.primary, self.standby))
        ]
        hosts = {"host": ",".join(sockets), "port": f"{given['port']},{given['port']}"}
        return make_conninfo(**{**given, **hosts, "target_session_attrs": "read-write"})

    def follow(self) -> None:
        """Make the standby anew, of what the primary has.

        Skips the test where the Postgres programs here lack what that takes.
        """
        files, source = embedded.where(self.standby), embedded.where(self.primary)
        account = account_for(source.data)
        programs = binaries.find(source.root, source.data, account)
        if not (programs / "pg_basebackup").exists():
            pytest.skip(f"no pg_basebackup beside {programs / 'postgres'}")
        shutil.rmtree(files.data, ignore_errors=True)
        files.root.mkdir(exist_ok=True)
        files.data.mkdir(mode=0o700)
        change_owner(files.data, account)
        command = [programs / "pg_basebackup", "--write-recovery-conf", "--checkpoint=fast"]
        command += [f"--pgdata={files.data}", f"--dbname={source.dsn()}"]
        subprocess.run(command, check=True, capture_output=True, **running_as(account))
        embedded.start(self.standby)

    def require(self) -> None:
        """From now on nothing is acknowledged that the standby has not: synchronous replication."""
        for home in (self.standby, self.primary):
            with _admin(home) as conn:
                conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                conn.execute("SELECT pg_reload_conf()")
        with _admin(self.primary) as conn:
            query = "SELECT sync_state FROM pg_stat_replication"
            until(lambda: conn.execute(query).fetchall() == [("sync",)])

    def catch_up(self) -> None:
        """Wait until the standby has all that the primary has committed."""
        with _admin(self.primary) as primary, _admin(self.standby) as standby:
            (there,) = primary.execute("SELECT pg_current_wal_lsn()").fetchone() or ("",)
            query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            until(lambda: standby.execute(query, [there]).fetchone() == (True,))

    def part(self) -> None:
        """From now on nothing that the primary commits reaches the standby."""
        with _admin(self.standby) as standby:
            standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            standby.execute("SELECT pg_reload_conf()")
            until(lambda: not standby.execute("SELECT FROM pg_stat_wal_receiver").fetchall())

    def fail_over(self) -> None:
        """Kill the primary; the standby takes its place."""
        kill(self.primary)
        self.promote()

    def promote(self) -> None:
        with _admin(self.standby) as standby:
            standby.execute("SELECT pg_promote()")
        self.primary, self.standby = self.standby, self.primary

    def stop(self) -> None:
        for home in (self.primary, self.standby):
            embedded.stop(home)


def _admin(home: Path) -> psycopg.Connection[Any]:
    return psycopg.connect(embedded.where(home).dsn(), autocommit=True)
