"""The tests of frameworks that cannot be installed beside the others, in an environment made here.

CrewAI needs mcp 1 and pydantic below 2.13, and the OpenAI class of LlamaIndex needs openai 2. It
takes some minutes, and needs a package index: `pytest -m suite`. While you work on an adapter,
make the environment once: ``pip install -e '.[crewai-suite]'``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = {
    "crewai": ["tests/integrations/test_crewai.py"],
    "llama_index": [
        "tests/integrations/test_llama_index.py",
        "tests/integrations/test_small_adapters.py",
        "-k=llama_index or react or workflow",
    ],
    "defects": ["tests/proof/test_mutations.py", "-k=needs_another_environment"],
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with CrewAI, and with LlamaIndex and its OpenAI class."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"{ROOT}[crewai-suite]"]
    subprocess.run(install, check=True)
    return python


@pytest.mark.suite
@pytest.mark.parametrize("arguments", TESTS.values(), ids=TESTS)
def test_the_tests_pass_in_an_environment_of_their_own(python: Path, arguments: list[str]) -> None:
    command = [python, "-m", "pytest", "-q", "-n", "2", "-m", "not suite", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout, done.stdout
