"""`agentrun redo`: set a recorded step aside, after listing what is then paid and done again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

import agentrun
from agentrun.cli import output
from agentrun.cli.keys import full_key
from agentrun.cli.options import AsJson, By, Key, Once, Reason
from agentrun.core.errors import ConfigError

if TYPE_CHECKING:
    from agentrun.core.redo import Redo

__all__ = ["confirm_redo", "redo"]


def redo(
    ctx: typer.Context,
    key: Key,
    step: Annotated[int, typer.Argument(help="The number that `show` prints.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    once: Once = False,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Set a recorded step aside, as a bad answer, and queue its run to perform it again."""
    from agentrun.lifecycle.live_workers import who_continues

    with ctx.obj.connect() as database:
        key = full_key(database, key)
        plan = confirm_redo(key, step, yes=yes, once=once)
        agentrun.redo(key, step, by=by, reason=reason, once=once)
        next_ = who_continues(database, key)
    if as_json:
        output.emit_json(_as_json(plan))
    output.note(f"set aside; {next_}")


def confirm_redo(key: str, step: int, *, yes: bool, once: bool) -> Redo:
    """Print what a redo pays and does again, and ask for consent.

    Raises RunError for a step that acts once, and ConfigError if there is no terminal to ask at.
    """
    from agentrun.api.redo import check_once

    plan = agentrun.redo(key, step, dry_run=True)
    output.note(plan.describe())
    if not once:
        check_once(plan)
    if not yes:
        _ask_consent()
    return plan


def _ask_consent() -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nothing was changed: say --yes")
    typer.confirm("Do that?", abort=True, err=True)


def _as_json(plan: Redo) -> dict[str, Any]:
    return {
        "key": plan.key,
        "step": plan.step,
        "set_aside": sorted(one.step for one in plan.aside),
        "performed_again": list(plan.again),
        "model_calls_at_stake": plan.after.calls,
    }
