"""Choose the operating-system account that the embedded Postgres runs as.

Postgres refuses to run as root, and containers and notebooks often run as root. There it runs as an
account that already exists. No account is added, and no permission of that account is changed.
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
    import grp
    import pwd

    Account: TypeAlias = pwd.struct_passwd
else:
    Account: TypeAlias = Any

__all__ = ["Account", "account_for", "change_owner", "check_owner", "may_enter", "running_as"]

_SYSTEM = ("postgres", "nobody")
_UNMAPPED = 65534  # the kernel's overflow uid
_PASSED_ON = frozenset(
    {
        "DYLD_LIBRARY_PATH",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "PATH",
        "TMPDIR",
        "TZ",
    }
)


def account_for(data: Path) -> Account | None:
    """The account to run as: for root the owner of the data, or else a system account.

    None means the account of this process.
    """
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError, KeyError):
        if owner := data.stat().st_uid:
            return pwd.getpwuid(owner)
    for name in _SYSTEM:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigError(
        "Postgres refuses to run as root, and there is no account 'postgres' or 'nobody' to run"
        " it as: add one, or set AGENTRUN_DATABASE_URL to a Postgres database"
    )


def check_owner(root: Path, account: Account | None) -> None:
    """Refuse a home that another user could change, before any file in it is executed or read.

    The home must belong to this user, to root, or to the account, and no other user may write in
    it. The same holds for the folders above, whose owners could replace the home. A folder above
    may be writable for others if it has the sticky bit, as /tmp has: others can add files to it but
    cannot replace ours. Write access of a group counts if the group has members beside these
    accounts. Raises ConfigError.
    """
    ours = {0, os.geteuid()}
    if account is not None and account.pw_name in _SYSTEM:
        ours.add(account.pw_uid)
    if os.geteuid() != 0:
        ours.add(_UNMAPPED)  # the owner of root's folders in a user namespace without root
    existing = [folder for folder in (root, *root.parents) if folder.exists()]
    for folder in existing:
        found = folder.stat()
        sticky = folder != root and found.st_mode & stat.S_ISVTX
        if found.st_uid not in ours:
            why = f"belongs to {_name(found.st_uid)}"
        elif found.st_mode & stat.S_IWOTH and not sticky:
            why = "can be written by everybody"
        elif found.st_mode & stat.S_IWGRP and not sticky and _members(found.st_gid) - ours:
            why = f"can be written by the group {_group(found.st_gid)}"
        else:
            continue
        raise ConfigError(
            f"the embedded Postgres is not started in {root}: {folder} {why}, who could put "
            "programs and data of their own there. Set AGENTRUN_HOME to a folder that only you "
            f"can change (you are {_name(os.geteuid())})"
        )


def _members(gid: int) -> set[int]:
    """The accounts in a group: those that it lists, and those whose primary group it is."""
    listed: list[str] = []
    with contextlib.suppress(KeyError):
        listed = grp.getgrgid(gid).gr_mem
    return {one.pw_uid for one in pwd.getpwall() if one.pw_gid == gid or one.pw_name in listed}


def _group(gid: int) -> str:
    try:
        return repr(grp.getgrgid(gid).gr_name)
    except KeyError:
        return str(gid)


def _name(uid: int) -> str:
    try:
        return repr(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return f"the user {uid}"


def running_as(account: Account | None, **env: str) -> dict[str, Any]:
    """Arguments for subprocess.run: the account, and an environment with few variables.

    The server outlives this process, and may run as another account. So it gets no credentials, and
    no PG* variables that are meant for other servers.
    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("LC_")
    }
    if account is None:
        home = {"HOME": os.environ["HOME"]} if "HOME" in os.environ else {}
        return {"env": {**clean, **home, **env}}
    return {
        "user": account.pw_uid,
        "group": account.pw_gid,
        "extra_groups": [],
        "cwd": "/",
        "env": {**clean, "HOME": "/", "USER": account.pw_name, **env},
    }


def change_owner(path: Path | int, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


def may_enter(folder: Path, account: Account) -> bool:
    found = folder.stat()
    if found.st_uid == account.pw_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.pw_gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)
