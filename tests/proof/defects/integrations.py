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
    "a call that became a task is sent again after a kill": Mutation(
        "_catch_task",
        "leave_tasks.set(True)",
        "leave_tasks.set(False)",
        "integrations/test_mcp_tasks.py::test_killed_while_its_task_goes_on_a_run_sends_no_call_again",
    ),
    "a cancelled run leaves its MCP task": Mutation(
        "_cancel_if_unwanted",
        "run is None or not run.cancelled",
        "run is not None",
        "integrations/test_mcp_tasks.py::test_a_cancelled_run_cancels_its_task",
    ),
    "an MCP call whose answer is lost has failed": Mutation(
        "UNANSWERED",
        "(CONNECTION_CLOSED, REQUEST_TIMEOUT)",
        "()",
        "integrations/test_mcp_tasks.py::test_an_interrupted_call_whose_answer_is_lost_is_in_doubt",
    ),
    "an MCP server that is killed takes the client's run with it": Mutation(
        "_is_stateless",
        "isinstance(client, Client)",
        "isinstance(client, ClientSession)",
        "integrations/test_mcp_tasks.py::test_a_killed_server_is_restarted_and_its_task_goes_on",
    ),
    "an MCP call with a key is a fresh run": Mutation(
        "_take_key",
        "return str(chosen) if chosen else",
        "return",
        "integrations/test_mcp_tasks.py::test_agents_are_tools_and_a_key_names_the_run",
    ),
    "any run is a task of an MCP server": Mutation(
        "_Service._find",
        "run is None or run.agent not in served",
        "run is None",
        "integrations/test_mcp_tasks.py::test_only_runs_of_its_agents_are_tasks_and_only_for_clients_that_declare_them",
    ),
    "any MCP client may approve": Mutation(
        "_Service.update_task",
        "self.answers",
        "True",
        "integrations/test_mcp_tasks.py::test_what_waits_for_a_person_says_how_to_answer",
    ),
    "a task that asks is a task that works": Mutation(
        "_Service._describe_task",
        'case "held"',
        'case "asks"',
        "integrations/test_mcp_tasks.py::test_what_a_task_asks_is_answered_by_the_client_once",
    ),
}
