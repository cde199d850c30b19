"""Runs pytest in forks of a process that has loaded the libraries already, which takes seconds.

The process reads orders as lines of JSON, and for each writes the id of the fork, and then how it
ended. Nothing of agentrun is loaded before the fork, because each fork has a tree of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anthropic  # noqa: F401
import httpx  # noqa: F401
import hypothesis.strategies  # noqa: F401
import openai  # noqa: F401
import psycopg  # noqa: F401
import pytest
import rich.console  # noqa: F401
import starlette.testclient  # noqa: F401
import typer  # noqa: F401


def execute(tree: str, arguments: list[str], environment: dict[str, str]) -> int:
    """Execute the tests of a tree, whose output goes to the file ``output`` in it."""
    os.setsid()
    os.chdir(tree)
    output = os.open(Path(tree, "output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, tree)
    known = "ignore::pytest.PytestAssertRewriteWarning"  # pytest's plugins are loaded already
    return int(pytest.main(["-W", known, *arguments]))


def serve() -> None:
    """Fork for each order; a fork returns from here when its tests have ended."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            sys.exit(execute(**order))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    assert "agentrun" not in sys.modules
    serve()
