"""Deliberate defects of `agentrun/steps/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "what ends an agent is recorded like a failure": Mutation(
        "function_step._record_failure",
        "step.fail(error, control_flow=control_flow)",
        "step.fail(error)",
        "api/test_framework_calls.py::test_control_flow_is_shown_as_no_error",
    ),
    "a tool without a step passes in silence": Mutation(
        "warn_of_unrecorded_calls",
        "if not open_calls:",
        "if True:",
        "steps/test_unrecorded_calls.py::test_a_plain_function_is_named_once",
    ),
    "a tool that is a step is called unrecorded": Mutation(
        "_find_open_calls",
        "call.call_id and not call.was_made and call.name not in made",
        "call.call_id",
        "steps/test_unrecorded_calls.py::test_a_decorated_tool_is_not",
    ),
    "attempts that failed before a crash do not count": Mutation(
        "RecordedCall.prior_failures",
        "known.failures if known else 0",
        "0",
        "steps/test_model_step_contract.py::test_failed_attempts_count_after_a_crash_too",
    ),
    "a recorded reply loses the phrase beside its status": Mutation(
        "_reply_to_json",
        'output["reason"] = reply.reason',
        "pass",
        "steps/test_model_step_contract.py::test_a_recorded_reply_comes_back_as_it_was",
    ),
    "a signal is named by a credential": Mutation(
        "waits._check_name",
        'refuse_credential("the signal name", name)',
        "",
        "steps/test_mail.py::test_a_name_that_holds_a_credential_is_refused_without_showing_it",
    ),
    "each look at a response is priced": Mutation(
        "RecordedCall._usage",
        "usage if self._is_first_to_see(reply.body) else None",
        "usage",
        "steps/test_paid.py::test_a_polled_response_is_priced_once_however_often_it_is_looked_at",
    ),
    "a cache that was lost is not told": Mutation(
        "RecordedCall._call_before",
        "known.outcome if known.epoch < run.tail.epoch else None",
        "None",
        "steps/test_paid.py::test_what_a_lost_cache_cost_is_told_after_a_resume",
    ),
    "a run is held before its model is told": Mutation(
        "budgets.admit",
        "not _was_rejected_before(step)",
        "False",
        "steps/test_caps.py::test_the_model_is_told_that_the_budget_is_used_up_and_may_answer",
    ),
    "a model that asks on is told for ever": Mutation(
        "budgets.admit",
        "not _was_rejected_before(step)",
        "True",
        "steps/test_caps.py::test_if_it_asks_again_the_run_waits_for_a_larger_budget",
    ),
    "a recorded call is given what was drawn anew": Mutation(
        "locate_step",
        "request = replace(request, input=known.input)",
        "pass",
        "steps/test_values_of_runs.py::test_an_attempt_after_a_crash_has_the_arguments_of_the_first",
    ),
    "a transaction commits before its checkpoint": Mutation(
        "_send_checkpoint",
        'points.reach("checkpoint", "before")',
        """
        yield _on_connection(conn.commit)
        points.reach("checkpoint", "before")
        """,
        "steps/test_transactions.py::test_killed_around_its_commit_a_transaction_is_done_once",
    ),
    "a serialization failure is the tool's error": Mutation(
        "_decide_rerun",
        "isinstance(error, RETRY_AT_ONCE) or is_lost(conn, error)",
        "is_lost(conn, error)",
        "steps/test_tools.py::test_a_serialization_failure_reruns_the_body_whole",
    ),
    "a framework's control flow is retried": Mutation(
        "function_step._record_failure",
        "control_flow or isinstance(error, ToolFailed)",
        "isinstance(error, ToolFailed)",
        "api/test_framework_calls.py::test_control_flow_is_no_failure_to_retry_and_comes_back_whole",
    ),
    "two threads receive one signal": Mutation(
        "_take_signal",
        "letter.mail_id not in step.run.consumed",
        "True",
        "steps/test_waits.py::test_of_two_threads_one_receives_a_signal",
    ),
    # -- life and ownership ------------------------------------------------------------------------
    "the lease is looked at before the last wait": Mutation(
        "ActiveStep.await_fence",
        """
        self.run.check(self.scope)
        while (yield from self.run.fence()):
            self.run.check(self.scope)
        """,
        """
        yield from self.run.fence()
        self.run.check(self.scope)
        """,
        "steps/test_order.py::test_a_thread_that_waits_for_another_of_its_run_looks_at_the_lease_after_that",
    ),
    "no step asks the fence": Mutation(
        "RunContext.fence",
        "self.heart.stale",
        "False",
        "steps/test_order.py::test_a_worker_that_was_declared_dead_sends_nothing",
    ),
    "a run is parked for its first step, though another waits for a person": Mutation(
        "_parking",
        "parked_for=waits[0].parked_for",
        "parked_for=min(waits, key=lambda wait: wait.number or 0).parked_for",
        "steps/test_parked_for.py::test_of_several_waits_that_for_a_person_counts",
    ),
    "a run parks beside a step that is under way": Mutation(
        "_all_wait",
        "run.upcoming or any(ident not in run.waits for ident in run.in_flight())",
        "False",
        "steps/test_approvals.py::test_in_the_body_of_a_tool_nothing_parks",
    ),
    "an intent that was never sent stays open": Mutation(
        "ActiveStep.attempt",
        "self._withdraw()",
        "pass",
        "steps/test_approvals.py::test_an_intent_that_was_never_sent_is_closed_as_not_sent",
    ),
    "an unreadable letter takes the place of a decision": Mutation(
        "ignored_events",
        "== known.request_seq",
        "== 0",
        "steps/test_approvals.py::test_a_letter_that_cannot_be_read_is_noted_and_another_may_follow",
    ),
    "a dead worker's doubt is settled before its lease has passed": Mutation(
        "_await_last_send",
        "remaining > 0 and waited < longest",
        "False",
        "steps/test_doubt.py::test_a_doubt_is_settled_when_its_worker_can_send_nothing_more",
    ),
    "effects go on after an interrupt": Mutation(
        "RunContext.check",
        """
        if self.interrupt is not None:
            raise self.interrupt
        """,
        "",
        "steps/test_identity.py::test_after_an_interrupt_every_further_effect_is_refused",
    ),
    "a forked child goes on with its parent's run": Mutation(
        "ExecutionPoint.check_process",
        "self.run.pid != os.getpid()",
        "False",
        "crash/test_ownership.py::test_a_forked_child_cannot_use_its_parents_run",
    ),
    # -- steps -------------------------------------------------------------------------------------
    "an effect begins before its intent is durable": Mutation(
        "ActiveStep.attempt",
        "yield self.run.durable(durable)",
        "pass",
        "steps/test_order.py::test_an_effect_begins_when_its_intent_is_durable",
    ),
    "a recorded step is performed again": Mutation(
        "locate_step",
        "outcome=known.outcome if known else None",
        "outcome=None",
        "steps/test_model_steps.py::test_a_conversation_with_tools_resumes_without_paying_again",
    ),
    "a step is performed beside itself": Mutation(
        "_try_activate",
        """
        elif step.ident in run.in_flight():
            return False
        """,
        "",
        "lifecycle/test_ends.py::test_a_step_that_a_timed_out_attempt_still_performs_is_waited_for",
    ),
    "the idempotency key changes with the attempt": Mutation(
        "_invoke",
        "StepInfo(step.key,",
        'StepInfo(f"{step.key}.{step.attempts}",',
        "steps/test_tools.py::test_inside_a_run_the_key_is_filled_in_and_stays_the_same",
    ),
    "a doubt is retried in silence": Mutation(
        "open_step",
        'known.open is not None and request.effect == "once"',
        'known.open is not None and request.effect == "never"',
        "steps/test_doubt.py::test_the_default_holds_the_run_for_a_person",
    ),
    "a late answer is not adopted": Mutation(
        "ActiveStep.attempt",
        "late is not None",
        "False",
        "steps/test_order.py::test_a_late_answer_is_adopted_and_nothing_is_sent",
    ),
    "changed code is not noticed": Mutation(
        "locate_step",
        "known is not None and not request.matches(known, fingerprint)",
        "False",
        "steps/test_identity.py::test_changed_code_is_refused_with_a_diff_before_any_effect",
    ),
    "a step that was asked for again is set aside": Mutation(
        "locate_step",
        "known.on_path = True",
        "",
        "lifecycle/test_deploys.py::test_a_step_of_the_new_path_in_another_task_is_not_set_aside",
    ),
    "the steps of a failed attempt's body count as those of its retry": Mutation(
        "_invoke",
        "point.run.history.begin_again(inside.scope.path)",
        "pass",
        "lifecycle/test_deploys.py::test_a_retry_whose_body_takes_another_path_is_recorded_as_it_was",
    ),
    "a new path does an effect again": Mutation(
        "reuse_step",
        "reuse(run.history, request, fingerprint, ident)",
        "None",
        "lifecycle/test_deploys.py::test_a_new_path_finds_each_recorded_effect_again_once",
    ),
    "kept replies are paid again": Mutation(
        "apply_policy",
        "known.outcome is None",
        "True",
        "lifecycle/test_deploys.py::test_kept_replies_are_not_paid_again_and_their_differences_are_recorded_once",
    ),
    "a repeated call has another key": Mutation(
        "locate_step",
        "repeats or step_key(",
        "step_key(",
        "lifecycle/test_deploys.py::test_a_call_repeated_after_its_error_keeps_its_key",
    ),
    "a refusal can be swallowed": Mutation(
        "_find_location",
        "raise point.run.stop(Refusing(str(error))) from None",
        "raise",
        "steps/test_identity.py::test_overlapping_once_steps_of_one_scope_are_refused",
    ),
    "a refusal in a run is an ordinary error": Mutation(
        "refusals.refusal",
        "ConfigError(text) if run is None else run.stop(Refusing(text))",
        "ConfigError(text)",
        "steps/test_refusals.py::test_what_is_refused_in_a_run_fails_it_whatever_its_code_catches",
    ),
    "a forked child goes on after an ordinary error": Mutation(
        "ExecutionPoint.check_process",
        "raise Refusing(",
        "raise ConfigError(",
        "steps/test_refusals.py::test_a_forked_child_is_refused_whatever_its_code_catches",
    ),
    "a step that was cancelled is refused by an ordinary error": Mutation(
        "_await_cancellation.never",
        "raise point.run.stop(Refusing(text))",
        "raise ConfigError(text)",
        "steps/test_refusals.py::test_a_cancelled_step_that_sync_code_asks_for_is_refused",
    ),
    "recorded outcomes come in the order in which they are asked for": Mutation(
        "ReplayOrder.take",
        "if not self._due:",
        "if True:",
        "steps/test_replay_order.py::test_results_come_in_the_order_in_which_they_came",
    ),
    "a new step overtakes recorded outcomes": Mutation(
        "ReplayOrder.take",
        "return self._is_next(step.ident)",
        "return True",
        "steps/test_replay_order.py::test_killed_half_way_the_recorded_turns_come_first",
    ),
    "the next outcome comes before the code is at its next wait": Mutation(
        "replay_order._SETTLE",
        "10",
        "0",
        "steps/test_replay_order.py::test_results_come_in_the_order_in_which_they_came",
    ),
    "the next outcome overtakes a reply that is being read": Mutation(
        "ReplayOrder._watch",
        "and not self.decoding",
        "",
        "steps/test_replay_order.py::test_replies_come_in_the_order_in_which_they_came",
    ),
    "an outcome that nobody asks for holds up each step": Mutation(
        "ReplayOrder._watch",
        "max(0, self._patience - 1)",
        "self._patience",
        "steps/test_replay_order.py::test_an_outcome_that_is_not_asked_for_holds_nobody_up_for_long",
    ),
    "sequential code waits for its turn": Mutation(
        "ReplayOrder.take",
        "self._last in (None, me)",
        "self._last is None",
        "steps/test_replay_order.py::test_sequential_code_never_waits",
    ),
    "a body that raises a cancellation itself counts as cancelled": Mutation(
        "ActiveStep.was_cancelled",
        "cancellations() > before",
        "True",
        "steps/test_cancelled_steps.py"
        "::test_a_body_that_raises_the_cancellation_itself_raises_it_again",
    ),
    "a cancellation that its task has not seen counts as seen": Mutation(
        "performer.cancellations",
        'task.cancelling() - bool(getattr(task, "_must_cancel", False))',
        "task.cancelling()",
        "steps/test_cancelled_steps.py"
        "::test_a_step_is_cancelled_that_begins_in_a_task_that_cancelled_itself",
    ),
    "the wait for a cancellation does not see that the run was stopped": Mutation(
        "_await_cancellation",
        "point.run.check(point.scope)",
        "pass",
        "steps/test_cancelled_steps.py::test_sigterm_ends_the_wait_for_a_cancellation",
    ),
    "a database that fails a run raises an ordinary error": Mutation(
        "asking_database",
        "raise lost from error",
        "raise",
        "steps/test_refusals.py::test_a_database_that_fails_the_run_ends_it_whatever_its_code_catches",
    ),
    "a letter is read twice": Mutation(
        "record_received",
        """
        step.run.consumed.add(letter.mail_id)
        step.run.append(step.received_event(letter), *then)
        """,
        "step.run.append(*then)",
        "steps/test_waits.py::test_a_signal_that_was_received_before_a_kill_is_not_received_again",
    ),
    "a tool is called though nobody approved": Mutation(
        "_perform_step",
        "body.approve and step.outcome is None",
        "False",
        "steps/test_waits.py::test_a_call_waits_for_its_approval",
    ),
    # -- model calls -------------------------------------------------------------------------------
    "the id of a response is on its way, not durable, when its answer is handed on": Mutation(
        "ActiveStep.accept",
        "yield self.run.durable(self.run.append(accepted))",
        "yield from ()",
        "crash/test_inflight.py::test_a_reader_killed_at_any_event_reads_the_same_text",
    ),
    "a reply that is none is recorded as one": Mutation(
        "RecordedCall.finish",
        'answered if reply.answers else "error"',
        "answered",
        "steps/test_bad_answers.py::test_a_failed_run_asks_again_once_the_provider_is_well",
    ),
    "every try to reach a provider is a row": Mutation(
        "RecordedCall.await_provider",
        "first or (wait > LONGEST_WAIT_IN_PLACE and not run.in_place)",
        "True",
        "steps/test_patience.py::test_a_refused_connection_is_waited_out_by_one_row",
    ),
    # -- values, secrets, what is shown ------------------------------------------------------------
    "what follows a refused checkpoint looks lost by the database": Mutation(
        "_refusal_error",
        "run.tail.lost = run.tail.lost or error",
        "pass",
        "steps/test_transactions.py::test_answers_that_come_after_a_refused_checkpoint_are_kept",
    ),
    "a body that cannot see the run's last event loses it the run": Mutation(
        "_send_checkpoint",
        "raise errors.SerializationFailure(",
        "raise (yield from _refusal_error(run, batch)) or RuntimeError(",
        "steps/test_transactions.py::test_a_body_that_cannot_see_the_runs_last_event_is_rerun",
    ),
    "people see secrets in exact bytes": Mutation(
        "_reply_to_json",
        "holds_secret(reply.raw, stream=reply.stream)",
        "False",
        "steps/test_model_steps.py::test_secrets_reach_no_row",
    ),
    "a fingerprint can be guessed": Mutation(
        "locate_step",
        "request = replace(request, secret=run.database.mask_key)",
        "",
        "steps/test_masking.py::test_a_fingerprint_cannot_be_guessed",
    ),
    # -- agents and tools of any shape -------------------------------------------------------------
    "whoever finds a line of control is on it": Mutation(
        "ExecutionPoint.here",
        """
        if self.performer == me:
            return self
        """,
        "return self",
        "steps/test_execution_points.py::test_a_kill_at_each_effect_repeats_none_and_loses_none",
    ),
    "a context that a pool carries has a line of its first step": Mutation(
        "ExecutionPoint.here",
        "assigned and me[1] is None and is_started_from(self.scope, assigned.scope)",
        "False",
        "steps/test_execution_points.py::test_equal_work_of_a_pool_is_told_apart_by_its_submission",
    ),
    "a coroutine is a result": Mutation(
        "ActiveStep.check_finished",
        "what is None",
        "True",
        "steps/test_execution_points.py::test_a_tool_that_returns_before_its_work_fails_the_run_and_tells_no_model",
    ),
    "a call reads a stream that the code has left": Mutation(
        "open_model_step",
        "if point.run.open_replies:",
        "if False:",
        "steps/test_calls_in_streams.py::test_a_stream_that_was_left_is_not_read_by_a_call_of_a_later_reply",
    ),
    "the error of a tool is recorded without its traceback": Mutation(
        "ActiveStep.fail",
        "describe(error, trace=True)",
        "describe(error)",
        "api/test_evidence.py::test_the_error_of_a_tool_names_the_line_of_its_code",
    ),
    "a reply that is no JSON can be read nowhere": Mutation(
        "model_step._reply_to_json",
        "reply.body is None and reply.raw",
        "False",
        "api/test_evidence.py::test_a_reply_that_is_no_json_can_be_read",
    ),
    "a resume builds each recorded request": Mutation(
        "locate_step",
        'request.kind != "model" and known is not None and known.input is not None',
        'known is not None and known.input is not None and request.kind != "model"',
        "api/test_evidence.py::test_a_resume_builds_no_request_again",
    ),
}
