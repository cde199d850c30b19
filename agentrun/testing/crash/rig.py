"""Where a crash test takes place: a private database, a double, and the runs themselves."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import agentrun
from agentrun.testing.crash import judge, outside
from agentrun.testing.crash.child import Order, Point, Subject, in_child, perform
from agentrun.testing.crash.diary import Trace
from agentrun.testing.crash.judge import Case, Evidence
from agentrun.testing.crash.places import Places
from agentrun.testing.crash.report import Report
from agentrun.testing.doubles import Provider
from agentrun.testing.replies import Reply, Rule

__all__ = ["Rig"]

_PREFIX = "agentrun_crash_"  # of the names of private databases
_JOURNAL = """
    SELECT r.key AS run, j.epoch, j.event, j.step, j.kind, j.name, j.ident, j.attempt, j.effect,
           j.key, j.status, j.by
    FROM agentrun.journal j JOIN agentrun.runs r USING (run_id) ORDER BY j.run_id, j.seq
"""


class Rig:
    """A context in which agents are crash-tested; what they did there is gone with it.

    Args:
        script: what the model says, by turn of the conversation; else it echoes.
        rules: as `Provider` takes them.
        network: let tools reach other machines.
        every_chunk: kill at every chunk of a stream, not only at the 1st, 2nd, 4th, 8th, …
        timeout: seconds that one process may take.
        told: is given a line before each kill, for those who wait.

    While it is open, the environment names its database (AGENTRUN_DATABASE_URL) and its double, in
    place of every provider, with keys that no provider takes: import the agent in it where it
    makes its clients when imported.

    Raises ConfigError where processes cannot be forked (Windows), or no embedded Postgres runs.
    """

    def __init__(
        self,
        *,
        script: Sequence[Reply | str] = (),
        rules: Sequence[Rule] = (),
        network: bool = False,
        every_chunk: bool = False,
        timeout: float = 60.0,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._provider = Provider(script=script, rules=rules)
        self._order = Order(every_chunk=every_chunk, network=network, timeout=timeout)
        self._told = told
        self._numbers = count()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._database = stack.enter_context(_private_database())
            stack.enter_context(self._provider)
            dsn, url = self._database.dsn, self._provider.base_url
            self._order = replace(self._order, dsn=dsn, double=url)
            stack.enter_context(_environment(_names(dsn, self._provider)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def test(
        self, agent: Any, *args: Any, world: Callable[[], Any] | None = None, **kwargs: Any
    ) -> Report:
        """Crash-test an agent, called with these arguments.

        ``world`` is called before each run; it may set the outside up. It returns the state of
        the outside as JSON, or a function that does.

        Raises:
            ConfigError: the agent fails, or reaches for other machines, without being killed; or
                the world cannot be told.
        """
        return self.examine(Subject(agent, args, kwargs), world)

    def examine(self, subject: Subject, world: Callable[[], Any] | None = None) -> Report:
        """`test`, for a subject that knows how to start an interpreter of its own."""
        began, number = time.monotonic(), next(self._numbers)
        billed = self._provider.billed()
        place = outside.Outside(world, self._database)
        calm = self._calm(subject, place, number)
        cases: list[Case] = []
        schedule = _schedule(calm)
        for nth, point in enumerate(schedule, 1):
            self._told(f"kill {nth} of {len(schedule)}, at {point[0]}")
            cases.append(self._case(subject, place, f"crash-{number}-{nth}", point))
        if subject.command:
            cases += self._fresh(subject, place, number, schedule)
        steps, claims = self._journal()
        evidence = Evidence(
            calm=(calm[1], calm[2]),
            cases=[case for case in cases if case.tells],
            steps=steps,
            claims=claims,
            bills=self._provider.effects()[billed:],
            entry=Places(subject.agent).entry,
            has_world=world is not None,
        )
        return Report(
            agent=subject.agent.name,
            points=len(calm[1].first.points()),
            killed=tuple(case.point for case in cases if case.first.killed),
            processes=sum(len(case.traces()) for case in [*calm, *cases]),
            seconds=time.monotonic() - began,
            findings=tuple(judge.findings(evidence)),
            doubts=tuple(judge.doubts(evidence)),
            notes=tuple(judge.notes(evidence)),
        )

    # -- runs --------------------------------------------------------------------------------------

    def _calm(self, subject: Subject, place: outside.Outside, number: int) -> list[Case]:
        """Three undisturbed runs: the first tells what to watch, the others what is steady."""
        cases = []
        for nth in range(3):
            self._told(f"undisturbed run {nth + 1}")
            case = self._case(subject, place, f"calm-{number}-{nth}", None, later=nth == 2)
            self._require_calm(case.first, subject)
            cases.append(case)
            if nth == 0:
                place.files |= _written(case.first)
                _warm(case.first)
        return cases

    def _fresh(
        self, subject: Subject, place: outside.Outside, number: int, schedule: list[Point]
    ) -> Iterator[Case]:
        """Killed shortly before its end and resumed by a fresh interpreter: sets are in another
        order there, and nothing is as the file left it when it was imported here."""
        self._told("and one more, resumed by a fresh interpreter")
        for point in reversed(schedule):
            if point[0] == "append:before":  # how many there are varies a little
                key = f"crash-{number}-fresh-{point[1]}"
                case = self._case(subject, place, key, point, fresh=True)
                yield case
                if case.first.killed:
                    return

    def _case(
        self,
        subject: Subject,
        place: outside.Outside,
        key: str,
        kill_at: Point | None,
        *,
        later: bool = False,
        fresh: bool = False,
    ) -> Case:
        before = place.prepare()
        order = replace(self._order, key=key, kill_at=kill_at, later=later)
        first, second = perform(subject, order), None
        if first.killed:
            resumed = replace(order, kill_at=None, later=True)
            second = perform(subject, resumed, fresh=fresh)
        point = kill_at[0] if kill_at is not None else ""
        return Case(key, first, second, outside.observed(before, place.state()), point)

    def _require_calm(self, trace: Trace, subject: Subject) -> None:
        """Raise ConfigError unless the agent came to its end, among doubles, by itself."""
        for note in trace.of("refused"):
            raise agentrun.ConfigError(
                f"the agent was to reach {note['to']} (from {note['place'] or 'a library'}), and "
                "a crash test performs every tool again and again: point it at a double or a "
                "sandbox on this machine, or allow it with --network (network=True)"
            )
        if trace.end["how"] in ("done", "held"):
            return
        name, log = subject.agent.name, trace.log.strip()
        if trace.code == -signal.SIGALRM:
            limit = f"{self._order.timeout:g} s"
            raise agentrun.ConfigError(
                f"{name} is not done after {limit} without being killed: give it longer with "
                f"--timeout, or what it waits for\n{log}".strip()
            )
        why = trace.end.get("message") or f"its process ended with {trace.code}"
        raise agentrun.ConfigError(f"{name} fails without being killed: {why}\n{log}".strip())

    def _journal(self) -> tuple[dict[str, judge.Step], dict[str, int]]:
        with self._database.connection() as conn:
            return judge.steps_of(conn.execute(_JOURNAL))


def _schedule(calm: Iterable[Case]) -> list[Point]:
    """Every point that an undisturbed run passes, in order."""
    return list(dict.fromkeys(point for case in calm for point in case.first.passed()))


def _written(trace: Trace) -> set[str]:
    """The files that steps wrote."""
    touched = [note["what"].partition(" ") for note in trace.of("touch") if note["key"]]
    return {path for verb, _, path in touched if verb in ("writes", "opens")}


def _warm(trace: Trace) -> None:
    """Load what the first process loaded, so that those forked from here need not."""
    for note in trace.of("modules"):
        for name in note["names"]:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


# -- database and environment ----------------------------------------------------------------------


@contextlib.contextmanager
def _private_database() -> Iterator[agentrun.Database]:
    """A fresh database in the embedded server, dropped at the end."""
    server = _server()
    name = f"{_PREFIX}{secrets.token_hex(6)}"
    admin = agentrun.Database(server)
    database = agentrun.Database(urlsplit(server)._replace(path=f"/{name}").geturl())
    try:
        with admin.connection() as conn:
            conn.execute("SELECT pg_advisory_lock(hashtext(%s))", [_PREFIX])
            _drop_forgotten(conn)
            conn.execute(f"CREATE DATABASE {name}")
            with database.connection():
                pass  # kept open, so that others see that the database is in use
            conn.execute("SELECT pg_advisory_unlock(hashtext(%s))", [_PREFIX])
        yield database
    finally:
        database.close()
        with admin.connection() as conn:
            conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.close()


def _server() -> str:
    """The DSN of the embedded server, started in a child: `connect` changes a process's default."""
    if not hasattr(os, "fork"):
        raise agentrun.ConfigError("a crash test kills forked processes: there are none on Windows")
    with tempfile.TemporaryDirectory(prefix="agentrun-crash-") as folder:
        told = Path(folder) / "told"

        def start() -> None:
            for name in ("AGENTRUN_DATABASE_URL", "AGENTRUN_BLOBS"):
                os.environ.pop(name, None)
            try:
                with agentrun.connect() as database:
                    answer = {"dsn": database.dsn}
            except agentrun.AgentrunError as error:
                answer = {"error": str(error)}
            told.write_text(json.dumps(answer), "utf-8")

        code = in_child(start)
        answer = json.loads(told.read_text("utf-8")) if code == 0 else {"error": f"exit {code}"}
    if "error" in answer:
        raise agentrun.ConfigError(f"a crash test needs the embedded Postgres: {answer['error']}")
    return str(answer["dsn"])


