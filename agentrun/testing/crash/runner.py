"""Runs a crash test: a private database, a double of the provider, and a schedule of kills."""

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
from typing import Any, Self, cast
from urllib.parse import urlsplit

import agentrun
from agentrun.store.session import Session
from agentrun.testing.crash import findings, outside_world
from agentrun.testing.crash.child import Order, Point, Subject, run_in_child, run_process
from agentrun.testing.crash.code_owners import CodeOwners
from agentrun.testing.crash.diary import Trace
from agentrun.testing.crash.findings import Case, Evidence
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
    """A context in which agents are crash-tested. Its database is dropped at the end.

    Args:
        script: the model's replies, by turn of the conversation; without one it echoes.
        rules: rules that choose replies, as for `Provider`.
        network: let tools connect to other machines.
        every_chunk: kill at every chunk of a stream, not only at the 1st, 2nd, 4th, 8th, …
        cache: compare the model requests of resumed runs, byte by byte, with those of undisturbed
            runs. A changed prefix is a miss in the provider's prompt cache.
        timeout: seconds that one process may take.
        on_progress: is called with one line of text before each run.

    While the context is open, environment variables name its database (AGENTRUN_DATABASE_URL) and
    its double (in place of every provider, with keys that no provider accepts). If the agent's file
    makes clients when it is imported, import it inside the context.

    Raises ConfigError where processes cannot be forked (Windows), or no embedded Postgres runs.
    """

    def __init__(
        self,
        *,
        script: Sequence[Reply | str] = (),
        rules: Sequence[Rule] = (),
        network: bool = False,
        every_chunk: bool = False,
        cache: bool = False,
        timeout: float = 60.0,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._provider = Provider(script=script, rules=rules, exact=cache or None)
        self._cache = cache
        self._order = Order(every_chunk=every_chunk, network=network, timeout=timeout)
        self._on_progress = on_progress
        self._numbers = count()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._session = stack.enter_context(_private_database())
            stack.enter_context(self._provider)
            dsn, url = self._session.dsn, self._provider.base_url
            self._order = replace(self._order, dsn=dsn, double=url)
            stack.enter_context(_environment(_provider_environment(dsn, self._provider)))
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

        ``world`` is called before each run, and may set the outside up. It returns the state of
        the outside as JSON, or a function that returns this state.

        Raises:
            ConfigError: without a kill, the agent fails or tries to reach another machine; or
                ``world`` fails.
        """
        return self.examine(Subject(agent, args, kwargs), world)

    def examine(self, subject: Subject, world: Callable[[], Any] | None = None) -> Report:
        """Like `test`, for a subject that may be started in a new interpreter."""
        began, number = time.monotonic(), next(self._numbers)
        before = len(self._provider.ledger())
        place = outside_world.Outside(world, self._session)
        calm = self._run_calm_cases(subject, place, number)
        cases: list[Case] = []
        schedule = _schedule(calm)
        for nth, point in enumerate(schedule, 1):
            self._on_progress(f"kill {nth} of {len(schedule)}, at {point[0]}")
            cases.append(self._run_case(subject, place, f"crash-{number}-{nth}", point))
        if subject.command:
            cases += self._run_case_in_fresh_interpreter(subject, place, number, schedule)
        steps, claims = self._read_journal()
        requests = self._provider.ledger()[before:]
        evidence = Evidence(
            calm=(calm[1], calm[2]),
            cases=[case for case in cases if case.is_conclusive],
            steps=steps,
            claims=claims,
            bills=[one for one in requests if one.outcome == "effect"],
            requests=requests if self._cache else None,
            traces=[trace for case in [*calm, *cases] for trace in case.traces()],
            entry=CodeOwners(subject.agent).entry,
            has_world=world is not None,
        )
        return Report(
            agent=subject.agent.name,
            points=len(calm[1].first.point_names()),
            killed=tuple(case.point for case in cases if case.first.killed),
            processes=sum(len(case.traces()) for case in [*calm, *cases]),
            seconds=time.monotonic() - began,
            findings=tuple(findings.find_faults(evidence)),
            prefixes=findings.measure_prefixes(evidence),
            doubts=tuple(findings.find_doubts(evidence)),
            notes=tuple(findings.list_untested(evidence)),
        )

    # -- runs --------------------------------------------------------------------------------------

    def _run_calm_cases(
        self, subject: Subject, place: outside_world.Outside, number: int
    ) -> list[Case]:
        """Execute three undisturbed runs.

        The first shows which files the steps write, the other two what stays equal in each run.
        """
        cases = []
        for nth in range(3):
            self._on_progress(f"undisturbed run {nth + 1}")
            case = self._run_case(subject, place, f"calm-{number}-{nth}", None, later=nth == 2)
            self._require_run_calm_cases(case.first, subject)
            cases.append(case)
            if nth == 0:
                place.files |= _files_written(case.first)
                _import_modules_of(case.first)
        return cases

    def _run_case_in_fresh_interpreter(
        self, subject: Subject, place: outside_world.Outside, number: int, schedule: list[Point]
    ) -> Iterator[Case]:
        """Kill one more run shortly before its end, and resume it in a new interpreter.

        There, sets have another order, and module state that was set in this process is missing.
        """
        self._on_progress("one more run, resumed by a new interpreter")
        for point in reversed(schedule):
            # The number of appends varies, so a run may miss its point: then try the one before.
            if point[0] == "append:before":
                key = f"crash-{number}-fresh-{point[1]}"
                case = self._run_case(subject, place, key, point, fresh=True)
                yield case
                if case.first.killed:
                    return

    def _run_case(
        self,
        subject: Subject,
        place: outside_world.Outside,
        key: str,
        kill_at: Point | None,
        *,
        later: bool = False,
        fresh: bool = False,
    ) -> Case:
        before = place.prepare()
        order = replace(self._order, key=key, kill_at=kill_at, clock_shifted=later)
        first, second = run_process(subject, order), None
        if first.killed:
            resumed = replace(order, kill_at=None, clock_shifted=True)
            second = run_process(subject, resumed, fresh=fresh)
        point = kill_at[0] if kill_at is not None else ""
        return Case(key, first, second, outside_world.changes_left(before, place.state()), point)

    def _require_run_calm_cases(self, trace: Trace, subject: Subject) -> None:
        """Raise ConfigError unless the run ended by itself and reached no other machine."""
        for note in trace.notes_of("refused"):
            raise agentrun.ConfigError(
                f"the agent tried to reach {note['to']} (from {note['place'] or 'a library'}). A "
                "crash test performs every tool many times: point the tool at a double or a "
                "sandbox on this machine, or allow it with --network (network=True)"
            )
        if trace.end["how"] in ("done", "held"):
            return
        name, log = subject.agent.name, trace.log.strip()
        if trace.code == -signal.SIGALRM:
            limit = f"{self._order.timeout:g} s"
            raise agentrun.ConfigError(
                f"{name} did not end within {limit} without a kill: allow more time with "
                f"--timeout, or provide what it waits for\n{log}".strip()
            )
        why = trace.end.get("message") or f"its process ended with {trace.code}"
        raise agentrun.ConfigError(f"{name} fails without a kill: {why}\n{log}".strip())

    def _read_journal(self) -> tuple[dict[str, findings.JournaledStep], dict[str, int]]:
        with self._session.connection() as conn:
            return findings.read_steps(conn.execute(_JOURNAL))


def _schedule(calm: Iterable[Case]) -> list[Point]:
    """Every point that an undisturbed run passes, in order: each is the point of one kill."""
    return list(dict.fromkeys(point for case in calm for point in case.first.points_passed()))


def _files_written(trace: Trace) -> set[str]:
    """The files that the steps of a run wrote."""
    touched = [note["what"].partition(" ") for note in trace.notes_of("touch") if note["key"]]
    return {path for verb, _, path in touched if verb in ("writes", "opens")}


def _import_modules_of(trace: Trace) -> None:
    """Import the modules that a process imported, so that later forks start with them loaded."""
    for note in trace.notes_of("modules"):
        for name in note["names"]:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


# -- database and environment ----------------------------------------------------------------------


@contextlib.contextmanager
def _private_database() -> Iterator[Session]:
    """A fresh database in the embedded server, dropped at the end."""
    server = _embedded_server_dsn()
    name = f"{_PREFIX}{secrets.token_hex(6)}"
    admin = Session(server)
    database = Session(urlsplit(server)._replace(path=f"/{name}").geturl())
    try:
        with admin.connection() as conn:
            conn.execute("SELECT pg_advisory_lock(hashtext(%s))", [_PREFIX])
            _drop_forgotten(conn)
            conn.execute(cast(Any, f"CREATE DATABASE {name}"))
            with database.connection():
                pass  # the connection stays open, which marks the database as in use
            conn.execute("SELECT pg_advisory_unlock(hashtext(%s))", [_PREFIX])
        yield database
    finally:
        database.close()
        with admin.connection() as conn:
            conn.execute(cast(Any, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        admin.close()


def _embedded_server_dsn() -> str:
    """Start the embedded server and return its DSN.

    A child process does it, because `connect` would change the default database of this process.
    """
    if not hasattr(os, "fork"):
        raise agentrun.ConfigError("a crash test needs os.fork, which Windows does not have")
    with tempfile.TemporaryDirectory(prefix="agentrun-crash-") as folder:
        answer_file = Path(folder) / "answer"

        def start() -> None:
            for name in ("AGENTRUN_DATABASE_URL", "AGENTRUN_BLOBS"):
                os.environ.pop(name, None)
            try:
                with agentrun.connect() as database:
                    answer = {"dsn": database.dsn}
            except agentrun.AgentrunError as error:
                answer = {"error": str(error)}
            answer_file.write_text(json.dumps(answer), "utf-8")

        code = run_in_child(start)
        text = answer_file.read_text("utf-8") if code == 0 else ""
        answer = json.loads(text) if text else {"error": f"exit {code}"}
    if "error" in answer:
        raise agentrun.ConfigError(f"a crash test needs the embedded Postgres: {answer['error']}")
    return str(answer["dsn"])


def _drop_forgotten(conn: Any) -> None:
    """Drop private databases without connections, which killed crash tests left behind."""
    forgotten = """
        SELECT datname FROM pg_database d WHERE starts_with(datname, %s)
        AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = d.datname)
    """
    for row in conn.execute(forgotten, [_PREFIX]).fetchall():
        # IF EXISTS: a crash test that ends just now drops its database itself.
        conn.execute(f"DROP DATABASE IF EXISTS {row['datname']} WITH (FORCE)")


def _provider_environment(dsn: str, provider: Provider) -> dict[str, str]:
    """Environment variables with which every client finds the double in place of its provider."""
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
