"""Environments of others: each lives in a cache folder of its own and is made on first use."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Environment"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentrun-benchmarks"


@dataclass(frozen=True)
class Environment:
    """A virtual environment and its packages; without a name, the one of this process."""

    name: str
    packages: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        """The interpreter."""
        return CACHE / self.name / "bin" / "python" if self.name else Path(sys.executable)

    def install(self) -> str:
        """Make the environment if there is none; the versions in it. Raises CalledProcessError."""
        return _install(self)


@cache
def _install(environment: Environment) -> str:
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check"]
    if not environment.python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / environment.name)], check=True)
        subprocess.run(
            [*pip, "install", "--quiet", *environment.packages],
            check=True,
            capture_output=True,
            text=True,
        )
    frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    wanted = {package.split("[")[0] for package in environment.packages}
    return ", ".join(line for line in frozen.splitlines() if line.split("==")[0] in wanted)
