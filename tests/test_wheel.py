"""The wheel: what it holds, and that it works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUNDLED = ("tools", "prompts", "migrations")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "dist", "build", "*.egg-info")

PROBE = """
import importlib.util, sys
import agentrun, agentrun.bundled, agentrun.bundled.tools, agentrun.store.migrate
from agentrun.bundled import resource
from agentrun.cli import app
from agentrun.store.sql import QUERIES
home = sys.argv[1]
for module in (agentrun, agentrun.bundled.tools):
    assert module.__file__.startswith(home), module.__file__
assert all(path.startswith(home) for path in agentrun.bundled.__path__), agentrun.bundled.__path__
for name in ("tools", "prompts", "migrations", "tests"):
    assert importlib.util.find_spec(name) is None, name
assert resource("prompts", "support.md").read_text("utf-8").strip()
assert "append" in QUERIES
print(*[migration.name for migration in agentrun.store.migrate.known_migrations()], sep="\\n")
"""


def files(folder: Path) -> set[str]:
    """The files below a folder of the checkout, as paths from its root."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that nothing is left behind in the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, place / "tree", ignore=LEFT_OUT)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    built = subprocess.run(
        [*command, str(place), str(place / "tree")], capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_its_only_top_level_names_are_the_package_and_its_metadata(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    (metadata,) = tops - {"agentrun"}
    assert metadata.startswith("agentrun_harness-")
    assert metadata.endswith(".dist-info")


def test_it_holds_every_file_of_the_package_and_nothing_else(names: set[str]) -> None:
    bundled = {f"agentrun/bundled/{name}" for folder in BUNDLED for name in files(ROOT / folder)}
    packaged = {name for name in names if name.startswith("agentrun/")}
    assert packaged == files(ROOT / "agentrun") | bundled
    assert {"agentrun/py.typed", "agentrun/store/queries.sql"} < packaged


def test_unpacked_it_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    known = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE, str(site)],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert known.returncode == 0, known.stderr
    assert known.stdout.split() == sorted(path.name for path in (ROOT / "migrations").glob("*.sql"))


def test_its_command_is_the_command_line(wheel: Path, names: set[str]) -> None:
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        assert "agentrun = agentrun.cli:app" in archive.read(entry_points).decode()
