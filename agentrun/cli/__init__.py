"""The command line `agentrun`.

Data goes to stdout, notes and errors to stderr; `--json` makes the data JSON (one object, or an
array with an object a line). Wherever a KEY is expected, `@last` is the newest run and the
beginning of a key will do if only one run has it.

Exit codes:

====  ==========================================================================
   0  ok
   1  the run failed or was cancelled, a query failed, `doctor` or `crashtest` found something
   2  wrong command line, file or setting
   3  the run is held: a person must decide (`agentrun inbox`)
   4  no run has this key, or it was pruned, or several begin with it
   5  the database is unavailable, or its schema does not fit
   6  the code diverged from what is recorded
   7  the key belongs to a run with other arguments, or the run is busy
 130  interrupted (Ctrl-C); the run was handed back
====  ==========================================================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import agentrun
from agentrun.cli import limiting, options, output, reading, serving
from agentrun.cli.options import AsJson, By, Key, Larger, Reason, Status, Written
from agentrun.cli.reading import full_key as _full
from agentrun.core.errors import ConfigError
from agentrun.store.database import Database

__all__ = ["app"]

_CODES = (__doc__ or "").partition("=\n")[2].partition("\n=")[0]
_VARIABLE = "AGENTRUN_DATABASE_URL"
_BLOBS = "AGENTRUN_BLOBS"


class _Group(TyperGroup):
    """All commands report errors alike."""

    def invoke(self, ctx: Any) -> Any:
        with output.reporting(debug=bool(ctx.params.get("debug"))):
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


@dataclass(frozen=True)
class _Choice:
    """The database that the command line and the environment name; None: the embedded one."""

    dsn: str | None
    blobs: str | None

    def connect(self) -> Database:
        return agentrun.connect(self.dsn, blobs=self.blobs)

    def target(self) -> str:
        """A DSN, for commands that want no part of `connect`'s checks and migrations."""
        if self.dsn is not None:
            return self.dsn
        with self.connect() as database:
            return database.dsn


def _version(asked: bool) -> None:
    if asked:
        typer.echo(agentrun.__version__)
        raise typer.Exit


