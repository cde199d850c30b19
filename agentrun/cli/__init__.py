"""The command line `agentrun`.

Data goes to stdout, notes and errors to stderr. With `--json`, the data is JSON: one object, or an
array with one object on each line. For a KEY, `@last` means the newest run, and the beginning of a
key is enough if only one run's key begins with it.

Exit codes:

====  ==========================================================================
   0  ok
   1  the run failed or was cancelled, a query failed, `doctor` or `crashtest` found something
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

import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import agentrun
from agentrun.cli import (
    gateway_command,
    limits_command,
    mcp_command,
    options,
    output,
    redo_command,
    resume_command,
    roles_command,
    show_commands,
)
from agentrun.cli.database_choice import BLOBS, DATABASE, DatabaseChoice
from agentrun.cli.options import AsJson, By, Key, Larger, Reason, Status, Written
from agentrun.cli.show_commands import full_key as _full_key
from agentrun.core.errors import ConfigError, NoWorkerWarning
from agentrun.lifecycle.live_workers import who_continues
from agentrun.store.run_list import RunFilter, list_runs

__all__ = ["app"]

_CODES = (__doc__ or "").partition("=\n")[2].partition("\n=")[0]


class _Group(TyperGroup):
    """A group of commands that all report errors in the same way."""

    def invoke(self, ctx: Any) -> Any:
        with output.report_errors(debug=bool(ctx.params.get("debug"))):
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Group,
    help="Durable AI-agent runs in your own Postgres: run them, resume them, read them.",
    epilog=f"Exit codes:\n\n\b\n{_CODES}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
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
    from agentrun.store.connection import describe

    warnings.simplefilter("ignore", NoWorkerWarning)  # commands print this warning themselves
    if dsn:
        describe(dsn)  # raises ConfigError for a malformed DSN
    ctx.obj = DatabaseChoice(dsn or None, blobs or None)


@app.command()
def demo(
    ctx: typer.Context,
    as_json: AsJson = False,
    base_url: Annotated[
        str | None, typer.Option(help="A real provider; default: the one built in.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask there.")] = None,
) -> None:
    """Kill an agent in the middle of its work and watch it resume."""
    from agentrun.demo import main as play

    if ctx.obj.dsn is not None:
        os.environ[DATABASE] = ctx.obj.dsn  # the processes that the demo starts inherit it
    if ctx.obj.blobs is not None:
        os.environ[BLOBS] = ctx.obj.blobs
    raise typer.Exit(play(as_json=as_json, base_url=base_url, model=model) or 0)


@app.command()
def run(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="FILE:AGENT", help="Or FILE, if it has one.")],
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARG…", help="The agent's arguments in order: JSON, or text."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Names the run; the same key is the same run, resumed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an agent here and print its result."""
    from agentrun.cli import run_commands

    if key is not None and key.startswith("@"):
        raise ConfigError(f"--key {key}: a key cannot begin with @; to resume a run, use resume")
    with ctx.obj.connect():
        run_commands.run(target, args or [], key, as_json=as_json)


app.command()(resume_command.resume)


