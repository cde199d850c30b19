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
}
