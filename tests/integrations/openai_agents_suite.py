"""openai-agents' own tests of its runner, tools and handoffs, with every tool call a recorded step.

Run it as one command; it takes some minutes a pass, and two passes::

    pip install '.[openai-agents-suite]' && python tests/integrations/openai_agents_suite.py

`foreign_suite` says what it does. As a plugin it makes the function tools of every agent recorded
steps, as `durable` does. It does that where the SDK asks an agent for its tools, and not by copies
of the agents, since many of the tests compare agents by identity. Approvals are left to the tests,
which are about the interruptions of the SDK. `DIFFERS` names what differs and why.
"""

from __future__ import annotations

import sys
from typing import Any

from foreign_suite import Foreign, main, pytest_runtest_call

__all__ = ["DIFFERS", "SUITE", "pytest_configure", "pytest_runtest_call"]

FILES = (
    "agent_as_tool agent_runner agent_runner_streamed function_tool function_tool_decorator "
    "guardrails handoff_tool hitl_error_scenarios max_turns run_step_execution tool_use_behavior"
)
_COPY = "compares a tool with the one that the agent was made with, and gets its recorded copy"
_RECHECK = "the SDK looks again at a tool of the agent itself, and the plugin gives it a copy"
_EXCEPTION = "a tool returns an exception, which cannot be recorded, and is refused by name"
DIFFERS = {
    "test_agent_as_tool_warns_and_keeps_last_distinct_agent_with_the_same_name": _COPY,
    "test_run_warns_and_keeps_last_duplicate_function_tool[False]": _COPY,
    "test_run_warns_and_keeps_last_duplicate_function_tool[True]": _COPY,
    "test_run_warns_once_for_repeated_source_agent_name": _COPY,
    "test_get_all_tools_keeps_tool_search_for_namespace_only_tools": _COPY,
    "test_get_all_tools_preserves_explicit_tool_search_when_deferred_tools_are_disabled": _COPY,
    "test_function_tool_disabled_before_execution_fails_before_starting_siblings": _RECHECK,
    "test_multiple_tool_calls_allow_exception_objects_as_tool_outputs": _EXCEPTION,
}
SUITE = Foreign(
    "openai-agents",
    "openai_agents_suite",
    [f"tests/test_{name}.py" for name in FILES.split()],
    differs=DIFFERS,
    step_kind="tool",
)


def pytest_configure() -> None:
    from agents import Agent, FunctionTool

    from agentrun.integrations.openai_agents import _Copies

    copies = _Copies(None, "once", inbox=False)
    recorded: dict[int, tuple[Any, Any]] = {}  # one copy for each tool, by the tool's id
    get_all_tools = Agent.get_all_tools

    async def get_recorded_tools(self: Any, run_context: Any) -> list[Any]:
        tools = await get_all_tools(self, run_context)
        return [_record(tool) if isinstance(tool, FunctionTool) else tool for tool in tools]

    def _record(tool: Any) -> Any:
        if id(tool) not in recorded:
            recorded[id(tool)] = tool, copies._record_tool(tool)
        return recorded[id(tool)][1]

    Agent.get_all_tools = get_recorded_tools  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main(SUITE, sys.argv[1:]))
