"""Deliberate defects of `agentrun/view/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "what is decided still reads held": Mutation(
        "run_lines._cells",
        'row["decided_at"] is not None',
        "False",
        "cli/test_cli_status.py::test_what_is_decided_and_not_taken_up_is_told_as_that",
    ),
    "markup is not escaped": Mutation(
        "safe._escape",
        "html.escape(visible(text, multiline=True))",
        "visible(text, multiline=True)",
        "view/test_view.py::test_a_hostile_run_is_inert_in_a_browser",
    ),
    "control characters reach the terminal": Mutation(
        "visible",
        "_SUSPECT.sub(lambda found: _make_visible(found[0], multiline), text)",
        "text",
        "view/test_view.py::test_a_hostile_run_is_inert_in_a_terminal",
    ),
    "a run takes more than a line of `ls`": Mutation(
        "run_lines.run_lines",
        '_line(row, widths, str(source["status"])).fit(width)',
        '_line(row, widths, str(source["status"]))',
        "cli/test_cli_terminal.py::test_ls_is_one_line_a_run_on_a_narrow_screen",
    ),
    "a table is wider than the screen": Mutation(
        "records.is_wider",
        "sum(widest) + 2 * (len(names) - 1) > width",
        "False",
        "cli/test_cli_terminal.py::test_a_table_wider_than_the_screen_is_printed_as_records",
    ),
    "`show --errors` shows what went well": Mutation(
        "selection._is_selected",
        "not selection.errors or _went_wrong(entry)",
        "True",
        "cli/test_cli_terminal.py::test_show_prints_one_step_or_what_went_wrong",
    ),
    "a step that ended stays in the footer": Mutation(
        "Footer._add",
        "self._under_way.pop(event.step, None)",
        "pass",
        "view/test_live.py::test_the_footer_says_what_the_run_does_now_and_what_it_has_used",
    ),
    "the inbox repeats a reason in place of its commands": Mutation(
        "inbox_lines.inbox_lines",
        'item.get("commands") or ()',
        "()",
        "cli/test_cli_terminal.py::test_the_commands_of_the_inbox_decide",
    ),
    "each line of a file repeats the conversation": Mutation(
        "JsonlWriter.__init__",
        "None if whole else Shared()",
        "None",
        "core/test_linear_reading.py::test_no_format_repeats_the_conversation_in_each_step",
    ),
    "lines refer to rows before the first of the file": Mutation(
        "jsonl._pack",
        "shared.receive(event.packed.stored).stored",
        "event.packed.stored",
        "core/test_linear_reading.py::test_lines_that_begin_in_the_middle_are_read_back",
    ),
    "equal resumes are a band each": Mutation(
        "_join_equal",
        "_counts(entry) != _counts(same[0])",
        "True",
        "view/test_blocks.py::test_equal_resumes_are_one_band_where_the_crash_struck",
    ),
    "a crash is shown after the result": Mutation(
        "_is_during",
        "entry.at < step.finished_at",
        "False",
        "view/test_blocks.py::test_equal_resumes_are_one_band_where_the_crash_struck",
    ),
    "a turn of HTML is cut by another one": Mutation(
        "_group_turns",
        "turn in by_turn",
        "False",
        "view/test_blocks.py::test_the_turns_of_overlapping_conversations_are_one_block_each",
    ),
    "a call is shown as asked for and as a step": Mutation(
        "_has_step",
        "_equal(call.arguments, made)",
        "False",
        "view/test_blocks.py::test_a_call_is_not_told_twice_and_one_without_a_step_is_told",
    ),
    "waiting counts as work in a transcript": Mutation(
        "Timeline.working",
        "self.end - self.start - self.waiting",
        "self.end - self.start",
        "view/test_timeline.py::test_waiting_for_a_person_is_not_work",
    ),
    "the chart has no crashes": Mutation(
        "draw_text",
        "timeline.crashes",
        "()",
        "view/test_timeline.py::test_the_chart_has_a_lane_for_each_scope_and_crashes_across_all",
    ),
    "the chart cuts no pause": Mutation(
        "_Axis.__init__",
        "if period[1] - period[0] > least",
        "if False",
        "view/test_timeline.py::test_a_long_pause_is_cut_and_the_cut_is_named",
    ),
    "a link in Markdown leads anywhere": Mutation(
        "_Renderer._link",
        "not _ADDRESS.match(address)",
        "False",
        "view/test_rich_text.py::test_hostile_markdown_makes_only_what_is_named",
    ),
    "images are shown without a bound": Mutation(
        "Images.render",
        "kind not in _IMAGE_TYPES or size > self._room",
        "False",
        "view/test_rich_text.py::test_images_are_shown_up_to_a_bound_and_others_are_named",
    ),
    "HTML is rendered beyond its limit": Mutation(
        "html._take",
        "break",
        "continue",
        "view/test_html.py::test_rendering_stops_at_its_limit",
    ),
    "an exported page does not know the runs around its own": Mutation(
        "loaded_run.load_run",
        "find_relatives(database, find_run(database, key).run_id)",
        "None",
        "cli/test_cli_terminal.py::"
        "test_exported_pages_name_their_relatives_and_link_those_beside_them",
    ),
    "a page links a run that has no file beside it": Mutation(
        "html._run_link",
        "None if address is None else address(key)",
        'f"./{key}.html"',
        "cli/test_cli_terminal.py::"
        "test_exported_pages_name_their_relatives_and_link_those_beside_them",
    ),
    "a very long page is read at once": Mutation(
        "_lay_out",
        'element("noscript", turns) if first else turns',
        "turns",
        "view/test_page_script.py::test_a_very_long_run_is_read_in_parts",
    ),
    "the policy of a page allows any script": Mutation(
        "page._policy",
        "script-src {_digest(script)}",
        "script-src 'unsafe-inline'",
        "view/test_page.py::test_its_policy_bars_what_might_slip_through",
    ),
    "the id of a step is not in its fold": Mutation(
        "ItemRenderer._step",
        'element("div", *parts, id=f"s{step.step}")',
        'element("div", *parts)',
        "view/test_html.py::test_ids_are_inside_the_folds_that_they_open",
    ),
    "the copy of a model call has only what earlier calls sent": Mutation(
        "agentrun/view/page.js",
        "[...before.reverse(), ...value.then.map(build)]",
        "before.reverse()",
        "view/test_page_script.py::test_a_model_call_is_copied_with_its_whole_request",
    ),
    "the copy of a model call does not say what is masked": Mutation(
        "agentrun/view/page.js",
        "...new Set(sent.match(/\\[masked: [^\\]]*]/g))",
        "",
        "view/test_page_script.py::test_a_model_call_is_copied_with_its_whole_request",
    ),
    "the copy of a model call has other numbers": Mutation(
        "agentrun/view/page.js",
        "JSON.rawJSON(context.source)",
        "value",
        "view/test_page_script.py::test_a_model_call_is_copied_with_its_whole_request",
    ),
    "a form is copied as if its record were its bytes": Mutation(
        "agentrun/view/page.js",
        "if (body.parts || body.content_type) missing.push(notes.form);",
        "",
        "view/test_page_script.py::test_a_copy_says_what_no_copy_can_have",
    ),
    "the script of a page has its comments": Mutation(
        "agentrun/view/page.py",
        '_SPACE.sub("", Path(__file__).with_name("page.js").read_text("utf-8"))',
        'Path(__file__).with_name("page.js").read_text("utf-8")',
        "view/test_page.py::test_the_frame_and_the_script_are_small",
    ),
    "a whole value of a page is not inert": Mutation(
        "agentrun/view/page.js",
        "cut.textContent = visible(text);",
        "cut.textContent = text;",
        "view/test_page_script.py::test_a_value_that_is_cut_can_be_shown_whole_and_is_inert",
    ),
    "`show --step` leaves the request out": Mutation(
        "evidence.evidence_lines",
        "step.request is not None",
        "False",
        "cli/test_cli_terminal.py::test_show_has_the_evidence_of_a_step_and_of_an_error",
    ),
    "evidence is cut without a word": Mutation(
        "evidence._section",
        "missing and not end",
        "False",
        "cli/test_cli_terminal.py::test_show_has_the_evidence_of_a_step_and_of_an_error",
    ),
    "HTML shows the tools at each call": Mutation(
        "ItemRenderer._tools",
        "first != step.step",
        "False",
        "view/test_html.py::test_a_model_call_shows_its_request_its_reply_and_its_tools_once",
    ),
    "HTML has no traceback": Mutation(
        "show_failure",
        "failure.traceback is not None",
        "False",
        "view/test_html.py::test_the_traceback_of_an_error_is_shown_and_inert",
    ),
    "a comparison opens every difference": Mutation(
        "_different_block",
        "if first else {}",
        "if True else {}",
        "view/test_comparison.py::test_the_page_opens_the_first_difference_and_no_other",
    ),
    "equal steps beyond the limit vanish": Mutation(
        "_same_block",
        "missing > 0",
        "missing < 0",
        "view/test_comparison.py::test_what_is_cut_is_counted",
    ),
    "a wide table is broken instead of made into records": Mutation(
        "text_table",
        "not widths or widths[-1] <= room",
        "True",
        "view/test_tables.py::test_a_table_that_is_too_wide_becomes_records",
    ),
    "rows beyond the limit vanish": Mutation(
        "text_table",
        "> 0:",
        "> 1_000_000:",
        "view/test_tables.py::test_rows_that_are_not_shown_are_counted",
    ),
    "a call that decides does not name the request that was seen": Mutation(
        "decision_calls",
        "waiting.fingerprint!a",
        "None",
        "view/test_reprs.py::test_a_request_shows_the_calls_that_decide_it_and_they_are_python",
    ),
    "the key in a call is no literal of Python": Mutation(
        "decision_calls",
        "ascii(waiting.key)",
        "waiting.key",
        "view/test_reprs.py::test_a_request_shows_the_calls_that_decide_it_and_they_are_python",
    ),
    "a card shows the key as it is": Mutation(
        "run_card",
        "visible(run.key)",
        "run.key",
        "view/test_reprs.py::test_hostile_values_are_inert",
    ),
    "follow sends what has not changed": Mutation(
        "_Display.send",
        "markup == self.shown",
        "False",
        "view/test_follow.py::test_a_reply_that_has_not_grown_is_not_sent_again",
    ),
    "follow shows no reply that is under way": Mutation(
        "LivePage._reply_of",
        "self._replies.get(entry.step)",
        "None",
        "view/test_follow.py::test_hostile_pieces_are_inert",
    ),
}
