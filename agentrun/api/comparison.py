"""`compare`: two runs, step by step."""

from __future__ import annotations

from typing import Any, TypeAlias
from uuid import UUID

from agentrun.api.handle import Handle
from agentrun.api.operations import transcript
from agentrun.core.comparison import Comparison, compare_transcripts
from agentrun.core.transcript import Transcript

__all__ = ["AnyRun", "compare"]

AnyRun: TypeAlias = "str | UUID | Handle[Any] | Transcript"


def compare(a: AnyRun, b: AnyRun) -> Comparison:
    """Compare two runs by the places of their steps in the code. Nothing is executed.

    Steps that were set aside are not compared. Times, costs and ids of tool calls are no
    difference.

    Args:
        a: a run: its key, its handle, or its transcript.
        b: the other run, given likewise.

    Raises:
        RunNotFound: no run has this key.

    Example:
        >>> found = agentrun.compare("ticket-42", "ticket-7")
        >>> print(found)   # both totals, then the steps; the first difference is marked
    """
    return compare_transcripts(_transcript(a), _transcript(b))


def _transcript(run: AnyRun) -> Transcript:
    if isinstance(run, Transcript):
        return run
    return run.transcript() if isinstance(run, Handle) else transcript(run)
