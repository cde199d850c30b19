"""PgBouncer in transaction mode, in front of a server of the tests.

As unlike a session as it gets: at least three sessions a database, which take transactions in turn,
so that hardly two statements after each other meet the same one.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
from crashing import until
from psycopg.conninfo import make_conninfo

from agentrun.store.embedded import PORT, Files
from agentrun.store.embedded_account import account_for, change_owner, running_as

INSTALL = "PgBouncer is not installed: apt-get install pgbouncer, or brew install pgbouncer"

SETTINGS = f"""
[databases]
* = host={{server}} port={PORT}

[pgbouncer]
pool_mode = transaction
server_round_robin = 1
min_pool_size = 3
default_pool_size = 40
max_client_conn = 900
auth_type = trust
auth_file = {{folder}}/users
listen_addr =
listen_port = {PORT}
unix_socket_dir = {{folder}}
logfile = {{folder}}/log
stats_period = 3600
"""


def program() -> str | None:
    """Where PgBouncer is; Debian installs it where only root looks."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")


def through(dsn: str, folder: Path) -> str:
    """The way to a database through the pooler in this folder."""
    return make_conninfo(dsn, host=str(folder))


@contextlib.contextmanager
def pooler(server: Files) -> Iterator[Path]:
    """Run one in front of a server, by the same account; gives the folder of its socket.

    It works in a folder beside the server's, so that who ends the session finds it.
    """
    found = program()
    assert found, INSTALL
    folder = Path(tempfile.mkdtemp(prefix="pooler-", dir=server.root.parent))
    account = account_for(server.data)
    (folder / "users").write_text('"postgres" ""\n')
    settings = folder / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(server=server.socket, folder=folder))
    for path in (folder, *folder.iterdir()):
        change_owner(path, account)
    command = [found, "--quiet", str(settings)]
    process = subprocess.Popen(command, **{**running_as(account), "cwd": folder})
    try:
        until(lambda: _answers(through(server.dsn(), folder), process))
        yield folder
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _answers(dsn: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"pgbouncer ended with {process.returncode}"
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(dsn).close()
        return True
    return False
