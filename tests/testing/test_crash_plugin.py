"""The pytest plugin, as it works for those who have installed agentrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import crash_agents

TEST = f"""
import sys
sys.path.insert(0, {str(Path(crash_agents.__file__).parent)!r})
import crash_agents
from agentrun.testing import Call, Reply

SCRIPT = [Reply(tool_calls=[Call("look_up", {{"order": "7"}})]), "Done."]

def test_clean(crashtest):
    crashtest(crash_agents.sound, "go", script=SCRIPT).check()

def test_fault(crashtest):
    crashtest(crash_agents.clocked, question="go", script=SCRIPT).check()
"""
IDLE = """
import sys

def test_nothing_was_loaded():
    heavy = {"openai", "rich", "typer", "httpx", "httpx2", "tiktoken", "agentrun.testing.crash"}
    assert "agentrun.testing.plugin" in sys.modules
    assert not heavy & set(sys.modules)
"""


FIRST = "import sys, agentrun, pytest; sys.exit(pytest.main(sys.argv[1:]))"


def pytest_in(folder: Path, text: str, *start: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text)
    start = start or ("-m", "pytest")
    others = ("-p", "no:langsmith_plugin")  # a plugin of langchain-core, which loads httpx2
    return subprocess.run(
        [sys.executable, "-W", "error", *start, "-W", "error", "-q", *others, "--rootdir", folder],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_test_of_an_agent_passes_or_says_what_was_found(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, TEST)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: clocked: 1 finding" in done.stdout
    assert "divergence [step 1, gpt-5-mini] at " in done.stdout


def test_unused_it_is_inert(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, IDLE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pytest_does_not_mind_that_agentrun_came_first(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, IDLE, "-c", FIRST)
    assert done.returncode == 0, done.stdout + done.stderr
