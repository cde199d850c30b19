"""Which agents and queues the live workers serve, for those who wait for a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrun.store.session import Session

__all__ = ["Servers", "announce_worker", "find_servers", "wake_workers"]


@dataclass(frozen=True, slots=True)
class Servers:
    """How many live workers could take a run up."""

    agent: str
    queue: str
    knowing: int  # they know the run's agent
    serving: int  # they also take runs of its queue
    owned: bool  # one of them, or another process, has the run


def announce_worker(
    session: Session, worker: str, *, agents: Sequence[str], queues: Sequence[str]
) -> None:
    """Write which agents and queues this worker serves."""
    session.query("serving", worker=worker, agents=list(agents), queues=list(queues))


def find_servers(session: Session, key: str) -> Servers | None:
    """The workers for the run with this key; None if there is no such run."""
    return next(iter(session.rows(Servers, "servers", key=key)), None)


def wake_workers(session: Session) -> None:
    """Have the workers that listen look for work now."""
    session.query("notify")
