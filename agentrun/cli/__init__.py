"""The command line `agentrun`.

Data goes to stdout, notes and errors to stderr. With `--json`, the data is JSON: one object, or an
array with one object on each line. For a KEY, `@last` means the newest run, and the beginning of a
key is enough if only one run's key begins with it.

Exit codes:

====  ==========================================================================
   0  ok
   1  the run failed or was cancelled, a query failed, the runs of `compare` differ, `doctor` or
      `crashtest` found something
   2  wrong command line, file or setting
   3  the run is held: a person must decide (`agentrun inbox`)
   4  no run has this key, or it was pruned, or several keys begin with it
   5  the database is unavailable, or its schema does not fit
   6  the code diverged from the journal
   7  the key belongs to a run with other arguments, or the run is busy
 130  interrupted (Ctrl-C); the run was handed back
====  ==========================================================================
"""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

import agentrun
from agentrun.cli import (
    compare_command,
    database_commands,
    decision_commands,
    gateway_command,
    limits_command,
    look_commands,
    mcp_command,
    redo_command,
    resume_command,
    roles_command,
    ui_command,
    work_commands,
)
from agentrun.cli.command_group import (
    DECIDE,
    LOOK,
    MAINTAIN,
    RUN,
    SERVE,
    TEST,
    CommandGroup,
    RowsCommand,
    add,
)
from agentrun.cli.database_choice import BLOBS, DATABASE, DatabaseChoice
from agentrun.core.errors import NoWorkerWarning

__all__ = ["app"]

_CODES = (__doc__ or "").partition("=\n")[2].partition("\n=")[0]

app = typer.Typer(
    cls=CommandGroup,
    help="Durable AI-agent runs in your own Postgres: run them, resume them, read them.",
    epilog=f"Exit codes:\n\n\b\n{_CODES}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(agentrun.__version__)
        raise typer.Exit


@app.callback()
def main(
    ctx: typer.Context,
    dsn: Annotated[
        str | None,
        typer.Option(envvar=DATABASE, help="The database; default: an embedded Postgres."),
    ] = None,
    blobs: Annotated[
        str | None,
        typer.Option(envvar=BLOBS, help="Where large values are stored; default: the database."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    warnings.simplefilter("ignore", NoWorkerWarning)  # commands print this warning themselves
    ctx.obj = DatabaseChoice(dsn or None, blobs or None)


add(
    app, work_commands.run, RUN,
    "agentrun run app.py:support 'refund order 7' --key ticket-42",
    "agentrun run app.py ARG --key ticket-42 --json",
)  # fmt: skip
add(
    app, resume_command.resume, RUN,
    "agentrun resume ticket-42 app.py",
    "agentrun resume ticket-42 app.py --budget usd=2",
    "agentrun resume --diverged app.py --accept",
)  # fmt: skip
add(
    app, work_commands.submit, RUN,
    "agentrun submit app.py:support 'refund order 7' --key ticket-42",
    "agentrun submit app.py ARG --queue slow --delay 60",
)  # fmt: skip
add(
    app, work_commands.worker, RUN,
    "agentrun worker app.py",
    "agentrun worker app.py other.py --concurrency 50 --queue slow",
)  # fmt: skip
add(
    app, decision_commands.cancel, RUN,
    "agentrun cancel ticket-42 --by ana --reason 'the customer has withdrawn it'",
)  # fmt: skip
add(
    app, look_commands.ls, LOOK,
    "agentrun ls --status failed --since 2d",
    "agentrun ls --tree --agent support",
    "agentrun ls --search 'order 7'",
    "agentrun ls --json key,status,cost",
    cls=RowsCommand,
)  # fmt: skip
add(
    app, look_commands.show, LOOK,
    "agentrun show @last",
    "agentrun show ticket-42 --errors",
    "agentrun show ticket-42 --step 17 --full",
    "agentrun show ticket-42 --turns 3..5",
    "agentrun show run.jsonl",
)  # fmt: skip
add(
    app, look_commands.watch, LOOK,
    "agentrun watch @last",
    "agentrun watch ticket-42 --exit-status && echo done",
    "agentrun watch ticket-42 --text",
)  # fmt: skip
add(
    app, look_commands.export, LOOK,
    "agentrun export ticket-42 -o run.html",
    "agentrun export ticket-42 --tree --html -o ticket-42/",
)  # fmt: skip
add(
    app, compare_command.compare, LOOK,
    "agentrun compare ticket-42 ticket-43",
    "agentrun compare run.jsonl other.html --json",
)  # fmt: skip
add(
    app, look_commands.sql, LOOK,
    "agentrun sql 'SELECT * FROM spend'",
    "agentrun sql --csv 'SELECT key, status FROM runs' > runs.csv",
    "agentrun sql '\\d tool_calls'",
    "agentrun sql",
)  # fmt: skip
add(
    app, decision_commands.inbox, DECIDE,
    "agentrun inbox",
    "agentrun inbox --json key,step,waits_for",
    cls=RowsCommand,
)  # fmt: skip
add(
    app, decision_commands.approve, DECIDE,
    "agentrun approve ticket-42 7 --by ana",
    "agentrun approve ticket-42 7 --arguments '{\"cents\": 500}'",
    "agentrun approve ticket-42 7 --budget usd=2",
)  # fmt: skip
add(
    app, decision_commands.reject, DECIDE,
    "agentrun reject ticket-42 7 --reason 'too much'",
)  # fmt: skip
add(
    app, decision_commands.resolve, DECIDE,
    "agentrun resolve ticket-42 7 --happened '{\"paid\": 500}'",
    "agentrun resolve ticket-42 7 --not-happened",
)  # fmt: skip
add(
    app, redo_command.redo, DECIDE,
    "agentrun redo ticket-42 5 --reason 'it quoted the wrong order'",
)  # fmt: skip
add(
    app, ui_command.ui, SERVE,
    "agentrun ui",
    "agentrun ui --allow-decisions --by ana",
    "agentrun ui --host 0.0.0.0 --token-file token --trusted-host runs.desk.example",
)  # fmt: skip
add(
    app, gateway_command.gateway, SERVE,
    "agentrun gateway --port 8788",
)  # fmt: skip
add(
    app, mcp_command.mcp, SERVE,
    "agentrun mcp app.py",
    "agentrun mcp app.py --http --port 8000",
)  # fmt: skip
add(app, work_commands.demo, TEST, "agentrun demo")
add(
    app, work_commands.crashtest, TEST,
    "agentrun crashtest app.py:support 'refund order 7'",
    "agentrun crashtest --cache",
)  # fmt: skip
add(app, database_commands.doctor, MAINTAIN, "agentrun doctor", "agentrun doctor --stop")
add(app, database_commands.migrate, MAINTAIN, "agentrun migrate --dry-run")
add(
    app, database_commands.prune, MAINTAIN,
    "agentrun prune --older-than 30d --dry-run",
    "agentrun prune --older-than 30d --status done --agent support",
)  # fmt: skip
app.add_typer(limits_command.app, name="limits", rich_help_panel=MAINTAIN)
app.add_typer(roles_command.app, name="roles", rich_help_panel=MAINTAIN)
