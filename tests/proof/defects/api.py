"""Deliberate defects of `agentrun/api/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "the thread that sends a letter gives it its id": Mutation(
        "asend",
        "return await run_async(_send(key, name, payload))",
        "return await asyncio.to_thread(send, key, name, payload)",
        "steps/test_mail.py::"
        "test_what_threads_a_library_starts_does_not_change_which_letter_is_sent",
    ),
    "a tool acts on a reply that is not recorded": Mutation(
        "Tool.perform",
        "if line.run.open_replies:",
        "if False:",
        "steps/test_calls_in_streams.py::test_killed_in_the_tool_it_acts_once_and_sees_the_same",
    ),
    "true is an integer": Mutation(
        "_parse_call",
        "tool.validate(given, sent=True)",
        "tool.validate(given)",
        "values/test_model_arguments.py::test_another_type_is_told_and_nothing_is_done",
    ),
    "a statement is sent from another room": Mutation(
        "Handle._is_decided",
        "is_decided(self._database, run.run_id)",
        'bool(self._database.query("is_decided", run_id=run.run_id))',
        "test_house.py::test_only_the_store_sends_statements_by_name",
    ),
    "an untyped value is strict": Mutation(
        "_Writer._schema",
        "not kinds or not _TYPES.issuperset(kinds)",
        "False",
        "api/test_tool_schemas.py::test_what_providers_refuse_is_not",
    ),
    "calls over the cap of a reply are performed": Mutation(
        "_exceeded_cap",
        "max_calls if max_calls is not None and index >= max_calls else None",
        "None",
        "steps/test_caps.py::test_calls_over_the_cap_are_answered_and_not_performed",
    ),
    "a larger cap performs what was left out": Mutation(
        "_exceeded_cap",
        "known is not None and is_object(known.input)",
        "known is None",
        "steps/test_caps.py::test_what_was_left_out_stays_so_whatever_the_cap_is_on_resume",
    ),
    "a decision that comes while a run parks is overlooked": Mutation(
        "Handle._is_decided",
        "run.due or is_decided(self._database, run.run_id)",
        "run.due",
        "steps/test_approvals.py::test_a_decision_that_comes_while_a_run_parks_is_waited_for",
    ),
    "an approval without limits answers a request about a budget": Mutation(
        "refuse_mere_approval",
        "suggested_budget is None",
        "True",
        "steps/test_budgets.py::test_a_mere_approval_of_a_budget_is_refused_and_decides_nothing",
    ),
    "a result waits in silence": Mutation(
        "Handle._result",
        "_is_ready(run) and time.monotonic() >= warn_at",
        "False",
        "lifecycle/test_worker.py::test_a_result_warns_once_that_nobody_knows_the_agent",
    ),
    "malformed calls are answered without end": Mutation(
        "MALFORMED_IN_A_ROW",
        "3",
        "10_000",
        "api/test_tool_calls.py::test_malformed_calls_are_bounded",
    ),
    "a value that is never to be stored is stored": Mutation(
        "Tool._request",
        'input={"args": self.covered.cover(asked.args)}',
        'input={"args": asked.args}',
        "steps/test_covered.py::test_a_body_gets_the_value_and_nothing_stores_it",
    ),
    "a body that is called again gets the mask": Mutation(
        "Tool._invoke_recorded",
        "{**asked, **self._unmasked(given)}",
        "asked",
        "steps/test_covered.py::test_a_body_gets_the_value_and_nothing_stores_it",
    ),
    "a changed link decides": Mutation(
        "decide_by_link",
        "not hmac.compare_digest(_sign(fields, secret).encode(), signature.encode())",
        "not signature",
        "api/test_approval_links.py::test_a_link_that_was_changed_decides_nothing",
    ),
    "a framework's call forgets the id of the model's call": Mutation(
        "Tool.perform",
        "line.scope, self.name, call_id, lambda",
        "line.scope, self.name, None, lambda",
        "api/test_framework_calls.py::test_a_call_id_finds_the_models_call",
    ),
    "a framework's async call has no key": Mutation(
        "acall.act",
        "@functools.wraps(fn)",
        "@functools.wraps(lambda **given: None)",
        "api/test_framework_calls.py::test_the_function_gets_the_steps_key",
    ),
    # -- what code knows about its run -------------------------------------------------------------
    "a resume under another name of the agent sees that name": Mutation(
        "current_run",
        "created.name or run.agent",
        "run.agent",
        "api/test_current_run.py::test_a_resume_sees_the_same",
    ),
    "a child that its parent executes does not know its parent": Mutation(
        "current_run",
        'created.input.get("parent", {}).get("key")',
        "(run.parent or {}).get('key')",
        "api/test_current_run.py::test_a_run_and_its_child_know_their_names",
    ),
    "a branch of an ended run records nothing": Mutation(
        "deterministic.branch",
        "_executing(of) if of is not None",
        "context_of(of) if of is not None",
        "api/test_current_run.py::test_a_branch_of_a_run_that_has_ended_is_refused",
    ),
    "the code of a run can change what it is told about it": Mutation(
        "RunInfo",
        "@dataclass(frozen=True, slots=True, weakref_slot=True)",
        "@dataclass(slots=True, weakref_slot=True)",
        "api/test_current_run.py::test_it_is_read_only_and_holds_only_values",
    ),
    # -- what docstrings say -----------------------------------------------------------------------
    "a time without its unit": Mutation(
        "Handle.result",
        "timeout: seconds to wait at most; None waits without a limit.",
        "timeout: how long to wait at most; None waits without a limit.",
        "api/test_docstrings.py::test_a_function_describes_its_parameters_their_units_and_its_errors",
    ),
    "an example shows what does not come": Mutation(
        "Handle.astatus",
        """
        >>> await handle.astatus()
        'done'
        """,
        """
        >>> await handle.astatus()
        'over'
        """,
        "api/test_docstrings.py::test_an_example_runs",
    ),
    "an async twin forgets what its twin learns": Mutation(
        "atranscript",
        "async def atranscript(key: str | UUID) -> Transcript",
        "async def atranscript(key: str | UUID = '') -> Transcript",
        "api/test_docstrings.py::test_an_async_twin_says_what_differs",
    ),
    # -- values ------------------------------------------------------------------------------------
    "what was drawn anew is compared": Mutation(
        "Tool._request",
        'compared={"args": asked.compared},',
        "",
        "steps/test_values_of_runs.py::test_a_recorded_call_uses_recorded_arguments",
    ),
    "what acts once is redone without a word": Mutation(
        "redo.redo",
        """
        if not once:
            check_once(plan)
        """,
        "",
        "api/test_redo.py::test_what_acts_once_is_not_done_again_unless_told",
    ),
    "a child run is redone whose parent has recorded its end": Mutation(
        "_refuse_child_with_recorded_end",
        """
        if known is None or known.outcome is None:
            return
        """,
        "return",
        "api/test_redo.py::test_a_child_run_that_ended_is_done_anew_by_its_parent",
    ),
    "a redo does not say what a child run did": Mutation(
        "_plan",
        "replace(plan, children=tuple(_describe_child(database, run, one) for one in below))",
        "plan",
        "api/test_redo.py::test_a_child_run_that_ended_is_done_anew_by_its_parent",
    ),
    # -- agents and tools of any shape -------------------------------------------------------------
    "the object of a method is an argument of its tool": Mutation(
        "Tool.__init__",
        "[*([self.receiver] if self.receiver else []), *self.contexts]",
        "[*self.contexts]",
        "values/test_callables.py::test_a_method_is_a_tool_of_its_object",
    ),
    "a framework's context is an argument": Mutation(
        "Tool.__init__",
        "[*([self.receiver] if self.receiver else []), *self.contexts]",
        "[self.receiver] if self.receiver else []",
        "values/test_callables.py::test_a_frameworks_context_reaches_the_tool_and_is_no_argument",
    ),
    "an async tool looks like a plain function": Mutation(
        "Tool.as_function",
        "self._dress(acall)",
        "self._dress(lambda *args, **kwargs: acall(*args, **kwargs))",
        "values/test_callables.py::test_an_async_tool_that_langchain_calls_is_a_recorded_step",
    ),
    "an empty key is no key": Mutation(
        "_as_key",
        'key == ""',
        "False",
        "values/test_callables.py::test_a_key_is_a_text_or_a_uuid",
    ),
    "a run that is streamed does not exist before it is read": Mutation(
        "StreamingAgent.stream",
        "self._create_run(args, kwargs)",
        "self",
        "lifecycle/test_generator_agents.py::test_the_run_exists_before_its_first_item_is_asked_for",
    ),
    "nothing warns of a model that is not recorded": Mutation(
        "_point_of_call",
        "line is not None and by_model",
        "False",
        "api/test_framework_calls.py::test_a_run_that_records_no_model_call_is_warned_of_once",
    ),
    "a run is warned of its model at every call": Mutation(
        "_warn_without_model",
        "run.model_warning_given = True",
        "pass",
        "api/test_framework_calls.py::test_a_run_that_records_no_model_call_is_warned_of_once",
    ),
    "a run whose model is recorded is warned": Mutation(
        "_warn_without_model",
        "run.model_warning_given or run.history.has_model_call()",
        "run.model_warning_given",
        "api/test_framework_calls.py::test_a_run_that_records_no_model_call_is_warned_of_once",
    ),
    "a handle is shown only if its database is there": Mutation(
        "Handle._repr_mimebundle_",
        "except Exception",
        "except KeyError",
        "view/test_reprs.py::test_a_handle_of_a_database_that_is_away_is_shown_at_once",
    ),
}
