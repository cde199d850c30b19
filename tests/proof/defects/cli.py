"""Deliberate defects of `agentrun/cli/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "a tab in a value of a line is a space": Mutation(
        "output._cell",
        'text.replace("\\t", "␉")',
        "text",
        "cli/test_cli_terminal.py::test_piped_tables_are_lines_of_tab_separated_values",
    ),
    "a key that begins with a dash is an option of its command": Mutation(
        "write_command",
        'key.startswith("-")',
        "False",
        "cli/test_cli_terminal.py::test_the_commands_of_the_inbox_name_a_run_of_any_key",
    ),
    "a command shows the control characters of a key in place of the key": Mutation(
        "quote_word",
        "text.isprintable()",
        "True",
        "core/test_shell.py::test_a_key_is_one_visible_word_of_a_shell",
    ),
    "the head of a part of a run is that of the part": Mutation(
        "show_command.show",
        "print_transcript(whole,",
        "print_transcript(transcript,",
        "cli/test_cli_terminal.py::test_the_head_of_a_part_is_that_of_the_whole_run",
    ),
    "accepting asks nobody": Mutation(
        "resume_command.resume",
        "accept and not yes",
        "False",
        "cli/test_cli_runs.py::test_accepting_a_divergence_lists_its_price_and_asks_for_yes",
    ),
    "resume --redo asks nobody": Mutation(
        "resume_command.resume",
        "confirm_redo(keys[0], redo, yes=yes, once=once)",
        "pass",
        "api/test_redo.py::test_resume_redo_says_the_price_and_asks",
    ),
    "`agentrun sql` asks as the superuser": Mutation(
        "choose_reader",
        "roles.reader_dsn(start_embedded())",
        "start_embedded()",
        "store/test_roles.py::test_sql_on_the_command_line_asks_by_that_login",
    ),
    "help loads the driver of the database": Mutation(
        "cli.main",
        'warnings.simplefilter("ignore", NoWorkerWarning)',
        '__import__("psycopg")',
        "cli/test_cli_terminal.py::test_help_loads_nothing_heavy",
    ),
    "commands stand under no heading": Mutation(
        "command_group.add",
        "rich_help_panel=heading",
        "rich_help_panel=None",
        "cli/test_cli_terminal.py::test_help_lists_commands_under_headings",
    ),
    "`--dsn` after a command is ignored": Mutation(
        "_with_database",
        "ctx.obj = replace(ctx.obj, dsn=dsn)",
        "pass",
        "cli/test_cli_terminal.py::test_the_database_may_be_named_after_the_command",
    ),
    "a completion starts a server": Mutation(
        "completion._embedded_dsn",
        "files.dsn() if files.socket.exists() else None",
        '__import__("agentrun.store.embedded").store.embedded.start()',
        "cli/test_cli_terminal.py::test_a_completion_starts_no_server",
    ),
    "a completion prints control characters": Mutation(
        "complete_keys",
        "visible(key) == key",
        "True",
        "cli/test_cli_terminal.py::test_keys_and_commands_are_completed",
    ),
    "a child run stands beside its parent": Mutation(
        "list_command._walk",
        "_walk(child, below, depth + 1)",
        "_walk(child, below, depth)",
        "cli/test_cli_terminal.py::test_ls_shows_child_runs_below_their_parents",
    ),
    "a list does not say that there is more": Mutation(
        "list_command.list_them",
        "len(found) == limit",
        "False",
        "cli/test_cli_terminal.py::test_ls_filters_and_goes_on_after_a_run",
    ),
    "`--json` takes fields that there are not": Mutation(
        "pick_fields",
        "name not in names",
        "False",
        "cli/test_cli_terminal.py::test_json_takes_the_names_of_fields",
    ),
    "a value breaks its line of a pipe": Mutation(
        "output._cell",
        'visible(text.replace("\\t", "␉"), multiline=multiline)',
        "text",
        "cli/test_cli_terminal.py::test_piped_tables_are_lines_of_tab_separated_values",
    ),
    "CSV changes line breaks": Mutation(
        "emit_csv",
        "multiline=True",
        "multiline=False",
        "cli/test_cli_terminal.py::test_csv_keeps_line_breaks_and_quotes",
    ),
    "a budget or a doubt has no command": Mutation(
        "inbox_list._commands",
        '"--not-happened", ',
        "",
        "cli/test_cli_terminal.py::test_the_commands_of_the_inbox_decide",
    ),
    "a pipe is paged": Mutation(
        "output.paged",
        "wanted and console.is_terminal and sys.stdin.isatty()",
        "wanted",
        "cli/test_cli_terminal.py::test_show_goes_through_the_pager_in_a_terminal",
    ),
    "anybody reads the history of queries": Mutation(
        "sql_prompt._history_file",
        "mode=0o600",
        "mode=0o644",
        "cli/test_cli_terminal.py::test_the_prompt_has_history_and_knows_backslash_commands",
    ),
    "`watch --exit-status` does not tell a held run": Mutation(
        "watch_command.watch",
        'exit_status and run.status == "held"',
        "False",
        "cli/test_cli_terminal.py::test_watch_with_exit_status_ends_where_a_person_must_decide",
    ),
    "replies that are being written are not shown": Mutation(
        "_LinePrinter.refresh",
        "partials_of(database, run_id)",
        "()",
        "cli/test_cli_terminal.py::test_watch_shows_the_text_that_a_model_writes_and_what_goes_on",
    ),
    "`export --tree` leaves child runs out": Mutation(
        "export_command._export_tree",
        "limit=_TREE",
        "limit=1",
        "cli/test_cli_terminal.py::test_export_tree_writes_a_file_for_each_run",
    ),
    "a list shows the diff of a divergence": Mutation(
        "summary._first_line",
        ".splitlines()",
        ".split('\\0')",
        "cli/test_cli_runs.py::test_code_that_diverged_exits_6",
    ),
    "a reason ends in commands": Mutation(
        "approvals._request",
        'waits for an approval"',
        'waits for an approval: agentrun approve"',
        "cli/test_cli_terminal.py::test_an_approval_has_its_two_commands_and_json_has_them_too",
    ),
    "the inbox suggests no larger budget": Mutation(
        "budgets._await_decision",
        "approval_request_event(reason, refusal.suggested)",
        "approval_request_event(reason)",
        "cli/test_cli_working.py::test_a_budget_is_raised",
    ),
    "the inbox of one run lists every run": Mutation(
        "inbox_list.list_inbox",
        "list_waiting(database, key)",
        "list_waiting(database, None)",
        "cli/test_cli_status.py::test_the_inbox_of_one_run",
    ),
    "different runs exit with 0": Mutation(
        "compare_command.compare",
        "if not found.same",
        "if False",
        "cli/test_cli_compare.py::test_compare_exits_0_for_equal_runs_and_1_for_different_ones",
    ),
}
