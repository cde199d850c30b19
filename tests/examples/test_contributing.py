"""The places that CONTRIBUTING.md and ARCHITECTURE.md name are there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PLACE = re.compile(r"`((?:agentrun|migrations|tests)/[\w/*.]+\.(?:py|sql)): ([\w.]+)`")


def names(file: Path) -> set[str]:
    """What a file defines: functions, classes, methods; of SQL its functions and statements."""
    text = file.read_text("utf-8")
    if file.suffix == ".sql":
        return set(re.findall(r"(?:FUNCTION agentrun\.|^-- name: )(\w+)", text, re.MULTILINE))
    found: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            methods = (part for part in node.body if isinstance(part, ast.FunctionDef))
            found |= {node.name, *(f"{node.name}.{method.name}" for method in methods)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize(("pattern", "name"), sorted(set(PLACE.findall(CONTRIBUTING))))
def test_a_place_that_is_named_is_there(pattern: str, name: str) -> None:
    files = list(ROOT.glob(pattern))
    assert files, f"no file {pattern}"
    assert any(name in names(file) for file in files), f"{pattern} has no {name}"


def test_the_ten_questions_are_answered_by_places() -> None:
    _, _, table = CONTRIBUTING.partition("## Ten questions of a stranger")
    rows = re.findall(r"^\| ([^|]+\?) \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) == 10
    assert [question for question, answer in rows if not PLACE.search(answer)] == []


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:agentrun|migrations|tests|docs)/[\w/.]+\.\w+)", CONTRIBUTING)
    linked = re.findall(r"\]\(([^:)]+)\)", CONTRIBUTING)
    assert named
    assert [path for path in [*named, *linked] if not (ROOT / path).exists()] == []


def test_the_lock_file_pins_what_the_project_needs_and_names_no_machine() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [
        *project["dependencies"],
        *(one for e in ("dev", "test", "docs") for one in extras[e]),
    ]
    lock = (ROOT / "requirements-dev.lock").read_text("utf-8")
    pinned = set(re.findall(r"^([\w-]+)==", lock, re.MULTILINE))
    names = {re.split(r"[^\w-]", one)[0].lower() for one in needed}
    assert names - {"agentrun-harness"} - pinned == set()
    assert not re.search(r"://|^-|@ |(?<![\w.])/", lock, re.MULTILINE)
