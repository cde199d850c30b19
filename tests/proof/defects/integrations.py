"""Deliberate defects of `agentrun/integrations/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "an MCP server gets no key": Mutation(
        "_record.send",
        "{KEY: agentrun.current_step().key}",
        "{}",
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
        "run is None or run.agent not in self._by_name()",
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
        "integrations/test_mcp_tasks.py::test_what_waits_for_a_person_says_how_to_answer",
    ),
    "a handoff of openai-agents acts again after a crash": Mutation(
        "_Copies._record_handoff",
        "agentrun.current_run() is None or not _has_callback(handoff)",
        "True",
        "integrations/test_openai_agents.py::test_killed_at_each_effect_the_desk_asks_a_person_and_goes_on",
    ),
    "a handoff of openai-agents leads to an agent that is not recorded": Mutation(
        "_Copies._record_handoff",
        "self.copy(target) if isinstance(target, Agent) else None",
        "target",
        "integrations/test_openai_agents.py::test_killed_at_each_effect_the_desk_asks_a_person_and_goes_on",
    ),
    "an MCP server of openai-agents gets no key": Mutation(
        "_RecordedServer.call_tool",
        "{**(meta or {}), **key}",
        "meta",
        "integrations/test_openai_agents.py::test_killed_at_each_effect_the_desk_asks_a_person_and_goes_on",
    ),
    "the hint of an MCP server that a tool only reads is not heard": Mutation(
        "hinted_effect",
        'return "read"',
        "return None",
        "integrations/test_openai_agents.py::test_killed_at_each_effect_the_desk_asks_a_person_and_goes_on",
    ),
    "openai-agents asks for an approval that the inbox asks for": Mutation(
        "_Copies.asks_elsewhere",
        "not self._has_inbox() and ",
        "",
        "integrations/test_openai_agents.py::test_the_model_reads_that_a_person_refused",
    ),
    "a refusal ends the tool call of openai-agents in an error": Mutation(
        "_Copies._record_tool",
        "return str(refusal)",
        "raise",
        "integrations/test_openai_agents.py::test_the_model_reads_that_a_person_refused",
    ),
    "what the code of openai-agents approved is asked for again": Mutation(
        "_Copies.asks",
        "call_id and ctx.is_tool_approved(name, call_id)",
        "False",
        "integrations/test_openai_agents.py::test_an_approval_that_the_sdk_has_is_not_asked_for_again",
    ),
    "a durable agent that is a tool is one step": Mutation(
        "_Copies._record_tool",
        "hasattr(tool._agent_instance, _DURABLE)",
        "False",
        "integrations/test_openai_agents.py::test_an_agent_as_a_tool_is_a_step_unless_it_is_durable_itself",
    ),
    "outside a run an agent of openai-agents asks nobody": Mutation(
        "_Copies._has_inbox",
        "self.inbox and agentrun.current_run() is not None",
        "self.inbox",
        "integrations/test_openai_agents.py::test_outside_a_run_nothing_changes",
    ),
    "the edit of a deferred call of pydantic-ai is lost": Mutation(
        "_await_approval",
        "None if given == asked else given",
        "None",
        "integrations/test_pydantic_ai.py::test_deferred_calls_wait_for_people_and_for_results_across_crashes",
    ),
    "a deferred call of pydantic-ai is made though a person refused": Mutation(
        "_await_approval",
        "ToolDenied(str(refusal))",
        "ToolApproved()",
        "integrations/test_pydantic_ai.py::test_deferred_calls_wait_for_people_and_for_results_across_crashes",
    ),
    "the inbox takes deferred calls that the code wants": Mutation(
        "Durability.handle_deferred_tool_calls",
        "not self.inbox or ",
        "",
        "integrations/test_pydantic_ai.py::test_without_the_inbox_the_code_gets_the_deferred_calls",
    ),
    "a model without HTTP is asked again after a crash": Mutation(
        "Durability.wrap_model_request",
        "not self.model_steps or agentrun.current_run() is None",
        "True",
        "integrations/test_pydantic_ai.py::test_a_model_without_http_is_asked_once",
    ),
}
