"""`agentrun crashtest`: kill an agent at every point, and check that its runs resume correctly."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from agentrun.api.agent import DurableAgent
from agentrun.api.agent_files import load, load_module, pick
from agentrun.cli.keys import Connect, full_key
from agentrun.cli.options import from_json
from agentrun.cli.output import emit, emit_json, emit_table, note
from agentrun.cli.run_commands import only_data_on_stdout, parse_arguments, split_target
from agentrun.core.errors import ConfigError
from agentrun.core.events import Event
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing.crash import Report, Rig
from agentrun.testing.crash.child import Order, Subject, execute_order
from agentrun.testing.crash.recorded_replies import rules_from_journal
from agentrun.testing.replies import Rule, rules_from, settings_from

__all__ = ["crashtest"]


def crashtest(
    target: str | None,
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
    """Crash-test the agent that ``FILE:AGENT`` names, and print the report.

    Exits with 1 if there are findings.
    """
    if target is None:
        _test_demo_agents(as_json, **options)
        return
    if replies is not None and script is not None:
        raise ConfigError("say one of --replies KEY and --script FILE")
    journal = [] if replies is None else _load_journal(connect, replies)
    rules = rules_from_journal(journal) if script is None else _read_rules(script)
    with only_data_on_stdout(), Rig(rules=rules, on_progress=_show_progress, **options) as rig:
        tell = None if world is None else _load_world(world)
        subject = _load_subject(target, args, journal, spawn)
        report = rig.examine(subject, tell)
        _show_progress("")
    emit_json(report.to_dict()) if as_json else _show_report(report)
    if not report.clean:
        raise typer.Exit(1)


def _test_demo_agents(as_json: bool, *, cache: bool, **options: Any) -> None:
    """Crash-test the demo agents whose prompts a provider caches, and print the reports."""
    if not cache:
        raise ConfigError("name an agent to crash-test, as FILE:AGENT; or give --cache alone")
    from agentrun.demo import caching

    reports = []
    for agent in (caching.plain, caching.marked):
        with (
            only_data_on_stdout(),
            Rig(script=caching.SCRIPT, on_progress=_show_progress, cache=True, **options) as rig,
        ):
            reports.append(rig.test(agent))
            _show_progress("")
    changed = sum(report.prefixes.changed_bytes for report in reports if report.prefixes)
    if as_json:
        agents = [report.to_dict() for report in reports]
        emit_json({"agents": agents, "changed_prefix_bytes": changed})
    else:
        for report in reports:
            _show_report(report)
        emit(f"changed prefix bytes over all kills: {changed:,}")
    if not all(report.clean for report in reports):
        raise typer.Exit(1)


def _load_journal(connect: Connect, key: str) -> list[Event]:
    with connect() as database:
        run = find_run(database, full_key(database, key))
        return read_events(database, run.run_id, exact=True)[0]


def _read_rules(script: Path) -> list[Rule]:
    """Read a script from JSON: a list of replies, or an object with ``rules`` and ``script``."""
    try:
        return rules_from(settings_from(from_json(script.read_text("utf-8"))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{script} holds no script: {type(error).__name__}: {error}. It is a JSON list of "
            'replies: a text, or {"text": …, "tool_calls": [{"name": …, "arguments": {…}}]}'
        ) from None


def _load_world(target: str) -> Callable[[], Any]:
    file, name = split_target(target)
    tell = getattr(load_module(file), name or "world", None)
    if not callable(tell):
        raise ConfigError(f"{file} has no function {name or 'world'!r}")
    return tell  # type: ignore[no-any-return]


def _load_subject(target: str, args: list[str], journal: list[Event], spawn: bool) -> Subject:
    file, name = split_target(target)
    before = threading.enumerate()
    agent = pick(load(file), name, file)
    threads = [one.name for one in threading.enumerate() if one not in before]
    if threads and not spawn:
        note(
            f"{file} starts threads ({', '.join(threads)}), so processes are started anew instead "
            "of forked, which is slower"
        )
    values = (
        parse_arguments(agent, args) if args or not journal else _recorded_arguments(agent, journal)
    )
    positional, named = agent.arguments.call_with(values, "")
    command = [sys.executable, "-P", "-m", __name__, str(Path(file).resolve()), agent.name]
    command.append(json.dumps(agent.arguments.record(values, values).args))
    return Subject(agent, tuple(positional), named, command, fork=not (spawn or threads))


def _recorded_arguments(agent: DurableAgent[..., Any], journal: list[Event]) -> dict[str, Any]:
    """The arguments of the run whose replies the double repeats."""
    try:
        values: dict[str, Any] = agent.arguments.restore(journal[0].input["args"])
    except ValueError as error:
        raise ConfigError(f"the run's arguments do not fit {agent.name}: {error}") from None
    return values


# -- the report ------------------------------------------------------------------------------------


_FINDINGS = ("finding", "step", "where", "kills", "at", "what")


def _show_progress(line: str) -> None:
    """Show one line of progress on a terminal; each line overwrites the one before."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def _show_report(report: Report) -> None:
    if report.findings:
        emit_table(_FINDINGS, _finding_rows(report))
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


def _finding_rows(report: Report) -> Iterator[tuple[object, ...]]:
    for f in report.findings:
        yield f.kind, _step(f.step, f.name), f.place, f.kills or None, _points(f.points), f.what


def _step(number: int | None, name: str) -> str:
    return "" if number is None else f"{number} {name}"


def _points(points: tuple[str, ...]) -> str:
    return ", ".join(points[:2]) + (", …" if len(points) > 2 else "")


# -- an interpreter of its own ---------------------------------------------------------------------


def _main(file: str, name: str, arguments: str, order: str) -> None:
    agent = pick(load(file), name, file)
    positional, named = agent.arguments.call_with(
        agent.arguments.restore(json.loads(arguments)), ""
    )
    execute_order(Order.from_json(order), agent, positional, named)


if __name__ == "__main__":
    _main(*sys.argv[1:])
