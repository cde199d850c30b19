"""Deliberate defects of `agentrun/integrations/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "an MCP server gets no key": Mutation(
        "durable.call_tool.act",
        "KEY: agentrun.current_step().key}",
        "}",
        "integrations/test_adapters.py::test_killed_in_a_tool_it_goes_on",
    ),
    "a resumed session reads what came later": Mutation(
        "DurableSession.get_items",
        'await agentrun.step(effect="read")(session_read)(limit)',
        "await session_read(limit)",
        "integrations/test_adapters.py::test_a_resumed_session_reads_what_it_read_and_adds_nothing_twice",
    ),
    "a decorated tool of a framework is recorded twice": Mutation(
        "is_recorded_tool",
        'hasattr(getattr(function, "__func__", function), "__agentrun_tool__")',
        "False",
        "integrations/test_adapters.py::test_a_decorated_tool_is_recorded_once_as_it_declares",
    ),
    "calls of a small framework pass unrecorded": Mutation(
        "record_calls.call",
        "agentrun.call(name, arguments, function, effect=effect, passes=passes)",
        "function(**arguments)",
        "integrations/test_small_adapters.py::test_killed_in_a_tool_it_resumes",
    ),
    "a hook of agno calls the tool unrecorded": Mutation(
        "durable_hook.hook",
        "record(name, arguments, function, effect=effect, passes=(AgentRunException,))",
        "function(**arguments)",
        "integrations/test_small_adapters.py::test_killed_in_a_tool_it_resumes",
    ),
    "a tool of DSPy acts for a model that is not recorded": Mutation(
        "_check_model",
        'model.engine != "litellm" or model.cache',
        "False",
        "integrations/test_small_adapters.py::test_a_model_of_dspy_that_is_not_recorded_is_refused",
    ),
}
