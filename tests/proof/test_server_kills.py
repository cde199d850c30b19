"""SIGKILL for Postgres and all its processes, again and again, under the load of several writers.

Nothing that was acknowledged may be missing. A writer whose answer was lost asks, once the server
is back, whether its rows are in, and the journal must agree in the end with what it then went on
from. The workers live on: none may take a run of another, however long the server was away.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from load import LEASE, load
from servers import kill

from agentrun.store import embedded

if TYPE_CHECKING:
    from matrix import Proof

pytestmark = pytest.mark.long

KILLS = 60


def test_nothing_acknowledged_is_lost_however_often_postgres_is_killed(
    disk_home: Path, tmp_path: Path, proof: Proof
) -> None:
    def fault() -> None:
        kill(disk_home)
        if case.random.random() < 0.1:
            time.sleep(LEASE + 1)  # nobody can beat meanwhile
        embedded.start(disk_home)

    kills = [f"kill {number:02}" for number in range(1, KILLS + 1)]
    with load(embedded.start(disk_home), tmp_path) as under:
        for case in proof.cases("kill -9 of Postgres", kills, share=3):
            with case:
                case.count(kills=1, acknowledged_lost=0, **under.through(fault))
