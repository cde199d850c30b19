"""What the README shows, done to the letter."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from agentrun.testing import Call, Provider, Reply

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EVIDENCE = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
PAYMENTS = """
def refund(order_id, cents, key):
    with open("payments.log", "a") as log:
        log.write(f"{order_id} {cents}\\n")
    return {"refunded": cents}
"""
# The first call ends the process, when it has paid and before that is recorded.
DEADLY = PAYMENTS.replace(
    "    return",
    """    if open("payments.log").read().count("\\n") == 1:
        import os
        os.kill(os.getpid(), 9)
    return""",
)
SCRIPT = [Reply(tool_calls=[Call("refund", {"order_id": "7", "cents": 100})]), "done"]


def block(text: str) -> str:
    """The one block of Python that has this text."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (found,) = (block for block in blocks if text in block)
    return str(found)


def test_every_file_that_it_names_is_there() -> None:
    linked = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", README)
    proofs = [path for line in re.findall(r"`(pytest [^`]+)`", EVIDENCE)
              for path in re.findall(r"tests/\S+", line)]  # fmt: skip
    assert linked
    assert proofs
    missing = [path for path in [*linked, *proofs] if not (ROOT / path.rstrip(";")).exists()]
    assert missing == []


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_three_edits(dsn: str, tmp_path: Path) -> None:
    """Run, run again, worked off by a worker: one file serves for all."""
    (tmp_path / "payments.py").write_text(PAYMENTS)
    (tmp_path / "app.py").write_text("import payments\n" + block("# 3  the loop stays"))
    with Provider(script=SCRIPT) as provider:
        settings = {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": "k"}

        def python(*command: str) -> str:
            return subprocess.run(
                [sys.executable, *command],
                cwd=tmp_path,
                env={**os.environ, **settings, "AGENTRUN_DATABASE_URL": dsn},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout

        assert [python("app.py"), python("app.py")] == ["done\n"] * 2
        assert provider.billed() == 2
        assert "refund(order_id=" in python("-m", "agentrun", "show", "ticket-42")
        again = python("-m", "agentrun", "run", "app.py:support", "refund", "--key", "ticket-43")
        assert again == "done\n"
    assert (tmp_path / "payments.log").read_text() == "7 100\n" * 2


def test_the_transcript_in_it_is_that_of_a_killed_run(dsn: str, tmp_path: Path) -> None:
    """But for durations, prices and the names of workers."""
    (tmp_path / "payments.py").write_text(DEADLY)
    (tmp_path / "app.py").write_text("import payments\n" + block("# 3  the loop stays"))
    with Provider(script=SCRIPT) as provider:
        settings = {
            "OPENAI_BASE_URL": provider.base_url,
            "OPENAI_API_KEY": "k",
            "AGENTRUN_DATABASE_URL": dsn,
            "COLUMNS": "80",
        }

        def python(*command: str) -> tuple[int, str]:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=tmp_path,
                env={**os.environ, **settings},
                stdout=subprocess.PIPE,
                text=True,
            )
            return done.returncode, done.stdout

        assert python("app.py") == (-signal.SIGKILL, "")
        assert python("app.py") == (0, "done\n")
        _, shown = python("-m", "agentrun", "show", "ticket-42")
    (picture,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    assert steady(picture) == steady(shown)


def steady(transcript: str) -> list[str]:
    """The words of a transcript, less what differs from run to run and from price list to list."""
    text = re.sub(r"w-[0-9a-f]+", "w", transcript)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "…", text)
    words = re.sub(r"\$[\d.]+|\d+(\.\d)? m?s\b", "…", text).split()
    # The facts of a step stand behind a point, or on a line of their own if they do not fit.
    return [word for word in words if word != "·"]
