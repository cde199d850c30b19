"""Deliberate defects of `agentrun/core/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "a resume repeats an effect whose outcome nobody knew": Mutation(
        "history._apply_decision",
        "known.open, known.doubtful_attempt = known.doubtful_attempt, None",
        "known.open, known.doubtful_attempt = None, None",
        "steps/test_doubt.py::test_resume_asks_a_person_and_repeats_nothing_where_nobody_knew",
    ),
    "a name after another name and a colon hides no secret": Mutation(
        "_matches",
        "found.start(value) if inside else found.end()",
        "found.end()",
        "core/test_secrets.py::test_a_name_inside_the_value_of_another_is_found",
    ),
    "a name inside the quotes of another name hides no secret": Mutation(
        "_matches",
        'inside = ordinary and ("=" in found[value] or ":" in found[value])',
        'inside = ordinary and value == "bare"',
        "core/test_secrets.py::test_a_name_inside_a_quoted_text_is_found",
    ),
    "people see what a SecretStr hides": Mutation(
        "_Search._mask_named",
        "name.startswith(SECRET_TAG) and isinstance(item, str)",
        "False",
        "values/test_values.py::test_people_and_models_see_no_secret",
    ),
    "an API has another name than in the journals of yesterday": Mutation(
        "COHERE_CHAT",
        '"chat"',
        '"cohere.chat"',
        "models/test_model_api_names.py::test_the_names_are_those_that_journals_hold",
    ),
    "each look comes after the same pause as the one before": Mutation(
        "PollSchedule.next_pause",
        "self._pause = min(_LONGEST, pause * _GROWTH)",
        "",
        "core/test_pauses.py::test_each_look_comes_later_than_the_one_before_up_to_a_longest_pause",
    ),
    "workers whose calls failed together retry together": Mutation(
        "Backoff.pause_after",
        "longest * (1 - _JITTER * chance)",
        "longest",
        "core/test_pauses.py::test_jitter_shortens_a_backoff_and_never_lengthens_it",
    ),
    "half an argument passes, since it is no JSON": Mutation(
        "mask_arguments",
        '_mask_of(arguments, "arguments")',
        "arguments",
        "steps/test_covered.py::test_malformed_arguments_are_masked_whole",
    ),
    "a short password in code is shown": Mutation(
        "values_of_names",
        "short or looks_secret(",
        "looks_secret(",
        "core/test_secrets.py::test_a_short_literal_under_a_sensitive_name_is_masked",
    ),
    "a name of a variable is taken for a password": Mutation(
        "naming._is_short",
        "not alike and (quoted or",
        "not alike and (True or",
        "core/test_secrets.py::test_ordinary_text_is_left_alone",
    ),
    "the id of a reply is taken for text": Mutation(
        "_response",
        "identifier if isinstance(identifier, str) else None",
        "identifier",
        "core/test_transcript.py::test_the_id_of_a_garbled_reply_may_be_any_json",
    ),
    "a cancelled run has an error and no reason": Mutation(
        "Fold._on_ended",
        'event.event == "run_cancelled"',
        "False",
        "core/test_transcript.py::"
        "test_a_cancelled_run_says_who_cancelled_it_and_why_and_has_no_error",
    ),
    "a model call that was never made is counted": Mutation(
        "transcript._has_begun",
        'step.kind != "model" or bool(step.attempts)',
        "True",
        "core/test_transcript.py::test_a_model_call_that_was_never_made_is_not_counted",
    ),
    "an attempt begins with its intent, whatever its outcome says": Mutation(
        "_FoldedStep.close_attempt",
        "event.started_at or begun.started_at",
        "begun.started_at",
        "core/test_transcript.py::test_an_attempt_begins_when_its_outcome_says_so_as_in_sql",
    ),
    "what is suggested for a budget is not enough": Mutation(
        "budget._suggest",
        "max(doubled, Decimal(needed))",
        "doubled",
        "core/test_budget.py::test_what_is_suggested_is_enough_and_readable",
    ),
    "small amounts of a budget are rounded away": Mutation(
        "budget._amount",
        "money(Decimal(amount))",
        'f"${amount:.2f}"',
        "core/test_budget.py::test_small_amounts_are_told_as_viewers_tell_them",
    ),
    "a budget of tool calls holds nothing": Mutation(
        "budget.admit",
        "left < allowed",
        "False",
        "steps/test_caps.py::test_calls_at_once_and_of_children_do_not_pass_it_together",
    ),
    "a larger budget approves the call": Mutation(
        "history._apply_decision",
        '"of" not in output',
        "True",
        "steps/test_caps.py::test_a_larger_budget_is_no_approval_of_the_call",
    ),
    "an attempt of a dead owner is running": Mutation(
        "transcript.fold",
        """
        if owner_lost:
            run.mark_attempts_lost()
        """,
        "",
        "core/test_transcript.py::test_an_attempt_of_the_last_claim_is_running_until_somebody_else_has_the_run",
    ),
    "an attempt runs on when another has the run": Mutation(
        "Fold._on_claimed",
        """
        self.mark_attempts_lost()
        self._band = _Band(
        """,
        "self._band = _Band(",
        "core/test_transcript.py::test_an_attempt_of_the_last_claim_is_running_until_somebody_else_has_the_run",
    ),
    "a lost lease is an ordinary exception": Mutation(
        "Interrupt",
        "class Interrupt(BaseException)",
        "class Interrupt(Exception)",
        "steps/test_identity.py::test_except_exception_does_not_swallow_an_interrupt",
    ),
    "a redone step is found again": Mutation(
        "Redo.event",
        "numbers = [one.step for one in self.redone]",
        "numbers: list[int] = []",
        "api/test_redo.py::test_what_acts_once_is_not_done_again_unless_told",
    ),
    "a redo leaves what came after it in the scopes around": Mutation(
        "_depends",
        "theirs.startswith(ours) or ours.startswith(theirs)",
        "theirs.startswith(ours)",
        "api/test_redo.py::test_steps_around_the_redone_one_depend_on_it",
    ),
    "a few references fill the memory": Mutation(
        "Shared.receive",
        "self._allowance < 0",
        "False",
        "view/test_hostile_files.py::test_references_to_references_do_not_grow_without_bound",
    ),
    "text of a model begins lines of the log": Mutation(
        "log._clean",
        "_in_a_line(mask.text(record.getMessage()))",
        "mask.text(record.getMessage())",
        "core/test_log.py::test_text_of_a_model_begins_no_line_of_its_own",
    ),
    "what is no parameter is stored": Mutation(
        "_mask_unknown",
        "arguments.keys() - names",
        "set[str]()",
        "steps/test_covered.py::test_what_is_no_parameter_is_masked_whole",
    ),
    "masked= looks into plain values alone": Mutation(
        "mask_path",
        'next(iter(value), "").startswith(PREFIX)',
        "False",
        "steps/test_covered.py::test_a_field_is_masked_however_its_value_is_recorded",
    ),
    # -- steps -------------------------------------------------------------------------------------
    "a step of the new path is set aside": Mutation(
        "find_set_aside",
        "and not known.on_path",
        "",
        "core/test_divergence.py::test_steps_that_this_claim_began_or_replayed_stay",
    ),
    "a resume asks for a reused step at its old place": Mutation(
        "History._apply_reuse",
        "known.ident = ident + known.ident.removeprefix(before)",
        "",
        "lifecycle/test_paths.py::test_histories_transcripts_and_sql_agree_about_what_a_resume_serves",
    ),
    "the diverging step stays": Mutation(
        "find_set_aside",
        """
        if known is first
        or (
        """,
        "if (",
        "lifecycle/test_deploys.py::test_a_step_of_the_new_path_in_another_task_is_not_set_aside",
    ),
    "a history serves what was set aside": Mutation(
        "History._apply_divergence",
        "del self.steps[known.ident]",
        "",
        "core/test_divergence.py::test_a_transcript_sets_the_steps_aside_that_a_history_does",
    ),
    "an event of a step that was set aside takes its old place": Mutation(
        "History._step_of",
        "self.by_number.get(event.step)",
        "self.steps.get(event.ident)",
        "core/test_divergence.py::test_the_events_of_a_step_that_was_set_aside_are_not_those_of_a_new_one",
    ),
    "steps that were moved together lose their order": Mutation(
        "RecordedStep.order",
        "self.born, self.step",
        "self.born, 0",
        "core/test_divergence.py::test_a_redo_sets_the_calls_of_a_reused_reply_aside",
    ),
    "a divergence takes back every question": Mutation(
        "History._apply_divergence",
        "self.divergences += 1",
        """
        self.divergences += 1
        for known in self.by_number.values():
            known.request = None
        """,
        "core/test_divergence.py::test_a_divergence_takes_back_the_questions_of_the_steps_that_it_sets_aside",
    ),
    "a step that was set aside counts as replayed in the transcript": Mutation(
        "Fold._on_diverged",
        'self._mark_set_aside(listed_steps(event, "set_aside"), True)',
        "",
        "core/test_divergence.py::test_a_transcript_sets_the_steps_aside_that_a_history_does",
    ),
    "a reused step stays set aside in the transcript": Mutation(
        "Fold._HANDLERS",
        '"step_reused": _on_step_reused,',
        "",
        "core/test_divergence.py::test_a_transcript_sets_the_steps_aside_that_a_history_does",
    ),
    "a reply of another conversation is kept": Mutation(
        "_why_not_keep",
        "not same_conversation(",
        "False and not same_conversation(",
        "core/test_divergence.py::test_the_message_names_what_differs_of_a_model_call",
    ),
    # -- values, secrets, what is shown ------------------------------------------------------------
    "NUL and lone surrogates are stored as they are": Mutation(
        "_write",
        "not _UNSTORABLE.search(exact)",
        "True",
        "core/test_codec.py::test_stored_text_is_ascii_that_postgres_can_open",
    ),
    "a payload is not proved by its digest": Mutation(
        "detach",
        "digest(data) != name",
        "False",
        "core/test_codec.py::test_a_damaged_payload_is_refused",
    ),
    "people see secrets": Mutation(
        "encode",
        "written, masked = (_write(shown), summary(found)) if found else",
        "masked = summary(found) if found else",
        "steps/test_model_steps.py::test_secrets_reach_no_row",
    ),
    "people see the secrets of a conversation": Mutation(
        "encode",
        "written = _write(packed_shown)",
        "pass",
        "steps/test_model_steps.py::test_secrets_reach_no_row",
    ),
    "a private key without an end eats what follows": Mutation(
        "_OTHERS",
        'rf"(?P<secret>{_LINE}(?:{_BREAK}{_LINE}){{0,400}})"',
        'rf"(?P<secret>{_LINE}[^-]{{0,9999}})"',
        "core/test_secrets.py::test_what_follows_a_secret_is_seen",
    ),
    "secrets are logged": Mutation(
        "logger.addFilter",
        "logger.addFilter(_clean)",
        "",
        "store/test_poison.py::test_the_log_holds_no_secret",
    ),
    # -- agents and tools of any shape -------------------------------------------------------------
    "a call id is looked up on one line of control": Mutation(
        "find_call",
        "for asked in scope.all_tool_calls() if call_id else ()",
        "for asked in ()",
        "steps/test_execution_points.py::test_a_call_id_is_found_in_the_reply_of_a_sibling_task",
    ),
    "a conversation belongs to one line of control": Mutation(
        "Conversations._find_continued",
        "if able:",
        "if False:",
        "view/test_repeats.py::test_a_conversation_is_told_once",
    ),
    "instructions in common make one conversation": Mutation(
        "Conversations._extend",
        'before.dialogue or message.role not in ("system", "developer")',
        "True",
        "core/test_conversations.py::test_instructions_in_common_make_no_conversation",
    ),
    "a divergence says nothing of a model that is not recorded": Mutation(
        "explain",
        "not history.has_model_call()",
        "False",
        "core/test_divergence.py::test_the_message_says_that_no_model_call_is_recorded",
    ),
    # -- reading costs what is new -----------------------------------------------------------------
    "a reader names each body of a request by its whole text": Mutation(
        "Shared._hold_part",
        "text is None and _has_prefix(packed)",
        "False",
        "core/test_linear_reading.py::test_a_conversation_twice_as_long_takes_twice_the_work",
    ),
    "a transcript builds each request whole": Mutation(
        "folding._outline",
        "event.input if event.packed is None else event.packed.outline()",
        "event.input",
        "core/test_linear_reading.py::test_a_conversation_twice_as_long_takes_twice_the_work",
    ),
    "the messages of a beginning are read again": Mutation(
        "Conversations._beginning",
        "(start.place, name) not in self._beginnings",
        "True",
        "core/test_linear_reading.py::test_a_conversation_twice_as_long_takes_twice_the_work",
    ),
    "the settings of a step repeat its conversation": Mutation(
        "folding._CONVERSATION",
        '"messages", ',
        "",
        "core/test_linear_reading.py::test_no_format_repeats_the_conversation_in_each_step",
    ),
    "a part that has no name yet is not found": Mutation(
        "Shared._node",
        "not self._unnamed",
        "True",
        "core/test_linear_reading.py::test_the_same_request_again_refers_to_the_whole_of_the_first",
    ),
    "a step has no request if it is packed": Mutation(
        "Step.request",
        "isinstance(recorded, Packed)",
        "False",
        "core/test_linear_reading.py::test_a_step_keeps_its_exact_request",
    ),
    "a late reply goes into a conversation that has gone on": Mutation(
        "Conversations.add_reply",
        "request.conversation.latest is request",
        "True",
        "core/test_conversations.py::test_a_reply_after_the_next_request_is_not_of_the_conversation",
    ),
    "JSON texts from untrusted files nest deeper with each line": Mutation(
        "Shared._text",
        "self._allowance != math.inf",
        "False",
        "view/test_hostile_files.py::test_references_do_not_nest_without_bound",
    ),
    # -- evidence ----------------------------------------------------------------------------------
    "the step of a reply that failed a run is not named": Mutation(
        "Fold._failed_step",
        '_get(event.output, "reply") if event.step is None else event.step',
        "event.step",
        "api/test_evidence.py::test_a_reply_that_the_agent_could_not_read_is_the_step_that_failed",
    ),
    "a library is named as the place of a failure": Mutation(
        "entries._find_site",
        "own or frames",
        "frames",
        "api/test_evidence.py::test_the_error_of_a_tool_names_the_line_of_its_code",
    ),
    "an id of a tool call is a difference of two runs": Mutation(
        "comparison._comparable",
        "(call.name, comparable_text(call.arguments))",
        "(call.id, call.name, comparable_text(call.arguments))",
        "view/test_comparison.py::test_ids_of_calls_times_and_keys_are_no_difference",
    ),
    "steps that were set aside are compared": Mutation(
        "_steps_by_place",
        "not step.set_aside",
        "True",
        "view/test_comparison.py::test_what_was_set_aside_is_counted_and_not_compared",
    ),
    "a reused step is compared at its old place": Mutation(
        "Fold._on_step_reused",
        "replace(step.first, ident=ident)",
        "step.first",
        "view/test_comparison.py::test_a_step_that_was_reused_is_compared_at_its_new_place",
    ),
    "a changed result is told again by each later model call": Mutation(
        "_messages_by_step",
        "and not entry.echo",
        "",
        "view/test_comparison.py::test_the_first_difference_is_found_and_not_told_again",
    ),
    "a nullable integer becomes a float in pandas": Mutation(
        "_pandas_type",
        '"Int64" if None in column else "int64"',
        "None",
        "api/test_sql.py::test_pandas_keeps_the_types",
    ),
    "a numeric becomes a float in polars": Mutation(
        "_polars_type",
        "polars.Decimal(38, scale)",
        "polars.Float64",
        "api/test_sql.py::test_polars_keeps_the_types",
    ),
    "a piece of a journal builds every entry again": Mutation(
        "LiveFold.take",
        "event.event in _FAR",
        "True",
        "view/test_follow.py::test_a_piece_builds_only_the_entries_that_it_changes",
    ),
    "a claim changes no entry before it": Mutation(
        "LiveFold.take",
        "event.event in _FAR",
        "False",
        "view/test_follow.py::test_pieces_fold_to_the_same_transcript",
    ),
    "a table names its columns as they are": Mutation(
        "Table.__repr__",
        "repr(name)[1:-1]",
        "name",
        "view/test_reprs.py::test_a_plan_to_redo_and_the_names_of_columns_are_inert",
    ),
}
