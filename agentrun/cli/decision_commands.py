"""`agentrun inbox`, `approve`, `reject`, `resolve` and `cancel`: what people decide."""

from __future__ import annotations

from typing import Annotated

import typer

import agentrun
from agentrun.cli import options, output
from agentrun.cli.keys import full_key
from agentrun.cli.options import AsJson, By, Fields, Key, Larger, MaybeKey, Reason, RowsAsJson

__all__ = ["approve", "cancel", "inbox", "reject", "resolve"]

Step = Annotated[int, typer.Argument(help="The number that `show` and `inbox` print.")]


def inbox(
    ctx: typer.Context,
    key: MaybeKey = None,
    as_json: RowsAsJson = False,
    fields: Fields = None,
) -> None:
    """List what waits for a person, and decisions that no worker has taken up yet."""
    from agentrun.cli.inbox_list import list_inbox

    list_inbox(ctx.obj.connect, key, as_json=as_json, fields=fields)


def resolve(
    ctx: typer.Context,
    key: Key,
    step: Step,
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
    from agentrun.lifecycle.live_workers import who_continues

    outcome = options.outcome_of(happened, not_happened, unknown)
    with ctx.obj.connect() as database:
        key = full_key(database, key)
        mail = agentrun.resolve(key, step, outcome, by=by, reason=reason)
        next_ = who_continues(database, key)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note(f"noted; {next_}")


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
    from agentrun.lifecycle.live_workers import who_continues

    edited = None if arguments is None else options.json_of(arguments, "--arguments")
    limits = options.budget_of(budget) if budget else None
    with ctx.obj.connect() as database:
        key = full_key(database, key)
        mail = agentrun.approve(key, step, by=by, reason=reason, arguments=edited, budget=limits)
        next_ = who_continues(database, key)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note(f"approved; {next_}")


def reject(
    ctx: typer.Context,
    key: Key,
    step: Step,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Reject a tool call that waits for a person; the model receives the reason."""
    from agentrun.lifecycle.live_workers import who_continues

    with ctx.obj.connect() as database:
        key = full_key(database, key)
        mail = agentrun.reject(key, step, by=by, reason=reason)
        next_ = who_continues(database, key)
    if as_json:
        output.emit_json({"key": key, "step": step, "mail": mail})
    output.note(f"rejected; {next_}")


def cancel(
    ctx: typer.Context, key: Key, by: By = None, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Cancel a run and its child runs: at once, or at the next step if a worker executes it."""
    with ctx.obj.connect() as database:
        key = full_key(database, key)
        agentrun.cancel(key, by=by, reason=reason)
        status = agentrun.get(key).status()
    if as_json:
        output.emit_json({"key": key, "status": status})
    output.note("cancelled" if status == "cancelled" else "its worker stops it at the next step")
