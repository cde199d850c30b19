"""anthropic's tool runner: its tools are those that `agentrun.tool` decorates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic_desk
import outside_tools
import pytest
from anthropic_desk import AGENTS
from crashing import killed
from test_adapters import SCRIPT

import agentrun
from agentrun.testing import Provider
from agentrun.testing.plugin import Crashtest

pytestmark = pytest.mark.usefixtures("outside")


@pytest.mark.long
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_killed_at_every_point_nothing_is_repeated(crashtest: Crashtest, agent: Any) -> None:
    report = crashtest(agent, "go", script=SCRIPT)
    report.check()
    assert report.doubts == ()
    assert len(report.killed) > 15


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_a_tool_runner_that_was_killed_goes_on_with_its_thread(
    db: Any, dsn: str, at_provider: Provider, outside: Path, sql: Any, agent: Any
) -> None:
    at_provider.say(SCRIPT)
    keyed = agent.with_options(key="k")
    (outside / "die at 8").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run("go")))
    (outside / "die at 8").unlink()
    assert keyed.run("go") == "Done."
    assert at_provider.billed() == 3
    assert outside_tools.kept() == ["7", "8"]
    requests = at_provider.requests()
    assert [request["thread"]["type"] for request in requests] == ["create", "continue", "continue"]
    assert len(requests[-1]["messages"]) == 1  # what is new
    tools = sql("SELECT name, effect, status FROM agentrun.tool_calls ORDER BY step")
    assert sorted(tools) == [
        ("keep", "idempotent", "ok"),
        ("keep", "idempotent", "ok"),
        ("look_up", "read", "ok"),
    ]


def test_a_thread_that_was_continued_begins_anew(db: Any, at_provider: Provider) -> None:
    """A call that was paid and not recorded cannot be repeated: the thread went on with it."""
    at_provider.say(["one", "two"])
    create: Any = anthropic_desk.client.beta.messages.create
    first = create(thread={"type": "create"}, **anthropic_desk.request("go"))
    goes_on = {"type": "continue", "previous_message_id": first.id}
    assert create(thread=goes_on, **anthropic_desk.request("on")).content[0].text == "two"
    for previous, code in ((first.id, "thread_already_continued"), ("msg_0", "thread_not_found")):
        goes_on = {"type": "continue", "previous_message_id": previous}
        with pytest.raises(anthropic_desk.APIStatusError) as refused:
            create(thread=goes_on, **anthropic_desk.request("on"))
        assert refused.value.body["error"]["details"] == {"error_code": code}  # type: ignore[index]
