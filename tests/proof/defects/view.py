"""Deliberate defects of `agentrun/view/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "what is decided still reads held": Mutation(
        "terminal._status",
        'row.get("decided_at") is not None',
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
    "a table shows the diff of a divergence": Mutation(
        "_first_line",
        ".splitlines()",
        ".split('\\0')",
        "view/test_view.py::test_tables_show_the_first_line_of_a_reason",
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
}
