"""`help()` on the public names: each says what it does, and shows an example."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any

import pytest

import agentrun

NAMES = [
    name
    for name in agentrun.__all__
    if callable(found := getattr(agentrun, name))
    and not (isinstance(found, type) and issubclass(found, BaseException))
]
AGENT = ["run", "arun", "submit", "asubmit", "with_options"]
HANDLE = ["status", "result", "stream", "astream", "transcript"]
METHODS: list[Any] = [
    *(getattr(agentrun.DurableAgent, name) for name in AGENT),
    *(getattr(agentrun.Handle, name) for name in HANDLE),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(agentrun, name)) or ""
    assert "Example:" in text, name
    assert ", awaited." not in text


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__qualname__)
def test_a_method_that_users_call_has_an_example(method: Any) -> None:
    assert "Example:" in (inspect.getdoc(method) or "")


@pytest.mark.parametrize("name", ["agent", "step", "tool"])
def test_help_on_a_decorator_shows_the_function(name: str) -> None:
    decorator = getattr(agentrun, name)
    text = pydoc.plain(pydoc.render_doc(decorator))
    assert inspect.isfunction(decorator)
    assert text.splitlines()[0].startswith(f"Python Library Documentation: function {name} in")


@pytest.mark.parametrize("name", ["DurableAgent", "Piece", "RunInfo", "StepInfo", "Tool"])
def test_types_that_users_hold_are_exported(name: str) -> None:
    assert name in agentrun.__all__
    assert isinstance(getattr(agentrun, name), type)
