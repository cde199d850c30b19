"""openai-agents: handoffs, MCP servers and approvals, right after crashes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import agents
import framework_agents
import openai_desk
import outside_tools
import pytest
from crashing import in_child, killed
from openai_desk import SCRIPT

import agentrun
from agentrun.integrations.openai_agents import durable
from agentrun.testing import Call, Provider, Reply, Rule
from agentrun.testing.plugin import Crashtest

pytestmark = pytest.mark.usefixtures("outside")


@pytest.mark.long
def test_killed_at_every_point_nothing_is_repeated(crashtest: Crashtest) -> None:
    report = crashtest(openai_desk.with_a_person_at_the_openai_desk, "go", script=SCRIPT)
    report.check()
    assert report.doubts == ()
    assert len(report.killed) > 40


def test_killed_at_each_effect_the_desk_asks_a_person_and_goes_on(
    db: Any, dsn: str, at_provider: Provider, outside: Path, sql: Any
) -> None:
    at_provider.say(SCRIPT)
    keyed = openai_desk.with_an_openai_desk.with_options(key="k")
    die_at(outside, "money", dsn, keyed)  # in the handoff
    for _ in range(2):  # a held run that is resumed too early is held again
        assert in_child(lambda: expect_hold(dsn, keyed)) == 0
    (waiting,) = agentrun.inbox()
    assert (waiting.name, waiting.args) == ("refund", {"order": "9"})
    agentrun.approve("k", waiting.step, by="ana")
    die_at(outside, "9", dsn, keyed)  # in the tool that was approved
    die_at(outside, "7", dsn, keyed)  # in the tool of the MCP server
    assert keyed.run("go") == "Refunded."
    assert at_provider.billed() == 4
    assert outside_tools.kept() == ["7", "9", "money"]
    assert sql("SELECT name, effect, status FROM agentrun.tool_calls ORDER BY name") == [
        ("keep", "idempotent", "ok"),
        ("look_up", "read", "ok"),
        ("refund", "idempotent", "ok"),
        ("transfer_to_billing", "idempotent", "ok"),
    ]


def expect_hold(dsn: str, keyed: Any) -> None:
    agentrun.connect(dsn)
    with pytest.raises(agentrun.RunHeld, match="refund, waits for an approval"):
        keyed.run("go")


def die_at(outside: Path, order: str, dsn: str, keyed: Any) -> None:
    (outside / f"die at {order}").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run("go")))
    (outside / f"die at {order}").unlink()


def test_the_model_reads_that_a_person_refused(
    db: Any, at_provider: Provider, outside: Path
) -> None:
    at_provider.say(SCRIPT)
    agent = openai_desk.with_an_openai_desk_that_asks_for_all
    keyed = agent.with_options(key="k")
    for _ in range(2):  # of the reply's two calls, then of the one call of the next
        with pytest.raises(agentrun.RunHeld):
            keyed.run("go")
        for waiting in agentrun.inbox():
            agentrun.reject("k", waiting.step, by="ana", reason="not today")
    assert keyed.run("go") == "Refunded."
    assert outside_tools.kept() == ["money"]
    for tool in ("refund", "look_up", "keep"):
        assert f"{tool} was not approved by ana: not today" in str(at_provider.requests()[-1])


def test_an_approval_that_the_sdk_has_is_not_asked_for_again(
    db: Any, at_provider: Provider, outside: Path, sql: Any
) -> None:
    """With ``inbox=False`` the interruptions are those of the SDK, and the code decides."""
    at_provider.say(SCRIPT)

    @agentrun.agent
    async def decides_itself() -> str:
        async with openai_desk.Shop() as shop:
            desk: Any = openai_desk.open_desk(shop, inbox=False)
            config = framework_agents.quiet
            result = await agents.Runner.run(desk, "go", run_config=config)
            state = result.to_state()
            for interruption in result.interruptions:
                state.approve(interruption)
            desk = openai_desk.open_desk(shop)  # the inbox need not ask what the state has
            state = await agents.RunState.from_string(desk, state.to_string())
            result = await agents.Runner.run(desk, state, run_config=config)
        return str(result.final_output)

    assert decides_itself.run() == "Refunded."
    assert outside_tools.kept() == ["7", "9", "money"]


def test_an_agent_as_a_tool_is_a_step_unless_it_is_durable_itself(
    db: Any, at_provider: Provider, outside: Path, sql: Any
) -> None:
    model = agents.OpenAIChatCompletionsModel(framework_agents.MODEL, framework_agents.aclient)
    tools: Any = [framework_agents.keep_tool]
    inner = agents.Agent(name="inner", model=model, tools=tools)
    plain = inner.as_tool("plain", "Ask the plain one.")
    recorded = durable(inner).as_tool("recorded", "Ask the durable one.")

    @agentrun.agent
    async def asks_both() -> str:
        outer = durable(agents.Agent(name="outer", model=model, tools=[plain, recorded]))
        quiet = framework_agents.quiet
        return str((await agents.Runner.run(outer, "go", run_config=quiet)).final_output)

    asked = [Call(name, {"input": "now"}) for name in ("plain", "recorded")]
    keep = [Reply(tool_calls=[Call("keep", {"order": "7"})]), "kept"]
    at_provider.say(
        [Reply(tool_calls=asked), "done"], [Rule({"mentions": "now", "tool": None}, keep)]
    )
    assert asks_both.run() == "done"
    names = sql("SELECT name FROM agentrun.tool_calls ORDER BY name")
    assert names == [("keep",), ("plain",)]
    assert outside_tools.kept() == ["7", "7"]


def test_outside_a_run_nothing_changes(at_provider: Provider, outside: Path) -> None:
    at_provider.say(SCRIPT[1:])

    async def ask() -> Any:
        async with openai_desk.Shop() as shop:
            desk: Any = openai_desk.open_desk(shop)
            billing = await desk.handoffs[0].on_invoke_handoff(None, '{"why": "me"}')
            return await agents.Runner.run(billing, "go", run_config=framework_agents.quiet)

    (interruption,) = asyncio.run(ask()).interruptions
    assert interruption.name == "refund"
