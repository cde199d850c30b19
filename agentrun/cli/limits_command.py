"""`agentrun limits`: limits on the calls of all workers to a provider."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from agentrun.cli import output
from agentrun.cli.command_group import COMMANDS, CommandGroup, add
from agentrun.cli.options import AsJson
from agentrun.core.errors import ConfigError

__all__ = ["app"]

app = typer.Typer(
    cls=CommandGroup, help="Limits of providers, shared by all workers.", no_args_is_help=True
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="As openai/gpt-5-mini; * matches anything; the longest match counts."
    ),
]


def set_(
    ctx: typer.Context,
    model: Model,
    rpm: Annotated[int | None, typer.Option(min=1, help="Calls a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens a minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Calls at a time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set or replace the limit of MODEL. Workers apply it after their next heartbeat."""
    from agentrun.store.limits import set_limit

    if "/" not in model and model != "*":
        raise ConfigError(f"{model!r}: give provider and model, as in openai/gpt-5-mini")
    most = {"rpm": rpm, "tpm": tpm, "concurrency": concurrency}
    if set(most.values()) == {None}:
        raise ConfigError("say how much: --rpm, --tpm or --concurrency")
    with ctx.obj.connect() as database:
        set_limit(database, model, **most)
    output.emit_json({"model": model, **most}) if as_json else output.note(f"{model} is limited")


def ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List limits, with calls under way and waiting, and models that accept no calls at present."""
    from agentrun.store.limits import list_limits

    with ctx.obj.connect() as database:
        rows = [asdict(row) for row in list_limits(database)]
    if as_json:
        output.emit_rows(rows)
        return
    if not rows:
        output.note("no limits")
        return
    output.emit_table(list(rows[0]), [list(row.values()) for row in rows])


def rm(ctx: typer.Context, model: Model, as_json: AsJson = False) -> None:
    """Remove a limit."""
    from agentrun.store.limits import remove_limit

    with ctx.obj.connect() as database:
        removed = remove_limit(database, model)
    if not removed:
        raise ConfigError(f"there is no limit for {model!r}; `agentrun limits ls` lists them")
    output.emit_json({"removed": model}) if as_json else output.note(f"{model} has no limit now")


add(app, set_, COMMANDS, "agentrun limits set openai/gpt-5-mini --rpm 500 --tpm 200000", name="set")
add(app, ls, COMMANDS, "agentrun limits ls")
add(app, rm, COMMANDS, "agentrun limits rm openai/gpt-5-mini")