@app.callback()
def main(
    ctx: typer.Context,
    dsn: Annotated[
        str | None,
        typer.Option(envvar=_VARIABLE, help="The database; default: an embedded Postgres."),
    ] = None,
    blobs: Annotated[
        str | None,
        typer.Option(envvar=_BLOBS, help="Where large values lie, if not in the database."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    from agentrun.store.connection import describe

    if dsn:
        describe(dsn)  # refuses what is no DSN
    ctx.obj = _Choice(dsn or None, blobs or None)


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
        os.environ[_VARIABLE] = ctx.obj.dsn  # for the processes it starts, too
    if ctx.obj.blobs is not None:
        os.environ[_BLOBS] = ctx.obj.blobs
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
    from agentrun.cli import executing

    if key is not None and key.startswith("@"):
        raise ConfigError(f"--key {key}: names with @ stand for runs; to go on, use resume")
    with ctx.obj.connect():
        executing.run(target, args or [], key, as_json=as_json)


@app.command()
def resume(
    ctx: typer.Context,
    key: Key,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Defines the run's agent.")
    ] = None,
    budget: Larger = None,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run from its last recorded step, here."""
    from agentrun.cli import executing

    limits = options.budget_of(budget) if budget else None
    with ctx.obj.connect() as database:
        found = database.find(_full(database, key))
        executing.resume(found["key"], found["agent"], file, by, reason, limits, as_json=as_json)


@app.command()
def ls(
    ctx: typer.Context,
    status: Annotated[Status | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    with ctx.obj.connect() as database:
        rows = database.query("runs", status=status.value if status else None, limit=limit)
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
    """Print the transcript of a run: what happened, from the journal alone."""
    reading.show(ctx.obj.connect, key, full=full, as_json=as_json)


@app.command()
def watch(
    ctx: typer.Context,
    key: Key,
    full: Annotated[bool, typer.Option("--full", help="Show messages and values whole.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Only what models write.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a run does as it does it, in whichever process, until it has ended."""
    reading.watch(ctx.obj.connect, key, full=full, text=text, as_json=as_json)


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
    """Write a run as a file to keep, send or read elsewhere."""
    asked = zip(reading.EXPORTS, (html, md, jsonl, openai, as_json), strict=True)
    reading.export(ctx.obj.connect, key, [name for name, on in asked if on], file)


@app.command()
def inbox(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List what waits for a person."""
    with ctx.obj.connect() as database:
        rows = database.query("inbox", key=None)
    if as_json:
        output.emit_rows(rows)
        return
    from agentrun.view.terminal import inbox_table

    output.emit_table(inbox_table(rows)) if rows else output.note("nothing waits")


@app.command()
def resolve(
    ctx: typer.Context,
    key: Key,
    step: Annotated[int, typer.Argument(help="The number that `show` and `inbox` print.")],
    happened: Annotated[
        str | None, typer.Option(metavar="JSON", help="It took place; this is its result.")
    ] = None,
    not_happened: Annotated[
        bool, typer.Option("--not-happened", help="It did not: attempt it again.")
    ] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Nobody can tell: the model is told so.")
    ] = False,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Say what became of a step in doubt."""
    outcome = options.outcome_of(happened, not_happened, unknown)
    with ctx.obj.connect() as database:
        key = _full(database, key)
        mail = agentrun.resolve(key, step, outcome, by=by, reason=reason)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note(f"noted; `agentrun resume {quote(key)} FILE` goes on with the run")


Step = Annotated[int, typer.Argument(help="The number that `show` and `inbox` print.")]


@app.command()
def approve(
    ctx: typer.Context,
    key: Key,
    step: Step,
    arguments: Annotated[
        str | None, typer.Option(metavar="JSON", help="Call the tool with these instead.")
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
        key = _full(database, key)
        mail = agentrun.approve(key, step, by=by, reason=reason, arguments=edited, budget=limits)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note("approved; a worker goes on with the run, or `agentrun resume`")


@app.command()
def reject(
    ctx: typer.Context,
    key: Key,
    step: Step,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Reject a tool call that waits for a person; the model is told so, and why."""
    with ctx.obj.connect() as database:
        key = _full(database, key)
        mail = agentrun.reject(key, step, by=by, reason=reason)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note("rejected; a worker goes on with the run, or `agentrun resume`")


@app.command()
def cancel(
    ctx: typer.Context, key: Key, by: By = None, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Cancel a run and its children: at once, or at the next step of whoever executes it."""
    with ctx.obj.connect() as database:
        key = _full(database, key)
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
    queue: Annotated[str | None, typer.Option(help="Which workers may take it.")] = None,
    priority: Annotated[int | None, typer.Option(help="The highest is taken first.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds before it is due.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds it may take in all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Queue a run for a worker."""
    from agentrun.cli import executing

    with ctx.obj.connect():
        executing.submit(
            target, args or [], as_json=as_json, key=key, queue=queue, priority=priority,
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
    from agentrun.cli import executing

    with ctx.obj.connect():
        executing.serve(files, concurrency, queue or ["default"], as_json=as_json)


app.command()(serving.gateway)
app.add_typer(limiting.app, name="limits")


@app.command()
def crashtest(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="FILE[:AGENT]")],
    args: Annotated[list[str] | None, typer.Argument(metavar="ARG…")] = None,
    replies: Annotated[
        str | None, typer.Option(metavar="KEY", help="The model says what it said in this run.")
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="What the model says, a list of replies."),
    ] = None,
    world: Annotated[
        str | None, typer.Option(metavar="FILE:FUNCTION", help="Tells the state of the outside.")
    ] = None,
    network: Annotated[
        bool, typer.Option("--network", help="Let tools reach other machines.")
    ] = False,
    every_chunk: Annotated[
        bool,
        typer.Option("--every-chunk", help="Kill at each chunk of a stream, not 1, 2, 4, 8 …."),
    ] = False,
    spawn: Annotated[
        bool, typer.Option("--spawn", help="Fork no process; start each anew.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a process may take.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Kill an agent at every point, resume it, and report what does not survive that.

    It runs in a private database, against a double of the model's provider. Its tools are the
    real ones, performed once or twice a kill: point them at doubles. Exits with 1 for findings.
    """
    from agentrun.cli import crashing

    crashing.crashtest(
        target, args or [], ctx.obj.connect, replies=replies, script=script, world=world,
        spawn=spawn, as_json=as_json, network=network, every_chunk=every_chunk, timeout=timeout,
    )  # fmt: skip


@app.command()
def sql(
    ctx: typer.Context,
    query: Annotated[str | None, typer.Argument(metavar="QUERY")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the database in SQL (schema agentrun), read-only. Without QUERY: a prompt."""
    from agentrun.cli import asking

    asked = asking.given_or_piped(query)
    if asked is None:
        asking.prompt(ctx.obj.target(), as_json=as_json)
    else:
        asking.one(ctx.obj.target(), asked, as_json=as_json)


@app.command()
def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="That ended so long ago, as 30d or 12h.")
    ] = None,
    status: Annotated[str, typer.Option(help="That ended so.")] = "done,failed,cancelled",
    agent: Annotated[str | None, typer.Option(help="Only of this agent.")] = None,
    forget_keys: Annotated[
        str | None, typer.Option(metavar="AGE", help="Free keys pruned longer ago than this.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove runs that ended long ago, whole trees of them. Their keys are not executed again."""
    from agentrun.cli import pruning

    pruning.prune(
        ctx.obj.connect, older_than, forget_keys, status, agent, dry_run=dry_run, as_json=as_json
    )


@app.command()
def migrate(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what is missing.")] = False,
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
    """Say which database this is, how it is, and what needs attention."""
    if stop:
        from agentrun.store import embedded

        stopped = embedded.stop()
        output.emit_json({"stopped": stopped}) if as_json else output.note(
            f"the embedded Postgres in {embedded.home()} "
            f"{'is stopped' if stopped else 'was not running'}"
        )
        return
    from agentrun.cli.health import diagnose

    if not diagnose(ctx.obj.dsn, as_json=as_json):
        raise typer.Exit(1)
