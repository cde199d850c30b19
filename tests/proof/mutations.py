"""Deliberate defects of agentrun, each with the test that must turn red on it.

A defect is a change of text: ``old``, which must stand in the file exactly once, becomes ``new``.
What it breaks is named in the words of the promise that it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTATIONS", "Mutation"]


@dataclass(frozen=True)
class Mutation:
    """One defect."""

    file: str
    old: str
    new: str
    test: str  # FILE::NAME, below tests/
    tries: int = 1  # how often it is run, for a storm that shows the defect most of the time


MUTATIONS: dict[str, Mutation] = {
    # -- the names of APIs -----------------------------------------------------------------------
    "an API has another name than in the journals of yesterday": Mutation(
        "agentrun/core/apis.py",
        'COHERE_CHAT = "chat"',
        'COHERE_CHAT = "cohere.chat"',
        "models/test_model_api_names.py::test_the_names_are_those_that_journals_hold",
    ),
    "a table speaks of an API by a name of its own": Mutation(
        "agentrun/models/reply_flaws.py",
        '    OLLAMA_EMBED: "embeddings",',
        '    "ollama-embed": "embeddings",',
        "models/test_model_api_names.py::test_every_table_speaks_of_apis_that_an_endpoint_has",
    ),
    # -- what every step of a model call does ----------------------------------------------------
    "attempts that failed before a crash do not count": Mutation(
        "agentrun/steps/model_step.py",
        "        return known.failures if known else 0\n",
        "        return 0\n",
        "steps/test_model_step_contract.py::test_failed_attempts_count_after_a_crash_too",
    ),
    "a recorded reply loses the phrase beside its status": Mutation(
        "agentrun/steps/model_step.py",
        '        output["reason"] = reply.reason\n',
        "        pass\n",
        "steps/test_model_step_contract.py::test_a_recorded_reply_comes_back_as_it_was",
    ),
    # -- what a plain call passes ----------------------------------------------------------------
    "a plain call takes the way of background calls": Mutation(
        "agentrun/models/call.py",
        "        if self.background or step.accepted is not None:\n",
        "        if True:\n",
        "steps/test_passed_modules.py::test_a_plain_call_passes_nothing_that_is_for_background_calls",
    ),
    "a plain call folds events that it does not have": Mutation(
        "agentrun/models/reply.py",
        "        self._pieces: list[bytes] = []\n",
        "        self._pieces: list[bytes] = []\n        self._fold.result()\n",
        "steps/test_passed_modules.py::test_a_model_call_passes_what_architecture_lists",
    ),
    # -- the columns of the journal --------------------------------------------------------------
    "two columns of the journal are exchanged on their way into it": Mutation(
        "agentrun/store/queries.sql",
        "reasoning_tokens, audio_tokens, cost, cache_lost, priced_by, codec, input, output\nFROM (",
        "audio_tokens, reasoning_tokens, cost, cache_lost, priced_by, codec, input, output\nFROM (",
        "store/test_journal_columns.py::test_each_column_comes_back_as_it_was_appended",
    ),
    "a column of the journal is sent in another type than the table's": Mutation(
        "agentrun/store/rows.py",
        '    "attempt": INT4S,',
        '    "attempt": INT8S,',
        "store/test_journal_columns.py::test_the_list_has_the_columns_of_the_table_and_their_types",
    ),
    # -- pauses ----------------------------------------------------------------------------------
    "each look comes after the same pause as the one before": Mutation(
        "agentrun/core/pauses.py",
        "        self._pause = min(_LONGEST, pause * _GROWTH)\n",
        "",
        "core/test_pauses.py::test_each_look_comes_later_than_the_one_before_up_to_a_longest_pause",
    ),
    "workers whose calls failed together retry together": Mutation(
        "agentrun/core/pauses.py",
        "longest * (1 - _JITTER * chance)",
        "longest",
        "core/test_pauses.py::test_jitter_shortens_a_backoff_and_never_lengthens_it",
    ),
    # -- whose the embedded server is ------------------------------------------------------------
    "a home in which everybody may put programs": Mutation(
        "agentrun/store/embedded_account.py",
        "sticky = folder != root and found.st_mode & stat.S_ISVTX",
        "sticky = found.st_mode & stat.S_ISVTX",
        "store/test_embedded.py::test_a_home_is_refused_where_others_could_write_or_replace_it",
    ),
    "a folder above the home that a group may change": Mutation(
        "agentrun/store/embedded_account.py",
        "and not sticky and _members(found.st_gid) - ours:",
        "and folder == root and _members(found.st_gid) - ours:",
        "store/test_embedded.py::test_a_home_is_refused_where_others_could_write_or_replace_it",
    ),
    # -- what code knows about its run -----------------------------------------------------------
    "a resume under another name of the agent sees that name": Mutation(
        "agentrun/api/current_run.py",
        "created.name or run.agent",
        "run.agent",
        "api/test_current_run.py::test_a_resume_sees_the_same",
    ),
    "a child that its parent executes does not know its parent": Mutation(
        "agentrun/api/current_run.py",
        'created.input.get("parent", {}).get("key")',
        "(run.parent or {}).get('key')",
        "api/test_current_run.py::test_a_run_and_its_child_know_their_names",
    ),
    "the code of a run can change what it is told about it": Mutation(
        "agentrun/api/current_run.py",
        "@dataclass(frozen=True, slots=True)",
        "@dataclass(slots=True)",
        "api/test_current_run.py::test_it_is_read_only_and_holds_only_values",
    ),
    "the lock file forgets a package": Mutation(
        "requirements-dev.lock",
        "\nhypothesis==",
        "\n# hypothesis==",
        "examples/test_contributing.py"
        "::test_the_lock_file_pins_what_the_project_needs_and_names_no_machine",
    ),
    # -- what docstrings say -----------------------------------------------------------------------
    "a time without its unit": Mutation(
        "agentrun/api/handle.py",
        "timeout: seconds to wait at most; None waits without a limit.",
        "timeout: how long to wait at most; None waits without a limit.",
        "api/test_docstrings.py"
        "::test_a_function_describes_its_parameters_their_units_and_its_errors",
    ),
    "an example shows what does not come": Mutation(
        "agentrun/api/handle.py",
        """            >>> await handle.astatus()
            'done'
""",
        """            >>> await handle.astatus()
            'over'
