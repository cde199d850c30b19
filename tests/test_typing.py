"""The public face is typed: the examples mean to mypy and to pyright what they say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import agentrun

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "tests" / "typing" / "examples.py"


def test_the_examples_use_the_whole_public_face() -> None:
    used = set(re.findall(r"\bagentrun\.(\w+)", EXAMPLES.read_text("utf-8")))
    assert set(agentrun.__all__) - used == set()


def test_mypy_agrees_with_the_examples(tmp_path: Path) -> None:
    """Those that are to be copied from, too."""
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--config-file=", f"--cache-dir={tmp_path}"]
    command += map(str, [EXAMPLES, *(ROOT / "notebooks").glob("*.py")])
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("basedpyright") is None, reason="basedpyright is not installed"
)
def test_pyright_agrees_with_the_examples(tmp_path: Path) -> None:
    settings = {
        "include": [str(EXAMPLES)],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "enableTypeIgnoreComments": False,
        "reportUnusedFunction": "none",
        "reportUnusedCallResult": "none",
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--project", str(project)]
    command += ["--pythonpath", sys.executable, "--outputjson"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    report = json.loads(found.stdout)
    problems = [
        f"{one['range']['start']['line'] + 1}: {one.get('rule')}: {one['message']}"
        for one in report["generalDiagnostics"]
    ]
    assert report["summary"]["filesAnalyzed"] == 1
    assert problems == []
