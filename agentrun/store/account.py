"""Whom the embedded Postgres runs as.

Postgres refuses to run as root, which is what containers and notebooks often are. There it runs
as an account that exists; none is added, and what that account may reach is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Any, TypeAlias

from agentrun.core.errors import ConfigError

if sys.platform != "win32":
    import pwd

    Account: TypeAlias = pwd.struct_passwd
else:
    Account: TypeAlias = Any

__all__ = ["Account", "account_for", "give", "may_enter", "running_as"]


def account_for(data: Path) -> Account | None:
    """None: as ourselves. For root: the owner of the data, else an account that exists."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError, KeyError):
        if owner := data.stat().st_uid:
            return pwd.getpwuid(owner)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigError(
        "Postgres refuses to run as root, and there is no account 'postgres' or 'nobody' to run"
        " it as: add one, or set AGENTRUN_DATABASE_URL to a Postgres database"
    )


def running_as(account: Account | None, **env: str) -> dict[str, Any]:
    """Arguments of subprocess.run; PG* of the environment is meant for other servers."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    if account is None:
        return {"env": {**clean, **env}}
    return {
        "user": account.pw_uid,
        "group": account.pw_gid,
        "extra_groups": [],
        "cwd": "/",
        "env": {**clean, "HOME": "/", "USER": account.pw_name, **env},
    }


def give(path: Path | int, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


def may_enter(folder: Path, account: Account) -> bool:
    found = folder.stat()
    if found.st_uid == account.pw_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.pw_gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)
