"""A smolagents agent, which makes its own client: `install()`, and an adapter for its tools."""

from __future__ import annotations

from typing import Any

import pytest
import smolagents

import agentrun
from agentrun.testing import Call, Provider, Reply

SCRIPT = [
    Reply(tool_calls=[Call("ship", {"order": "7"}), Call("ship", {"order": "8"})]),
    Reply(tool_calls=[Call("final_answer", {"answer": "both shipped"})]),
]


class Durable(smolagents.Tool):  # type: ignore[misc]
    """The adapter: an agentrun tool as a tool of smolagents."""

    output_type = "any"
    skip_forward_signature_validation = True

    def __init__(self, tool: Any) -> None:
        (described,) = agentrun.schemas(tool, api="anthropic")
        self.name, self.description = described["name"], described["description"]
        self.inputs = described["input_schema"]["properties"]
        self.forward = tool
        super().__init__()


def test_an_agent_goes_on_after_a_crash_and_pays_and_acts_once(
    db: Any, provider: Provider, unpatched: None
) -> None:
    provider.say(SCRIPT)
    agentrun.install()
    shipped: list[str] = []
    crash = [True]

    @agentrun.tool
    def ship(order: str) -> str:
        """Ship an order.

        Args:
            order: its number
        """
        shipped.append(order)
        return f"{order} is on its way"

    def crashing(step: Any, agent: Any) -> None:
        if crash[0] and step.step_number == 1:
            raise SystemExit

    @agentrun.agent
    def clerk(task: str) -> Any:
        model = smolagents.OpenAIModel("gpt-5-mini", api_base=provider.base_url, api_key="k")
        agent = smolagents.ToolCallingAgent(
            tools=[Durable(ship)], model=model, step_callbacks=[crashing], verbosity_level=0
        )
        with model.client:
            return agent.run(task)

    keyed = clerk.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run("ship 7 and 8")
    assert (sorted(shipped), provider.billed()) == (["7", "8"], 1)
    crash[0] = False
    assert keyed.run("ship 7 and 8") == "both shipped"
    assert (sorted(shipped), provider.billed()) == (["7", "8"], 2)
    totals = agentrun.transcript("k").totals
    assert (totals.model_calls, totals.tool_calls) == (2, 2)
