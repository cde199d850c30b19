"""Runs from outside: look at one, resume it, decide about its doubts."""

from __future__ import annotations

import getpass
from typing import Any
from uuid import UUID

from agentrun.core.codec import check
from agentrun.core.errors import ConfigError, RunError
from agentrun.core.events import RunStatus
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.transcript import Transcript, fold
from agentrun.runner import agent as agents
from agentrun.runner import execute
from agentrun.runner.doubt import Happened, NotHappened, Outcome, Unknown
from agentrun.runner.execute import Person
from agentrun.store.database import Database, default

_OUTCOMES = {Happened: "happened", NotHappened: "not_happened", Unknown: "unknown"}


class Handle:
    """One run, by key."""

    def __init__(self, key: str, database: Database) -> None:
        self.key = key
        self._database = database

    def __repr__(self) -> str:
        return f"<agentrun run {self.key!r}>"

    def status(self) -> RunStatus:
        """queued, running, waiting, held, done, failed or cancelled."""
        status: RunStatus = self._database.find(self.key)["status"]
        return status

    def transcript(self) -> Transcript:
        """What happened, from the journal alone: no network call, nothing executed."""
        run = self._database.find(self.key)
        events, _ = self._database.events(run["run_id"])
        return fold(events)


def get(key: str) -> Handle:
    """The run with this key. Raises RunNotFound."""
    database = default()
    database.find(key)
    return Handle(key, database)


def transcript(key: str) -> Transcript:
    """The transcript of a run, from the journal alone. Raises RunNotFound."""
    return get(key).transcript()


def resume(key: str, *, by: str | None = None, reason: str | None = None) -> Any:
    """Go on with a run from its last recorded step, here; return its result.

    For a failed run, the error that ended it is set aside by a recorded decision, and its step
    may be attempted again. A run held in doubt asks its tool's ``reconcile`` once more.

    Raises:
        RunNotFound: no run has this key.
        ConfigError: the file that defines its agent is not imported.
        RunHeld, RunFailed, Diverged: as `run` does.
    """
    flow, is_async = _resumption(key, by, reason)
    if not is_async:
        return run_sync(flow)
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run_async(flow))
    flow.close()
    raise ConfigError("an event loop is running here: use `await agentrun.aresume(key)`")


async def aresume(key: str, *, by: str | None = None, reason: str | None = None) -> Any:
    """`resume`, awaited."""
    return await run_async(_resumption(key, by, reason)[0])


def _resumption(key: str, by: str | None, reason: str | None) -> tuple[Flow[Any], bool]:
    agents.refuse_here(f"run {key!r}")
    database = default()
    run = database.find(key)
    agent = agents.registered(run["agent"])
    person = Person(by or somebody(), reason)
    return execute.proceed(agent, database, key, agent.options, person), agent.is_async


def resolve(
    key: str, step: int, outcome: Outcome, *, by: str | None = None, reason: str | None = None
) -> UUID:
    """Say what became of a step in doubt. The run goes on when it is next run or resumed.

    Args:
        key: the run's key.
        step: the number that `agentrun show` prints.
        outcome: ``Happened(result)``, ``NotHappened()`` (attempt it again) or ``Unknown()``
            (tell the model so).
        by: who decides; default: the name of the user of this process.
        reason: why, for the record.

    Raises:
        RunNotFound: no run has this key.
        RunError: the run is not in doubt about this step.
    """
    name = _OUTCOMES.get(type(outcome))
    if name is None:
        raise ConfigError("resolve() takes Happened(result), NotHappened() or Unknown()")
    payload: dict[str, Any] = {"outcome": name}
    if isinstance(outcome, Happened):
        check(outcome.result, "result")
        payload["result"] = outcome.result
    database = default()
    run = database.find(key)
    if run["open_doubt"] != step:
        doubt = run["open_doubt"]
        what = "is not in doubt" if doubt is None else f"is in doubt about step {doubt}"
        raise RunError(f"run {key!r} {what}; `agentrun inbox` lists what waits", key=key)
    return database.send_mail(
        run["run_id"], "resolve", step=step, by=by or somebody(), reason=reason, payload=payload
    )


def somebody() -> str:
    """Who acts in this process, for the record."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"
