"""Deliberate defects of the schema, in `migrations/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "the place in a line stays when its run is pruned": Mutation(
        "FUNCTION agentrun.prune",
        "DELETE FROM agentrun.permits q WHERE q.run_id = ANY (gone);",
        "",
        "store/test_prune.py::test_only_what_ended_long_ago_goes_with_all_that_belongs_to_it",
    ),
    "an attempt of a live owner is possibly billed": Mutation(
        "VIEW agentrun.attempts",
        "AND w.beat_at + w.lease >= clock_timestamp() THEN 'running'",
        "AND false THEN 'running'",
        "store/test_views.py::test_an_open_attempt_is_running_while_its_owner_lives",
    ),
    "a divergence takes back every question in SQL": Mutation(
        "VIEW agentrun.asked",
        "AND q.step IN (SELECT s.step FROM agentrun.listed_steps(l.output, 'set_aside') s)",
        "",
        "lifecycle/test_deploys.py::test_a_question_to_a_person_outlives_the_divergence_of_another_task",
    ),
    "a reused step stays set aside in SQL": Mutation(
        "FUNCTION agentrun.set_aside",
        "d.event IN ('diverged', 'step_reused') AND d.seq < before",
        "d.event IN ('diverged') AND d.seq < before",
        "store/test_views.py::test_resumes_agree_with_the_transcript_about_random_paths",
    ),
    "exact values outlive their run": Mutation(
        "FUNCTION agentrun.prune",
        "DELETE FROM agentrun.exact_values x WHERE x.run_id = ANY (gone);",
        "",
        "steps/test_masking.py::test_only_workers_read_exact_values_and_pruning_takes_them",
    ),
    "the SQL transcript repeats replies": Mutation(
        "VIEW agentrun.transcript",
        "OR NOT refers AND (replied IS NULL OR replied > seq));",
        "OR true);",
        "view/test_repeats.py::test_a_conversation_is_told_once",
    ),
    "guards look up names as the session does": Mutation(
        "FUNCTION agentrun.stamp",
        """
        stamp() RETURNS trigger LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS
        """,
        "stamp() RETURNS trigger LANGUAGE plpgsql AS",
        "store/test_roles.py::test_guards_mean_the_catalog_and_not_what_a_session_calls_so",
    ),
    # -- the journal -------------------------------------------------------------------------------
    "the journal can be edited": Mutation(
        "TRIGGER journal_append_only",
        "journal_append_only BEFORE UPDATE OR TRUNCATE ON",
        "journal_append_only BEFORE TRUNCATE ON",
        "lifecycle/test_run.py::test_the_journal_is_append_only",
    ),
    "a run is pruned below a parent that lives": Mutation(
        "FUNCTION agentrun.prune",
        "AND r.parent IS NULL AND",
        "AND",
        "store/test_prune.py::test_a_tree_goes_as_a_whole_and_never_below_a_parent_that_lives",
    ),
    "a child is begun below a pruned run": Mutation(
        "FUNCTION agentrun.prune",
        "locked < (SELECT count(*) FROM agentrun.tree(tree.run_id))",
        "locked < cardinality(tree.ids)",
        "store/test_prune.py::test_a_child_that_is_begun_before_its_tree_is_looked_at_again",
    ),
    "a pruned key is executed again": Mutation(
        "FUNCTION agentrun.refuse_pruned_key",
        "t.key = NEW.key",
        "t.key = NEW.agent",
        "store/test_prune.py::test_a_key_that_is_used_while_its_run_is_pruned_is_not_executed",
    ),
    # -- life and ownership ------------------------------------------------------------------------
    "the row of a run may be parked for nothing": Mutation(
        "TABLE agentrun.runs",
        "(status IN ('waiting', 'held')) = (parked_for IS NOT NULL))",
        "true)",
        "store/test_schema.py::test_what_is_parked_says_for_what_and_nothing_else_does",
    ),
    "an approval of other arguments counts": Mutation(
        "FUNCTION agentrun.stamp",
        "AND coalesce(NEW.fingerprint = open.fingerprint, true) THEN",
        "THEN",
        "steps/test_approvals.py::test_a_letter_about_other_arguments_counts_for_nothing",
    ),
    "a list has no text of an error that is a string": Mutation(
        "FUNCTION agentrun.error_text",
        "WHEN 'string' THEN output -> 'body' ->> 'error'",
        "WHEN 'no' THEN output -> 'body' ->> 'error'",
        "store/test_summaries.py::test_lists_and_transcripts_read_the_same_error",
    ),
    "two deciders are both let in": Mutation(
        "INDEX mail_decisions",
        "CREATE UNIQUE INDEX mail_decisions",
        "CREATE INDEX mail_decisions",
        "steps/test_approvals.py::test_of_deciders_at_the_same_instant_one_is_first",
    ),
    "the SQL of a tool approves": Mutation(
        "FUNCTION agentrun.stamp",
        "reset_val = 'agentrun tool'",
        "setting = 'agentrun tool'",
        "steps/test_approvals.py::test_the_sql_of_a_tool_cannot_approve",
    ),
    "an approval answers a doubt": Mutation(
        "FUNCTION agentrun.stamp",
        "AND (NEW.kind = 'resolve') = (open.waits_for = 'doubt')",
        "",
        "steps/test_doubt.py::test_an_approval_is_no_answer_to_a_doubt",
    ),
    # -- the schema --------------------------------------------------------------------------------
    "an object is not named in the schema's header": Mutation(
        "migrations/0001_schema.sql",
        "reservations what each attempt at a model call",
        "reservation what each attempt at a model call",
        "store/test_schema.py::test_the_header_names_exactly_what_the_schema_has",
    ),
    "the journal takes any event": Mutation(
        "TABLE agentrun.journal",
        "CHECK (event IN",
        "CHECK (event IS NOT NULL OR event IN",
        "store/test_schema.py::test_an_event_with_another_word_is_refused",
    ),
    "the journal takes any status": Mutation(
        "TABLE agentrun.journal",
        "ELSE status IS NULL END)",
        "ELSE true END)",
        "store/test_schema.py::test_an_event_with_another_word_is_refused",
    ),
    "a letter may be of any kind": Mutation(
        "TABLE agentrun.mail",
        "CHECK (kind IN",
        "CHECK (kind <> '' OR kind IN",
        "store/test_schema.py::test_a_misspelt_letter_is_refused_to_its_sender",
    ),
    "a cause of death is missing in the schema": Mutation(
        "TABLE agentrun.workers",
        ", 'session gone', 'lease expired'))",
        ", 'session gone'))",
        "store/test_schema.py::test_each_vocabulary_is_that_of_the_code",
    ),
    # -- who may do what ---------------------------------------------------------------------------
    "a worker's login may say of a run what no event says": Mutation(
        "FUNCTION agentrun.refuse_made_up_status",
        "IF wrong IS NOT NULL THEN",
        "IF false THEN",
        "store/test_roles.py::test_a_worker_cannot_rewrite_what_happened",
    ),
    "an approver sends any letter": Mutation(
        "FUNCTION agentrun.refuse_other_letters",
        "OR NOT agentrun.plays('approver') THEN",
        "OR true THEN",
        "store/test_roles.py::test_an_approver_sends_no_other_letters_and_forges_none",
    ),
    "anybody sends letters": Mutation(
        "FUNCTION agentrun.send",
        "REVOKE EXECUTE ON FUNCTION agentrun.send FROM PUBLIC;",
        "",
        "store/test_roles.py::test_the_sql_of_a_tool_writes_no_letters_and_no_history",
    ),
}
