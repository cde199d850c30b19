"""Deliberate defects of `agentrun/store/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "lists name the control flow of a framework as an error": Mutation(
        "-- name: append",
        "AND NOT (codec & 8 = 0 AND agentrun.is_control_flow(output::json)) AS is_error",
        "AS is_error",
        "api/test_framework_calls.py::test_control_flow_is_shown_as_no_error",
    ),
    "the dead work on in lists": Mutation(
        "-- name: runs",
        "WHEN s.is_working AND now.owner_dead THEN",
        "WHEN false THEN",
        "store/test_summaries.py::test_a_run_whose_process_is_dead_does_not_work",
    ),
    "the cost of a tree has no grandchildren": Mutation(
        "-- name: relatives",
        "agentrun.tree(r.run_id) t",
        "(SELECT o.run_id FROM agentrun.runs o WHERE r.run_id IN (o.run_id, o.parent)) t",
        "store/test_summaries.py::"
        "test_the_relatives_of_a_run_are_its_parent_its_children_and_the_cost_of_its_tree",
    ),
    "two columns of the journal are exchanged on their way into it": Mutation(
        "-- name: append_plain",
        """
        reasoning_tokens, audio_tokens, cost, cache_lost, priced_by, codec, input, output
        FROM (
        """,
        """
        audio_tokens, reasoning_tokens, cost, cache_lost, priced_by, codec, input, output
        FROM (
        """,
        "store/test_journal_columns.py::test_each_column_comes_back_as_it_was_appended",
    ),
    "a column of the journal is sent in another type than the table's": Mutation(
        "rows._PLAIN",
        '"attempt": INT4S',
        '"attempt": INT8S',
        "store/test_journal_columns.py::test_the_list_has_the_columns_of_the_table_and_their_types",
    ),
    "a home in which everybody may put programs": Mutation(
        "check_owner",
        "folder != root and found.st_mode & stat.S_ISVTX",
        "found.st_mode & stat.S_ISVTX",
        "store/test_embedded.py::test_a_home_is_refused_where_others_could_write_or_replace_it",
    ),
    "a folder above the home that a group may change": Mutation(
        "check_owner",
        "not sticky and _members(found.st_gid) - ours",
        "folder == root and _members(found.st_gid) - ours",
        "store/test_embedded.py::test_a_home_is_refused_where_others_could_write_or_replace_it",
    ),
    "a resumed agent is given the masked values": Mutation(
        "read_events",
        "if exact:",
        "if False:",
        "proof/test_live_equals_resumed.py::test_an_agent_that_meets_every_kind_sees_it_again",
    ),
    "a reader sees the exact values of masked columns": Mutation(
        "HIDDEN",
        '("exact_values", "mask_key"',
        '("mask_key"',
        "proof/test_canaries.py::test_no_secret_is_left_anywhere",
    ),
    "a response that goes on settles its reservation": Mutation(
        "-- name: settle_tree",
        "WHEN agentrun.goes_on(j.event, j.codec, j.output) THEN 'goes on'",
        "",
        "steps/test_paid.py::test_the_reservation_of_a_polled_response_settles_when_it_is_seen",
    ),
    "a resumed tool call counts again": Mutation(
        "store.budgets._count",
        """
        counted = {row["key"] for row in conn.execute(QUERIES["counted"], {**place, "keys":
        [*keys]})}
        """,
        "counted: set[str] = set()",
        "steps/test_caps.py::test_killed_in_the_middle_of_a_reply_it_counts_each_call_once",
    ),
    "a worker takes runs of every queue": Mutation(
        "-- name: servers",
        "count(w.worker) FILTER (WHERE r.agent = ANY(w.agents) AND r.queue = ANY(w.queues))",
        "count(w.worker) FILTER (WHERE r.agent = ANY(w.agents))",
        "cli/test_cli_status.py::test_a_worker_goes_on_only_where_one_lives_that_takes_the_queue",
    ),
    "a version of the code tries a run without end": Mutation(
        "-- name: diverged",
        "NOT coalesce(jsonb_exists(p.versions::jsonb, %(version)s), false))",
        "true)",
        "lifecycle/test_deploys.py::test_a_version_of_the_code_tries_a_run_once",
    ),
    "a commit of a tool's own is an ordinary error": Mutation(
        "_Lent._refuse",
        "raise Refusing(",
        "raise ConfigError(",
        "steps/test_refusals.py::test_what_is_refused_in_a_run_fails_it_whatever_its_code_catches",
    ),
    "the database's DateStyle counts": Mutation(
        "-- name: backend",
        "set_config('DateStyle', 'ISO, MDY', false), set_config(",
        "set_config(",
        "api/test_small_inputs.py::test_what_a_database_sets_by_default_does_not_count",
    ),
    "a tool may commit its transaction itself": Mutation(
        "_Lent._refuse",
        "self.lent",
        "False",
        "steps/test_tools.py::test_a_transaction_must_not_commit_by_itself",
    ),
    "a migration leaves the roles without rights on a new table": Mutation(
        "migrate.migrate",
        "grant_again(conn)",
        "pass",
        "store/test_migrate.py::test_a_migration_keeps_rows_and_gives_the_roles_their_rights",
    ),
    # -- the house ---------------------------------------------------------------------------------
    "an import inside a function closes a circle": Mutation(
        "numbered",
        "names = list(dict.fromkeys(",
        """
        from agentrun.store import roles  # noqa: F401

        names = list(dict.fromkeys(
        """,
        "test_house.py::test_no_import_goes_in_a_circle",
    ),
    "the public database offers its connections": Mutation(
        "Database",
        "dsn: str",
        """
        dsn: str
        connection: Any
        """,
        "test_house.py::test_the_public_database_offers_its_dsn_and_its_end",
    ),
    "two classes have one name": Mutation(
        "Session",
        "class Session:",
        """
        class Journal:
            pass


        class Event:
            pass


        class Session:
        """,
        "test_house.py::test_class_names_are_unique_and_names_say_something",
    ),
    # -- the journal -------------------------------------------------------------------------------
    "the fence of a group's append is removed": Mutation(
        "-- name: append",
        """
        AND (b.event = 'claimed' OR p.worker = b.worker)
        AND p.epoch = b.epoch - (b.event = 'claimed')::int)
        """,
        ")",
        "store/test_append_stress.py::test_no_append_is_torn_lost_or_let_in_late",
    ),
    "the fence of a lone run's append is removed": Mutation(
        "-- name: append_plain",
        """
        p.seq = %(first)s::bigint - 1
          AND p.worker = %(worker)s::text AND p.epoch = %(epoch)s::bigint)
        """,
        "p.seq = %(first)s::bigint - 1)",
        "store/test_append_stress.py::test_no_append_of_a_lone_run_is_torn_lost_or_let_in_late",
    ),
    "an epoch that was given away twice fences nobody": Mutation(
        "-- name: append_plain",
        "AND p.worker = %(worker)s::text AND p.epoch = %(epoch)s::bigint)",
        "AND p.epoch = %(epoch)s::bigint)",
        "lifecycle/test_lost_journal.py::test_whoever_went_on_without_what_was_lost_is_stopped",
    ),
    "a journal cut short is taken for a takeover": Mutation(
        "explain_refusals",
        "head.run_id in cut",
        "False",
        "lifecycle/test_lost_journal.py::test_a_run_that_is_gone_is_refused_and_not_begun_anew",
    ),
    "what was lost is forgotten": Mutation(
        "OpenDatabase.hold",
        "[claimed, *again, park_event",
        "[claimed, park_event",
        "lifecycle/test_lost_journal.py::test_lost_steps_are_recorded_again_and_the_run_is_held",
    ),
    "append looks at no row before": Mutation(
        "-- name: append",
        """
        WHERE head AND EXISTS (
            SELECT FROM agentrun.journal p
            WHERE p.run_id = b.run_id AND p.seq = b.seq - 1
              AND (b.event = 'claimed' OR p.worker = b.worker)
              AND p.epoch = b.epoch - (b.event = 'claimed')::int)
        """,
        "WHERE head",
        "store/test_append_stress.py::test_no_append_is_torn_lost_or_let_in_late",
    ),
    "heads are not sorted": Mutation(
        "-- name: append",
        """
        ORDER BY b.run_id
        ON CONFLICT (run_id, seq) DO NOTHING
        """,
        "ON CONFLICT (run_id, seq) DO NOTHING",
        "store/test_append_stress.py::test_sorted_heads_give_one_lock_order",
        tries=3,
    ),
    "a pruned run can be claimed": Mutation(
        "-- name: append",
        "WHERE r.run_id = b.run_id FOR KEY SHARE)",
        "WHERE r.run_id = b.run_id)",
        "store/test_prune.py::test_a_run_that_is_claimed_while_it_is_pruned_is_gone",
    ),
    "a zombie finds room where its run was pruned": Mutation(
        "-- name: append_plain",
        "WHERE r.run_id = %(run)s::uuid FOR KEY SHARE)",
        "WHERE r.run_id = %(run)s::uuid)",
        "store/test_prune.py::test_a_zombie_that_writes_while_its_run_is_pruned_is_refused",
    ),
    "a lost answer is taken for a refusal": Mutation(
        "Sender._send",
        "accepted if accepted == batch.runs else accepted | stored_runs(conn, batch)",
        "accepted",
        "store/test_wire.py::test_a_batch_whose_answer_is_lost_is_accepted_and_there_once",
    ),
    "rows of another nonce are taken for ours": Mutation(
        "-- name: settled",
        """
        USING (run_id, seq)
        WHERE j.batch = %(batch)s
        """,
        """
        USING (run_id, seq)
        WHERE %(batch)s::uuid IS NOT NULL
        """,
        "store/test_wire.py::test_a_batch_that_was_overtaken_while_unknown_is_lost_whole",
    ),
    "one bad row fails every run of its batch": Mutation(
        "Writer._split_by_run",
        "len(runs) > 1",
        "len(runs) > 1_000",
        "store/test_journal.py::test_one_bad_row_fails_one_run_only",
    ),
    "a cancelled waiter cancels what the writer owes": Mutation(
        "_LoopWaker._deliver",
        """
        if not task.done():
            task.set_result(None)
        """,
        "task.set_result(None)",
        "store/test_journal.py::test_no_waiter_can_cancel_what_the_writer_owes_to_others",
    ),
    "events pass by a reserved seq": Mutation(
        "_Entry.ready",
        "self.tail.reserved is None or self.last < self.tail.reserved",
        "True",
        "store/test_journal.py::test_what_follows_a_reserved_seq_waits_until_it_is_used",
    ),
    # -- blobs -------------------------------------------------------------------------------------
    "events overtake a large value of their run": Mutation(
        "Writer._ready",
        "id(entry.tail) not in held and entry.ready()",
        "entry.ready()",
        "store/test_blobs.py::test_nothing_of_a_run_overtakes_its_large_values",
    ),
    "a blob whose row is still to come is removed": Mutation(
        "-- name: orphans",
        "b.epoch < r.epoch",
        "b.epoch <= r.epoch",
        "store/test_blobs.py::test_what_a_row_may_still_name_is_kept",
    ),
    "a late answer refers to what it put outside": Mutation(
        "keep_late",
        "[replace(payload, blob=None) for payload in row.payloads]",
        "row.payloads",
        "store/test_blobs.py::test_a_late_answer_is_kept_in_the_database",
    ),
    "a blob is named before it is synced": Mutation(
        "Blobs._put",
        "_sync(self._root, self._root / name)",
        "pass",
        "store/test_blobs.py::test_a_file_is_synced_with_the_folders_that_lead_to_it",
    ),
    # -- life and ownership ------------------------------------------------------------------------
    "a worker declared dead renews its lease": Mutation(
        "-- name: beat",
        "WHERE worker = %(worker)s AND dead_at IS NULL RETURNING clock_timestamp",
        "WHERE worker = %(worker)s RETURNING clock_timestamp",
        "store/test_liveness.py::test_the_fence_notices_death_without_waiting_for_a_beat",
    ),
    "a dead worker registers again": Mutation(
        "-- name: register",
        """
        WHERE workers.dead_at IS NULL
        RETURNING clock_timestamp
        """,
        "RETURNING clock_timestamp",
        "store/test_liveness.py::test_a_dead_worker_cannot_register_again",
    ),
    "death is declared whatever the last beat": Mutation(
        "-- name: declare_dead",
        "AND beat_at = %(beat_at)s AND dead_at",
        "AND %(beat_at)s::timestamptz IS NOT NULL AND dead_at",
        "store/test_liveness.py::test_death_is_declared_only_on_the_beat_that_was_seen",
    ),
    "a failover leaves everybody without a lease": Mutation(
        "-- name: owner",
        "WHERE s.server_start = pg_postmaster_start_time()), clock_timestamp())",
        "WHERE s.server_start = pg_postmaster_start_time()), w.beat_at)",
        "store/test_liveness.py::test_a_failover_does_not_make_everyone_take_everyone",
    ),
    "a worker that its server forgot counts as dead": Mutation(
        "Heart._beat",
        """
        if row is None:
            known, row = False
        """,
        """
        if row is None and not known:
            known, row = False
        """,
        "store/test_liveness.py::test_a_worker_that_its_server_forgot_registers_again",
    ),
    "a restarted server makes every session look gone": Mutation(
        "-- name: owner",
        "AND pg_postmaster_start_time() + w.lease < clock_timestamp()",
        "",
        "store/test_liveness.py::test_a_new_server_says_nothing_about_sessions",
    ),
    "nothing fences an effect when the lease is old": Mutation(
        "Heart.stale",
        "self._dead or self._age() > _FENCE * self.lease",
        "self._dead",
        "store/test_liveness.py::test_the_fence_notices_death_without_waiting_for_a_beat",
    ),
    "a run is claimed though its owner lives": Mutation(
        "OpenDatabase.owner_of",
        "dead is None, dead",
        "False, dead",
        "store/test_claims.py::test_a_run_of_a_live_worker_is_owned_and_of_a_dead_one_is_not",
    ),
    "a run that went on since it was looked at is claimed": Mutation(
        "OpenDatabase.claim",
        "(last.epoch, _status(events)) != (run.epoch, run.status)",
        "False",
        "store/test_claims.py::test_a_run_that_a_live_worker_took_since_it_was_looked_at_is_not_claimed",
    ),
    "the last event of a lost run moves it": Mutation(
        "-- name: append",
        """
        FROM b JOIN heads USING (run_id)
        WHERE r.run_id = b.run_id
        """,
        """
        FROM b
        WHERE r.run_id = b.run_id
        """,
        "proof/test_stateful.py::test_the_database_does_what_the_model_says",
    ),
    "a claim leaves the run waiting for what it was parked at": Mutation(
        "-- name: claim_ready",
        """
        epoch = c.epoch, wake_at = NULL, parked_for = NULL,
            parked_step = NULL, reason
        """,
        """
        epoch = c.epoch, wake_at = NULL, parked_for = NULL,
            reason
        """,
        "proof/test_stateful.py::test_the_database_does_what_the_model_says",
    ),
    "runs that diverged are found by how their reason begins": Mutation(
        "-- name: diverged_runs",
        """
        changed_at FROM agentrun.runs r
        WHERE r.status = 'held' AND r.parked_for = 'divergence'
        """,
        """
        changed_at FROM agentrun.runs r
        WHERE starts_with(r.reason, 'diverged')
        """,
        "steps/test_parked_for.py::test_a_run_that_is_held_for_a_review_did_not_diverge_whatever_its_reason_says",
    ),
    "a webhook wakes a run that waits for another response": Mutation(
        "-- name: response_ended",
        "AND r.parked_step = a.step",
        "",
        "crash/test_inflight.py::test_a_webhook_of_a_response_that_was_read_wakes_nobody",
    ),
    "a run is woken by letters that it saw and did not want": Mutation(
        "-- name: wake",
        "(m.kind = 'cancel' OR %(looked)s AND m.id <> ALL (%(seen)b::uuid[]))",
        "(m.kind = 'cancel' OR %(looked)s AND %(seen)b::uuid[] IS NOT NULL)",
        "proof/test_stateful.py::test_the_database_does_what_the_model_says",
    ),
    "a letter that crossed its run's parking wakes nobody": Mutation(
        "-- name: overlooked",
        "m.sent_at > r.changed_at - interval '10 seconds'",
        "m.sent_at > r.changed_at - interval '10 seconds' AND m.sent_at <= r.changed_at",
        "store/test_letters.py::test_a_letter_whose_sender_commits_after_the_parkers_second_look_is_not_lost",
    ),
    # -- values, secrets, what is shown ------------------------------------------------------------
    "a reservation does not see what it waited for": Mutation(
        "connection.connect",
        "conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED",
        "",
        "store/test_isolation.py::test_a_reservation_sees_what_its_lock_made_it_wait_for",
    ),
    "who waits to migrate does not see that it was done": Mutation(
        "_apply_next",
        'conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")',
        "",
        "store/test_isolation.py::test_who_waits_for_another_to_migrate_sees_that_it_did",
    ),
    "a resumed agent sees masks": Mutation(
        "OpenDatabase.claim",
        "read_events(self, run_id, exact=True)",
        "read_events(self, run_id)",
        "steps/test_masking.py::test_a_resumed_agent_sees_every_byte_that_the_live_one_saw",
    ),
    "a letter is read as people see it": Mutation(
        "letters_of",
        "if sealed is None else decode_exact(sealed)",
        "",
        "steps/test_masking.py::test_a_letter_and_its_answer_are_exact",
    ),
    # -- who may do what ---------------------------------------------------------------------------
    "a privilege is missed in the middle of a run": Mutation(
        "require",
        "missing := missing_privileges(conn, role)",
        "missing := []",
        "store/test_roles.py::test_a_missing_privilege_is_said_before_there_is_a_run",
    ),
    "readers see what is masked": Mutation(
        "_grant",
        'conn.execute(_sql("REVOKE ALL ON {} FROM {}", _relation(table), name))',
        "pass",
        "store/test_roles.py::test_who_only_looks_does_not_see_exact_values",
    ),
    "a dead embedded server stays dead": Mutation(
        "revive",
        "_used.get(dsn)",
        "None",
        "store/test_revival.py::test_a_server_that_was_stopped_on_purpose_stays_stopped",
    ),
    "a server that cannot start is started without a pause": Mutation(
        "revive",
        "time.monotonic() < used.not_before",
        "False",
        "store/test_revival.py::test_a_server_that_cannot_start_is_not_started_in_a_loop_and_says_why",
    ),
    "a process that is to end waits for its database for ever": Mutation(
        "retry_attempts",
        "current.get().check(began)",
        "pass",
        "store/test_store_patience.py::test_a_wait_gives_up_where_the_process_is_to_end",
    ),
    "a statement without an answer is waited for": Mutation(
        "Patience._cut",
        "_shut(conn)",
        "pass",
        "store/test_store_patience.py::test_a_statement_that_gets_no_answer_is_cut_off",
    ),
    "a thread waits on for a caller who was cancelled": Mutation(
        "in_thread",
        """
        own.hurry()
        raise
        """,
        "raise",
        "store/test_store_patience.py::test_the_thread_of_a_cancelled_waiter_gives_up",
    ),
    "the embedded server inherits its starter's environment": Mutation(
        "running_as",
        'name in _PASSED_ON or name.startswith("LC_")',
        'not name.startswith("PG")',
        "store/test_embedded.py::test_the_server_knows_nothing_of_its_starters_environment",
    ),
    "a planted home is used": Mutation(
        "embedded._server",
        "check_owner(files.root, account)",
        "",
        "store/test_embedded.py::test_a_home_that_others_could_fill_is_refused_before_anything_is_run",
    ),
    "an auditor's query may write": Mutation(
        "read_only_query",
        "False, True",
        "False, False",
        "cli/test_cli_reading.py::test_sql_refuses_to_write",
    ),
    "a server that loses commits is taken": Mutation(
        "_check_settings",
        'settings["synchronous_commit"] == "off" and not allow_unsafe',
        "False",
        "store/test_opening.py::test_a_server_that_may_lose_commits_is_refused",
    ),
    "a summary forgets what was before": Mutation(
        "-- name: append",
        "coalesce(o.cost, 0) + coalesce(n.cost, 0)",
        "coalesce(n.cost, 0)",
        "store/test_summaries.py::test_a_killed_and_resumed_run_is_summed_once",
    ),
    "a model call is written without its summary": Mutation(
        "Batch.is_plain",
        "is_summed(row.event) or ",
        "",
        "store/test_summaries.py::test_a_killed_and_resumed_run_is_summed_once",
    ),
    "a wait is not counted": Mutation(
        "-- name: claim_ready",
        "+ coalesce(extract(epoch FROM excluded.since - s.since), 0)",
        "",
        "store/test_summaries.py::test_waiting_is_not_working",
    ),
    "a list shows what is masked": Mutation(
        "rows._message",
        "last_message(event, output.shown)",
        "last_message(event, output.value)",
        "store/test_summaries.py::test_a_secret_that_the_model_repeats_is_masked_in_lists",
    ),
    "a page begins with the last run of the page before": Mutation(
        "-- name: runs",
        "(r.created_at, r.run_id) < (",
        "(r.created_at, r.run_id) <= (",
        "store/test_summaries.py::test_pages_meet_each_run_once_while_others_begin",
    ),
    "the hint about a DSN hides itself": Mutation(
        "connection.describe",
        "postgresql://USER@HOST:5432/DATABASE",
        "postgresql://user:password@host:5432/database",
        "cli/test_cli_terminal.py::test_the_hint_about_a_dsn_is_not_masked",
    ),
    "a query is asked as the owner": Mutation(
        "read_only_query",
        'cursor.execute(QUERIES["be_reader"])',
        "pass",
        "api/test_sql.py::test_it_reads_by_the_role_of_readers",
    ),
    "an empty result has no columns": Mutation(
        "read_only_query",
        "_describe_last(conn)",
        "()",
        "api/test_sql.py::test_an_empty_result_has_its_columns",
    ),
    "an empty list of parameters makes % a placeholder": Mutation(
        "audit._stream",
        "parameters or None",
        "parameters",
        "api/test_sql.py::test_a_query_takes_parameters_and_returns_values_with_their_types",
    ),
    "the time after a crash counts as work": Mutation(
        "-- name: append",
        "WHEN n.claim IS NULL THEN c.now",
        "WHEN true THEN c.now",
        "store/test_summaries.py::test_a_killed_and_resumed_run_is_summed_once",
    ),
    "a claim that another event follows is no claim": Mutation(
        "-- name: append",
        "OR event = 'claimed'",
        "",
        "store/test_summaries.py::test_a_run_that_was_killed_and_cancelled_later_has_not_worked_in_between",
    ),
    "the time in the queue counts twice": Mutation(
        "-- name: append",
        "o.is_working IS NOT TRUE",
        "NOT o.is_working",
        "store/test_summaries.py::test_the_time_in_the_queue_counts_once",
    ),
    "a list of runs sorts all of them": Mutation(
        "-- name: runs",
        "ORDER BY r.created_at DESC, r.run_id DESC LIMIT",
        "ORDER BY r.changed_at DESC, r.run_id DESC LIMIT",
        "store/test_summaries.py::test_no_list_reads_a_journal_or_a_whole_table",
    ),
}
