"""Others, measured beside us: each a script that speaks one line of JSON a figure.

Every peer lives in an environment of its own, made in a cache folder on first use, and in a
database of its own on the same server. What needs no such package (psycopg, pgbench) runs in
ours.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import Environment

FOLDER = Path(__file__).parent
MINUTES = 5  # that a peer may take for a figure


@dataclass(frozen=True)
class Peer:
    """A library to compare with: its script, what to install for it, what it can measure."""

    name: str
    packages: tuple[str, ...]
    figures: frozenset[str]

    @property
    def environment(self) -> Environment:
        return Environment(self.name, self.packages)

    def install(self) -> str:
        """Make the environment if there is none; the versions in it. Raises CalledProcessError."""
        return self.environment.install()

    def measure(self, figure: str, dsn: str) -> float:
        """One repeat of a figure. Raises CalledProcessError or TimeoutExpired."""
        script = str(FOLDER / f"{self.name}_.py")
        command = [str(self.environment.python), script, figure, dsn]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60 * MINUTES
        )
        return float(json.loads(done.stdout.splitlines()[-1])["value"])


PEERS = (
    Peer("dbos", ("dbos",), frozenset({"sequential", "async", "threads", "parallel", "start",
                                       "submitted", "replay", "distant"})),
    Peer("absurd", ("absurd-sdk", "absurdctl", "psycopg[binary]"),
         frozenset({"sequential", "async", "start", "submitted", "claims"})),
    Peer("langgraph", ("langgraph", "langgraph-checkpoint-postgres", "psycopg[binary]"),
         frozenset({"storage"})),
)  # fmt: skip
