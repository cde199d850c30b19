"""Random programs under random deaths: see `soak.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from soak import Wave

from agentrun.store import embedded
from agentrun.store.migrate import migrate

pytestmark = pytest.mark.long

WAVES = 40


def test_programs_do_what_they_must_whatever_dies(
    proof: Any, new_home: Path, tmp_path: Path
) -> None:
    embedded.start(new_home)
    files = embedded.where(new_home)
    for case in proof.cases("soak", [f"wave {n:02}" for n in range(WAVES)], share=2):
        with case:
            name = case.name.replace(" ", "_")
            with psycopg.connect(files.dsn(), autocommit=True) as conn:
                conn.execute(f"CREATE DATABASE {name}")
            migrate(files.dsn(name))
            folder = tmp_path / name
            folder.mkdir()
            wave = Wave(files.dsn(name), new_home, folder, str(case))
            wave.run()
            case.count(**wave.counts)
