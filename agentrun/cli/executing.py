"""`agentrun run`, `resume`, `submit` and `worker`: execute agents that a file defines."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import IO, Any

from pydantic import ValidationError

import agentrun
from agentrun.cli.output import emit, emit_json, note
from agentrun.core.errors import ConfigError
from agentrun.runner.agent import DurableAgent, registered
from agentrun.runner.loading import load, pick
from agentrun.view.safe import pretty

__all__ = [
    "from_json",
    "only_data_on_stdout",
    "parsed",
    "resume",
    "run",
    "serve",
    "split",
    "submit",
]

# Seconds between looks whether a signal came. One that came while the process was stopped may be
# given to any thread, and does not wake the main one, which has to handle it.
_LOOK = 0.5


def run(target: str, args: list[str], key: str | None, *, as_json: bool) -> None:
    """Run the agent that ``FILE:AGENT`` names with arguments from the command line."""
    file, name = split(target)
    with only_data_on_stdout():
        agent = pick(load(file), name, file)
        if key is None:
            key = f"{agent.name}-{secrets.token_hex(6)}"
            note(f"run {key}")
        values = parsed(agent, args)
        given, named = agent.arguments.call_with(values, key)
        result = agent.with_options(key=key).run(*given, **named)
    _show(agent, key, result, as_json=as_json)


def submit(target: str, args: list[str], *, as_json: bool, **options: Any) -> None:
    """Queue a run of the agent that ``FILE:AGENT`` names."""
    file, name = split(target)
    with only_data_on_stdout():
        agent = pick(load(file), name, file).with_options(**options)
        given, named = agent.arguments.call_with(parsed(agent, args), "")
        handle = agent.submit(*given, **named)
    emit_json({"key": handle.key, "status": "queued"}) if as_json else emit(handle.key)


def serve(targets: list[str], concurrency: int, queues: list[str], *, as_json: bool) -> None:
    """Execute submitted runs until a signal ends the process; then drain."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agents: dict[str, DurableAgent[..., Any]] = {}
    with only_data_on_stdout() as stdout:
        for target in targets:
            file, name = split(target)
            found = load(file)
            agents |= {name: pick(found, name, file)} if name else found
        with agentrun.Worker(agents.values(), concurrency=concurrency, queues=queues):
            if as_json:
                emit_json({"agents": sorted(agents), "queues": queues}, stdout)
            note(f"worker of {', '.join(sorted(agents))}; SIGTERM or Ctrl-C drains")
            while not stop.wait(_LOOK):
                pass
        note("drained")


def resume(
    key: str,
    agent_name: str,
    file: str | None,
    by: str | None,
    reason: str | None,
    budget: agentrun.Budget | None,
    *,
    as_json: bool,
) -> None:
    """Go on with a run, by the agent that ``file`` defines."""
    with only_data_on_stdout():
        agents = load(file) if file else {}
        if file and agent_name not in agents:
            raise ConfigError(
                f"run {key!r} belongs to agent {agent_name!r}, which {file} does not define (it "
                f"has: {', '.join(agents) or 'none'})"
            )
        if not file:
            _known(key, agent_name)
        result = agentrun.resume(key, by=by, reason=reason, budget=budget)
    _show(registered(agent_name), key, result, as_json=as_json)


def _known(key: str, agent_name: str) -> None:
    try:
        registered(agent_name)
    except ConfigError:
        raise ConfigError(
            f"run {key!r} belongs to agent {agent_name!r}: name the file that defines it, as in "
            f"agentrun resume {quote(key)} FILE"
        ) from None


@contextlib.contextmanager
def only_data_on_stdout() -> Iterator[IO[str]]:
    """What the agent's file prints is for people: stdout, which this gives, is for the result."""
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield stdout


def _show(agent: DurableAgent[..., Any], key: str, result: Any, *, as_json: bool) -> None:
    stored = agent.arguments.result.encode(result)
    if as_json:
        emit_json({"key": key, "status": "done", "result": stored})
    else:
        emit(pretty(stored, indent=2))


def split(target: str) -> tuple[str, str | None]:
    """``FILE:AGENT``, or ``FILE`` alone; either may hold colons of its own."""
    parts = target.split(":")
    for count in range(len(parts), 0, -1):
        file = ":".join(parts[:count])
        if Path(file).is_file():
            return file, ":".join(parts[count:]) or None
    file, _, name = target.partition(":")
    return file, name or None


# -- arguments -------------------------------------------------------------------------------------


def parsed(agent: DurableAgent[..., Any], args: list[str]) -> dict[str, Any]:
    """Each argument as JSON where that gives what its parameter wants, else as the text it is."""
    names = agent.arguments.names
    usage = f"{agent.name}({', '.join(names)})"
    if len(args) > len(names):
        raise ConfigError(f"{usage} takes {len(names)} arguments, not {len(args)}")
    texts = dict(zip(names, args, strict=False))
    given = {name: _literal(agent, name, text) for name, text in texts.items()}
    try:
        return agent.arguments.validate(given)
    except ValidationError as error:
        for problem in error.errors():
            if (name := problem["loc"][0]) in texts:
                given[str(name)] = texts[str(name)]
    try:
        return agent.arguments.validate(given)
    except ValidationError as error:
        told = "; ".join(f"{_path(p['loc'])}: {p['msg']}" for p in error.errors())
        raise ConfigError(f"{usage}: {told}") from None


def _literal(agent: DurableAgent[..., Any], name: str, text: str) -> Any:
    fields = agent.arguments.model.model_fields.values()
    if any(field.alias == name and field.annotation is str for field in fields):
        return text  # not even "quoted" loses its quotes
    try:
        return from_json(text)
    except ValueError:
        return text


def from_json(text: str) -> Any:
    """A JSON value. Raises ValueError for anything else, NaN included."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)
