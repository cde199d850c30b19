"""`agentrun crashtest`: kill an agent at every point and see whether its runs survive it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentrun.cli.executing import from_json, only_data_on_stdout, parsed, split
from agentrun.cli.output import emit, emit_json, emit_table, note
from agentrun.cli.reading import Connect, full_key
from agentrun.core.errors import ConfigError
from agentrun.core.events import Event
from agentrun.runner.agent import DurableAgent
from agentrun.runner.loading import load, load_module, pick
from agentrun.testing.crash import Report, Rig
from agentrun.testing.crash.child import Order, Subject, live
from agentrun.testing.crash.recorded import replies_of
from agentrun.testing.replies import Rule, rules_from

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["crashtest"]


def crashtest(
    target: str,
    args: list[str],
    connect: Connect,
    *,
    replies: str | None,
    script: Path | None,
    world: str | None,
    spawn: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Crash-test the agent that ``FILE:AGENT`` names, and report; exits with 1 for findings."""
    if replies is not None and script is not None:
        raise ConfigError("say one of --replies KEY and --script FILE")
    journal = [] if replies is None else _journal(connect, replies)
    rules = replies_of(journal) if script is None else _rules(script)
    with only_data_on_stdout(), Rig(rules=rules, told=_progress, **options) as rig:
        tell = None if world is None else _world(world)
        subject = _subject(target, args, journal, spawn)
        report = rig.examine(subject, tell)
        _progress("")
    emit_json(report.to_dict()) if as_json else _show(report)
    if not report.clean:
        raise typer.Exit(1)


def _journal(connect: Connect, key: str) -> list[Event]:
    with connect() as database:
        run = database.find(full_key(database, key))
        return database.events(run["run_id"])[0]


def _rules(script: Path) -> list[Rule]:
    """A script as JSON: a list of replies, or an object with ``rules`` and ``script``."""
    try:
        told = from_json(script.read_text("utf-8"))
        return rules_from({"script": told} if isinstance(told, list) else told)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{script} holds no script: {type(error).__name__}: {error}. It is a JSON list of "
            'replies: a text, or {"text": …, "tool_calls": [{"name": …, "arguments": {…}}]}'
        ) from None


def _world(target: str) -> Callable[[], Any]:
    file, name = split(target)
    tell = getattr(load_module(file), name or "world", None)
    if not callable(tell):
        raise ConfigError(f"{file} has no function {name or 'world'!r}")
    return tell  # type: ignore[no-any-return]


def _subject(target: str, args: list[str], journal: list[Event], spawn: bool) -> Subject:
    file, name = split(target)
    agent = pick(load(file), name, file)
    threads = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    if threads and not spawn:
        note(f"{file} starts threads ({', '.join(threads)}): no process is forked, which is slower")
    values = parsed(agent, args) if args or not journal else _recorded(agent, journal)
    given, named = agent.arguments.call_with(values, "")
    command = [sys.executable, "-P", "-m", __name__, str(Path(file).resolve()), agent.name]
    command.append(json.dumps(agent.arguments.dump(values)))
    return Subject(agent, tuple(given), named, command, fork=not (spawn or threads))


def _recorded(agent: DurableAgent[..., Any], journal: list[Event]) -> dict[str, Any]:
    """The arguments of the run whose replies are used."""
    try:
        values: dict[str, Any] = agent.arguments.validate(journal[0].input["args"])
    except ValueError as error:
        raise ConfigError(f"that run's arguments are none of {agent.name}: {error}") from None
    return values


# -- what is told ----------------------------------------------------------------------------------


def _progress(line: str) -> None:
    """One line that is written over, for a person who waits."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def _show(report: Report) -> None:
    if report.findings:
        emit_table(_findings(report))
        emit("")
    for finding in report.findings:
        if finding.detail:
            emit(f"{finding.kind}: {finding.what}\n{finding.detail}\n")
    for way_out in dict.fromkeys(f"{f.kind} → {f.way_out}" for f in report.findings):
        emit(way_out)
    for doubt in report.doubts:
        emit(str(doubt))
    for line in report.notes:
        note(line)
    emit(report.summary)


def _findings(report: Report) -> Table:
    from agentrun.view.terminal import table

    return table(
        ("finding", "step", "where", "kills", "at", "what"),
        (
            (f.kind, _step(f.step, f.name), f.place, f.kills or None, _first(f.points), f.what)
            for f in report.findings
        ),
    )


def _step(number: int | None, name: str) -> str:
    return "" if number is None else f"{number} {name}"


def _first(points: tuple[str, ...]) -> str:
    return ", ".join(points[:2]) + (", …" if len(points) > 2 else "")


# -- an interpreter of its own ---------------------------------------------------------------------


def _main(file: str, name: str, arguments: str, order: str) -> None:
    agent = pick(load(file), name, file)
    given, named = agent.arguments.call_with(agent.arguments.validate(json.loads(arguments)), "")
    live(Order.from_json(order), agent, given, named)


if __name__ == "__main__":
    _main(*sys.argv[1:])
