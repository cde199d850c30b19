"""Crews that are killed repeat nothing and lose nothing.

CrewAI needs mcp 1 and pydantic below 2.13, so it cannot be installed beside the other frameworks.
These tests are skipped there; `test_own_environment.py` runs them where it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import agentrun
from agentrun.testing import Call, Provider, Reply, Rule
from agentrun.testing.plugin import Crashtest

if importlib.util.find_spec("crewai") is None:
    pytest.skip("needs CrewAI: pytest -m suite", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import crewai
    import crewai.memory.unified_memory
    import crewai.tools
    import crewai_agent
    from crewai.hooks import register_after_tool_call_hook, unregister_after_tool_call_hook
    from crewai.tools.tool_failure import ToolFailure

    from agentrun.integrations.crewai import durable

ROOT = Path(__file__).parents[2]
# CrewAI warns, and a warning raised in the middle of a call breaks it.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("outside")]

ORDER = {"order": "7"}
SCRIPT = [
    Reply(tool_calls=[Call("look_up", ORDER), Call("keep", ORDER)]),
    Reply(tool_calls=[Call("keep", {"order": "8"})]),
    "Done.",
]
TOOLS = [("keep", "idempotent"), ("keep", "idempotent"), ("look_up", "read")]

DELEGATION = Call(
    "delegate_work_to_coworker", {"task": "Keep 7.", "context": "Order 7.", "coworker": "keeper"}
)
COWORKERS = [
    Rule({"contains": "kept 7"}, "Kept."),
    Rule({"contains": "Kept."}, "Done."),
    Rule({"contains": "order 7 is ready"}, "Ready."),
    Rule({"mentions": "You are keeper"}, Reply(tool_calls=[Call("keep", ORDER)])),
    Rule({"mentions": "You are looker"}, Reply(tool_calls=[Call("look_up", ORDER)])),
    Rule({"mentions": "You are clerk"}, Reply(tool_calls=[DELEGATION])),
]
MEMORY = [
    Rule({"mentions": "extract discrete"}, '{"memories": ["Order 7 is kept."]}'),
    Rule({}, "Done."),
]
CREWS: Any = [
    pytest.param("with_crewai", {"script": SCRIPT}, "Done.", TOOLS, id="sync"),
    pytest.param("with_stream", {"script": SCRIPT}, "Done.", TOOLS, id="stream"),
    pytest.param("with_coworkers", {"rules": COWORKERS}, "Done.", TOOLS[1:], id="coworkers"),
    pytest.param("with_memory", {"rules": MEMORY}, "Done. 1 saved", [], id="memory"),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "replies", "answer", "tools"), CREWS)
def test_killed_at_every_point_a_crew_repeats_nothing(
    crashtest: Crashtest, name: str, replies: Any, answer: str, tools: Any
) -> None:
    report = crashtest(getattr(crewai_agent, name), "go", timeout=180.0, **replies)
    # CrewAI opens this file for `crew.replay` at each kickoff. Nothing in a run reads it.
    found = [one for one in report.findings if "latest_kickoff_task_outputs.db" not in one.what]
    assert found == [], report
    assert report.doubts == ()
    assert len(report.killed) > 15


@pytest.mark.slow
@pytest.mark.parametrize(("name", "replies", "answer", "tools"), CREWS)
def test_what_a_crew_did_is_not_done_again(
    db: Any,
    provider: Provider,
    sql: Any,
    unpatched: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    replies: Any,
    answer: str,
    tools: Any,
) -> None:
    monkeypatch.setenv("MODELS_URL", provider.base_url)
    provider.say(replies.get("script", []), replies.get("rules", []))

    @agentrun.agent
    def crew_and_crash() -> str:
        made = getattr(crewai_agent, name).function("go")
        given = asyncio.run(made) if inspect.isawaitable(made) else made
        if crash:
            raise SystemExit
        return str(given)

    crash = True
    keyed = crew_and_crash.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    billed, crash = provider.billed(), False
    assert keyed.run() == answer
    assert provider.billed() == billed
    assert sorted(sql("SELECT name, effect FROM agentrun.tool_calls")) == tools


def run_twice(provider: Provider, kickoff: Any) -> list[Any]:
    """What the run saw before a crash, and after it; the second time it pays nothing."""
    seen: list[Any] = []

    @agentrun.agent
    def crash_at_the_end() -> None:
        seen.append(kickoff())
        if len(seen) == 1:
            raise SystemExit

    keyed = crash_at_the_end.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    billed = provider.billed()
    keyed.run()
    assert provider.billed() == billed > 0
    return seen


def make_crew(*tools: Any) -> Any:
    clerk = crewai_agent.make_agent("clerk", tools=list(tools))
    task = crewai.Task(description="{question}", expected_output="a word", agent=clerk)
    return crewai.Crew(agents=[clerk], tasks=[task])


class Count(BaseModel):
    orders: int


@pytest.fixture
def models(provider: Provider, unpatched: None, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setenv("MODELS_URL", provider.base_url)
    return provider


def test_what_a_tool_returns_is_the_same_in_a_run_and_on_a_resume(
    db: Any, models: Provider
) -> None:
    calls = [Call("count_orders", {}), Call("refuse", {}), Call("fail", {})]
    models.say([Reply(tool_calls=calls), "Done."] * 2)
    given: list[Any] = []

    @crewai.tools.tool("Count orders")
    def count() -> Count:
        """Count the orders."""
        return Count(orders=2)

    @crewai.tools.tool
    def refuse():  # type: ignore[no-untyped-def]
        """Refuse."""
        return ToolFailure(message="no such order")

    @crewai.tools.tool
    def fail() -> str:
        """Fail."""
        raise LookupError("the shop is closed")

    def kickoff() -> Any:
        with remember_results(given):
            answer = durable(make_crew(count, refuse, fail)).kickoff({"question": "go"})
        told = [m["content"] for m in models.ledger()[-1].body["messages"] if m["role"] == "tool"]
        results, given[:] = sorted(map(repr, given)), []
        return str(answer), told, results

    first, second = run_twice(models, kickoff)
    assert first == second == kickoff(), "outside a run it is the same"
    assert first[1][2] == "Error executing tool: the shop is closed"
    assert "Count(orders=2)" in first[2]
    assert any(result.startswith("ToolFailure(") for result in first[2])


@contextlib.contextmanager
def remember_results(given: list[Any]) -> Iterator[None]:
    """Append what each tool returned, as CrewAI's own hooks see it."""

    def hook(context: Any) -> None:
        given.append(context.raw_tool_result)

    register_after_tool_call_hook(hook)
    try:
        yield
    finally:
        unregister_after_tool_call_hook(hook)


