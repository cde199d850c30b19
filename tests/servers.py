"""Real servers of a test's own: killed as by a power cut, on a small disk, following each other."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import psutil
import psycopg
import pytest

from agentrun.store import binaries, embedded
from agentrun.store.account import account_for, running_as


def postmaster(home: Path) -> psutil.Process:
    """The first process of the server in this folder."""
    pid_file = embedded.where(home).data / "postmaster.pid"
    return psutil.Process(int(pid_file.read_text().split()[0]))


def kill(home: Path) -> None:
    """What a power cut does to the server: SIGKILL for all its processes, by their ids."""
    first = postmaster(home)
    processes = [first, *first.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)


def follow(primary: Path, home: Path) -> None:
    """Start a standby of the server in the one folder in the other, by streaming replication.

    Skips the test where the Postgres programs here lack what that takes.
    """
    files = embedded.where(home)
    account = account_for(embedded.where(primary).data)
    programs = binaries.find(files.root, embedded.where(primary).data, account)
    if not (programs / "pg_basebackup").exists():
        pytest.skip(f"no pg_basebackup beside {programs / 'postgres'}")
    shutil.rmtree(files.data, ignore_errors=True)
    files.root.chmod(0o777)
    command = [programs / "pg_basebackup", "--write-recovery-conf", "--checkpoint=fast"]
    command += [f"--pgdata={files.data}", f"--dbname={embedded.where(primary).dsn()}"]
    subprocess.run(command, check=True, capture_output=True, **running_as(account))
    embedded.start(home)


def promote(home: Path) -> None:
    """Make the standby in this folder the primary."""
    with psycopg.connect(embedded.where(home).dsn(), autocommit=True) as conn:
        conn.execute("SELECT pg_promote()")
