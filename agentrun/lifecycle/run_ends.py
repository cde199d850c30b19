"""The end of a run, for its caller: a value, or an error whose message says what to do."""

from __future__ import annotations

from typing import Any

from agentrun.core.errors import Diverged, RunError, RunFailed, RunHeld
from agentrun.core.events import Event
from agentrun.core.shell import write_command
from agentrun.values import exceptions
from agentrun.values.tagged_json import TypeMismatch, remove_tags, type_divergence
from agentrun.values.typed_values import Result

__all__ = ["failed_text", "held_error", "held_text", "read_end"]


def read_end(key: str, last: Event, returns: Result | None) -> Any:
    """Return the recorded result of a run, or raise the error with which it ended.

    ``returns`` is the type of the result; without it the result is plain JSON. Raises Diverged if
    the recorded result does not fit the type.
    """
    if last.event == "run_finished":
        try:
            return remove_tags(last.output) if returns is None else returns.decode(last.output)
        except TypeMismatch as changed:
            differing = type_divergence(f"run {key!r}", "result", changed)
            raise Diverged(str(differing), key=key, diff=differing.diff) from None
    if last.event == "run_failed":
        text = failed_text(key, last.reason or "", last.output.get("reply"))
        raise RunFailed(text, key=key) from exceptions.rebuild(last.output)
    raise RunError(f"run {key!r} was cancelled: {last.reason}", key=key)


def held_error(key: str, reason: str | None, step: int | None) -> RunHeld:
    """The error for the caller of a run that waits for a person."""
    return RunHeld(f"run {key!r} waits for a person: {held_text(key, reason)}", key=key, step=step)


def held_text(key: str, reason: str | None) -> str:
    """Why a run waits for a person, and the command that lists how to decide."""
    return f"{(reason or '').rstrip('.')}. `{write_command('inbox', key)}` says how to go on"


def failed_text(key: str, cause: str, reply: int | None = None) -> str:
    """The message for a failed run, with what to do next.

    ``reply`` is the step of the last model reply that the agent read, which a redo would repeat.
    """
    text = (
        f"run {key!r} failed: {cause.rstrip('.')}. `{write_command('show', key)}` shows where; "
        f"agentrun.resume({key!r}) goes on from the last recorded step"
    )
    if reply is None:
        return text
    return (
        f"{text}. If the reply of step {reply} is to blame: `{write_command('redo', key, reply)}`"
    )
