"""`agentrun resume`: go on with one run here, or with all whose code diverged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

import agentrun
from agentrun.cli import options, output
from agentrun.cli.keys import full_key
from agentrun.cli.options import AsJson, By, Larger, MaybeKey, Once, Reason
from agentrun.cli.redo_command import confirm_redo
from agentrun.core.errors import AgentrunError, ConfigError
from agentrun.core.shell import write_command

if TYPE_CHECKING:
    from agentrun.steps.divergence_policy import OnDivergence

__all__ = ["resume"]

_NEEDS_YES = 6  # exit code: the code diverged, and the price was not agreed to with --yes


def resume(
    ctx: typer.Context,
    key: MaybeKey = None,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Defines the run's agent.")
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep recorded replies where only model requests differ."),
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Follow the new path of changed code; needs --yes.")
    ] = False,
    redo: Annotated[
        int | None,
        typer.Option(
            metavar="STEP", help="Set this recorded step aside first, as `agentrun redo` does."
        ),
    ] = None,
    once: Once = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to what --accept and --redo list.")
    ] = False,
    diverged: Annotated[
        bool,
        typer.Option(
            "--diverged",
            help="All runs whose code diverged, instead of KEY: here by FILE, else by workers.",
        ),
    ] = False,
    agent: Annotated[
        str | None, typer.Option(help="With --diverged: only runs of this agent.")
    ] = None,
    budget: Larger = None,
    by: By = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Resume a run from its last recorded step, here; or resume all runs that diverged."""
    from agentrun.api.operations import diverged_runs

    way = _divergence_option(keep, accept)
    _check_options(redo, once, yes=yes, accept=accept, diverged=diverged, agent=agent)
    with ctx.obj.connect() as database:
        if diverged:
            if file is not None or budget:
                raise ConfigError("resume --diverged takes no KEY and no --budget, at most a FILE")
            keys, file = diverged_runs(agent), key
        elif key is None:
            raise ConfigError("name the run: agentrun resume KEY [FILE], or --diverged")
        else:
            keys = [full_key(database, key)]
        if accept and not yes:
            _list_prices(keys, as_json=as_json)
            raise typer.Exit(_NEEDS_YES)
        if diverged:
            _resume_all(keys, file, agent, way, by, reason, as_json=as_json)
            return
        limits = options.budget_of(budget) if budget else None
        if redo is not None:
            confirm_redo(keys[0], redo, yes=yes, once=once)
        resumed = partial(
            agentrun.resume, keys[0], by=by, reason=reason, budget=limits, on_divergence=way
        )
        _resume_one(keys[0], file, partial(resumed, redo=redo, once=once), as_json=as_json)


def _divergence_option(keep: bool, accept: bool) -> OnDivergence | None:
    if keep and accept:
        raise ConfigError("say one of --keep and --accept")
    return "keep" if keep else "accept" if accept else None


def _check_options(
    redo: int | None, once: bool, *, yes: bool, accept: bool, diverged: bool, agent: str | None
) -> None:
    """Refuse options that do not go together."""
    if agent is not None and not diverged:
        raise ConfigError("--agent goes with --diverged")
    if redo is not None and (accept or diverged):
        raise ConfigError("--redo goes with KEY, and not with --accept or --diverged")
    if once and redo is None:
        raise ConfigError("--once goes with --redo")
    if yes and not accept and redo is None:
        raise ConfigError("--yes goes with --accept and --redo")


def _list_prices(keys: list[str], *, as_json: bool) -> None:
    """Print what accepting the new paths may pay and do again."""
    from agentrun.api.operations import price_of_accepting

    prices = {key: price_of_accepting(key) for key in keys}
    if as_json:
        rows = [
            {"key": key, "calls": price.calls, "cost": price.cost, "effects": list(price.effects)}
            for key, price in prices.items()
        ]
        output.emit_rows(rows)
    else:
        for key, price in prices.items():
            output.emit(f"{key}: {price}")
    output.note("nothing was done; --yes takes the new path")


def _load_agents(file: str | None) -> list[str]:
    """Import the file, if one is named, and return the names of the agents that it defines."""
    from agentrun.api.agent_files import load

    return [] if file is None else sorted(load(file))


def _resume_one(key: str, file: str | None, resumed: Callable[[], Any], *, as_json: bool) -> None:
    from agentrun.cli import run_commands

    with run_commands.only_data_on_stdout():
        agent = _agent_of(key, file, _load_agents(file))
        result = resumed()
    run_commands.show_result(agent, key, result, as_json=as_json)


def _agent_of(key: str, file: str | None, defined: list[str]) -> Any:
    from agentrun.lifecycle.registry import registered
    from agentrun.store.opening import default
    from agentrun.store.runs import find_run

    name = find_run(default(), key).agent
    try:
        agent = registered(name)
    except ConfigError:
        agent = None
    if file is None and agent is None:
        raise ConfigError(
            f"run {key!r} belongs to agent {name!r}: name the file that defines it, as in "
            f"{write_command('resume', key, 'FILE')}"
        )
    if agent is None or (file is not None and agent.name not in defined):
        raise ConfigError(
            f"run {key!r} belongs to agent {name!r}, which {file} does not define (it has: "
            f"{', '.join(defined) or 'none'})"
        )
    return agent


def _resume_all(
    keys: list[str],
    file: str | None,
    agent: str | None,
    way: OnDivergence | None,
    by: str | None,
    reason: str | None,
    *,
    as_json: bool,
) -> None:
    from agentrun.cli import run_commands

    rows: list[dict[str, Any]] = []
    if file is None:
        keys = agentrun.resume_diverged(agent, on_divergence=way, by=by, reason=reason)
        rows = [{"key": key, "status": "due"} for key in keys]
    else:
        with run_commands.only_data_on_stdout():
            defined = _load_agents(file)
        for key in keys:
            rows.append(_resume_listed(key, file, defined, way, by, reason))
    if as_json:
        output.emit_rows(rows)
    else:
        for row in rows:
            output.emit(f"{row['key']} {row['status']}")
    where = "workers go on with them" if file is None else "done here"
    output.note(f"{len(rows)} runs; {where}" if rows else "no run has diverged")
    if any("error" in row for row in rows):
        raise typer.Exit(1)


def _resume_listed(
    key: str,
    file: str,
    defined: list[str],
    way: OnDivergence | None,
    by: str | None,
    reason: str | None,
) -> dict[str, Any]:
    """Resume one run of several, and return a row that says how it ended."""
    from agentrun.cli.run_commands import only_data_on_stdout

    try:
        with only_data_on_stdout():
            _agent_of(key, file, defined)
            agentrun.resume(key, by=by, reason=reason, on_divergence=way)
    except AgentrunError as error:
        output.note(f"{key}: {error}")
        return {"key": key, "status": agentrun.get(key).status(), "error": str(error)}
    return {"key": key, "status": "done"}
