"""Deliberate defects of `agentrun/web/`."""

from __future__ import annotations

from defects import Mutation

_GUARD = "web/test_web_guard.py"
DEFECTS: dict[str, Mutation] = {
    "a page that watches a run is sent all of it at each change": Mutation(
        "live._changes",
        "None if before is None else before.blocks",
        "None",
        "web/test_web_live_blocks.py::test_only_the_blocks_that_changed_are_sent",
    ),
    "a browser with an unknown seq is taken for up to date": Mutation(
        "LiveRun.view_at",
        "self._views.get(seq)",
        "self._views.get(seq, self._view)",
        "web/test_web_live_blocks.py::test_a_browser_that_was_cut_off_gets_what_has_changed_since",
    ),
    "a block that is gone stays in the page": Mutation(
        "update_blocks",
        'yield _change(key, "delete")',
        "pass",
        "web/test_web_live_blocks.py::test_blocks_come_and_go_in_their_places",
    ),
    "a block that did not change is sent": Mutation(
        "update_blocks",
        "block.markup != known[block.key]",
        "True",
        "web/test_web_live_blocks.py::test_what_did_not_change_is_left_alone_and_folds_stay",
    ),
    "the page of a run names it twice": Mutation(
        "html._heading",
        "look.titled",
        "True",
        "web/test_web_run.py::test_the_page_of_a_run_names_it_once",
    ),
    "the page of a run does not link the runs around it": Mutation(
        "run_data.render_run",
        'make_address("run", key=key)',
        "None",
        "web/test_web_overviews.py::test_the_spend_of_a_child_is_of_its_tree",
    ),
    "the pages answer to any host": Mutation(
        "Guard._check_host",
        "if not local:",
        "if False:",
        f"{_GUARD}::test_only_names_of_this_server_are_answered",
    ),
    "a host is what is left after a path": Mutation(
        "web.guard._host_of",
        '_HOST.fullmatch(host or "")',
        '_HOST.match(host or "")',
        f"{_GUARD}::test_no_host_stands_for_a_path_that_needs_no_login",
    ),
    "a form for a file needs no login": Mutation(
        "Guard._check",
        '(reads and path.startswith("/static/"))',
        'path.startswith("/static/")',
        f"{_GUARD}::test_without_a_login_only_the_entry_takes_a_form",
    ),
    "pages of other sites may ask the pages": Mutation(
        "_check_site",
        "origin is not None and not _is_own(origin, headers.get('host'))".replace("'", '"'),
        "False",
        f"{_GUARD}::test_pages_of_other_sites_may_not_ask",
    ),
    "a decision needs no origin": Mutation(
        "_check_site",
        'elif not reads and site != "same-origin" and origin is None:',
        "elif False:",
        f"{_GUARD}::test_a_decision_needs_the_origin_of_this_site",
    ),
    "pages that only read decide": Mutation(
        "Guard._check",
        "if not self.allow_decisions:",
        "if False:",
        f"{_GUARD}::test_without_leave_to_decide_nothing_is_changed",
    ),
    "who may only read decides": Mutation(
        "Guard._check",
        'request.method == "POST" and not enters and not (person.may_decide and person.name)',
        "False",
        f"{_GUARD}::test_who_may_only_read_cannot_decide_where_others_may",
    ),
    "a printed URL works twice": Mutation(
        "UrlEntry.open",
        "self._used = True",
        "pass",
        f"{_GUARD}::test_a_printed_url_lets_one_browser_in_once",
    ),
    "any cookie lets in": Mutation(
        "UrlEntry.knows",
        "sha256(value.encode()).digest() in self._sessions",
        "True",
        f"{_GUARD}::test_a_printed_url_lets_one_browser_in_once",
    ),
    "the policy lets scripts run that a page contains": Mutation(
        "POLICY",
        "script-src 'self'; style",
        "script-src 'self' 'unsafe-inline'; style",
        f"{_GUARD}::test_every_answer_has_the_policy",
    ),
    "a recorded text enters a page with its control characters": Mutation(
        "page._finish",
        "safe.visible(str(value), multiline=True)",
        "str(value)",
        "web/test_web_looks.py::test_hostile_text_shows_its_control_characters",
    ),
    "templates escape nothing": Mutation(
        "page._templates",
        "autoescape=True",
        "autoescape=False",
        "web/test_web_looks.py::test_hostile_text_shows_its_control_characters",
    ),
    "each viewer looks at the run": Mutation(
        "LiveRuns.watched",
        "self._runs.setdefault(place, LiveRun(database, key, self._threads))",
        "LiveRun(database, key, self._threads)",
        "web/test_web_run.py::test_viewers_of_a_run_share_one_look_a_second",
    ),
    "a browser that reconnects gets all of a run again": Mutation(
        "web.live.messages",
        "run.view_at(after)",
        "None",
        "web/test_web_run.py::test_a_stream_goes_on_from_the_last_seq",
    ),
    "true and 1 are the same arguments": Mutation(
        "decisions._is_unchanged",
        "json.dumps(edited, sort_keys=True) == json.dumps(waiting.args, sort_keys=True)",
        "edited == waiting.args",
        "web/test_web_inbox.py::test_an_edit_that_python_calls_equal_is_an_edit",
    ),
    "a decision is about whatever the run asks now": Mutation(
        "_fingerprint_in",
        'request.query_params.get("fingerprint") or None',
        "None",
        "web/test_web_inbox.py::test_a_decision_about_something_else_is_refused",
    ),
    "the journal does not name who decides in the pages": Mutation(
        "decisions._decide",
        "by=person_of(request).name",
        "by=None",
        "web/test_web_inbox.py::test_arguments_are_edited_and_the_journal_names_the_person",
    ),
    "the pages show the process's own database": Mutation(
        "Site.read",
        "with using(database):",
        "if database:",
        "web/test_web_overviews.py::test_several_databases_are_shown_apart",
    ),
    "pages wait for the database for ever": Mutation(
        "ReadingThreads.call",
        "loop.call_later(seconds, own.hurry)",
        "None",
        "web/test_web_outage.py::test_a_page_says_that_the_database_is_away",
    ),
    "pages read in the threads of the application around them": Mutation(
        "ReadingThreads.call",
        "loop.run_in_executor(self._pool,",
        "loop.run_in_executor(None,",
        "web/test_web_outage.py::test_pages_need_no_thread_of_the_application_around_them",
    ),
    "each request begins the same read again": Mutation(
        "Site.share",
        "at < now - EVERY and reading.done()",
        "at < now - EVERY",
        "web/test_web_outage.py::test_a_read_that_goes_on_is_not_begun_again",
    ),
    "other machines need no token": Mutation(
        "check_exposure",
        "token_file is None or not list(trusted)",
        "False",
        "web/test_web_command.py::test_other_machines_need_a_token_and_a_name",
    ),
    "a stream outlives its server": Mutation(
        "LiveRuns.close",
        "await run.close()",
        "pass",
        "web/test_web_command.py::test_a_stream_does_not_keep_it_from_ending",
    ),
    "queries are on in every application": Mutation(
        "sql_pages._sql",
        "if not site.sql:",
        "if False:",
        "web/test_web_queries.py::test_queries_are_off_unless_they_are_asked_for",
    ),
    "a query shows all rows": Mutation(
        "sql_pages.ROWS",
        "1_000",
        "1_000_000",
        "web/test_web_queries.py::test_a_query_has_a_limit_of_rows_and_of_time",
    ),
    "a query shows as many cells as there are": Mutation(
        "sql_pages._take",
        "cells > CELLS or size > SIZE",
        "size > SIZE",
        "web/test_web_queries.py::test_a_query_has_a_limit_of_cells_and_of_size",
    ),
    "a query shows values of any size": Mutation(
        "sql_pages._take",
        "cells > CELLS or size > SIZE",
        "cells > CELLS",
        "web/test_web_queries.py::test_a_query_has_a_limit_of_cells_and_of_size",
    ),
    "a page is made while no other request goes on": Mutation(
        "Site.compute",
        "await self._threads.call(function)",
        "function()",
        "web/test_web_queries.py::test_other_requests_go_on_while_a_page_is_made",
    ),
    "a CSV file calculates": Mutation(
        "sql_pages._cell",
        "isinstance(value, str) and text.startswith",
        "False and text.startswith",
        "web/test_web_queries.py::test_rows_are_saved_as_csv_that_calculates_nothing",
    ),
    "the spend of a child is of the child": Mutation(
        "-- name: spend_sums",
        "ON up.below = s.run_id AND up.parent IS NULL",
        "ON up.below = s.run_id",
        "web/test_web_overviews.py::test_the_spend_of_a_child_is_of_its_tree",
    ),
    "a query may leave its role": Mutation(
        "sql_pages._query",
        "not has_reader(default())",
        "False",
        "web/test_web_queries.py::test_without_a_login_that_only_reads_there_are_no_queries",
    ),
    "a link on another site executes a query": Mutation(
        "_query_in",
        '("cross-site", "same-site")',
        "()",
        "web/test_web_queries.py::test_a_link_on_another_site_executes_nothing",
    ),
    "a budget approves a call": Mutation(
        "decisions._raise",
        "waiting is not None and waiting.suggested_budget is None",
        "False",
        "web/test_web_inbox.py::test_a_call_is_not_approved_by_a_budget",
    ),
    "a redo does what nobody has seen": Mutation(
        "decisions._redo",
        'form.get("seen") != _name_of(redo(key, step, dry_run=True))',
        "False",
        "web/test_web_run.py::test_a_step_is_redone_once_its_price_was_seen",
    ),
}
