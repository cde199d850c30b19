"""Deliberate defects of `agentrun/cli/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
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
        "DatabaseChoice.reader",
        "else reader_dsn(self.owner())",
        "else self.owner()",
        "store/test_roles.py::test_sql_on_the_command_line_asks_by_that_login",
    ),
}
