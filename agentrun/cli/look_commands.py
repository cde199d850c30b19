"""`agentrun ls`, `show`, `watch`, `export` and `sql`: commands that only read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentrun.cli.completion import complete_keys
from agentrun.cli.options import AsJson, Fields, Key, RowsAsJson, Status, Written
from agentrun.core.errors import ConfigError

__all__ = ["export", "ls", "show", "sql", "watch"]

Full = Annotated[bool, typer.Option("--full", help="Show messages and values whole.")]


def ls(
    ctx: typer.Context,
    status: Annotated[Status | None, typer.Option(help="Only runs with this status.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Only runs made since: 2d, 12h or 2026-11-30."),
    ] = None,
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only runs in which this text occurs.")
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Only this run and its child runs.", autocompletion=complete_keys
        ),
    ] = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="Child runs below the runs that started them.")
    ] = False,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where an earlier list ended.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most this many.")] = 50,
    as_json: RowsAsJson = False,
    fields: Fields = None,
) -> None:
    """List runs, one a line, the newest first."""
    from agentrun.cli.list_command import list_them

    list_them(
        ctx.obj.connect, tree=tree, since=since, after=after, limit=limit, as_json=as_json,
        fields=fields, status=status.value if status else None, agent=agent, text=search,
        root=root,
    )  # fmt: skip


def show(
    ctx: typer.Context,
    key: Written,
    full: Full = False,
    step: Annotated[
        int | None, typer.Option(metavar="STEP", help="Only this step and its messages.")
    ] = None,
    turns: Annotated[
        str | None, typer.Option(metavar="N..M", help="Only these turns: 3, 3..5 or 3.. .")
    ] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Only what failed, was tried again or is in doubt.")
    ] = False,
    pager: Annotated[
        bool, typer.Option("--pager/--no-pager", help="Use a pager in a terminal.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Print the transcript of a run, built from the journal alone."""
    from agentrun.cli import show_command
    from agentrun.view.selection import Selection

    selection = Selection(step=step, turns=show_command.turns_of(turns), errors=errors)
    show_command.show(ctx.obj.connect, key, selection, full=full, pager=pager, as_json=as_json)


def watch(
    ctx: typer.Context,
    key: Key,
    full: Full = False,
    text: Annotated[bool, typer.Option("--text", help="Print only the text of models.")] = False,
    exit_status: Annotated[
        bool,
        typer.Option("--exit-status", help="End with 3 as soon as the run waits for a person."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Follow a run live, in whichever process it executes, until it has ended.

    In a terminal, the last lines show what the run does now. Exits with 1 if the run failed or was
    cancelled.
    """
    from agentrun.cli import watch_command

    watch_command.watch(
        ctx.obj.connect, key, full=full, text=text, exit_status=exit_status, as_json=as_json
    )


def export(
    ctx: typer.Context,
    key: Written,
    html: Annotated[bool, typer.Option("--html", help="A page: one file, no network.")] = False,
    md: Annotated[bool, typer.Option("--md", help="Markdown, as GitHub shows it.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="The journal, without loss.")] = False,
    openai: Annotated[bool, typer.Option("--openai", help="Messages of the chat API.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The transcript, as `show`.")] = False,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")
    ] = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="Child runs too: a file for each run, in folder -o.")
    ] = False,
) -> None:
    """Write a run to a file, to keep it or to read it elsewhere."""
    from agentrun.cli import export_command

    choices = zip(export_command.EXPORTS, (html, md, jsonl, openai, as_json), strict=True)
    export_command.export(
        ctx.obj.connect, key, [name for name, on in choices if on], file, tree=tree
    )


def sql(
    ctx: typer.Context,
    query: Annotated[str | None, typer.Argument(metavar="QUERY")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Query the database in SQL (schema agentrun), read-only. Without QUERY: a prompt.

    A table that is wider than the screen is printed as records, and into a pipe as tab-separated
    lines. \\d lists the tables and views, \\d NAME the columns of one.
    """
    from agentrun.cli import sql_command

    if csv and as_json:
        raise ConfigError("say one of --csv and --json")
    form: sql_command.Form = "json" if as_json else "csv" if csv else "table"
    text = sql_command.read_query(query)
    if text is not None:
        sql_command.run_query(ctx.obj.reader(), text, form)
        return
    from agentrun.cli.sql_prompt import run_prompt

    run_prompt(ctx.obj.reader(), form)
