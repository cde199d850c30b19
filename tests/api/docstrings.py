"""Reads the docstrings of the public face: their parameters, and their examples, which it runs."""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import agentrun

EXAMPLE = re.compile(r"^Example::?\n((?:(?: .*)?\n)+)", re.MULTILINE)
SECTION = r"^(?:{}):\n((?:(?: .*)?\n)+)"
# Methods that are for agentrun itself: no page of the documentation shows them.
INTERNAL = {
    "Budget": {"limits", "to_json"},
    "Database": None,
    "DurableAgent": {"record_arguments", "body"},
    "Redo": {"event"},
    "Tool": None,
}


def public() -> Iterator[tuple[str, Any]]:
    """Each public function and class, and the methods that users call on what they hold."""
    for name in agentrun.__all__:
        found = getattr(agentrun, name)
        if not callable(found):
            continue
        yield name, found
        hidden = INTERNAL.get(name, set())
        if not inspect.isclass(found) or hidden is None or issubclass(found, BaseException):
            continue
        for member, value in vars(found).items():
            if not member.startswith("_") and member not in hidden and inspect.isfunction(value):
                yield f"{name}.{member}", value


def doc(found: Any) -> str:
    return (inspect.getdoc(found) or "") + "\n"


def described(found: Any, *sections: str) -> dict[str, str]:
    """What a section says of each parameter, or of each exception."""
    section = re.search(SECTION.format("|".join(sections)), doc(found), re.MULTILINE)
    if section is None:
        return {}
    pairs = re.split(r"^(\w[\w, ]*): ", textwrap.dedent(section[1]), flags=re.MULTILINE)[1:]
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def example(found: Any) -> str:
    section = EXAMPLE.search(doc(found))
    return textwrap.dedent(section[1]) if section else ""


def run_example(text: str, names: dict[str, Any]) -> None:
    """Run an example. What it shows as output must be its output; nothing shown is anything."""
    parts = doctest.DocTestParser().get_examples(text)
    if not parts:
        execute(compile_text(text, "exec"), names)
    for part in parts:
        output = io.StringIO()
        with redirect_stdout(output):
            one = "eval" if is_expression(part.source) else "exec"
            value = execute(compile_text(part.source, one), names)
            if value is not None:
                print(repr(value))
        if part.want:
            assert output.getvalue() == part.want, part.source


def is_expression(source: str) -> bool:
    body = ast.parse(source).body
    return len(body) == 1 and isinstance(body[0], ast.Expr)


def compile_text(text: str, mode: str) -> Any:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(text.strip() + "\n", "<example>", mode, flags=flags, dont_inherit=True)


def execute(code: Any, names: dict[str, Any]) -> Any:
    """Execute compiled code; in a loop if it awaits."""
    found = eval(code, names)
    return asyncio.run(found) if code.co_flags & inspect.CO_COROUTINE else found
