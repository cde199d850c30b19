"""`agentrun migrate`, `doctor` and `prune`: commands that look after the database."""

from __future__ import annotations

from typing import Annotated

import typer

from agentrun.cli import output
from agentrun.cli.options import AsJson

__all__ = ["doctor", "migrate", "prune"]


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
