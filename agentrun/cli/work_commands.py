"""`agentrun demo`, `run`, `submit`, `worker` and `crashtest`: commands that execute agents."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from agentrun.cli.database_choice import BLOBS, DATABASE
from agentrun.cli.options import AsJson
from agentrun.core.errors import ConfigError

__all__ = ["crashtest", "demo", "run", "submit", "worker"]


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
