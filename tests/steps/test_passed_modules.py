"""The modules that a model call and a tool call pass, as ARCHITECTURE.md lists them in order."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from openai import OpenAI

import agentrun

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
PACKAGE = f"{Path(agentrun.__file__).parent}/"
ASK: Any = [{"role": "user", "content": "How much is left?"}]


@dataclass
class Tracer:
    """Notes the modules of agentrun that the calling thread enters, and the journal's writer."""

    here: list[str] = field(default_factory=list)  # by the calling thread, in order
    written: set[str] = field(default_factory=set)  # by the thread that writes for it
    on: bool = False

    def note_here(self, frame: FrameType, event: str, _: object) -> None:
        module = self._module(frame, event)
        if module and module not in self.here:
            self.here.append(module)

    def note_writer(self, frame: FrameType, event: str, _: object) -> None:
        if self.on and threading.current_thread().name == "agentrun-writer":
            self.written.add(self._module(frame, event))

    def trace(self, action: Callable[[], object], settle: Callable[[], None]) -> None:
        """Trace ``action``, and then what is written for it until ``settle`` returns."""
        self.here, self.written, self.on = [], set(), True
        sys.setprofile(self.note_here)
        try:
            action()
        finally:
            sys.setprofile(None)
        settle()
        self.on = False
        self.written.discard("")

    @staticmethod
    def _module(frame: FrameType, event: str) -> str:
        """The module that is entered; empty for one of `core`, and outside of agentrun."""
        code = frame.f_code
        module = code.co_filename.removeprefix(PACKAGE)
        ours = event == "call" and module != code.co_filename and code.co_name != "<module>"
        return module if ours and not module.startswith("core/") else ""


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    tracer = Tracer()
    threading.setprofile(tracer.note_writer)  # before the writer's thread is started
    yield tracer
    threading.setprofile(None)


def listed(heading: str) -> list[str]:
    """The modules in the table below this line of ARCHITECTURE.md."""
    _, found, rest = ARCHITECTURE.partition(heading)
    assert found, f"ARCHITECTURE.md has no {heading!r}"
    table = rest[rest.index("\n| ") :].split("\n\n")[0]
    return re.findall(r"^\| `([\w/]+\.py)` \|", table, re.MULTILINE)


@agentrun.tool(effect="once")
def subtract(one: int, other: int) -> int:
    return one - other


def passed(tracer: Tracer, client: OpenAI, sql: Any, kind: str) -> Tracer:
    """Trace the second model call or tool call of a run: the first one fills the caches."""

    def settle() -> None:
        """Wait until all outcomes of the run are written."""
        began = time.monotonic()
        events = "SELECT count(*) FROM agentrun.journal WHERE event ="
        while sql(f"{events} 'attempt_started'") != sql(f"{events} 'step_finished'"):
            assert time.monotonic() - began < 60, "the outcome is not written"
            time.sleep(0.01)

    def whole() -> None:
        client.chat.completions.create(model="gpt-5-mini", messages=ASK)

    def streamed() -> None:
        for _ in client.chat.completions.create(model="gpt-5-mini", messages=ASK, stream=True):
            pass

    action = {"whole": whole, "streamed": streamed, "tool": lambda: subtract(7, 5)}[kind]

    @agentrun.agent(name=f"passing {kind}")
    def passing() -> None:
        action()
        settle()
        tracer.trace(action, settle)

    passing.run()
    return tracer


def check(traced: Tracer, modules: list[str]) -> None:
    """The calling thread enters the modules in this order, and the two threads all of them."""
    assert traced.here == [module for module in modules if module in traced.here]
    assert {*traced.here, *traced.written} == set(modules)


def test_a_model_call_passes_what_architecture_lists(
    tracer: Tracer, db: Any, client: OpenAI, sql: Any
) -> None:
    check(passed(tracer, client, sql, "whole"), listed("*The modules that a model call passes*"))


def test_a_streamed_call_passes_in_addition_what_architecture_lists(
    tracer: Tracer, db: Any, client: OpenAI, sql: Any
) -> None:
    found = passed(tracer, client, sql, "streamed")
    _, _, sentence = ARCHITECTURE.partition("A streamed call passes in addition ")
    further = re.findall(r"`([\w/]+\.py)`", sentence.split(".\n")[0])
    whole = set(listed("*The modules that a model call passes*"))
    assert {*found.here, *found.written} - whole == set(further)


def test_a_tool_call_passes_what_architecture_lists(
    tracer: Tracer, db: Any, client: OpenAI, sql: Any
) -> None:
    check(passed(tracer, client, sql, "tool"), listed("*The modules that a tool call passes*"))


@pytest.mark.parametrize("kind", ["whole", "streamed"])
def test_a_plain_call_passes_nothing_that_is_for_background_calls(
    tracer: Tracer, db: Any, client: OpenAI, sql: Any, kind: str
) -> None:
    found = passed(tracer, client, sql, kind)
    assert [module for module in found.here if "background" in module] == []
