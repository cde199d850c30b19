"""Runs the blocks of a page of `docs/` in order, as a reader would: `python page.py PAGE.md`.

It works in the current folder, with the database that AGENTRUN_DATABASE_URL names and a double of
the provider, which is `double` in the blocks. What stands in a page is done thus:

    ```python               runs here, as `__main__`; all blocks of a page share their names
    ```python title="a.py"  is written to that file, as is a block of any other language
    ```console              each line that begins with `$ ` goes to one shell; the lines below
                            it are its output, in which `…` stands for anything
    ```sql                  is asked of the database
    <!-- run ... -->        is Python that runs and is not shown
    <!-- not run: WHY -->   the next block is not run

The port 8797 becomes a free one. The exit status of a command is 0, unless its output on the page
says `Killed` or `exit status N`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

BLOCK = re.compile(
    r"^<!-- run\n(?P<hidden>.*?)^-->|^```(?P<language>\w+)(?P<info>.*?)\n(?P<shown>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
TITLE = re.compile(r'title="([^"]+)"')
PORT = "8797"


class Block(NamedTuple):
    """A block of a page; ``line`` is where its text begins."""

    language: str
    title: str | None
    text: str
    line: int
    runs: bool


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page that this file knows how to run, or that say why they are not."""
    for found in BLOCK.finditer(page):
        hidden = found["hidden"] is not None
        title = None if hidden else TITLE.search(found["info"])
        before = page[: found.start()].rstrip().rpartition("\n")[2]
        yield Block(
            "python" if hidden else found["language"],
            title and title[1],
            found["hidden"] if hidden else found["shown"],
            page.count("\n", 0, found.start()) + 2,
            not re.fullmatch(r"<!-- not run: .+ -->", before),
        )


class Shell:
    """One shell for all commands of a page."""

    def __init__(self) -> None:
        self._bash = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[str, int]:
        """The output of a command, and its exit status."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{command}\nprintf '\\n--done-- %s\\n' $?\n")
        self._bash.stdin.flush()
        lines = []
        for line in self._bash.stdout:
            if line.startswith("--done-- "):
                return "".join(lines), int(line.split()[1])
            lines.append(line)
        raise AssertionError(f"the shell ended at: {command}")

    def close(self) -> None:
        """End the shell and what it started in the background."""
        self._bash.communicate("kill $(jobs -p) 2>/dev/null\nexit\n")


def converse(shell: Shell, text: str) -> None:
    """Type the commands of a console block; their output is as the page says."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a console block begins with a command"
    for part in parts[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = f"{command[:-1]} {more.lstrip()}"
        output, status = shell.run(command)
        said = re.search(r"^exit status (\d+)$", shown, re.MULTILINE)
        wanted = int(said[1]) if said else 137 if "Killed" in shown else 0
        assert status == wanted, f"$ {command}\nexit status {status}, not {wanted}\n{output}"
        shown = re.sub(r"^exit status \d+$", "", shown, flags=re.MULTILINE)
        missing = f"$ {command}\nthe page shows\n{shown}\nand the output is\n{output}"
        assert re.search(pattern(shown), " ".join(output.split()), re.DOTALL), missing


def pattern(shown: str) -> str:
    """Output as the page shows it: `…` is anything, and so is the kind of white space."""
    return ".*?".join(
        r"\s+".join(map(re.escape, piece.split())) for piece in " ".join(shown.split()).split("…")
    )


def execute(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run Python; `await` may stand outside of any function."""
    code = compile(
        "\n" * (block.line - 1) + block.text,
        str(page),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    waits = bool(code.co_flags & inspect.CO_COROUTINE)
    result = eval(code, names)
    if waits:
        asyncio.run(result)


def query(text: str) -> None:
    """Ask the database; it need not have an answer."""
    import psycopg

    with psycopg.connect(os.environ["AGENTRUN_DATABASE_URL"], autocommit=True) as conn:
        conn.execute(text)


def main(page: Path) -> None:
    from agentrun.testing import Call, Fault, Provider, Reply

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    module = ModuleType("__main__")  # a program on a page starts as one that a reader starts
    sys.modules["__main__"] = module  # where pydantic looks for the names of a model
    sys.path.insert(0, str(Path.cwd()))
    with Provider() as double:
        os.environ |= {
            "OPENAI_BASE_URL": double.base_url,
            "ANTHROPIC_BASE_URL": double.url,
            "OPENAI_API_KEY": "k",
            "ANTHROPIC_API_KEY": "k",
        }
        vars(module).update(double=double, Call=Call, Fault=Fault, Reply=Reply)
        shell = Shell()
        try:
            for block in blocks(page.read_text("utf-8").replace(PORT, port)):
                if not block.runs:
                    continue
                print(f"{page.name}:{block.line}", flush=True)
                if block.title is not None:
                    Path(block.title).write_text(block.text, "utf-8")
                elif block.language == "python":
                    execute(block, page, vars(module))
                elif block.language == "console":
                    converse(shell, block.text)
                elif block.language == "sql":
                    query(block.text)
        finally:
            shell.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
