"""`agentrun run`, `resume`, `submit` and `worker`: execute agents that a file defines."""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

import agentrun
from agentrun.api.agent import DurableAgent
from agentrun.api.agent_files import load, pick
from agentrun.cli.options import from_json
from agentrun.cli.output import emit, emit_json, note
from agentrun.core.errors import ConfigError
from agentrun.core.state import ENDED
from agentrun.lifecycle.live_workers import missing_worker
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run
from agentrun.view.safe import pretty

__all__ = [
    "load_agents",
    "only_data_on_stdout",
    "parse_arguments",
    "run",
    "run_worker",
    "show_result",
    "split_target",
    "submit",
]

# Seconds between checks for a signal. Python runs signal handlers in the main thread. A signal that
# comes while the process is stopped may go to another thread, and then does not wake the main one.
_LOOK = 0.5


def run(target: str, args: list[str], key: str | None, *, as_json: bool) -> None:
    """Run the agent that ``FILE:AGENT`` names, with arguments from the command line."""
    file, name = split_target(target)
    with only_data_on_stdout():
        agent = pick(load(file), name, file)
        if key is None:
            key = f"{agent.name}-{secrets.token_hex(6)}"
            note(f"run {key}")
        values = parse_arguments(agent, args)
        positional, named = agent.arguments.call_with(values, key)
        result = agent.with_options(key=key).run(*positional, **named)
    show_result(agent, key, result, as_json=as_json)


def submit(
    database: OpenDatabase, target: str, args: list[str], *, as_json: bool, **options: Any
) -> None:
    """Queue a run of the agent that ``FILE:AGENT`` names; warn if no worker would take it."""
    file, name = split_target(target)
    with only_data_on_stdout():
        agent = pick(load(file), name, file).with_options(**options)
        positional, named = agent.arguments.call_with(parse_arguments(agent, args), "")
        handle = agent.submit(*positional, **named)
    emit_json({"key": handle.key, "status": "queued"}) if as_json else emit(handle.key)
    if find_run(database, handle.key).status not in ENDED and (
        why := missing_worker(database, handle.key)
    ):
        note(f"warning: {why}")


def run_worker(targets: list[str], concurrency: int, queues: list[str], *, as_json: bool) -> None:
    """Execute submitted runs until a signal ends the process; then drain."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with only_data_on_stdout() as stdout:
        agents = load_agents(targets)
        with agentrun.Worker(agents.values(), concurrency=concurrency, queues=queues):
            if as_json:
                emit_json({"agents": sorted(agents), "queues": queues}, stdout)
            note(f"worker of {', '.join(sorted(agents))}; SIGTERM or Ctrl-C drains")
            while not stop.wait(_LOOK):
                pass
        note("drained")


def load_agents(targets: list[str]) -> dict[str, DurableAgent[..., Any]]:
    """The agents that ``FILE`` or ``FILE:AGENT`` name, by name."""
    agents: dict[str, DurableAgent[..., Any]] = {}
    for target in targets:
        file, name = split_target(target)
        found = load(file)
        agents |= {name: pick(found, name, file)} if name else found
    return agents


@contextlib.contextmanager
def only_data_on_stdout() -> Iterator[IO[str]]:
    """Send what the agent prints to stderr, so that stdout holds only data. Yields stdout."""
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield stdout


def show_result(agent: DurableAgent[..., Any], key: str, result: Any, *, as_json: bool) -> None:
    stored = agent.arguments.result.encode_for_display(result)
    if as_json:
        emit_json({"key": key, "status": "done", "result": stored})
    else:
        emit(pretty(stored, indent=2))


def split_target(target: str) -> tuple[str, str | None]:
    """Split ``FILE:AGENT``, or ``FILE`` alone; both parts may contain colons."""
    parts = target.split(":")
    for count in range(len(parts), 0, -1):
        file = ":".join(parts[:count])
        if Path(file).is_file():
            return file, ":".join(parts[count:]) or None
    file, _, name = target.partition(":")
    return file, name or None


# -- arguments -------------------------------------------------------------------------------------


def parse_arguments(agent: DurableAgent[..., Any], args: list[str]) -> dict[str, Any]:
    """Parse each argument as JSON if the result fits its parameter, else take it as text."""
    names = agent.arguments.names
    usage = f"{agent.name}({', '.join(names)})"
    if len(args) > len(names):
        raise ConfigError(f"{usage} takes {len(names)} arguments, not {len(args)}")
    texts = dict(zip(names, args, strict=False))
    values = {name: _parse_literal(agent, name, text) for name, text in texts.items()}
    try:
        return agent.arguments.validate(values)
    except ValidationError as error:
        for problem in error.errors():
            if (name := problem["loc"][0]) in texts:
                values[str(name)] = texts[str(name)]
    try:
        return agent.arguments.validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{_path(p['loc'])}: {p['msg']}" for p in error.errors())
        raise ConfigError(f"{usage}: {problems}") from None


def _parse_literal(agent: DurableAgent[..., Any], name: str, text: str) -> Any:
    fields = agent.arguments.model.model_fields.values()
    if any(field.alias == name and field.annotation is str for field in fields):
        return text  # for a `str` parameter, even "quoted" keeps its quotes
    try:
        return from_json(text)
    except ValueError:
        return text


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)