""",
        "api/test_docstrings.py::test_an_example_runs",
    ),
    "an async twin forgets what its twin learns": Mutation(
        "agentrun/api/operations.py",
        "async def atranscript(key: str | UUID) -> Transcript:",
        "async def atranscript(key: str | UUID = '') -> Transcript:",
        "api/test_docstrings.py::test_an_async_twin_says_what_differs",
    ),
    # -- the outside of a crash test -------------------------------------------------------------
    "a crash test sends datagrams to other machines": Mutation(
        "agentrun/testing/crash/watch.py",
        '    "socket.sendto": lambda _, address: address,\n',
        "",
        "testing/test_crash_parts.py::test_datagrams_and_names_of_other_machines_are_out_of_reach",
    ),
    # -- what is removed -------------------------------------------------------------------------
    "the place in a line stays when its run is pruned": Mutation(
        "migrations/0001_schema.sql",
        "    DELETE FROM agentrun.permits q WHERE q.run_id = ANY (gone);\n",
        "",
        "store/test_prune.py::test_only_what_ended_long_ago_goes_with_all_that_belongs_to_it",
    ),
    # -- the limits of a gateway -----------------------------------------------------------------
    "half a body is waited for": Mutation(
        "agentrun/gateway/service.py",
        "asyncio.timeout(limits.sending):\n            while True:\n"
        "                async with asyncio.timeout(limits.silence):",
        "asyncio.timeout(None):\n            while True:\n"
        "                async with asyncio.timeout(None):",
        "gateway/test_gateway_limits.py::test_who_does_not_go_on_is_cut_off",
    ),
    "half a head is waited for": Mutation(
        "agentrun/gateway/serving.py",
        "self._timer = self.loop.call_later(self.silence, transport.close)",
        "pass",
        "gateway/test_gateway_limits.py::test_who_does_not_go_on_is_cut_off",
    ),
    "requests are held without end": Mutation(
        "agentrun/gateway/service.py",
        "            self._buffer.take(len(piece), stack)\n",
        "",
        "gateway/test_gateway_limits.py::test_no_more_is_held_than_there_is_room_for",
    ),
    "connections are taken without end": Mutation(
        "agentrun/gateway/serving.py",
        "        limit_concurrency=limits.connections,\n",
        "",
        "gateway/test_gateway_limits.py::test_a_connection_too_many_is_told_so",
    ),
    "a gateway waits for its database though it is to end": Mutation(
        "agentrun/gateway/serving.py",
        "    PROCESS.hurry()\n",
        "",
        "gateway/test_gateway_limits.py::test_sigterm_ends_it_while_its_database_is_away",
    ),
    # -- what is never stored --------------------------------------------------------------------
    "a model's reply holds what is masked for the code": Mutation(
        "agentrun/models/attempts.py",
        "        if self.masks:\n            pieces",
        "        if False:\n            pieces",
        "steps/test_covered.py::test_what_a_model_fills_in_is_masked_for_the_code_and_nothing_stores_it",
    ),
    "the pieces of a stream pass before they are masked": Mutation(
        "agentrun/models/attempts.py",
        "if can_stream(self.model_request, response) and not self.masks:",
        "if can_stream(self.model_request, response):",
        "steps/test_covered.py::test_what_a_model_fills_in_is_masked_for_the_code_and_nothing_stores_it",
    ),
    "half an argument passes, since it is no JSON": Mutation(
        "agentrun/core/covered.py",
        '        return _mask_of(arguments, "arguments")\n',
        "        return arguments\n",
        "steps/test_covered.py::test_malformed_arguments_are_masked_whole",
    ),
    # -- secrets ---------------------------------------------------------------------------------
    "a short password in code is shown": Mutation(
        "agentrun/core/naming.py",
        "if short or looks_secret(",
        "if looks_secret(",
        "core/test_secrets.py::test_a_short_literal_under_a_sensitive_name_is_masked",
    ),
    "a signal is named by a credential": Mutation(
        "agentrun/steps/waits.py",
        '    refuse_credential("the signal name", name)\n',
        "",
        "steps/test_mail.py::test_a_name_that_holds_a_credential_is_refused_without_showing_it",
    ),
    "a name of a variable is taken for a password": Mutation(
        "agentrun/core/naming.py",
        "return not alike and (quoted or",
        "return not alike and (True or",
        "core/test_secrets.py::test_ordinary_text_is_left_alone",
    ),
    # -- what a model sends ----------------------------------------------------------------------
    "true is an integer": Mutation(
        "agentrun/api/tool_calls.py",
        "tool.validate(given, sent=True)",
        "tool.validate(given)",
        "values/test_model_arguments.py::test_another_type_is_told_and_nothing_is_done",
    ),
    "a date of a model is refused as text": Mutation(
        "agentrun/values/model_arguments.py",
        "model.model_validate_json(text, strict=True)",
        "model.model_validate(arguments, strict=True)",
        "values/test_model_arguments.py::test_what_json_has_no_type_for_is_taken_as_text",
    ),
    "the type of an event is looked for in a set": Mutation(
        "agentrun/models/reply_flaws.py",
        'if data.get("type") in PREAMBLE:',
        'if data.get("type") in frozenset(PREAMBLE):',
        "models/test_model_flaws.py::test_the_type_of_an_event_may_be_any_json",
    ),
    "the id of a reply is taken for text": Mutation(
        "agentrun/core/transcript.py",
        "    return identifier if isinstance(identifier, str) else None\n",
        "    return identifier\n",
        "core/test_transcript.py::test_the_id_of_a_garbled_reply_may_be_any_json",
    ),
    # -- the house ---------------------------------------------------------------------------------
    "an import inside a function closes a circle": Mutation(
        "agentrun/store/sql.py",
        "    names = list(dict.fromkeys(",
        "    from agentrun.store import roles  # noqa: F401\n\n    names = list(dict.fromkeys(",
        "test_house.py::test_no_import_goes_in_a_circle",
    ),
    "a statement is sent from another room": Mutation(
        "agentrun/api/handle.py",
        "is_decided(self._database, run.run_id)",
        'bool(self._database.query("is_decided", run_id=run.run_id))',
        "test_house.py::test_only_the_store_sends_statements_by_name",
    ),
    "the public database offers its connections": Mutation(
        "agentrun/store/database.py",
        "    dsn: str\n\n    @abstractmethod",
        "    dsn: str\n    connection: Any\n\n    @abstractmethod",
        "test_house.py::test_the_public_database_offers_its_dsn_and_its_end",
    ),
    "two classes have one name": Mutation(
        "agentrun/store/session.py",
        "class Session:",
        "class Journal:\n    pass\n\n\nclass Event:\n    pass\n\n\nclass Session:",
        "test_house.py::test_class_names_are_unique_and_function_names_say_something",
    ),
    # -- what a crash test sees ------------------------------------------------------------------
    "with install() a crash test sees no connections": Mutation(
        "agentrun/testing/crash/code_owners.py",
        '        "models/transport.py": ("handle_request", "handle_async_request"),\n',
        "",
        "testing/test_crash_parts.py::test_connections_are_seen_in_sync_and_async_code",
    ),
    "a crash test takes the thread of an agent for its own": Mutation(
        "agentrun/testing/crash/code_owners.py",
        '"runs/context_propagation.py": ("call", "ran"),',
        '"runs/context_propagation.py": ("ran",),',
        "testing/test_crash_parts.py::test_what_a_library_does_for_the_agent_is_seen",
    ),
    "a crash test takes the loop of an agent for its own": Mutation(
        "agentrun/testing/crash/code_owners.py",
        '        "runs/event_loop.py": ("_serve",),\n',
        "",
        "testing/test_crash_parts.py::test_what_a_library_does_for_the_agent_is_seen",
    ),
    "a crash test sees no tool that is a function of a library": Mutation(
        "agentrun/testing/crash/code_owners.py",
        '        "api/tool.py": ("call",),\n',
        "",
        "testing/test_crash_parts.py::test_what_a_library_does_for_the_agent_is_seen",
    ),
    # -- live equals resumed ---------------------------------------------------------------------
    "a resumed agent is given the masked values": Mutation(
        "agentrun/store/values.py",
        "    if exact:\n        masked =",
        "    if False:\n        masked =",
        "proof/test_live_equals_resumed.py::"
        "test_an_agent_that_meets_every_kind_sees_it_again",
    ),
    "the items of a set are stored in the order of their hashes": Mutation(
        "agentrun/values/tagged_json.py",
        "for item in value), key=canonical)",
        "for item in value), key=lambda _: 0)",
        "proof/test_live_equals_resumed.py::"
        "test_an_agent_that_meets_every_kind_sees_it_again",
    ),
    "a set in a deque is compared in the order of its hashes": Mutation(
        "agentrun/values/typed_values.py",
        "isinstance(inner, (list, tuple, deque))",
        "isinstance(inner, (list, tuple))",
        "values/test_values.py::test_a_set_in_any_container_is_recorded_in_one_order",
    ),
    "an exception that is raised live is another one than on a resume": Mutation(
        "agentrun/values/exceptions.py",
        "    error = _rebuild(described, live)\n",
        "    error = live or _rebuild(described, live)\n",
        "proof/test_live_equals_resumed.py::"
        "test_an_agent_that_meets_every_kind_sees_it_again",
    ),
    "only conversations are recorded": Mutation(
        "agentrun/models/endpoints.py",
        "        return looks or (method in ACTS and UNPAID.search(path) is None)\n",
        '        return looks or path.endswith(("chat/completions", "responses", "v1/messages"))\n',
        "proof/test_live_equals_resumed.py::"
        "test_an_agent_that_meets_every_kind_sees_it_again",
    ),
    # -- secrets that are kept exactly ------------------------------------------------------------
    "a reader sees the exact values of masked columns": Mutation(
        "agentrun/store/roles.py",
        'HIDDEN = ("exact_values", "mask_key",',
        'HIDDEN = ("mask_key",',
        "proof/test_canaries.py::test_no_secret_is_left_anywhere",
    ),
    "a gateway keeps cookies with its answers": Mutation(
        "agentrun/gateway/upstream.py",
        "        dropped |= _COOKIES\n",
        "",
        "proof/test_canaries.py::test_no_secret_is_left_anywhere",
    ),
    "an exception that is kept holds the credentials of its request": Mutation(
        "agentrun/values/exception_parts.py",
        "    return [pair for pair in texts if pair[0].lower() not in SECRET_HEADERS]\n",
        "    return texts\n",
        "proof/test_canaries.py::test_no_secret_is_left_anywhere",
    ),
    # -- paid calls ------------------------------------------------------------------------------
    "what an SDK asks passes where no table knows it": Mutation(
        "agentrun/models/endpoints.py",
        "        return looks or (method in ACTS and UNPAID.search(path) is None)\n",
        "        return looks or any(_pattern(row.path).search(path) for row in ENDPOINTS)\n",
        "models/test_model_endpoints.py::test_what_an_openai_client_asks_is_recorded",
    ),
    "the name of an uploaded file is compared": Mutation(
        "agentrun/models/request.py",
        'if name != "filename"}',
        "if name}",
        "models/test_model_endpoints.py::test_an_upload_is_a_claim_check_whatever_its_boundary",
    ),
    "equal bodies on two paths are one call": Mutation(
        "agentrun/models/request.py",
        'return comparable if api in APIS_COMPARED_BY_BODY else {"path": place.path, **comparable}',
        "return asked",
        "models/test_model_endpoints.py::test_two_paths_with_equal_bodies_are_two_calls",
    ),
    "the signature of a query is stored": Mutation(
        "agentrun/models/request.py",
        '"x-amz-signature", ',
        "",
        "models/test_model_endpoints.py::test_a_presigned_query_is_not_stored",
    ),
    "cache writes are priced as plain input": Mutation(
        "agentrun/models/usage.py",
        '        "cache_write_tokens": tokens["cache_write_tokens"],\n        "cache_write_5m',
        '        "cache_write_5m',
        "models/test_model_usage.py::test_cache_writes_cost_more_than_plain_input_and_reads_less",
    ),
    "a tier that is not listed has the usual price": Mutation(
        "agentrun/models/usage.py",
        "    if context and not _has_variant(found.model, context):\n",
        "    if False:\n",
        "models/test_model_usage.py::"
        "test_a_tier_that_the_list_does_not_know_is_unpriced_and_says_why",
    ),
    "the lines of Ollama are read to their end first": Mutation(
        "agentrun/models/event_streams.py",
        '    "application/x-ndjson": LineParser,\n',
        "",
        "models/test_model_dialects.py::test_ollamas_stream_is_live_line_by_line",
    ),
    "each look at a response is priced": Mutation(
        "agentrun/steps/model_step.py",
        "return usage if self._is_first_to_see(reply.body) else None",
        "return usage",
        "steps/test_paid.py::"
        "test_a_polled_response_is_priced_once_however_often_it_is_looked_at",
    ),
    "a response that goes on settles its reservation": Mutation(
        "agentrun/store/queries.sql",
        "                 WHEN agentrun.goes_on(j.event, j.codec, j.output) THEN 'goes on'\n",
        "",
        "steps/test_paid.py::"
        "test_the_reservation_of_a_polled_response_settles_when_it_is_seen",
    ),
    "a cache that was lost is not told": Mutation(
        "agentrun/steps/model_step.py",
        "                    return known.outcome if known.epoch < run.tail.epoch else None\n",
        "                    return None\n",
        "steps/test_paid.py::test_what_a_lost_cache_cost_is_told_after_a_resume",
    ),
    "an untyped value is strict": Mutation(
        "agentrun/api/strict_schemas.py",
        "        if not kinds or not _TYPES.issuperset(kinds):\n",
        "        if False:\n",
        "api/test_tool_schemas.py::test_what_providers_refuse_is_not",
    ),
    "a changed prefix is not seen": Mutation(
        "agentrun/testing/crash/prefix.py",
        "    if other.startswith(one):\n        return 0\n",
        "    if other or one:\n        return 0\n",
        "testing/test_crash_paid.py::"
        "test_an_agent_that_asks_with_another_prefix_after_a_resume_is_found",
    ),
    "a bill without a step is not found": Mutation(
        "agentrun/testing/crash/findings.py",
        "    if not asked:\n        yield from _find_unrecorded_bills(evidence)\n",
        "",
        "testing/test_crash_paid.py::test_a_paid_call_that_no_step_records_is_found",
    ),
    # -- caps on tool calls ----------------------------------------------------------------------
    "calls over the cap of a reply are performed": Mutation(
        "agentrun/api/tool_calls.py",
        "    return max_calls if max_calls is not None and index >= max_calls else None\n",
        "    return None\n",
        "steps/test_caps.py::test_calls_over_the_cap_are_answered_and_not_performed",
    ),
    "a larger cap performs what was left out": Mutation(
        "agentrun/api/tool_calls.py",
        "        if known is not None and is_object(known.asked):\n            cap:",
        "        if known is None:\n            cap:",
        "steps/test_caps.py::test_what_was_left_out_stays_so_whatever_the_cap_is_on_resume",
    ),
    "a budget of tool calls holds nothing": Mutation(
        "agentrun/core/budget.py",
        "        if left < allowed:\n",
        "        if False:\n",
        "steps/test_caps.py::test_calls_at_once_and_of_children_do_not_pass_it_together",
    ),
    "a resumed tool call counts again": Mutation(
        "agentrun/store/budgets.py",
        '    counted = {row["key"] for row in conn.execute(QUERIES["counted"], '
        '{**place, "keys": [*keys]})}\n',
        "    counted: set[str] = set()\n",
        "steps/test_caps.py::test_killed_in_the_middle_of_a_reply_it_counts_each_call_once",
    ),
    "a run is held before its model is told": Mutation(
        "agentrun/steps/budgets.py",
        "            if not _was_rejected_before(step):\n",
        "            if False:\n",
        "steps/test_caps.py::"
        "test_the_model_is_told_that_the_budget_is_used_up_and_may_answer",
    ),
    "a model that asks on is told for ever": Mutation(
        "agentrun/steps/budgets.py",
        "            if not _was_rejected_before(step):\n",
        "            if True:\n",
        "steps/test_caps.py::test_if_it_asks_again_the_run_waits_for_a_larger_budget",
    ),
    "a larger budget approves the call": Mutation(
        "agentrun/core/history.py",
        '            if "of" not in output:',
        "            if True:",
        "steps/test_caps.py::test_a_larger_budget_is_no_approval_of_the_call",
    ),
    # -- words of status -------------------------------------------------------------------------
    "an attempt of a live owner is possibly billed": Mutation(
        "migrations/0001_schema.sql",
        "                 AND w.beat_at + w.lease >= clock_timestamp() THEN 'running'\n",
        "                 AND false THEN 'running'\n",
        "store/test_views.py::test_an_open_attempt_is_running_while_its_owner_lives",
    ),
    "an attempt of a dead owner is running": Mutation(
        "agentrun/core/transcript.py",
        "    if owner_lost:\n        run.mark_attempts_lost()\n",
        "",
        "core/test_transcript.py::"
        "test_an_attempt_of_the_last_claim_is_running_until_somebody_else_has_the_run",
    ),
    "an attempt runs on when another has the run": Mutation(
        "agentrun/core/folding.py",
        "        self.mark_attempts_lost()\n        self._band = _Band(",
        "        self._band = _Band(",
        "core/test_transcript.py::"
        "test_an_attempt_of_the_last_claim_is_running_until_somebody_else_has_the_run",
    ),
    "what is decided still reads held": Mutation(
        "agentrun/view/terminal.py",
        '    if row.get("decided_at") is not None:\n',
        "    if False:\n",
        "cli/test_cli_status.py::test_what_is_decided_and_not_taken_up_is_told_as_that",
    ),
    "the command line counts on a worker that is not there": Mutation(
        "agentrun/runs/live_workers.py",
        "    if servers is None or servers.owned or servers.serving:\n",
        "    if True:\n",
        "cli/test_cli_status.py::test_what_is_decided_and_not_taken_up_is_told_as_that",
    ),
    "a worker takes runs of every queue": Mutation(
        "agentrun/store/queries.sql",
        "count(w.worker) FILTER (WHERE r.agent = ANY(w.agents) AND r.queue = ANY(w.queues))",
        "count(w.worker) FILTER (WHERE r.agent = ANY(w.agents))",
        "cli/test_cli_status.py::"
        "test_a_worker_goes_on_only_where_one_lives_that_takes_the_queue",
    ),
    "a decision that comes while a run parks is overlooked": Mutation(
        "agentrun/api/handle.py",
        "        return run.due or is_decided(self._database, run.run_id)\n",
        "        return run.due\n",
        "steps/test_approvals.py::test_a_decision_that_comes_while_a_run_parks_is_waited_for",
    ),
    "a result waits in silence": Mutation(
        "agentrun/api/handle.py",
        "            if _is_ready(run) and time.monotonic() >= warn_at:\n",
        "            if False:\n",
        "runs/test_worker.py::test_a_result_warns_once_that_nobody_knows_the_agent",
    ),
    # -- the journal -----------------------------------------------------------------------------
    "the fence of a group's append is removed": Mutation(
        "agentrun/store/queries.sql",
        "          AND (b.event = 'claimed' OR p.worker = b.worker)\n"
        "          AND p.epoch = b.epoch - (b.event = 'claimed')::int)\n",
        "          )\n",
        "store/test_append_stress.py::test_no_append_is_torn_lost_or_let_in_late",
    ),
    "the fence of a lone run's append is removed": Mutation(
        "agentrun/store/queries.sql",
        "p.seq = %(first)s::bigint - 1\n"
        "      AND p.worker = %(worker)s::text AND p.epoch = %(epoch)s::bigint)",
        "p.seq = %(first)s::bigint - 1)",
        "store/test_append_stress.py::test_no_append_of_a_lone_run_is_torn_lost_or_let_in_late",
    ),
    "an epoch that was given away twice fences nobody": Mutation(
        "agentrun/store/queries.sql",
        "      AND p.worker = %(worker)s::text AND p.epoch = %(epoch)s::bigint)",
        "      AND p.epoch = %(epoch)s::bigint)",
        "runs/test_lost_journal.py::test_whoever_went_on_without_what_was_lost_is_stopped",
    ),
    "a journal cut short is taken for a takeover": Mutation(
        "agentrun/store/batch_outcomes.py",
        "        if head.run_id in cut\n",
        "        if False\n",
        "runs/test_lost_journal.py::test_a_run_that_is_gone_is_refused_and_not_begun_anew",
    ),
    "what was lost is forgotten": Mutation(
        "agentrun/store/database.py",
        "[claimed, *again, park_event",
        "[claimed, park_event",
        "runs/test_lost_journal.py::test_lost_steps_are_recorded_again_and_the_run_is_held",
    ),
    "append looks at no row before": Mutation(
        "agentrun/store/queries.sql",
        "    WHERE head AND EXISTS (\n"
        "        SELECT FROM agentrun.journal p\n"
        "        WHERE p.run_id = b.run_id AND p.seq = b.seq - 1\n"
        "          AND (b.event = 'claimed' OR p.worker = b.worker)\n"
        "          AND p.epoch = b.epoch - (b.event = 'claimed')::int)\n",
        "    WHERE head\n",
        "store/test_append_stress.py::test_no_append_is_torn_lost_or_let_in_late",
    ),
    "heads are not sorted": Mutation(
        "agentrun/store/queries.sql",
        "    ORDER BY b.run_id\n    ON CONFLICT (run_id, seq) DO NOTHING\n    RETURNING run_id\n",
        "    ON CONFLICT (run_id, seq) DO NOTHING\n    RETURNING run_id\n",
        "store/test_append_stress.py::test_sorted_heads_give_one_lock_order",
        tries=3,
    ),
    "the journal can be edited": Mutation(
        "migrations/0001_schema.sql",
        "journal_append_only BEFORE UPDATE OR TRUNCATE ON",
        "journal_append_only BEFORE TRUNCATE ON",
        "runs/test_run.py::test_the_journal_is_append_only",
    ),
    "a run is pruned below a parent that lives": Mutation(
        "migrations/0001_schema.sql",
        "AND r.parent IS NULL AND",
        "AND",
        "store/test_prune.py::test_a_tree_goes_as_a_whole_and_never_below_a_parent_that_lives",
    ),
    "a pruned run can be claimed": Mutation(
        "agentrun/store/queries.sql",
        "WHERE r.run_id = b.run_id FOR KEY SHARE)",
        "WHERE r.run_id = b.run_id)",
        "store/test_prune.py::test_a_run_that_is_claimed_while_it_is_pruned_is_gone",
    ),
    "a zombie finds room where its run was pruned": Mutation(
        "agentrun/store/queries.sql",
        "WHERE r.run_id = %(run)s::uuid FOR KEY SHARE)",
        "WHERE r.run_id = %(run)s::uuid)",
        "store/test_prune.py::test_a_zombie_that_writes_while_its_run_is_pruned_is_refused",
    ),
    "a child is begun below a pruned run": Mutation(
        "migrations/0001_schema.sql",
        "locked < (SELECT count(*) FROM agentrun.tree(tree.run_id))",
        "locked < cardinality(tree.ids)",
        "store/test_prune.py::test_a_child_that_is_begun_before_its_tree_is_looked_at_again",
    ),
    "a pruned key is executed again": Mutation(
        "migrations/0001_schema.sql",
        "t.key = NEW.key",
        "t.key = NEW.agent",
        "store/test_prune.py::test_a_key_that_is_used_while_its_run_is_pruned_is_not_executed",
    ),
    "a lost answer is taken for a refusal": Mutation(
        "agentrun/store/sending.py",
        "return accepted if accepted == batch.runs else accepted | stored_runs(conn, batch)",
        "return accepted",
        "store/test_wire.py::test_a_batch_whose_answer_is_lost_is_accepted_and_there_once",
    ),
    "rows of another nonce are taken for ours": Mutation(
        "agentrun/store/queries.sql",
        "USING (run_id, seq)\nWHERE j.batch = %(batch)s",
        "USING (run_id, seq)\nWHERE %(batch)s::uuid IS NOT NULL",
        "store/test_wire.py::test_a_batch_that_was_overtaken_while_unknown_is_lost_whole",
    ),
    "one bad row fails every run of its batch": Mutation(
        "agentrun/store/journal.py",
        "        if len(runs) > 1:\n",
        "        if len(runs) > 1_000:\n",
        "store/test_journal.py::test_one_bad_row_fails_one_run_only",
    ),
    "a cancelled waiter cancels what the writer owes": Mutation(
        "agentrun/store/commit_waiters.py",
        "            if not task.done():\n                task.set_result(None)\n",
        "            task.set_result(None)\n",
        "store/test_journal.py::test_no_waiter_can_cancel_what_the_writer_owes_to_others",
    ),
    "events pass by a reserved seq": Mutation(
        "agentrun/store/journal.py",
        "return self.tail.reserved is None or self.last < self.tail.reserved",
        "return True",
        "store/test_journal.py::test_what_follows_a_reserved_seq_waits_until_it_is_used",
    ),
    # -- blobs -----------------------------------------------------------------------------------
    "events overtake a large value of their run": Mutation(
        "agentrun/store/journal.py",
        "if id(entry.tail) not in held and entry.ready():",
        "if entry.ready():",
        "store/test_blobs.py::test_nothing_of_a_run_overtakes_its_large_values",
    ),
    "a blob whose row is still to come is removed": Mutation(
        "agentrun/store/queries.sql",
        "b.epoch < r.epoch\n",
        "b.epoch <= r.epoch\n",
        "store/test_blobs.py::test_what_a_row_may_still_name_is_kept",
    ),
    "a late answer refers to what it put outside": Mutation(
        "agentrun/store/late_results.py",
        "[replace(payload, blob=None) for payload in row.payloads]",
        "row.payloads",
        "store/test_blobs.py::test_a_late_answer_is_kept_in_the_database",
    ),
    "a blob is named before it is synced": Mutation(
        "agentrun/store/blobs.py",
        "                _sync(self._root, self._root / name)\n",
        "                pass\n",
        "store/test_blobs.py::test_a_file_is_synced_with_the_folders_that_lead_to_it",
    ),
    # -- life and ownership ----------------------------------------------------------------------
    "a worker declared dead renews its lease": Mutation(
        "agentrun/store/queries.sql",
        "WHERE worker = %(worker)s AND dead_at IS NULL RETURNING clock",
        "WHERE worker = %(worker)s RETURNING clock",
        "store/test_liveness.py::test_the_fence_notices_death_without_waiting_for_a_beat",
    ),
    "a dead worker registers again": Mutation(
        "agentrun/store/queries.sql",
        "WHERE workers.dead_at IS NULL\nRETURNING clock",
        "RETURNING clock",
        "store/test_liveness.py::test_a_dead_worker_cannot_register_again",
    ),
    "death is declared whatever the last beat": Mutation(
        "agentrun/store/queries.sql",
        "WHERE worker = %(worker)s AND beat_at = %(beat_at)s AND dead_at IS NULL RETURNING worker",
        "WHERE worker = %(worker)s AND %(beat_at)s::timestamptz IS NOT NULL AND dead_at IS NULL"
        " RETURNING worker",
        "store/test_liveness.py::test_death_is_declared_only_on_the_beat_that_was_seen",
    ),
    "a failover leaves everybody without a lease": Mutation(
        "agentrun/store/queries.sql",
        "WHERE s.server_start = pg_postmaster_start_time()), clock_timestamp())",
        "WHERE s.server_start = pg_postmaster_start_time()), w.beat_at)",
        "store/test_liveness.py::test_a_failover_does_not_make_everyone_take_everyone",
    ),
    "a worker that its server forgot counts as dead": Mutation(
        "agentrun/store/liveness.py",
        "                if row is None:\n                    # Declared dead,",
        "                if row is None and not known:\n                    # Declared dead,",
        "store/test_liveness.py::test_a_worker_that_its_server_forgot_registers_again",
    ),
    "a restarted server makes every session look gone": Mutation(
        "agentrun/store/queries.sql",
        "           AND pg_postmaster_start_time() + w.lease < clock_timestamp()\n",
        "",
        "store/test_liveness.py::test_a_new_server_says_nothing_about_sessions",
    ),
    "nothing fences an effect when the lease is old": Mutation(
        "agentrun/store/liveness.py",
        "return self._dead or self._age() > _FENCE * self.lease",
        "return self._dead",
        "store/test_liveness.py::test_the_fence_notices_death_without_waiting_for_a_beat",
    ),
    "the lease is looked at before the last wait": Mutation(
        "agentrun/steps/step.py",
        "        self.run.check(self.scope)\n"
        "        while (yield from self.run.fence()):\n"
        "            self.run.check(self.scope)\n",
        "        yield from self.run.fence()\n        self.run.check(self.scope)\n",
        "steps/test_order.py"
        "::test_a_thread_that_waits_for_another_of_its_run_looks_at_the_lease_after_that",
    ),
    "no step asks the fence": Mutation(
        "agentrun/steps/run_context.py",
        "            while self.heart.stale:\n",
        "            while False:\n",
        "steps/test_order.py::test_a_worker_that_was_declared_dead_sends_nothing",
    ),
    "a run is claimed though its owner lives": Mutation(
        "agentrun/store/database.py",
        "        return dead is None, dead\n",
        "        return False, dead\n",
        "store/test_claims.py::test_a_run_of_a_live_worker_is_owned_and_of_a_dead_one_is_not",
    ),
    "a run that went on since it was looked at is claimed": Mutation(
        "agentrun/store/database.py",
        "if (last.epoch, _status(events)) != (run.epoch, run.status):",
        "if False:",
        "store/test_claims.py::test_a_run_that_a_live_worker_took_since_it_was_looked_at_is_not_claimed",
    ),
    "the last event of a lost run moves it": Mutation(
        "agentrun/store/queries.sql",
        "    FROM b JOIN heads USING (run_id)\n    WHERE r.run_id = b.run_id",
        "    FROM b\n    WHERE r.run_id = b.run_id",
        "proof/test_stateful.py::test_the_database_does_what_the_model_says",
    ),
    "a claim leaves the run waiting for what it was parked at": Mutation(
        "agentrun/store/queries.sql",
        "epoch = c.epoch, wake_at = NULL, parked_for = NULL,\n    parked_step = NULL, reason",
        "epoch = c.epoch, wake_at = NULL, parked_for = NULL,\n    reason",
        "proof/test_stateful.py::test_the_database_does_what_the_model_says",
    ),
    "runs that diverged are found by how their reason begins": Mutation(
        "agentrun/store/queries.sql",
        "changed_at FROM agentrun.runs r\nWHERE r.status = 'held' AND r.parked_for = 'divergence'",
        "changed_at FROM agentrun.runs r\nWHERE starts_with(r.reason, 'diverged')",
        "steps/test_parked_for.py"
        "::test_a_run_that_is_held_for_a_review_did_not_diverge_whatever_its_reason_says",
    ),
    "a run is parked for its first step, though another waits for a person": Mutation(
        "agentrun/steps/parking.py",
        "parked_for=waits[0].parked_for",
        "parked_for=min(waits, key=lambda wait: wait.number or 0).parked_for",
        "steps/test_parked_for.py::test_of_several_waits_that_for_a_person_counts",
    ),
    "a webhook wakes a run that waits for another response": Mutation(
        "agentrun/store/queries.sql",
        "      AND r.parked_step = a.step\n",
        "",
        "crash/test_inflight.py::test_a_webhook_of_a_response_that_was_read_wakes_nobody",
    ),
    "the row of a run may be parked for nothing": Mutation(
        "migrations/0001_schema.sql",
        "        (status IN ('waiting', 'held')) = (parked_for IS NOT NULL))\n",
        "        true)\n",
        "store/test_schema.py::test_what_is_parked_says_for_what_and_nothing_else_does",
    ),
    "a run is woken by letters that it saw and did not want": Mutation(
        "agentrun/store/queries.sql",
        "(m.kind = 'cancel' OR %(looked)s AND m.id <> ALL (%(seen)b::uuid[]))",
        "(m.kind = 'cancel' OR %(looked)s AND %(seen)b::uuid[] IS NOT NULL)",
        "proof/test_stateful.py::test_the_database_does_what_the_model_says",
    ),
    "a letter that crossed its run's parking wakes nobody": Mutation(
        "agentrun/store/queries.sql",
        "m.run_id = r.run_id AND m.sent_at > r.changed_at - interval '10 seconds'\n",
        "m.run_id = r.run_id AND m.sent_at > r.changed_at - interval '10 seconds'"
        " AND m.sent_at <= r.changed_at\n",
        "store/test_letters.py"
        "::test_a_letter_whose_sender_commits_after_the_parkers_second_look_is_not_lost",
    ),
    "a run parks beside a step that is under way": Mutation(
        "agentrun/steps/parking.py",
        "    if run.upcoming or any(ident not in run.waits for ident in run.in_flight()):\n",
        "    if False:\n",
        "steps/test_approvals.py::test_in_the_body_of_a_tool_nothing_parks",
    ),
    "an intent that was never sent stays open": Mutation(
        "agentrun/steps/step.py",
        "                self._withdraw()\n",
        "                pass\n",
        "steps/test_approvals.py::test_an_intent_that_was_never_sent_is_closed_as_not_sent",
    ),
    "an approval of other arguments counts": Mutation(
        "migrations/0001_schema.sql",
        "       AND coalesce(NEW.fingerprint = open.fingerprint, true) THEN\n",
        "       THEN\n",
        "steps/test_approvals.py::test_a_letter_about_other_arguments_counts_for_nothing",
    ),
    "two deciders are both let in": Mutation(
        "migrations/0001_schema.sql",
        "CREATE UNIQUE INDEX mail_decisions",
        "CREATE INDEX mail_decisions",
        "steps/test_approvals.py::test_of_deciders_at_the_same_instant_one_is_first",
    ),
    "the SQL of a tool approves": Mutation(
        "migrations/0001_schema.sql",
        "reset_val = 'agentrun tool'",
        "setting = 'agentrun tool'",
        "steps/test_approvals.py::test_the_sql_of_a_tool_cannot_approve",
    ),
    "an unreadable letter takes the place of a decision": Mutation(
        "agentrun/steps/letters.py",
        "== known.request_seq:\n",
        "== 0:\n",
        "steps/test_approvals.py::test_a_letter_that_cannot_be_read_is_noted_and_another_may_follow",
    ),
    "an approval answers a doubt": Mutation(
        "migrations/0001_schema.sql",
        "       AND (NEW.kind = 'resolve') = (open.waits_for = 'doubt')\n",
        "",
        "steps/test_doubt.py::test_an_approval_is_no_answer_to_a_doubt",
    ),
    "a dead worker's doubt is settled before its lease has passed": Mutation(
        "agentrun/steps/doubt.py",
        "    while remaining > 0 and waited < longest:\n",
        "    while False:\n",
        "steps/test_doubt.py::test_a_doubt_is_settled_when_its_worker_can_send_nothing_more",
    ),
    "a lost lease is an ordinary exception": Mutation(
        "agentrun/core/errors.py",
        "class Interrupt(BaseException):",
        "class Interrupt(Exception):",
        "steps/test_identity.py::test_except_exception_does_not_swallow_an_interrupt",
    ),
    "effects go on after an interrupt": Mutation(
        "agentrun/steps/run_context.py",
        "            if self.interrupt is not None:\n                raise self.interrupt\n",
        "",
        "steps/test_identity.py::test_after_an_interrupt_every_further_effect_is_refused",
    ),
    "a poisonous run is claimed for ever": Mutation(
        "agentrun/runs/worker.py",
        "POISON = 5  #",
        "POISON = 10_000  #",
        "runs/test_worker.py::test_a_run_that_was_claimed_again_and_again_for_nothing_is_parked",
    ),
    "all that may crash a worker are tried at once": Mutation(
        "agentrun/runs/worker.py",
        "            if self._is_on_trial():\n",
        "            if False:\n",
        "runs/test_worker.py::test_runs_that_may_crash_their_workers_are_tried_one_at_a_time",
    ),
    "a forked child goes on with its parent's run": Mutation(
        "agentrun/steps/execution_point.py",
        "        if self.run.pid != os.getpid():\n            raise Refusing(",
        "        if False:\n            raise Refusing(",
        "crash/test_ownership.py::test_a_forked_child_cannot_use_its_parents_run",
    ),
    # -- steps -----------------------------------------------------------------------------------
    "an effect begins before its intent is durable": Mutation(
        "agentrun/steps/step.py",
        "            yield self.run.durable(durable)\n",
        "            pass\n",
        "steps/test_order.py::test_an_effect_begins_when_its_intent_is_durable",
    ),
    "a result is handed out before it is durable": Mutation(
        "agentrun/runs/ending.py",
        "    yield run.end(finished)\n",
        "    run.end(finished)\n",
        "steps/test_order.py::test_a_result_is_handed_out_when_it_is_durable",
    ),
    "a recorded step is performed again": Mutation(
        "agentrun/steps/open_step.py",
        "        outcome=known.outcome if known else None,\n",
        "        outcome=None,\n",
        "steps/test_model_steps.py::test_a_conversation_with_tools_resumes_without_paying_again",
    ),
    "a step is performed beside itself": Mutation(
        "agentrun/steps/open_step.py",
        "        elif step.ident in run.in_flight():\n            return False\n",
        "",
        "runs/test_ends.py::test_a_step_that_a_timed_out_attempt_still_performs_is_waited_for",
    ),
    "the idempotency key changes with the attempt": Mutation(
        "agentrun/steps/function_step.py",
        "info = StepInfo(step.key, step.attempts, step.number, connection, step.wanted.asked)",
        "info = StepInfo(f\"{step.key}.{step.attempts}\", step.attempts, step.number, connection, "
        "step.wanted.asked)",
        "steps/test_tools.py::test_inside_a_run_the_key_is_filled_in_and_stays_the_same",
    ),
    "a doubt is retried in silence": Mutation(
        "agentrun/steps/open_step.py",
        'known.open is not None and wanted.effect == "once":',
        'known.open is not None and wanted.effect == "never":',
        "steps/test_doubt.py::test_the_default_holds_the_run_for_a_person",
    ),
    "a late answer is not adopted": Mutation(
        "agentrun/steps/step.py",
        "                if late is not None:\n                    self.adopted",
        "                if False:\n                    self.adopted",
        "steps/test_order.py::test_a_late_answer_is_adopted_and_nothing_is_sent",
    ),
    "a retry after a crash begins to count anew": Mutation(
        "agentrun/models/attempts.py",
        "failures = step.prior_failures",
        "failures = 0",
        "models/test_model_retries.py::test_attempts_before_a_crash_count",
    ),
    "changed code is not noticed": Mutation(
        "agentrun/steps/open_step.py",
        "    if known is not None and not wanted.matches(known, fingerprint):\n",
        "    if False:\n",
        "steps/test_identity.py::test_changed_code_is_refused_with_a_diff_before_any_effect",
    ),
    "a step of the new path is set aside": Mutation(
        "agentrun/core/divergence.py",
        " and not known.on_path",
        "",
        "core/test_divergence.py::test_steps_that_this_claim_began_or_replayed_stay",
    ),
    "a resume asks for a reused step at its old place": Mutation(
        "agentrun/core/history.py",
        "            known.ident = ident + known.ident.removeprefix(before)\n",
        "",
        "runs/test_paths.py::"
        "test_histories_transcripts_and_sql_agree_about_what_a_resume_serves",
    ),
    "a step that was asked for again is set aside": Mutation(
        "agentrun/steps/open_step.py",
        "        known.on_path = True\n",
        "",
        "runs/test_deploys.py::test_a_step_of_the_new_path_in_another_task_is_not_set_aside",
    ),
    "the steps of a failed attempt's body count as those of its retry": Mutation(
        "agentrun/steps/function_step.py",
        "            point.run.history.begin_again(inside.scope.path)\n",
        "            pass\n",
        "runs/test_deploys.py::"
        "test_a_retry_whose_body_takes_another_path_is_recorded_as_it_was",
    ),
    "the diverging step stays": Mutation(
        "agentrun/core/divergence.py",
        "        if known is first\n        or (",
        "        if (",
        "runs/test_deploys.py::test_a_step_of_the_new_path_in_another_task_is_not_set_aside",
    ),
    "a history serves what was set aside": Mutation(
        "agentrun/core/history.py",
        "            del self.steps[known.ident]\n",
        "",
        "core/test_divergence.py::test_a_transcript_sets_the_steps_aside_that_a_history_does",
    ),
    "an event of a step that was set aside takes its old place": Mutation(
        "agentrun/core/history.py",
        "known = self.by_number.get(event.step)\n        if known is None:",
        "known = self.steps.get(event.ident)\n        if known is None:",
        "core/test_divergence.py::"
        "test_the_events_of_a_step_that_was_set_aside_are_not_those_of_a_new_one",
    ),
    "steps that were moved together lose their order": Mutation(
        "agentrun/core/history.py",
        "        return self.born, self.step\n",
        "        return self.born, 0\n",
        "core/test_divergence.py::test_a_redo_sets_the_calls_of_a_reused_reply_aside",
    ),
    "a divergence takes back every question": Mutation(
        "agentrun/core/history.py",
        "        self.divergences += 1\n",
        "        self.divergences += 1\n"
        "        for known in self.by_number.values():\n"
        "            known.request = None\n",
        "core/test_divergence.py::"
        "test_a_divergence_takes_back_the_questions_of_the_steps_that_it_sets_aside",
    ),
    "a divergence takes back every question in SQL": Mutation(
        "migrations/0001_schema.sql",
        "\n              AND q.step IN (SELECT s.step FROM "
        "agentrun.listed_steps(l.output, 'set_aside') s)",
        "",
        "runs/test_deploys.py::"
        "test_a_question_to_a_person_outlives_the_divergence_of_another_task",
    ),
    "a step that was set aside counts as replayed in the transcript": Mutation(
        "agentrun/core/folding.py",
        '        self._mark_set_aside(listed_steps(event, "set_aside"), True)\n',
        "",
        "core/test_divergence.py::test_a_transcript_sets_the_steps_aside_that_a_history_does",
    ),
    "a reused step stays set aside in the transcript": Mutation(
        "agentrun/core/folding.py",
        '        "step_reused": _on_step_reused,\n',
        "",
        "core/test_divergence.py::test_a_transcript_sets_the_steps_aside_that_a_history_does",
    ),
    "a reused step stays set aside in SQL": Mutation(
        "migrations/0001_schema.sql",
        "d.event IN ('diverged', 'step_reused') AND d.seq < before",
        "d.event IN ('diverged') AND d.seq < before",
        "store/test_views.py::test_resumes_agree_with_the_transcript_about_random_paths",
    ),
    "a new path does an effect again": Mutation(
        "agentrun/steps/divergence_policy.py",
        "    event = reuse(run.history, wanted, fingerprint, ident)\n",
        "    event = None\n",
        "runs/test_deploys.py::test_a_new_path_finds_each_recorded_effect_again_once",
    ),
    "kept replies are paid again": Mutation(
        "agentrun/steps/divergence_policy.py",
        "    if known.outcome is None:  #",
        "    if True:  #",
        "runs/test_deploys.py::"
        "test_kept_replies_are_not_paid_again_and_their_differences_are_recorded_once",
    ),
    "a reply of another conversation is kept": Mutation(
        "agentrun/core/divergence.py",
        "    if not same_conversation(",
        "    if False and not same_conversation(",
        "core/test_divergence.py::test_the_message_names_what_differs_of_a_model_call",
    ),
    "a repeated call has another key": Mutation(
        "agentrun/steps/open_step.py",
        "    key = repeats or step_key(",
        "    key = step_key(",
        "runs/test_deploys.py::test_a_call_repeated_after_its_error_keeps_its_key",
    ),
    "a child of a new path is another run": Mutation(
        "agentrun/runs/child_runs.py",
        "known.begun_at if known else step.ident",
        "step.ident",
        "runs/test_deploys.py::test_a_child_that_a_new_path_finds_again_is_not_begun_again",
    ),
    "workers leave diverged runs to people": Mutation(
        "agentrun/runs/worker.py",
        "        self._try_diverged()\n",
        "",
        "runs/test_deploys.py::test_a_worker_that_starts_with_the_restored_code_takes_it_up",
    ),
    "a version of the code tries a run without end": Mutation(
        "agentrun/store/queries.sql",
        "NOT coalesce(jsonb_exists(p.versions::jsonb, %(version)s), false))",
        "true)",
        "runs/test_deploys.py::test_a_version_of_the_code_tries_a_run_once",
    ),
    "accepting asks nobody": Mutation(
        "agentrun/cli/resume_command.py",
        "        if accept and not yes:\n",
        "        if False:\n",
        "cli/test_cli_runs.py::test_accepting_a_divergence_lists_its_price_and_asks_for_yes",
    ),
    "a refusal can be swallowed": Mutation(
        "agentrun/steps/open_step.py",
        "        raise point.run.stop(Refusing(str(error))) from None\n",
        "        raise\n",
        "steps/test_identity.py::test_overlapping_once_steps_of_one_scope_are_refused",
    ),
    "a refusal in a run is an ordinary error": Mutation(
        "agentrun/steps/refusals.py",
        "    return ConfigError(text) if run is None else run.stop(Refusing(text))\n",
        "    return ConfigError(text)\n",
        "steps/test_refusals.py::"
        "test_what_is_refused_in_a_run_fails_it_whatever_its_code_catches",
    ),
    "a commit of a tool's own is an ordinary error": Mutation(
        "agentrun/store/connection.py",
        "            raise Refusing(\n",
        "            raise ConfigError(\n",
        "steps/test_refusals.py::"
        "test_what_is_refused_in_a_run_fails_it_whatever_its_code_catches",
    ),
    "a forked child goes on after an ordinary error": Mutation(
        "agentrun/steps/execution_point.py",
        "            raise Refusing(\n",
        "            raise ConfigError(\n",
        "steps/test_refusals.py::test_a_forked_child_is_refused_whatever_its_code_catches",
    ),
    "a step that was cancelled is refused by an ordinary error": Mutation(
        "agentrun/steps/open_step.py",
        "        raise run.stop(Refusing(text))\n",
        "        raise ConfigError(text)\n",
        "steps/test_refusals.py::test_a_cancelled_step_that_sync_code_asks_for_is_refused",
    ),
    "a database that fails a run raises an ordinary error": Mutation(
        "agentrun/steps/refusals.py",
        "        raise lost from error\n",
        "        raise\n",
        "steps/test_refusals.py::"
        "test_a_database_that_fails_the_run_ends_it_whatever_its_code_catches",
    ),
    "a letter is read twice": Mutation(
        "agentrun/steps/waits.py",
        "    step.run.consumed.add(letter.mail_id)\n"
        "    step.run.append(step.received_event(letter), *then)\n",
        "    step.run.append(*then)\n",
        "steps/test_waits.py::test_a_signal_that_was_received_before_a_kill_is_not_received_again",
    ),
    "a tool is called though nobody approved": Mutation(
        "agentrun/steps/function_step.py",
        "        if body.approve and step.outcome is None:\n",
        "        if False:\n",
        "steps/test_waits.py::test_a_call_waits_for_its_approval",
    ),
    "threads do not carry the run": Mutation(
        "agentrun/runs/context_propagation.py",
        "    threading.Thread.start = started  # type: ignore[method-assign]\n",
        "",
        "steps/test_identity.py::test_threads_and_pools_carry_the_run",
    ),
    "malformed calls are answered without end": Mutation(
        "agentrun/api/tool_calls.py",
        "MALFORMED_IN_A_ROW = 3  #",
        "MALFORMED_IN_A_ROW = 10_000  #",
        "api/test_tool_calls.py::test_malformed_calls_are_bounded",
    ),
    "an exception comes back without its text": Mutation(
        "agentrun/values/exceptions.py",
        "if kind is not None and error is not None and not _has_recorded_text(error, described):\n",
        "if False:\n",
        "values/test_exceptions.py::test_no_code_of_a_class_runs_because_a_row_names_it",
    ),
    "an exception is raised live as it was and not as it is recorded": Mutation(
        "agentrun/values/exceptions.py",
        "    _empty_generator().throw(rebuild(described, live))\n",
        "    _empty_generator().throw(live or rebuild(described))\n",
        "values/test_exceptions.py::test_of_what_no_record_can_hold_a_stand_in_is_left_live_too",
    ),
    "an exception comes back without its cause": Mutation(
        "agentrun/values/exceptions.py",
        '    cause, context = described.get("cause"), described.get("context")\n',
        "    cause, context = None, None\n",
        "values/test_exceptions.py::test_an_exception_comes_back_with_what_it_carries",
    ),
    "credentials of a response that an exception holds are stored": Mutation(
        "agentrun/values/exception_parts.py",
        "    return [pair for pair in texts if pair[0].lower() not in SECRET_HEADERS]\n",
        "    return list(texts)\n",
        "values/test_exceptions.py::test_an_exception_comes_back_with_what_it_carries",
    ),
    "a property of a class runs because a row names it": Mutation(
        "agentrun/values/exceptions.py",
        "        set_attribute(error, name, _CODER.read(value))\n",
        "        setattr(error, name, _CODER.read(value))\n",
        "values/test_exceptions.py::test_no_code_of_a_class_runs_because_a_row_names_it",
    ),
    # -- values ----------------------------------------------------------------------------------
    "sets are recorded in the order of their hashes": Mutation(
        "agentrun/values/typed_values.py",
        "        return sorted(dumped, key=canonical)\n",
        "        return dumped\n",
        "values/test_values.py::test_ordinary_values_are_recorded_as_plain_json",
    ),
    "a subclass loses its fields": Mutation(
        "agentrun/values/typed_values.py",
        "        return difference(again, value) is None\n",
        "        return True\n",
        "values/test_values.py::test_a_value_comes_back_as_it_was",
    ),
    "a type that was changed is not noticed": Mutation(
        "agentrun/values/typed_values.py",
        "        if problem is not None or not _contains(dumped, stored):\n",
        "        if problem is not None:\n",
        "values/test_values.py::test_a_recorded_value_is_checked_against_a_changed_type",
    ),
    "a recorded call is given what was drawn anew": Mutation(
        "agentrun/steps/open_step.py",
        "        wanted = replace(wanted, asked=known.asked)",
        "        pass",
        "steps/test_values_of_runs.py::test_an_attempt_after_a_crash_has_the_arguments_of_the_first",
    ),
    "what was drawn anew is compared": Mutation(
        "agentrun/api/tool.py",
        '            compared={"args": asked.compared},\n',
        "",
        "steps/test_values_of_runs.py::test_a_recorded_call_uses_recorded_arguments",
    ),
    "a redone step is found again": Mutation(
        "agentrun/core/redo.py",
        "        numbers = [one.step for one in self.redone]\n",
        "        numbers: list[int] = []\n",
        "api/test_redo.py::test_what_acts_once_is_not_done_again_unless_told",
    ),
    "what acts once is redone without a word": Mutation(
        "agentrun/api/redo.py",
        "    if not once:\n        check_once(plan)\n",
        "",
        "api/test_redo.py::test_what_acts_once_is_not_done_again_unless_told",
    ),
    "a child run is redone whose parent has recorded its end": Mutation(
        "agentrun/api/redo.py",
        "    if known is None or known.outcome is None:\n        return\n",
        "    return\n",
        "api/test_redo.py::test_a_child_run_that_ended_is_done_anew_by_its_parent",
    ),
    "a redo does not say what a child run did": Mutation(
        "agentrun/api/redo.py",
        "    return replace(plan, children="
        "tuple(_describe_child(database, run, one) for one in below))\n",
        "    return plan\n",
        "api/test_redo.py::test_a_child_run_that_ended_is_done_anew_by_its_parent",
    ),
    "resume --redo asks nobody": Mutation(
        "agentrun/cli/resume_command.py",
        "            confirm_redo(keys[0], redo, yes=yes, once=once)\n",
        "            pass\n",
        "api/test_redo.py::test_resume_redo_says_the_price_and_asks",
    ),
    "a redo leaves what came after it in the scopes around": Mutation(
        "agentrun/core/redo.py",
        "    joined = theirs.startswith(ours) or ours.startswith(theirs)\n",
        "    joined = theirs.startswith(ours)\n",
        "api/test_redo.py::test_steps_around_the_redone_one_depend_on_it",
    ),
    "a crash test compares no values": Mutation(
        "agentrun/testing/crash/findings.py",
        "        yield from _find_changed_values(evidence, case)\n",
        "",
        "testing/test_crash.py::test_a_value_that_is_another_one_on_a_resume_is_found",
    ),
    "an agent that raises GeneratorExit ends the flow that executes it": Mutation(
        "agentrun/runs/agent_body.py",
        "            except GeneratorExit as error:\n                raise RuntimeError(",
        "            except ZeroDivisionError as error:\n                raise RuntimeError(",
        "api/test_small_inputs.py::test_generator_exit_fails_a_run",
    ),
    "the database's DateStyle counts": Mutation(
        "agentrun/store/queries.sql",
        "       set_config('DateStyle', 'ISO, MDY', false), set_config(",
        "       set_config(",
        "api/test_small_inputs.py::test_what_a_database_sets_by_default_does_not_count",
    ),
    # -- transactions ----------------------------------------------------------------------------
    "a transaction commits before its checkpoint": Mutation(
        "agentrun/steps/transaction_step.py",
        '    points.reach("checkpoint", "before")\n',
        '    yield _on_connection(conn.commit)\n    points.reach("checkpoint", "before")\n',
        "steps/test_transactions.py::test_killed_around_its_commit_a_transaction_is_done_once",
    ),
    "a tool may commit its transaction itself": Mutation(
        "agentrun/store/connection.py",
        "        if self.lent:\n            raise Refusing(",
        "        if False:\n            raise Refusing(",
        "steps/test_tools.py::test_a_transaction_must_not_commit_by_itself",
    ),
    "a serialization failure is the tool's error": Mutation(
        "agentrun/steps/transaction_step.py",
        "    if isinstance(error, RETRY_AT_ONCE) or is_lost(conn, error):\n",
        "    if is_lost(conn, error):\n",
        "steps/test_tools.py::test_a_serialization_failure_reruns_the_body_whole",
    ),
    # -- model calls -----------------------------------------------------------------------------
    "the SDK's own retries stay on": Mutation(
        "agentrun/models/wrap.py",
        "    target.max_retries = 0\n",
        "",
        "models/test_model_wrap.py::test_wrap_returns_the_same_instance_and_switches_the_retries_of_the_sdk_off",
    ),
    "an SDK retries what was given up": Mutation(
        "agentrun/models/attempts.py",
        '            response.headers["x-should-retry"] = "false"\n',
        "            pass\n",
        "models/test_model_retries.py::test_retries_switched_on_again_send_nothing_more",
    ),
    "no idempotency key is sent": Mutation(
        "agentrun/models/call.py",
        '            self.request.headers.setdefault("Idempotency-Key", step.key)\n',
        "            pass\n",
        "models/test_model_retries.py::test_two_429_and_an_answer_are_three_attempts_of_one_step",
    ),
    "a stream is recorded at its end, not at its last word": Mutation(
        "agentrun/models/response_body.py",
        "        if self._builder.ended:\n"
        '            self._finish_step("complete")\n'
        "        elif wire is None:\n",
        "        if wire is None:\n",
        "models/test_model_streams.py::test_the_outcome_is_recorded_before_the_terminal_marker_is_handed_on",
    ),
    "a stream without its last word is whole": Mutation(
        "agentrun/models/response_body.py",
        "            raise self._hx.RemoteProtocolError(STREAM_CUT)\n",
        '            self._finish_step("complete")\n',
        "models/test_model_streams.py::test_a_stream_that_loses_its_end_is_an_error_now_and_again",
    ),
    "something is handed on after a stream's last word": Mutation(
        "agentrun/models/response_body.py",
        'while wire == b"" or (self._finished and wire is not None):',
        'while wire == b"":',
        "models/test_model_streams.py::test_nothing_is_handed_on_that_follows_the_end",
    ),
    "an interrupted reader leaves half a reply as the recorded one": Mutation(
        "agentrun/models/response_body.py",
        "        if not _interrupted():\n",
        "        if True:\n",
        "models/test_model_streams.py::test_an_interrupted_consumer_leaves_no_outcome",
    ),
    "the id of a response is on its way, not durable, when its answer is handed on": Mutation(
        "agentrun/steps/step.py",
        "        yield self.run.durable(self.run.append(accepted))\n",
        "        yield from ()\n",
        "crash/test_inflight.py::test_a_reader_killed_at_any_event_reads_the_same_text",
    ),
    "what is under way is asked for anew": Mutation(
        "agentrun/models/background.py",
        "        self.under_way = self.step.accepted\n",
        "        self.under_way = None\n",
        "models/test_model_background.py::test_what_is_under_way_is_picked_up",
    ),
    "half an event is handed on": Mutation(
        "agentrun/models/background_stream.py",
        "        self._partial = wire[cut:]\n        return wire[:cut]\n",
        "        return wire\n",
        "models/test_model_background.py::test_a_stream_that_breaks_in_an_event_goes_on_with_it",
    ),
    "a cancelled run leaves its response": Mutation(
        "agentrun/models/background_response.py",
        "        if self.step.unwanted:\n",
        "        if False:\n",
        "models/test_model_background.py::test_a_cancelled_run_cancels_the_response",
    ),
    "what is missing of a stream is told from its beginning": Mutation(
        "agentrun/models/missing_events.py",
        "            return None if _key(event) in self._complete else event\n",
        "            return event\n",
        "models/test_model_background.py::test_a_stream_that_is_told_no_more_ends_with_the_same_texts",
    ),
    "a reply that is none is taken for an answer": Mutation(
        "agentrun/models/attempts.py",
        "        failure = self._failure_of_flaw(reply.flaw, response)\n",
        "        failure = None\n",
        "models/test_model_flaws.py::test_an_error_that_counts_nothing_was_not_billed",
    ),
    "a stream is handed on before it says anything": Mutation(
        "agentrun/models/response_body.py",
        "        while not (builder.begun or builder.ended or builder.flaw):\n",
        "        while not (self._held_back or builder.flaw):\n",
        "models/test_model_flaws.py::test_an_error_behind_a_preamble_costs_the_reader_nothing",
    ),
    "a reply that is none is recorded as one": Mutation(
        "agentrun/steps/model_step.py",
        '        status = answered if reply.answers else "error"\n',
        "        status = answered\n",
        "steps/test_bad_answers.py::test_a_failed_run_asks_again_once_the_provider_is_well",
    ),
    "a stream whose connection broke is whole once it said why it stopped": Mutation(
        "agentrun/models/response_body.py",
        "                if not self._finished:\n                    raise\n",
        "                if self._builder.partial_body() is None:\n                    raise\n",
        "models/test_model_flaws.py::test_a_stream_that_may_have_been_cut_is_an_error",
    ),
    "a refused connection uses up the retries": Mutation(
        "agentrun/models/attempts.py",
        "        if self.policy.ours and is_unreached(name, str(error)):\n",
        "        if False:\n",
        "steps/test_patience.py::test_a_refused_connection_is_waited_out_by_one_row",
    ),
    "every try to reach a provider is a row": Mutation(
        "agentrun/steps/model_step.py",
        "        if first or (wait > LONGEST_WAIT_IN_PLACE and not run.in_place):\n",
        "        if True:\n",
        "steps/test_patience.py::test_a_refused_connection_is_waited_out_by_one_row",
    ),
    # -- values, secrets, what is shown ------------------------------------------------------------
    "NUL and lone surrogates are stored as they are": Mutation(
        "agentrun/core/codec.py",
        "    if not _UNSTORABLE.search(exact):\n",
        "    if True:\n",
        "core/test_codec.py::test_stored_text_is_ascii_that_postgres_can_open",
    ),
    "a payload is not proved by its digest": Mutation(
        "agentrun/core/codec.py",
        "    if digest(data) != name:\n",
        "    if False:\n",
        "core/test_codec.py::test_a_damaged_payload_is_refused",
    ),
    "a letter lets a run go on that is kept for a person": Mutation(
        "agentrun/runs/execute.py",
        "                if person is None and (kept := last_park(events, \"review\")):\n",
        "                if (kept := last_park(events, \"review\")) and not events:\n",
        "runs/test_lost_journal.py::test_no_letter_lets_a_run_go_on_that_is_held_for_a_loss",
    ),
    "what follows a refused checkpoint looks lost by the database": Mutation(
        "agentrun/steps/transaction_step.py",
        "        run.tail.lost = run.tail.lost or error\n",
        "        pass\n",
        "steps/test_transactions.py::test_answers_that_come_after_a_refused_checkpoint_are_kept",
    ),
    "a body that cannot see the run's last event loses it the run": Mutation(
        "agentrun/steps/transaction_step.py",
        "        raise errors.SerializationFailure(",
        "        raise (yield from _refusal_error(run, batch)) or RuntimeError(",
        "steps/test_transactions.py::test_a_body_that_cannot_see_the_runs_last_event_is_rerun",
    ),
    "a reservation does not see what it waited for": Mutation(
        "agentrun/store/connection.py",
        "    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED\n",
        "",
        "store/test_isolation.py::test_a_reservation_sees_what_its_lock_made_it_wait_for",
    ),
    "who waits to migrate does not see that it was done": Mutation(
        "agentrun/store/migrate.py",
        '        conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")\n',
        "",
        "store/test_isolation.py::test_who_waits_for_another_to_migrate_sees_that_it_did",
    ),
    "a result that cannot be stored is found out too late": Mutation(
        "agentrun/values/typed_values.py",
        '        check(stored, "result")\n',
        "",
        "api/test_trouble.py::test_a_result_that_cannot_be_stored_is_told_and_its_effect_not_repeated",
    ),
    "people see secrets": Mutation(
        "agentrun/core/codec.py",
        "            written, masked = (_write(shown), summary(found)) if found else",
        "            masked = summary(found) if found else",
        "steps/test_model_steps.py::test_secrets_reach_no_row",
    ),
    "people see the secrets of a conversation": Mutation(
        "agentrun/core/codec.py",
        "            written = _write(packed_shown)\n",
        "            pass\n",
        "steps/test_model_steps.py::test_secrets_reach_no_row",
    ),
    "people see secrets in exact bytes": Mutation(
        "agentrun/steps/model_step.py",
        "    if holds_secret(reply.raw, stream=reply.stream):\n",
        "    if False:\n",
        "steps/test_model_steps.py::test_secrets_reach_no_row",
    ),
    "a resumed agent sees masks": Mutation(
        "agentrun/store/database.py",
        "        events, shared = read_events(self, run_id, exact=True)\n",
        "        events, shared = read_events(self, run_id)\n",
        "steps/test_masking.py::test_a_resumed_agent_sees_every_byte_that_the_live_one_saw",
    ),
    "a letter is read as people see it": Mutation(
        "agentrun/store/mail.py",
        'if sealed is None else decode_exact(sealed)',
        "",
        "steps/test_masking.py::test_a_letter_and_its_answer_are_exact",
    ),
    "exact values outlive their run": Mutation(
        "migrations/0001_schema.sql",
        "    DELETE FROM agentrun.exact_values x WHERE x.run_id = ANY (gone);\n",
        "",
        "steps/test_masking.py::test_only_workers_read_exact_values_and_pruning_takes_them",
    ),
    "a fingerprint can be guessed": Mutation(
        "agentrun/steps/open_step.py",
        "    wanted = replace(wanted, secret=run.database.mask_key)\n",
        "",
        "steps/test_masking.py::test_a_fingerprint_cannot_be_guessed",
    ),
    "a value that is never to be stored is stored": Mutation(
        "agentrun/api/tool.py",
        '            asked={"args": self.covered.cover(asked.args)},\n',
        '            asked={"args": asked.args},\n',
        "steps/test_covered.py::test_a_body_gets_the_value_and_nothing_stores_it",
    ),
    "a body that is called again gets the mask": Mutation(
        "agentrun/api/tool.py",
        "        args = {**asked, **self._unmasked(given)}\n",
        "        args = asked\n",
        "steps/test_covered.py::test_a_body_gets_the_value_and_nothing_stores_it",
    ),
    "a private key without an end eats what follows": Mutation(
        "agentrun/core/rules.py",
        'rf"(?P<secret>{_LINE}(?:{_BREAK}{_LINE}){{0,400}})",',
        'rf"(?P<secret>{_LINE}[^-]{{0,9999}})",',
        "core/test_secrets.py::test_what_follows_a_secret_is_seen",
    ),
    "cookies are stored": Mutation(
        "agentrun/models/reply.py",
        "    dropped = SECRET_HEADERS\n",
        "    dropped: frozenset[str] = frozenset()\n",
        "models/test_model_wrap.py::test_credentials_are_stored_nowhere",
    ),
    "secrets are logged": Mutation(
        "agentrun/core/log.py",
        "logger.addFilter(_clean)\n",
        "",
        "store/test_poison.py::test_the_log_holds_no_secret",
    ),
    "markup is not escaped": Mutation(
        "agentrun/view/safe.py",
        "    return html.escape(visible(text, multiline=True))\n",
        "    return visible(text, multiline=True)\n",
        "view/test_view.py::test_a_hostile_run_is_inert_in_a_browser",
    ),
    "control characters reach the terminal": Mutation(
        "agentrun/view/safe.py",
        "    return _SUSPECT.sub(lambda found: _make_visible(found[0], multiline), text)\n",
        "    return text\n",
        "view/test_view.py::test_a_hostile_run_is_inert_in_a_terminal",
    ),
    # -- the schema ------------------------------------------------------------------------------
    "an object is not named in the schema's header": Mutation(
        "migrations/0001_schema.sql",
        "--   reservations  ",
        "--   reservation   ",
        "store/test_schema.py::test_the_header_names_exactly_what_the_schema_has",
    ),
    "a migration leaves the roles without rights on a new table": Mutation(
        "agentrun/store/migrate.py",
        "                grant_again(conn)\n",
        "                pass\n",
        "store/test_migrate.py::"
        "test_a_migration_keeps_rows_and_gives_the_roles_their_rights",
    ),
    "the journal takes any event": Mutation(
        "migrations/0001_schema.sql",
        "CHECK (event IN",
        "CHECK (event IS NOT NULL OR event IN",
        "store/test_schema.py::test_an_event_with_another_word_is_refused",
    ),
    "the journal takes any status": Mutation(
        "migrations/0001_schema.sql",
        "        ELSE status IS NULL END)",
        "        ELSE true END)",
        "store/test_schema.py::test_an_event_with_another_word_is_refused",
    ),
    "a letter may be of any kind": Mutation(
        "migrations/0001_schema.sql",
        "CHECK (kind IN\n                     ('signal'",
        "CHECK (kind <> '' OR kind IN\n                     ('signal'",
        "store/test_schema.py::test_a_misspelt_letter_is_refused_to_its_sender",
    ),
    "a cause of death is missing in the schema": Mutation(
        "migrations/0001_schema.sql",
        ", 'session gone', 'lease expired'))",
        ", 'session gone'))",
        "store/test_schema.py::test_each_vocabulary_is_that_of_the_code",
    ),
    # -- who may do what -------------------------------------------------------------------------
    "a worker's login may say of a run what no event says": Mutation(
        "migrations/0001_schema.sql",
        "    IF wrong IS NOT NULL THEN",
        "    IF false THEN",
        "store/test_roles.py::test_a_worker_cannot_rewrite_what_happened",
    ),
    "an approver sends any letter": Mutation(
        "migrations/0001_schema.sql",
        "       OR NOT agentrun.plays('approver') THEN",
        "       OR true THEN",
        "store/test_roles.py::test_an_approver_sends_no_other_letters_and_forges_none",
    ),
    "anybody sends letters": Mutation(
        "migrations/0001_schema.sql",
        "REVOKE EXECUTE ON FUNCTION agentrun.send FROM PUBLIC;\n",
        "",
        "store/test_roles.py::test_the_sql_of_a_tool_writes_no_letters_and_no_history",
    ),
    "a privilege is missed in the middle of a run": Mutation(
        "agentrun/store/roles.py",
        "    if missing := missing_privileges(conn, role):",
        "    if missing := []:",
        "store/test_roles.py::test_a_missing_privilege_is_said_before_there_is_a_run",
    ),
    "readers see what is masked": Mutation(
        "agentrun/store/roles.py",
        '            conn.execute(_sql("REVOKE ALL ON {} FROM {}", _relation(table), name))\n',
        "            pass\n",
        "store/test_roles.py::test_who_only_looks_does_not_see_exact_values",
    ),
    "`agentrun sql` asks as the superuser": Mutation(
        "agentrun/cli/database_choice.py",
        "else reader_dsn(self.owner())",
        "else self.owner()",
        "store/test_roles.py::test_sql_on_the_command_line_asks_by_that_login",
    ),
    "a few references fill the memory": Mutation(
        "agentrun/core/sharing.py",
        "        if self._left < 0:\n",
        "        if False:\n",
        "view/test_hostile_files.py::test_references_to_references_do_not_grow_without_bound",
    ),
    "text of a model begins lines of the log": Mutation(
        "agentrun/core/log.py",
        "_in_a_line(mask.text(record.getMessage()))",
        "mask.text(record.getMessage())",
        "core/test_log.py::test_text_of_a_model_begins_no_line_of_its_own",
    ),
    "an answer is for whoever knows its key": Mutation(
        "agentrun/gateway/guard.py",
        "    caller = json.dumps([key, upstream, query.decode(\"latin-1\"), who])\n",
        "    caller = json.dumps([key, upstream])\n",
        "gateway/test_gateway.py::"
        "test_an_answer_is_for_whoever_has_the_credential_it_was_asked_with",
    ),
    "a web page asks the gateway": Mutation(
        "agentrun/gateway/service.py",
        "                self._door.check(request.headers)\n",
        "",
        "gateway/test_gateway.py::test_a_web_page_gets_nothing",
    ),
    "a path leads out of its upstream": Mutation(
        "agentrun/gateway/service.py",
        "        check_path(rest)\n",
        "",
        "gateway/test_gateway.py::test_no_path_leads_out_of_its_upstream",
    ),
    "a dead embedded server stays dead": Mutation(
        "agentrun/store/revival.py",
        "    used = _used.get(dsn)\n",
        "    used = None\n",
        "store/test_revival.py::test_a_server_that_was_stopped_on_purpose_stays_stopped",
    ),
    "a server that cannot start is started without a pause": Mutation(
        "agentrun/store/revival.py",
        "if time.monotonic() < used.not_before:",
        "if False:",
        "store/test_revival.py::"
        "test_a_server_that_cannot_start_is_not_started_in_a_loop_and_says_why",
    ),
    "a process that is to end waits for its database for ever": Mutation(
        "agentrun/store/patience.py",
        "            current.get().check(began)\n",
        "            pass\n",
        "store/test_store_patience.py::test_a_wait_gives_up_where_the_process_is_to_end",
    ),
    "a statement without an answer is waited for": Mutation(
        "agentrun/store/patience.py",
        "                        _shut(conn)\n",
        "                        pass\n",
        "store/test_store_patience.py::test_a_statement_that_gets_no_answer_is_cut_off",
    ),
    "a thread waits on for a caller who was cancelled": Mutation(
        "agentrun/store/patience.py",
        "        own.hurry()\n        raise\n",
        "        raise\n",
        "store/test_store_patience.py::test_the_thread_of_a_cancelled_waiter_gives_up",
    ),
    "the embedded server inherits its starter's environment": Mutation(
        "agentrun/store/embedded_account.py",
        'if name in _PASSED_ON or name.startswith("LC_")',
        'if not name.startswith("PG")',
        "store/test_embedded.py::test_the_server_knows_nothing_of_its_starters_environment",
    ),
    "a planted home is used": Mutation(
        "agentrun/store/embedded.py",
        "    check_owner(files.root, account)\n",
        "",
        "store/test_embedded.py::"
        "test_a_home_that_others_could_fill_is_refused_before_anything_is_run",
    ),
    "a changed link decides": Mutation(
        "agentrun/api/approval_links.py",
        "    if not hmac.compare_digest(_sign(fields, secret).encode(), signature.encode()):\n",
        "    if not signature:\n",
        "api/test_approval_links.py::test_a_link_that_was_changed_decides_nothing",
    ),
    "an auditor's query may write": Mutation(
        "agentrun/store/audit.py",
        "conn.autocommit, conn.read_only = False, True",
        "conn.autocommit, conn.read_only = False, False",
        "cli/test_cli_reading.py::test_sql_refuses_to_write",
    ),
    "a server that loses commits is taken": Mutation(
        "agentrun/store/opening.py",
        'if settings["synchronous_commit"] == "off" and not allow_unsafe:',
        "if False:",
        "store/test_opening.py::test_a_server_that_may_lose_commits_is_refused",
    ),
    # -- shapes ----------------------------------------------------------------------------------
    "the object of a method is an argument of its tool": Mutation(
        "agentrun/api/tool.py",
        "passed = [*([self.receiver] if self.receiver else []), *self.contexts]",
        "passed = [*self.contexts]",
        "values/test_callables.py::test_a_method_is_a_tool_of_its_object",
    ),
    "a framework's context is an argument": Mutation(
        "agentrun/api/tool.py",
        "passed = [*([self.receiver] if self.receiver else []), *self.contexts]",
        "passed = [self.receiver] if self.receiver else []",
        "values/test_callables.py::test_a_frameworks_context_reaches_the_tool_and_is_no_argument",
    ),
    "an async tool looks like a plain function": Mutation(
        "agentrun/api/tool.py",
        "            return self._dress(acall)\n",
        "            return self._dress(lambda *args, **kwargs: acall(*args, **kwargs))\n",
        "values/test_callables.py::test_an_async_tool_that_langchain_calls_is_a_recorded_step",
    ),
    "an async def in a plain wrapper is a tool": Mutation(
        "agentrun/values/callables.py",
        "        if inspect.iscoroutinefunction(inner):\n",
        "        if False:\n",
        "values/test_callables.py::test_what_cannot_be_recorded_is_no_tool_and_no_step",
    ),
    "an empty key is no key": Mutation(
        "agentrun/api/agent.py",
        '    if key == "":\n',
        "    if False:\n",
        "values/test_callables.py::test_a_key_is_a_text_or_a_uuid",
    ),
    "whoever finds a line of control is on it": Mutation(
        "agentrun/steps/execution_point.py",
        "        if self.performer == me:\n            return self\n",
        "        return self\n",
        "steps/test_execution_points.py::test_a_kill_at_each_effect_repeats_none_and_loses_none",
    ),
    "a context that a pool carries has a line of its first step": Mutation(
        "agentrun/steps/execution_point.py",
        "if assigned and me[1] is None and is_started_from(self.scope, assigned.scope):",
        "if False:",
        "steps/test_execution_points.py::test_equal_work_of_a_pool_is_told_apart_by_its_submission",
    ),
    "a call id is looked up on one line of control": Mutation(
        "agentrun/core/identity.py",
        "    for asked in scope.all_tool_calls() if call_id else ():\n",
        "    for asked in ():\n",
        "steps/test_execution_points.py::test_a_call_id_is_found_in_the_reply_of_a_sibling_task",
    ),
    "a coroutine is a result": Mutation(
        "agentrun/steps/step.py",
        "        if what is None:\n            return\n        refused",
        "        if True:\n            return\n        refused",
        "steps/test_execution_points.py::test_a_tool_that_returns_before_its_work_fails_the_run_and_tells_no_model",
    ),
    "each call of an async agent has an event loop of its own": Mutation(
        "agentrun/runs/event_loop.py",
        "    line, answer = current_point(), futures.Future[T]()\n",
        "    line, answer = current_point(), futures.Future[T]()\n    close()\n",
        "runs/test_event_loop.py::test_threads_and_the_main_thread_share_an_async_client",
    ),
    "Ctrl-C does not reach the event loop": Mutation(
        "agentrun/runs/event_loop.py",
        "            loop.call_soon_threadsafe(cancel)\n            futures.wait([answer])\n",
        "            pass\n",
        "runs/test_event_loop.py::test_a_signal_hands_the_run_back",
    ),
    "a conversation belongs to one line of control": Mutation(
        "agentrun/core/conversations.py",
        "        return best or own\n",
        "        return own\n",
        "view/test_repeats.py::test_a_conversation_is_told_once",
    ),
    "instructions in common make one conversation": Mutation(
        "agentrun/core/conversations.py",
        '    return any(message.role not in ("system", "developer") for message in messages)\n',
        "    return bool(messages)\n",
        "core/test_conversations.py::test_instructions_in_common_make_no_conversation",
    ),
    "the SQL transcript repeats replies": Mutation(
        "migrations/0001_schema.sql",
        "       OR NOT refers AND (replied IS NULL OR replied > seq));\n",
        "       OR true);\n",
        "view/test_repeats.py::test_a_conversation_is_told_once",
    ),
    "an item is handed on before it is durable": Mutation(
        "agentrun/runs/generator_agents.py",
        "    yield line.run.flushed()\n",
        "",
        "runs/test_generator_agents.py::"
        "test_an_item_that_was_handed_on_is_what_another_process_hands_on",
        tries=3,
    ),
    "a resumed generator yields what it makes now": Mutation(
        "agentrun/runs/generator_agents.py",
        "    return kept\n",
        "    return item\n",
        "runs/test_generator_agents.py::"
        "test_an_item_that_was_handed_on_is_what_another_process_hands_on",
    ),
    "a run that is streamed does not exist before it is read": Mutation(
        "agentrun/api/agent.py",
        "        ready = self._create_run(args, kwargs)\n",
        "        ready = self\n",
        "runs/test_generator_agents.py::test_the_run_exists_before_its_first_item_is_asked_for",
    ),
    "a generator goes on though nobody reads on": Mutation(
        "agentrun/runs/generator_agents.py",
        "                            reader.next_request().result()\n"
        "                            reader.check(line)\n",
        "",
        "runs/test_generator_agents.py::"
        "test_a_reader_that_stops_hands_the_run_back_and_nothing_further_happens",
    ),
    "after a wait for a person nobody hands items on": Mutation(
        "agentrun/runs/generator_agents.py",
        "    finally:\n        _reader.set(reader)\n",
        "    finally:\n        pass\n",
        "runs/test_generator_agents.py::test_a_reader_reads_on_after_a_wait_for_a_person",
    ),
    # -- runs above and below ------------------------------------------------------------------
    "a run that was cancelled leaves its children": Mutation(
        "agentrun/runs/ending.py",
        "if (reason := reason_for_children(run)) is not None:",
        "if (reason := None) is not None:",
        "crash/test_related_runs.py::test_a_child_is_cancelled_that_outlives_the_owner_of_both",
    ),
    "a child that is created late outlives its parent": Mutation(
        "agentrun/runs/execute.py",
        "            cancel_if_parent_ended(parent[0].run, key)",
        "            pass",
        "runs/test_deadline.py::test_a_child_ends_that_is_created_while_its_parent_ends",
    ),
    "a run that was handed back keeps its cancellation unread": Mutation(
        "agentrun/runs/related_runs.py",
        "        run = find_run(database, key)\n        if run",
        "        return\n        if run",
        "runs/test_deadline.py::test_a_child_ends_that_is_claimed_while_its_parent_ends",
    ),
    "a framework's call forgets the id of the model's call": Mutation(
        "agentrun/api/tool.py",
        "line.scope, self.name, call_id, lambda",
        "line.scope, self.name, None, lambda",
        "api/test_framework_calls.py::test_a_call_id_finds_the_models_call",
    ),
    "a framework's control flow is retried": Mutation(
        "agentrun/steps/function_step.py",
        "isinstance(error, (ToolFailed, *body.passes))",
        "isinstance(error, ToolFailed)",
        "api/test_framework_calls.py::test_control_flow_is_no_failure_to_retry_and_comes_back_whole",
    ),
    "a framework's async call has no key": Mutation(
        "agentrun/api/framework_calls.py",
        "    @functools.wraps(fn)",
        "    @functools.wraps(lambda **given: None)",
        "api/test_framework_calls.py::test_the_function_gets_the_steps_key",
    ),
    "an MCP server gets no key": Mutation(
        "agentrun/integrations/mcp.py",
        "KEY: agentrun.current_step().key}",
        "}",
        "integrations/test_adapters.py::test_killed_in_a_tool_it_goes_on",
    ),
    "a call that became a task is sent again after a kill": Mutation(
        "agentrun/integrations/mcp.py",
        "    token = leave_tasks.set(True)\n",
        "    token = leave_tasks.set(False)\n",
        "integrations/test_mcp_tasks.py::test_killed_while_its_task_goes_on_a_run_sends_no_call_again",
    ),
    "a cancelled run leaves its MCP task": Mutation(
        "agentrun/integrations/mcp.py",
        "    if run is None or not run.cancelled:\n",
        "    if run is not None:\n",
        "integrations/test_mcp_tasks.py::test_a_cancelled_run_cancels_its_task",
    ),
    "an MCP call whose answer is lost has failed": Mutation(
        "agentrun/integrations/mcp.py",
        "UNANSWERED = (CONNECTION_CLOSED, REQUEST_TIMEOUT)\n",
        "UNANSWERED = ()\n",
        "integrations/test_mcp_tasks.py::test_an_interrupted_call_whose_answer_is_lost_is_in_doubt",
    ),
    "an MCP server that is killed takes the client's run with it": Mutation(
        "agentrun/integrations/mcp.py",
        "        isinstance(client, Client)\n        and isinstance(client.server, str)\n",
        "        isinstance(client, ClientSession)\n        and isinstance(client.server, str)\n",
        "integrations/test_mcp_tasks.py::test_a_killed_server_is_restarted_and_its_task_goes_on",
    ),
    "an MCP call with a key is a fresh run": Mutation(
        "agentrun/integrations/mcp_server.py",
        "    return str(chosen) if chosen else ",
        "    return ",
        "integrations/test_mcp_tasks.py::test_agents_are_tools_and_a_key_names_the_run",
    ),
    "any run is a task of an MCP server": Mutation(
        "agentrun/integrations/mcp_server.py",
        "if run is None or run.agent not in served:",
        "if run is None:",
        "integrations/test_mcp_tasks.py::"
        "test_only_runs_of_its_agents_are_tasks_and_only_for_clients_that_declare_them",
    ),
    "any MCP client may approve": Mutation(
        "agentrun/integrations/mcp_server.py",
        "        if self.answers:\n            await asyncio",
        "        if True:\n            await asyncio",
        "integrations/test_mcp_tasks.py::test_what_waits_for_a_person_says_how_to_answer",
    ),
    "a task that asks is a task that works": Mutation(
        "agentrun/integrations/mcp_server.py",
        '            case "held":\n',
        '            case "asks":\n',
        "integrations/test_mcp_tasks.py::test_what_a_task_asks_is_answered_by_the_client_once",
    ),
    "a resumed session reads what came later": Mutation(
        "agentrun/integrations/openai_agents.py",
        "return await agentrun.step(effect=\"read\")(session_read)(limit)",
        "return await session_read(limit)",
        "integrations/test_adapters.py::test_a_resumed_session_reads_what_it_read_and_adds_nothing_twice",
    ),
    "a decorated tool of a framework is recorded twice": Mutation(
        "agentrun/integrations/effect_classes.py",
        'return hasattr(getattr(function, "__func__", function), "__agentrun_tool__")',
        "return False",
        "integrations/test_adapters.py::test_a_decorated_tool_is_recorded_once_as_it_declares",
    ),
    "two threads receive one signal": Mutation(
        "agentrun/steps/waits.py",
        "free = letter.mail_id not in step.run.consumed",
        "free = True",
        "steps/test_waits.py::test_of_two_threads_one_receives_a_signal",
    ),
    "what is no parameter is stored": Mutation(
        "agentrun/core/covered.py",
        "unknown = arguments.keys() - names",
        "unknown = set[str]()",
        "steps/test_covered.py::test_what_is_no_parameter_is_masked_whole",
    ),
    "masked= looks into plain values alone": Mutation(
        "agentrun/core/covered.py",
        'if next(iter(value), "").startswith(PREFIX):',
        "if False:",
        "steps/test_covered.py::test_a_field_is_masked_however_its_value_is_recorded",
    ),
    "guards look up names as the session does": Mutation(
        "migrations/0001_schema.sql",
        "stamp() RETURNS trigger LANGUAGE plpgsql\nSET search_path = pg_catalog, pg_temp AS",
        "stamp() RETURNS trigger LANGUAGE plpgsql AS",
        "store/test_roles.py::test_guards_mean_the_catalog_and_not_what_a_session_calls_so",
    ),
}  # fmt: skip
