"""`help()` on the decorators, and the types of what users hold."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys

import pytest

import agentrun


@pytest.mark.parametrize("name", ["agent", "step", "tool"])
def test_help_on_a_decorator_shows_the_function(name: str) -> None:
    decorator = getattr(agentrun, name)
    text = pydoc.plain(pydoc.render_doc(decorator))
    assert inspect.isfunction(decorator)
    assert text.splitlines()[0].startswith(f"Python Library Documentation: function {name} in")


HELD = [
    "DurableAgent",
    "StreamingAgent",
    "Tool",
    "ToolFunction",
    "Handle",
    "Piece",
    "RunInfo",
    "StepInfo",
    "Waiting",
    "Budget",
    "Redo",
    "Pruned",
    "Worker",
    "Database",
    "Transcript",
    "Step",
    "Attempt",
    "Doubt",
    "Decision",
    "Failure",
    "Usage",
    "Totals",
    "NewMessage",
    "Message",
    "ToolRequest",
    "Image",
    "Resume",
    "Note",
    "Comparison",
    "ComparedStep",
    "Table",
    "Inbox",
]


@pytest.mark.parametrize("name", HELD)
def test_types_that_users_hold_are_exported(name: str) -> None:
    assert name in agentrun.__all__
    assert isinstance(getattr(agentrun, name), type)


def test_a_name_that_was_assigned_before_the_first_use_stays() -> None:
    code = "import agentrun; agentrun.runs = 7; agentrun.agent; assert agentrun.runs == 7"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_with_a_dot_is_no_attribute() -> None:
    assert not hasattr(agentrun, "a.b")