def _drop_forgotten(conn: Any) -> None:
    """Drop private databases that nobody uses: their crash test was killed itself."""
    forgotten = """
        SELECT datname FROM pg_database d WHERE starts_with(datname, %s)
        AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = d.datname)
    """
    for row in conn.execute(forgotten, [_PREFIX]).fetchall():
        # Its crash test may have come to its end, and drop it itself.
        conn.execute(f"DROP DATABASE IF EXISTS {row['datname']} WITH (FORCE)")


def _names(dsn: str, provider: Provider) -> dict[str, str]:
    """The environment in which no client finds a provider but the double."""
    near = ["127.0.0.1", os.environ.get("no_proxy") or os.environ.get("NO_PROXY")]
    return {
        "AGENTRUN_DATABASE_URL": dsn,
        "AGENTRUN_BLOBS": "",
        "OPENAI_API_KEY": "double",
        "OPENAI_BASE_URL": provider.base_url,
        "AZURE_OPENAI_API_KEY": "double",
        "AZURE_OPENAI_ENDPOINT": provider.url,
        "ANTHROPIC_API_KEY": "double",
        "ANTHROPIC_BASE_URL": provider.url,
        "no_proxy": ",".join(filter(None, near)),
    }


@contextlib.contextmanager
def _environment(names: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
