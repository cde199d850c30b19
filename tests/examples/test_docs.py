"""The pages of `docs/`: what they show is done, and what is generated is up to date."""

from __future__ import annotations

import builtins
import dis
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import CodeType
from typing import Any

import page
import psycopg
import pytest

import agentrun
import agentrun.testing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text("utf-8") for path in sorted(DOCS.glob("*.md"))}
RUN = ("python", "console", "sql")  # the languages that `page.py` runs
WITH_BLOCKS = [
    name
    for name, text in PAGES.items()
    if any(block.runs and block.language in RUN for block in page.blocks(text))
]


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_what_a_page_shows_is_done(name: str, dsn: str, tmp_path: Path) -> None:
    settings = {
        "AGENTRUN_DATABASE_URL": dsn,
        "COLUMNS": "100",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, page.__file__, str(DOCS / name)],
        cwd=tmp_path,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout
    assert "NoModelWarning" not in done.stdout, "a program of the page does not record its model"


@pytest.mark.parametrize("name", ["frameworks.md", "langgraph.md", "more-frameworks.md"])
def test_each_section_is_a_whole_program(name: str) -> None:
    """A section may be copied alone: it imports or defines every name that it uses."""
    shown = re.sub(r"^<!-- run\n.*?^-->", "", PAGES[name], flags=re.MULTILINE | re.DOTALL)
    for section in re.split(r"^## ", shown, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        code = [block.text for block in page.blocks(section) if block.language == "python"]
        assert undefined_names("".join(code)) == set(), title


def test_a_section_that_uses_the_names_of_another_is_found() -> None:
    assert undefined_names("import a\ndef b(c):\n    return a, c, d, len(c)\nb(e)") == {"d", "e"}


def undefined_names(program: str) -> set[str]:
    """The names that a program uses, and neither imports nor defines."""
    defined, used = set(dir(builtins)), set[str]()
    todo = [compile(program, "program", "exec")]
    for code in todo:
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("STORE_NAME", "STORE_GLOBAL"):
                defined.add(instruction.argval)
            elif instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
                used.add(instruction.argval)
        todo += [one for one in code.co_consts if isinstance(one, CodeType)]
    return used - defined


def test_a_page_that_shows_something_else_is_found(tmp_path: Path) -> None:
    shell = page.Shell()
    try:
        page.converse(shell, "$ echo a b c\na … c\n$ exit 3 | false\nexit status 1\n")
        with pytest.raises(AssertionError, match="the page shows"):
            page.converse(shell, "$ echo a\nb\n")
        with pytest.raises(AssertionError, match="exit status 1, not 0"):
            page.converse(shell, "$ false\n")
    finally:
        shell.close()


def test_most_blocks_run() -> None:
    """A block that is not run says why, in the line above it."""
    code = [
        block for text in PAGES.values() for block in page.blocks(text) if block.language in RUN
    ]
    assert sum(block.runs for block in code) > 0.8 * len(code)


def test_every_file_that_the_pages_name_is_there() -> None:
    missing = [
        f"{name}: {link}"
        for name, text in PAGES.items()
        for link in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text)
        if not (DOCS / link).exists()
    ]
    assert missing == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    assert set(re.findall(r"[\w-]+\.md", navigation)) == set(PAGES)


def test_every_public_name_is_in_the_reference() -> None:
    listed = set(re.findall(r"^::: agentrun\.(\w+)$", PAGES["api.md"], re.MULTILINE))
    assert set(agentrun.__all__) - {"__version__"} == listed - {"testing", "notebook"}
    doubles = set(re.findall(r"^::: agentrun\.testing\.(\w+)$", PAGES["api.md"], re.MULTILINE))
    assert set(agentrun.testing.__all__) - doubles == set()


def test_the_sql_reference_is_what_the_database_says(dsn: str) -> None:
    spec = importlib.util.spec_from_file_location("generate_sql", DOCS / "generate_sql.py")
    assert spec is not None
    assert spec.loader is not None
    generate: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    with psycopg.connect(dsn) as conn:
        assert PAGES["sql.md"] == generate.page(conn), "run python docs/generate_sql.py"


def test_the_pages_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    # Not with --quiet: what it does not log, it does not count as a warning either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
    built = subprocess.run(
        [*command, str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert built.returncode == 0, built.stdout + built.stderr
