"""pydantic-ai: approvals, calls that are executed elsewhere, and models without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import outside_tools
import pydantic_ai
import pydantic_desk
import pytest
from crashing import die_recorded, in_child, killed
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_desk import SCRIPT

import agentrun
from agentrun.integrations.pydantic_ai import Durability
from agentrun.testing import Call, Provider, Reply
from agentrun.testing.plugin import Crashtest

pytestmark = pytest.mark.usefixtures("outside")


@pytest.mark.long
def test_killed_at_every_point_nothing_is_repeated(crashtest: Crashtest) -> None:
    report = crashtest(pydantic_desk.with_a_person_at_the_pydantic_desk, "go", script=SCRIPT)
    report.check()
    assert report.doubts == ()
    assert len(report.killed) > 40


def expect_hold(dsn: str, keyed: Any) -> None:
    agentrun.connect(dsn)
    with pytest.raises(agentrun.RunHeld):
        keyed.run("go")


def test_deferred_calls_wait_for_people_and_for_results_across_crashes(
    db: Any, dsn: str, at_provider: Provider, outside: Path, sql: Any
) -> None:
    at_provider.say(SCRIPT)
    keyed = pydantic_desk.with_a_pydantic_desk.with_options(key="k")
    die_at(outside, "7", dsn, keyed)  # in a tool beside those that wait
    agentrun.send("k", "book call_6", {"truck": 3})
    assert in_child(lambda: expect_hold(dsn, keyed)) == 0
    asked = {waiting.name: waiting for waiting in agentrun.inbox()}
    assert asked["approve refund"].args == {"order": "9"}
    agentrun.approve("k", asked["approve refund"].step, by="ana", arguments={"order": "5"})
    agentrun.reject("k", asked["approve pay"].step, by="ana", reason="too much")
    die_at(outside, "5", dsn, keyed)  # in the tool that was approved
    assert keyed.run("go") == "Done."
    assert outside_tools.kept() == ["5", "6", "7"]
    assert at_provider.billed() == 2
    answers = {
        message["tool_call_id"]: message["content"]
        for message in at_provider.requests()[-1]["messages"]
        if message["role"] == "tool"
    }
    assert answers["call_6"] == '{"truck":3}'
    assert "approve pay was not approved by ana: too much" in answers.values()


def die_at(outside: Path, order: str, dsn: str, keyed: Any) -> None:
    (outside / f"die at {order}").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run("go")))
    (outside / f"die at {order}").unlink()


def test_without_the_inbox_the_code_gets_the_deferred_calls(db: Any, at_provider: Provider) -> None:
    at_provider.say([Reply(tool_calls=[Call("refund", {"order": "9"})])])
    desk = pydantic_ai.Agent(
        pydantic_desk.desk.model,
        output_type=[str, pydantic_ai.DeferredToolRequests],
        tools=[pydantic_ai.Tool(pydantic_desk.refund, requires_approval=True)],
        capabilities=[Durability(inbox=False)],
    )

    @agentrun.agent
    async def decides_by_itself() -> str:
        output = (await desk.run("go")).output
        assert isinstance(output, pydantic_ai.DeferredToolRequests)
        return output.approvals[0].tool_name

    assert decides_by_itself.run() == "refund"


def test_a_model_without_http_is_asked_once(db: Any, dsn: str, outside: Path) -> None:
    asked = outside / "asked"

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        with asked.open("a") as file:
            file.write("x")
        if len(messages) == 1:
            return ModelResponse([ToolCallPart("keep", {"order": "7"}, "one")])
        return ModelResponse([TextPart("Done.")])

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        with asked.open("a") as file:
            file.write("s")
        for word in ("And ", "again."):
            yield word

    local = pydantic_ai.Agent(
        FunctionModel(answer, stream_function=stream),
        tools=[pydantic_desk.keep],
        capabilities=[Durability(default="idempotent", model_steps=True)],
    )

    @agentrun.agent
    async def asks_a_local_model() -> str:
        said = (await local.run("go")).output
        async with local.run_stream("on") as streamed:
            said += await streamed.get_output()
        if (outside / "die").exists():
            die_recorded()
        return said

    keyed = asks_a_local_model.with_options(key="k")
    (outside / "die").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run()))
    (outside / "die").unlink()
    assert keyed.run() == "Done.And again."
    assert asked.read_text() == "xxs"
    assert outside_tools.kept() == ["7"]
    assert asyncio.run(local.run("outside a run")).output == "Done."
