"""The command line in this process, and as a process of its own, on a fresh database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import APP, Cli, Write
from typer.testing import CliRunner

from agentrun.cli import app
from agentrun.lifecycle import registry


@pytest.fixture
def cli(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("ls", "--json")`: the result has exit_code, stdout and stderr."""
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", dsn)
    monkeypatch.setattr(registry, "_agents", {})
    monkeypatch.setattr(sys, "path", list(sys.path))

    def invoke(*args: object, **kwargs: Any) -> Any:
        return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False, **kwargs)

    return invoke


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `app.py`, or a file of another name, and returns its path."""

    def write(text: str = APP, name: str = "app.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def process(dsn: str) -> Cli:
    """`process("run", …, DIE="1")`: `python -m agentrun` as users start it."""

    def run(*args: object, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agentrun", *map(str, args)],
            env={**os.environ, "AGENTRUN_DATABASE_URL": dsn, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def in_doubt(cli: Cli, process: Cli, write: Write) -> Path:
    """A run `ticket` whose process died while it paid, held; returns the file of its agent."""
    file = write()
    assert process("run", f"{file}:payer", 5, "--key", "ticket", DIE="1").returncode == 9
    held = cli("resume", "ticket", file)
    assert held.exit_code == 3, held.stderr
    return file