def test_an_interrupted_tool_holds_the_run(db: Any, models: Provider) -> None:
    models.say([Reply(tool_calls=[Call("refund", ORDER), Call("look_up", ORDER)]), "Done."])
    crash = [True]

    @crewai.tools.tool
    def refund(order: str) -> str:
        """Refund an order."""
        if crash.pop():
            raise SystemExit
        return f"refunded {order}"

    @agentrun.agent
    def cashier() -> str:
        crew = durable(make_crew(refund, crewai_agent.look_up), effects={"look_up": "read"})
        return str(crew.kickoff({"question": "go"}))

    keyed = cashier.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    (doubt,) = agentrun.inbox("k")
    agentrun.resolve("k", doubt.step, agentrun.Happened("refunded 7"))
    assert keyed.run() == "Done."


def test_crews_for_each_input_are_recorded_and_a_decorated_tool_as_it_declares(
    db: Any, models: Provider, sql: Any
) -> None:
    models.say(rules=[
        Rule({"contains": "order 7"}, "Done."),
        Rule({"contains": "kept"}, "Done."),
        Rule({}, Reply(tool_calls=[Call("find", ORDER), Call("keep_it", ORDER)])),
    ])  # fmt: skip
    acted: list[str] = []

    @crewai.tools.tool
    @agentrun.tool(effect="read")
    def find(order: str) -> str:
        """Find an order."""
        return f"order {order}"

    @crewai.tools.tool("Keep it")
    def keep(order: str) -> str:
        """Keep an order."""
        acted.append(order)
        return f"kept {order}"

    def kickoff() -> list[str]:
        crew = durable(durable(make_crew(find, keep)))
        return [str(o) for o in crew.kickoff_for_each([{"question": "a"}, {"question": "b"}])]

    assert run_twice(models, kickoff) == [["Done.", "Done."]] * 2
    assert acted == ["7", "7"]
    calls = sql("SELECT name, effect FROM agentrun.tool_calls")
    assert sorted(calls) == sorted([("find", "read"), ("keep_it", "once")] * 2)


def make_memory(outside: Path, **options: Any) -> Any:
    return crewai.memory.unified_memory.Memory(
        embedder=crewai_agent.embed, storage=str(outside / "memory"), **options
    )


OPTIONS: Any = {"scope": "/", "categories": ["order"], "importance": 0.5}


def test_a_memory_that_changed_is_recalled_as_before(
    db: Any, models: Provider, outside: Path
) -> None:
    models.say(rules=[Rule({}, "Done.")])
    memory = make_memory(outside, llm=crewai_agent.make_agent("clerk").llm)

    def kickoff() -> Any:
        clerk = crewai_agent.make_agent("clerk", memory=memory)
        task = crewai.Task(description="go", expected_output="a word", agent=clerk)
        crew = durable(crewai.Crew(agents=[clerk], tasks=[task]))
        matches = memory.recall("order", depth="shallow")
        memory.remember("Order 1.", **OPTIONS)
        return str(crew.kickoff()), [(match.record.content, match.score) for match in matches]

    memory.remember("Order 0.", **OPTIONS)
    first, second = run_twice(models, kickoff)
    assert first == second
    assert [content for content, _ in first[1]] == ["Order 0."]


def test_an_interrupted_save_is_looked_for(
    db: Any, unpatched: None, outside: Path, sql: Any
) -> None:
    crash = [True]

    @agentrun.agent
    def clerk() -> None:
        memory = make_memory(outside)
        write = memory._storage.save

        def write_and_crash(records: Any) -> None:
            write(records)
            if crash.pop():
                raise SystemExit

        memory._storage.save = write_and_crash
        clerk = crewai.Agent(role="clerk", goal="Keep.", backstory="", memory=memory)
        durable(clerk).memory.remember("Order 8.", **OPTIONS)

    keyed = clerk.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    keyed.run()
    assert [record.content for record in make_memory(outside).list_records()] == ["Order 8."]
    assert sql("SELECT count(*) FROM agentrun.attempts WHERE name = 'save_memory'") == [(1,)]


def test_the_section_of_the_page_runs(dsn: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "more-frameworks.md").read_text("utf-8")
    section = text.partition("\n## CrewAI\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n.*?^```", section, re.MULTILINE | re.DOTALL)
    assert blocks
    say = 'double.say([Reply(tool_calls=[Call("find_order", {"order_id": "7"})]), "On its way."])'
    page = tmp_path / "crewai.md"
    page.write_text("\n\n".join([f"```python\n{say}\n```", *blocks]), "utf-8")
    command = [sys.executable, str(ROOT / "tests" / "examples" / "page.py"), str(page)]
    environment = {**os.environ, "AGENTRUN_DATABASE_URL": dsn}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "On its way." in done.stdout