@app.command()
def ls(
    ctx: typer.Context,
    status: Annotated[Status | None, typer.Option(help="Only runs with this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most this many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    with ctx.obj.connect() as database:
        found = list_runs(database, RunFilter((status.value,) if status else None), limit=limit)
    rows = [asdict(run) for run in found]
    if as_json:
        output.emit_rows(rows)
        return
    from agentrun.view.terminal import runs_table

    output.emit_table(runs_table(rows)) if rows else output.note("no runs")


@app.command()
def show(
    ctx: typer.Context,
    key: Written,
    full: Annotated[bool, typer.Option("--full", help="Show messages and values whole.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the transcript of a run, built from the journal alone."""
    show_commands.show(ctx.obj.connect, key, full=full, as_json=as_json)


@app.command()
def watch(
    ctx: typer.Context,
    key: Key,
    full: Annotated[bool, typer.Option("--full", help="Show messages and values whole.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Print only the text of models.")] = False,
    as_json: AsJson = False,
) -> None:
    """Follow a run live, in whichever process it executes, until it has ended."""
    show_commands.watch(ctx.obj.connect, key, full=full, text=text, as_json=as_json)


@app.command()
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
) -> None:
    """Write a run to a file, to keep it, send it or read it elsewhere."""
    choices = zip(show_commands.EXPORTS, (html, md, jsonl, openai, as_json), strict=True)
    show_commands.export(ctx.obj.connect, key, [name for name, on in choices if on], file)


@app.command()
def inbox(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List what waits for a person, and decisions that no worker has taken up yet."""
    show_commands.inbox(ctx.obj.connect, as_json=as_json)


@app.command()
def resolve(
    ctx: typer.Context,
    key: Key,
    step: Annotated[int, typer.Argument(help="The number that `show` and `inbox` print.")],
    happened: Annotated[
        str | None, typer.Option(metavar="JSON", help="The effect happened; this is the result.")
    ] = None,
    not_happened: Annotated[
        bool, typer.Option("--not-happened", help="It did not happen: attempt it again.")
    ] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="It stays unknown: the model is told this.")
    ] = False,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Decide a step in doubt: say whether its effect happened."""
    outcome = options.outcome_of(happened, not_happened, unknown)
    with ctx.obj.connect() as database:
        key = _full_key(database, key)
        mail = agentrun.resolve(key, step, outcome, by=by, reason=reason)
        next_ = who_continues(database, key)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note(f"noted; {next_}")


Step = Annotated[int, typer.Argument(help="The number that `show` and `inbox` print.")]


@app.command()
def approve(
    ctx: typer.Context,
    key: Key,
    step: Step,
    arguments: Annotated[
        str | None, typer.Option(metavar="JSON", help="Call the tool with these arguments instead.")
    ] = None,
    budget: Larger = None,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Approve a tool call that waits for a person, or raise a budget that is used up."""
    edited = None if arguments is None else options.json_of(arguments, "--arguments")
    limits = options.budget_of(budget) if budget else None
    with ctx.obj.connect() as database:
        key = _full_key(database, key)
        mail = agentrun.approve(key, step, by=by, reason=reason, arguments=edited, budget=limits)
        next_ = who_continues(database, key)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note(f"approved; {next_}")


@app.command()
def reject(
    ctx: typer.Context,
    key: Key,
    step: Step,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Reject a tool call that waits for a person; the model receives the reason."""
    with ctx.obj.connect() as database:
        key = _full_key(database, key)
        mail = agentrun.reject(key, step, by=by, reason=reason)
        next_ = who_continues(database, key)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note(f"rejected; {next_}")


@app.command()
def cancel(
    ctx: typer.Context, key: Key, by: By = None, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Cancel a run and its child runs: at once, or at the next step if a worker executes it."""
    with ctx.obj.connect() as database:
        key = _full_key(database, key)
        agentrun.cancel(key, by=by, reason=reason)
        status = agentrun.get(key).status()
    if as_json:
        output.emit_json({"key": key, "status": status})
    output.note("cancelled" if status == "cancelled" else "its worker stops it at the next step")


@app.command()
def submit(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="FILE[:AGENT]")],
    args: Annotated[list[str] | None, typer.Argument(metavar="ARG…")] = None,
    key: Annotated[str | None, typer.Option(help="The run's key; default: a fresh one.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only workers of this queue take it.")] = None,
    priority: Annotated[int | None, typer.Option(help="The highest is taken first.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds before it is due.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds that it may take in all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Queue a run for a worker."""
    from agentrun.cli import run_commands

    with ctx.obj.connect() as database:
        run_commands.submit(
            database, target, args or [], as_json=as_json, key=key, queue=queue, priority=priority,
            delay=delay,
            deadline=deadline,
        )  # fmt: skip


@app.command()
def worker(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE[:AGENT]…")],
    concurrency: Annotated[int, typer.Option(min=1, help="Runs executed at a time.")] = 10,
    queue: Annotated[list[str] | None, typer.Option(help="Serve these queues.")] = None,
    as_json: AsJson = False,
) -> None:
    """Execute submitted runs of the agents in FILE, until SIGTERM or Ctrl-C; then drain."""
    from agentrun.cli import run_commands

    with ctx.obj.connect():
        run_commands.run_worker(files, concurrency, queue or ["default"], as_json=as_json)


app.command()(gateway_command.gateway)
app.add_typer(limits_command.app, name="limits")
app.command()(mcp_command.mcp)
app.command()(redo_command.redo)
app.add_typer(roles_command.app, name="roles")


@app.command()
def crashtest(
    ctx: typer.Context,
    target: Annotated[str | None, typer.Argument(metavar="FILE[:AGENT]")] = None,
    args: Annotated[list[str] | None, typer.Argument(metavar="ARG…")] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Compare prompt prefixes; FILE defaults to demo agents.")
    ] = False,
    replies: Annotated[
        str | None, typer.Option(metavar="KEY", help="Repeat the model's replies of this run.")
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="The model's replies, a list by turn."),
    ] = None,
    world: Annotated[
        str | None, typer.Option(metavar="FILE:FUNCTION", help="Returns the state of the outside.")
    ] = None,
    network: Annotated[
        bool, typer.Option("--network", help="Let tools connect to other machines.")
    ] = False,
    every_chunk: Annotated[
        bool, typer.Option("--every-chunk", help="Kill at each chunk of a stream, not 1, 2, 4, ….")
    ] = False,
    spawn: Annotated[
        bool, typer.Option("--spawn", help="Start new interpreters instead of forks.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a process may take.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Kill an agent at every point, resume it, and report each fault that this shows.

    The agent runs in a private database, against a double of the model's provider. Its tools really
    act, once or twice for each kill: point them at doubles. Exits with 1 if there are findings.
    """
    from agentrun.cli import crashtest_command

    crashtest_command.crashtest(
        target, args or [], ctx.obj.connect, replies=replies, script=script, world=world,
        spawn=spawn, as_json=as_json, network=network, every_chunk=every_chunk, timeout=timeout,
        cache=cache,
    )  # fmt: skip


@app.command()
def sql(
    ctx: typer.Context,
    query: Annotated[str | None, typer.Argument(metavar="QUERY")] = None,
    as_json: AsJson = False,
) -> None:
    """Query the database in SQL (schema agentrun), read-only. Without QUERY: a prompt."""
    from agentrun.cli import sql_command

    text = sql_command.read_query(query)
    if text is None:
        sql_command.run_prompt(ctx.obj.reader(), as_json=as_json)
    else:
        sql_command.run_query(ctx.obj.reader(), text, as_json=as_json)


@app.command()
def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Runs that ended longer ago, as 30d or 12h.")
    ] = None,
    status: Annotated[
        str, typer.Option(help="Only runs with these statuses.")
    ] = "done,failed,cancelled",
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    forget_keys: Annotated[
        str | None, typer.Option(metavar="AGE", help="Free keys pruned longer ago than this.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove runs that ended long ago, with their child runs. Their keys cannot be run again."""
    from agentrun.cli import prune_command

    prune_command.prune(
        ctx.obj.connect, older_than, forget_keys, status, agent, dry_run=dry_run, as_json=as_json
    )


@app.command()
def migrate(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list missing migrations.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the schema of the database up to this version."""
    from agentrun.store import embedded
    from agentrun.store.migrate import migrate as apply

    migrations = apply(ctx.obj.dsn or embedded.start(), dry_run=dry_run)
    if as_json:
        output.emit_json({"missing" if dry_run else "applied": [m.name for m in migrations]})
        return
    for migration in migrations:
        output.emit(f"{'missing' if dry_run else 'applied'} {migration.name}")
    if not migrations:
        output.note("the schema is current")


@app.command()
def doctor(
    ctx: typer.Context,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the embedded Postgres of AGENTRUN_HOME.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Report which database this is, its condition, and what needs attention."""
    if stop:
        from agentrun.store import embedded

        stopped = embedded.stop()
        output.emit_json({"stopped": stopped}) if as_json else output.note(
            f"the embedded Postgres in {embedded.home()} "
            f"{'is stopped' if stopped else 'was not running'}"
        )
        return
    from agentrun.cli.doctor_report import diagnose

    if not diagnose(ctx.obj.dsn, as_json=as_json):
        raise typer.Exit(1)
