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
        "runner/test_loss.py::test_whoever_went_on_without_what_was_lost_is_stopped",
    ),
    "a journal cut short is taken for a takeover": Mutation(
        "agentrun/store/outcome.py",
        "        if head.run_id in cut\n",
        "        if False\n",
        "runner/test_loss.py::test_a_run_that_is_gone_is_refused_and_not_begun_anew",
    ),
    "what was lost is forgotten": Mutation(
        "agentrun/store/database.py",
        "[claimed, *again, parked]",
        "[claimed, parked]",
        "runner/test_loss.py::test_lost_steps_are_recorded_again_and_the_run_is_held",
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
        "migrations/0008_retention.sql",
        "journal_append_only BEFORE UPDATE OR TRUNCATE ON",
        "journal_append_only BEFORE TRUNCATE ON",
        "runner/test_run.py::test_the_journal_is_append_only",
    ),
    "a run is pruned below a parent that lives": Mutation(
        "migrations/0008_retention.sql",
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
        "migrations/0008_retention.sql",
        "locked < (SELECT count(*) FROM agentrun.tree(tree.run_id))",
        "locked < cardinality(tree.ids)",
        "store/test_prune.py::test_a_child_that_is_begun_before_its_tree_is_looked_at_again",
    ),
    "a pruned key is executed again": Mutation(
        "migrations/0008_retention.sql",
        "t.key = NEW.key",
        "t.key = NEW.agent",
        "store/test_prune.py::test_a_key_that_is_used_while_its_run_is_pruned_is_not_executed",
    ),
    "a lost answer is taken for a refusal": Mutation(
        "agentrun/store/sending.py",
        "return accepted if accepted == batch.runs else accepted | settled(conn, batch)",
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
        "agentrun/store/durable.py",
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
        "agentrun/store/late.py",
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
        "agentrun/runner/step.py",
        "        self.run.check(self.scope)\n"
        "        while (yield from self.run.fence()):\n"
        "            self.run.check(self.scope)\n",
        "        yield from self.run.fence()\n        self.run.check(self.scope)\n",
        "runner/test_order.py"
        "::test_a_thread_that_waits_for_another_of_its_run_looks_at_the_lease_after_that",
    ),
    "no step asks the fence": Mutation(
        "agentrun/runner/context.py",
        "            while self.heart.stale:\n",
        "            while False:\n",
        "runner/test_order.py::test_a_worker_that_was_declared_dead_sends_nothing",
    ),
    "a run is claimed though its owner lives": Mutation(
        "agentrun/store/database.py",
        "        return dead is None, dead\n",
        "        return False, dead\n",
        "store/test_claims.py::test_a_run_of_a_live_worker_is_owned_and_of_a_dead_one_is_not",
    ),
    "a run that went on since it was looked at is claimed": Mutation(
        "agentrun/store/database.py",
        'if (last.epoch, _status(events)) != (run["epoch"], run["status"]):',
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
        "epoch = c.epoch, wake_at = NULL, open_doubt = NULL,\n    reason = NULL,",
        "epoch = c.epoch, wake_at = NULL,\n    reason = NULL,",
        "proof/test_stateful.py::test_the_database_does_what_the_model_says",
    ),
    "a run is woken by letters that it saw and did not want": Mutation(
        "agentrun/store/queries.sql",
        "(m.kind = 'cancel' OR %(looked)s AND m.id <> ALL (%(seen)b::uuid[]))",
        "(m.kind = 'cancel' OR %(looked)s AND %(seen)b::uuid[] IS NOT NULL)",
        "proof/test_stateful.py::test_the_database_does_what_the_model_says",
    ),
    "a letter that crossed its run's parking wakes nobody": Mutation(
        "agentrun/store/queries.sql",
        "m.sent_at > r.changed_at - interval '10 seconds'\n",
        "m.sent_at > r.changed_at - interval '10 seconds' AND m.sent_at <= r.changed_at\n",
        "store/test_letters.py"
        "::test_a_letter_whose_sender_commits_after_the_parkers_second_look_is_not_lost",
    ),
    "an approval answers a doubt": Mutation(
        "migrations/0007_answers.sql",
        "m.kind = 'resolve' AND m.sent_at > d.at",
        "m.sent_at > d.at",
        "runner/test_doubt.py::test_an_approval_is_no_answer_to_a_doubt",
    ),
    "a dead worker's doubt is settled before its lease has passed": Mutation(
        "agentrun/runner/doubt.py",
        "    while left > 0 and waited < longest:\n",
        "    while False:\n",
        "runner/test_doubt.py::test_a_doubt_is_settled_when_its_worker_can_send_nothing_more",
    ),
    "a lost lease is an ordinary exception": Mutation(
        "agentrun/core/errors.py",
        "class Interrupt(BaseException):",
        "class Interrupt(Exception):",
        "runner/test_identity.py::test_except_exception_does_not_swallow_an_interrupt",
    ),
    "effects go on after an interrupt": Mutation(
        "agentrun/runner/context.py",
        "            if self.interrupt is not None:\n                raise self.interrupt\n",
        "",
        "runner/test_identity.py::test_after_an_interrupt_every_further_effect_is_refused",
    ),
    "a poisonous run is claimed for ever": Mutation(
        "agentrun/runner/worker.py",
        "POISON = 5  #",
        "POISON = 10_000  #",
        "runner/test_worker.py::test_a_run_that_was_claimed_again_and_again_for_nothing_is_parked",
    ),
    "all that may crash a worker are tried at once": Mutation(
        "agentrun/runner/worker.py",
        "            if self._is_on_trial():\n",
        "            if False:\n",
        "runner/test_worker.py::test_runs_that_may_crash_their_workers_are_tried_one_at_a_time",
    ),
    "a forked child goes on with its parent's run": Mutation(
        "agentrun/runner/context.py",
        "        if self.run.pid != os.getpid():\n            raise ConfigError(",
        "        if False:\n            raise ConfigError(",
        "crash/test_ownership.py::test_a_forked_child_cannot_use_its_parents_run",
    ),
    # -- steps -----------------------------------------------------------------------------------
    "an effect begins before its intent is durable": Mutation(
        "agentrun/runner/step.py",
        "            yield self.run.durable(self.run.append(intent))\n",
        "            self.run.append(intent)\n",
        "runner/test_order.py::test_an_effect_begins_when_its_intent_is_durable",
    ),
    "a result is handed out before it is durable": Mutation(
        "agentrun/runner/ending.py",
        "    yield run.end(finished)\n",
        "    run.end(finished)\n",
        "runner/test_order.py::test_a_result_is_handed_out_when_it_is_durable",
    ),
    "a recorded step is performed again": Mutation(
        "agentrun/runner/step.py",
        "        outcome=known.outcome if known else None,\n",
        "        outcome=None,\n",
        "runner/test_models.py::test_a_conversation_with_tools_resumes_without_paying_again",
    ),
    "a step is performed beside itself": Mutation(
        "agentrun/runner/step.py",
        "        elif step.ident in run.in_flight():\n            return False\n",
        "",
        "runner/test_ends.py::test_a_step_that_a_timed_out_attempt_still_performs_is_waited_for",
    ),
    "the idempotency key changes with the attempt": Mutation(
        "agentrun/runner/perform.py",
        "info = StepInfo(step.key, step.attempts, step.number, connection)",
        'info = StepInfo(f"{step.key}.{step.attempts}", step.attempts, step.number, connection)',
        "runner/test_tools.py::test_inside_a_run_the_key_is_filled_in_and_stays_the_same",
    ),
    "a doubt is retried in silence": Mutation(
        "agentrun/runner/step.py",
        'known.open is not None and wanted.effect == "once":',
        'known.open is not None and wanted.effect == "never":',
        "runner/test_doubt.py::test_the_default_holds_the_run_for_a_person",
    ),
    "a late answer is not adopted": Mutation(
        "agentrun/runner/step.py",
        "                if late is not None:\n                    self.adopted",
        "                if False:\n                    self.adopted",
        "runner/test_order.py::test_a_late_answer_is_adopted_and_nothing_is_sent",
    ),
    "a retry after a crash begins to count anew": Mutation(
        "agentrun/models/call.py",
        "failures = step.prior_failures",
        "failures = 0",
        "models/test_model_retries.py::test_attempts_before_a_crash_count",
    ),
    "changed code is not noticed": Mutation(
        "agentrun/core/identity.py",
        "    if known is None or (known.kind, known.name, known.fingerprint)"
        " == (kind, name, fingerprint):\n",
        "    if True:\n",
        "runner/test_identity.py::test_changed_code_is_refused_with_a_diff_before_any_effect",
    ),
    "a letter is read twice": Mutation(
        "agentrun/runner/waits.py",
        '    step.run.consumed.add(str(letter["id"]))\n'
        "    step.run.append(step.read(letter), *then)\n",
        "    step.run.append(*then)\n",
        "runner/test_waits.py::test_a_signal_is_received_once_and_in_order",
    ),
    "a tool is called though nobody approved": Mutation(
        "agentrun/runner/perform.py",
        "        if body.approve and step.outcome is None:\n",
        "        if False:\n",
        "runner/test_waits.py::test_a_call_waits_for_its_approval",
    ),
    "threads do not carry the run": Mutation(
        "agentrun/runner/propagate.py",
        "    threading.Thread.start = started  # type: ignore[method-assign]\n",
        "",
        "runner/test_identity.py::test_threads_and_pools_carry_the_run",
    ),
    "malformed calls are answered without end": Mutation(
        "agentrun/runner/calls.py",
        "MALFORMED_IN_A_ROW = 3  #",
        "MALFORMED_IN_A_ROW = 10_000  #",
        "runner/test_calls.py::test_malformed_calls_are_bounded",
    ),
    "an exception comes back without its text": Mutation(
        "agentrun/runner/failures.py",
        "    if error is not None and text_of(error) != message:\n",
        "    if False:\n",
        "runner/test_failures.py::test_the_model_is_told_the_same_again",
    ),
    # -- transactions ----------------------------------------------------------------------------
    "a transaction commits before its checkpoint": Mutation(
        "agentrun/runner/transaction.py",
        '    points.reach("checkpoint", "before")\n',
        '    yield _apart(conn.commit)\n    points.reach("checkpoint", "before")\n',
        "runner/test_transactions.py::test_killed_around_its_commit_a_transaction_is_done_once",
    ),
    "a tool may commit its transaction itself": Mutation(
        "agentrun/store/connection.py",
        "        if self.lent:\n            raise ConfigError(",
        "        if False:\n            raise ConfigError(",
        "runner/test_tools.py::test_a_transaction_must_not_commit_by_itself",
    ),
    "a serialization failure is the tool's error": Mutation(
        "agentrun/runner/transaction.py",
        "    if isinstance(error, RETRY_AT_ONCE) or is_lost(conn, error):\n",
        "    if is_lost(conn, error):\n",
        "runner/test_tools.py::test_a_serialization_failure_reruns_the_body_whole",
    ),
    # -- model calls -----------------------------------------------------------------------------
    "the SDK's own retries stay on": Mutation(
        "agentrun/models/wrap.py",
        "    target.max_retries = 0\n",
        "",
        "models/test_model_wrap.py::test_wrap_returns_the_same_instance_and_switches_the_retries_of_the_sdk_off",
    ),
    "an SDK retries what was given up": Mutation(
        "agentrun/models/call.py",
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
        "agentrun/models/body.py",
        "        if self._tape.ended:\n",
        "        if self._tape.ended and wire is None:\n",
        "models/test_model_streams.py::test_the_outcome_is_recorded_before_the_terminal_marker_is_handed_on",
    ),
    "a stream without its last word is whole": Mutation(
        "agentrun/models/body.py",
        "            raise self._hx.RemoteProtocolError(NOT_WHOLE)\n",
        '            self._settle("complete")\n',
        "models/test_model_streams.py::test_a_stream_that_loses_its_end_is_an_error_now_and_again",
    ),
    "something is handed on after a stream's last word": Mutation(
        "agentrun/models/body.py",
        'while wire == b"" or (self._settled and wire is not None):',
        'while wire == b"":',
        "models/test_model_streams.py::test_nothing_is_handed_on_that_follows_the_end",
    ),
    "an interrupted reader leaves half a reply as the recorded one": Mutation(
        "agentrun/models/body.py",
        "        if not _interrupted():\n",
        "        if True:\n",
        "models/test_model_streams.py::test_an_interrupted_consumer_leaves_no_outcome",
    ),
    "the id of a response is on its way, not durable, when its answer is handed on": Mutation(
        "agentrun/runner/step.py",
        "        yield self.run.durable(self.run.append(accepted))\n",
        "        yield from ()\n",
        "crash/test_inflight.py::test_a_reader_killed_at_any_event_reads_the_same_text",
    ),
    "what is under way is asked for anew": Mutation(
        "agentrun/models/call.py",
        "            under_way = step.accepted\n",
        "            under_way = None\n",
        "models/test_model_background.py::test_what_is_under_way_is_picked_up",
    ),
    "half an event is handed on": Mutation(
        "agentrun/models/follow.py",
        "        self._rest = told[cut:]\n        return told[:cut]\n",
        "        return told\n",
        "models/test_model_background.py::test_a_stream_that_breaks_in_an_event_goes_on_with_it",
    ),
    "a cancelled run leaves its response": Mutation(
        "agentrun/models/remote.py",
        "        if self.step.unwanted:\n",
        "        if False:\n",
        "models/test_model_background.py::test_a_cancelled_run_cancels_the_response",
    ),
    "what is missing of a stream is told from its beginning": Mutation(
        "agentrun/models/spell.py",
        "            return None if _key(event) in self._told else event\n",
        "            return event\n",
        "models/test_model_background.py::test_a_stream_that_is_told_no_more_ends_with_the_same_texts",
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
        "agentrun/runner/execute.py",
        "                if person is None and (kept := safeguard(events)):\n",
        "                if (kept := safeguard(events)) and not events:\n",
        "runner/test_loss.py::test_no_letter_lets_a_run_go_on_that_is_held_for_a_loss",
    ),
    "what follows a refused checkpoint looks lost by the database": Mutation(
        "agentrun/runner/transaction.py",
        "        run.tail.lost = run.tail.lost or error\n",
        "        pass\n",
        "runner/test_transactions.py::test_answers_that_come_after_a_refused_checkpoint_are_kept",
    ),
    "a body that cannot see the run's last event loses it the run": Mutation(
        "agentrun/runner/transaction.py",
        "        raise errors.SerializationFailure(",
        "        raise (yield from _refused(run, batch)) or RuntimeError(",
        "runner/test_transactions.py::test_a_body_that_cannot_see_the_runs_last_event_is_rerun",
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
    "NaN becomes null": Mutation(
        "agentrun/runner/values.py",
        'ConfigDict(ser_json_inf_nan="constants")',
        'ConfigDict(ser_json_inf_nan="null")',
        "runner/test_trouble.py::test_a_result_that_cannot_be_stored_is_told_and_its_effect_not_repeated",
    ),
    "secrets are stored": Mutation(
        "agentrun/core/codec.py",
        "    clean, redacted = redact(value)\n",
        "    clean, redacted = value, False\n",
        "runner/test_models.py::test_secrets_reach_no_row",
    ),
    "secrets are stored in exact bytes": Mutation(
        "agentrun/runner/model_step.py",
        "    raw = without_secrets(reply.raw, stream=reply.stream)\n",
        "    raw = reply.raw\n",
        "runner/test_models.py::test_secrets_reach_no_row",
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
        "    return _SUSPECT.sub(lambda found: _shown(found[0], multiline), text)\n",
        "    return text\n",
        "view/test_view.py::test_a_hostile_run_is_inert_in_a_terminal",
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
}  # fmt: skip
