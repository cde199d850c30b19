"""Others, measured beside us: each a script that speaks one line of JSON a figure.

Every peer lives in an environment of its own, made in a cache folder on first use, and in a
database of its own on the same server. What needs no such package (psycopg, pgbench) runs in
ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentrun-benchmarks"
MINUTES = 5  # that a peer may take for a figure


@dataclass(frozen=True)
class Peer:
    """A library to compare with: its script, what to install for it, what it can measure."""

    name: str
    packages: tuple[str, ...]
    figures: frozenset[str]

    @property
    def python(self) -> Path:
        return CACHE / self.name / "bin" / "python"

    def install(self) -> str:
        """Make the environment if there is none; the versions in it. Raises CalledProcessError."""
        return _installed(self)

    def measure(self, figure: str, dsn: str) -> float:
        """One repeat of a figure. Raises CalledProcessError or TimeoutExpired."""
        script = str(FOLDER / f"{self.name}_.py")
        command = [str(self.python), script, figure, dsn]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60 * MINUTES
        )
        return float(json.loads(done.stdout.splitlines()[-1])["value"])


@cache
def _installed(peer: Peer) -> str:
    pip = [str(peer.python), "-m", "pip", "--disable-pip-version-check"]
    if not peer.python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / peer.name)], check=True)
        subprocess.run(
            [*pip, "install", "--quiet", *peer.packages], check=True, capture_output=True, text=True
        )
    frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    wanted = {package.split("[")[0] for package in peer.packages}
    return ", ".join(line for line in frozen.splitlines() if line.split("==")[0] in wanted)


PEERS = (
    Peer("dbos", ("dbos",), frozenset({"sequential", "async", "threads", "parallel", "start",
                                       "submitted", "replay", "distant"})),
    Peer("absurd", ("absurd-sdk", "absurdctl", "psycopg[binary]"),
         frozenset({"sequential", "async", "start", "submitted", "claims"})),
    Peer("langgraph", ("langgraph", "langgraph-checkpoint-postgres", "psycopg[binary]"),
         frozenset({"storage"})),
)  # fmt: skip
