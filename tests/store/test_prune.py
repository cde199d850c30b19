"""Retention: what goes, what stays, what a death in the middle leaves; real rows, real SIGKILLs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from crashing import die, ended, killed, spawn, until
from invariants import assert_invariants, summarize
from psycopg.rows import dict_row

import agentrun
from agentrun.core import points
from agentrun.core.errors import LeaseLost
from agentrun.core.events import Event
from agentrun.core.state import park_event
from agentrun.store import retention, sending
from agentrun.store.database import OpenDatabase
from agentrun.store.exact_values import exact_columns
from agentrun.store.journal import JournalTail
from agentrun.store.mail import send_letter
from agentrun.store.retention import refuse_pruned
from agentrun.store.rows import payload_columns, to_row, usage_columns
from agentrun.store.runs import FoundRun, find_run
from agentrun.store.sending import Batch
from agentrun.store.sql import QUERIES
from agentrun.store.values import read_events, read_payload

MONTH = timedelta(days=30)
NONE = timedelta()
TABLES = [
    "runs", "journal", "payloads", "mail", "late_results", "budgets", "reservations", "workers",
    "tombstones", "counted_calls", "permits", "summaries",
]  # fmt: skip
TOMBSTONES = (
    "INSERT INTO agentrun.tombstones (run_id, key, agent, status, ended_at, events, bytes, batch)"
    " SELECT run_id, key, agent, status, now(), 0, 0, run_id FROM agentrun.runs"
)
Connection = psycopg.Connection[dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_REST", 0.0)


@pytest.fixture
def conn(db: OpenDatabase) -> Iterator[Connection]:
    with psycopg.connect(db.dsn, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@agentrun.agent
def worked(text: str, fails: bool = False) -> str:
    if fails:
        raise ValueError(text)
    return text


@agentrun.agent
def other() -> None: ...


def age(conn: Connection, *keys: str, days: int = 40) -> None:
    """Have runs ended, or changed, so long ago."""
    conn.execute(
        "UPDATE agentrun.runs SET changed_at = changed_at - make_interval(days => %s)"
        " WHERE key = ANY(%s)",
        [days, list(keys)],
    )


def keys(conn: Connection) -> list[str]:
    return [r["key"] for r in conn.execute("SELECT key FROM agentrun.runs ORDER BY key")]


def dump(conn: Connection) -> dict[str, list[str]]:
    """Every row there is, but for what a heartbeat writes."""
    beats = " - '{beat_at,pending,slowest_commit}'::text[]"
    return {
        table: sorted(
            str(row["said"])
            for row in conn.execute(
                f"SELECT to_jsonb(t){beats} AS said FROM agentrun.{table} t"  # type: ignore[arg-type]  # noqa: S608
            )
        )
        for table in TABLES
    }


def many(conn: Connection, runs: int, name: str = "run") -> None:
    """So many runs of three events, which ended 40 days ago."""
    conn.execute(
        "INSERT INTO agentrun.runs (run_id, key, agent, status, epoch, changed_at)"
        " SELECT gen_random_uuid(), %s || '-' || n, 'agent', 'done', 1, now() - interval '40 days'"
        " FROM generate_series(1, %s) n",
        [name, runs],
    )
    conn.execute(
        "INSERT INTO agentrun.journal (run_id, seq, epoch, worker, batch, event, output)"
        " SELECT run_id, seq, least(seq - 1, 1), CASE seq WHEN 1 THEN 'submit' ELSE 'w' END,"
        " gen_random_uuid(), event, CASE seq WHEN 3 THEN '\"done\"'::json END"
        " FROM agentrun.runs, (VALUES (1, 'created'), (2, 'claimed'), (3, 'run_finished'))"
        " AS e(seq, event) WHERE starts_with(key, %s || '-')",
        [name],
    )
    summarize(conn)


def come_late(db: OpenDatabase, run_id: UUID) -> None:
    """Do what a worker does that has lost its run and does not know it yet."""
    attempt = {"run_id": run_id, "step": 1, "attempt": 1}
    answer = {"worker": "w", "status": "ok", "codec": 0, "output": "1", "model": None}
    unused = usage_columns(None) | payload_columns([]) | exact_columns([])
    db.query("keep_late", **attempt, **answer, **unused)
    db.query("reserve", **attempt, turn=1, epoch=1, usd=1, used=1)
    db.query("count_calls", run_id=run_id, epoch=1, keys=["a key"])


def claimed(db: OpenDatabase, key: str) -> JournalTail:
    found = db.claim(find_run(db, key), "first claim")
    assert found is not None
    return found[0]


# -- what goes and what stays ------------------------------------------------------------------


def test_only_what_ended_long_ago_goes_with_all_that_belongs_to_it(
    db: OpenDatabase, conn: Connection
) -> None:
    budget = agentrun.Budget(usd=1)
    for key in ("old", "young"):
        worked.with_options(key=key, budget=budget).run("x" * 100_000)
        agentrun.send(key, "paid")
        (run,) = conn.execute("SELECT run_id FROM agentrun.runs WHERE key = %s", [key])
        come_late(db, run["run_id"])
        conn.execute(  # of a worker that died in a call, and of a model that nobody asks since
            "INSERT INTO agentrun.permits (run_id, key, model, worker, priority, tokens)"
            " VALUES (%s, %s, 'openai/m', 'w', 0, 1)",
            [run["run_id"], key],
        )
    with pytest.raises(agentrun.RunFailed):
        worked.with_options(key="failed").run("oh", True)
    for key in ("cancelled", "queued", "held", "running"):
        worked.with_options(key=key).submit("z")
    agentrun.cancel("cancelled")
    parked = park_event("review", "asks")
    db.writer.wait(db.writer.append(claimed(db, "held"), [parked]))
    claimed(db, "running")
    age(conn, *(set(keys(conn)) - {"young"}))
    counted = conn.execute(
        "SELECT count(*) FROM agentrun.journal JOIN agentrun.runs r USING (run_id)"
        " WHERE r.key IN ('old', 'failed', 'cancelled')"
    ).fetchone()
    before = dump(conn)
    removed = agentrun.prune(MONTH)
    assert keys(conn) == ["held", "queued", "running", "young"]
    assert (removed.runs, removed.events) == (3, (counted or {})["count"])
    assert 0 < removed.bytes < 200_000, "compressed, as they were stored"
    after = dump(conn)
    own = (
        "summaries",
        "payloads",
        "mail",
        "late_results",
        "budgets",
        "reservations",
        "counted_calls",
    )
    for table in (*own, "permits"):
        kept = [row for row in before[table] if row in after[table]]
        assert 0 < len(kept) < len(before[table]), table
        assert kept == after[table]
    assert worked.with_options(key="young", budget=budget).run("x" * 100_000) == "x" * 100_000
    assert agentrun.prune(MONTH) == agentrun.Pruned()


def test_only_those_that_ended_so_or_are_of_that_agent(db: OpenDatabase, conn: Connection) -> None:
    worked.with_options(key="done").run("a")
    other.with_options(key="other").run()
    with pytest.raises(agentrun.RunFailed):
        worked.with_options(key="failed").run("oh", True)
    assert agentrun.prune(NONE, agent="other").runs == 1
    assert keys(conn) == ["done", "failed"]
    assert agentrun.prune(NONE, status=["failed", "cancelled"]).runs == 1
    assert keys(conn) == ["done"]


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"older_than": timedelta(-1)}, {"forget_keys": timedelta(-1)},
        {"older_than": MONTH, "status": ["running"]}, {"older_than": MONTH, "status": []},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(db: OpenDatabase, asked: dict[str, Any]) -> None:
    with pytest.raises(agentrun.ConfigError):
        agentrun.prune(**asked)


def test_no_status_of_a_run_that_lives_is_believed(db: OpenDatabase, conn: Connection) -> None:
    worked.with_options(key="k").submit("z")
    (told,) = conn.execute("SELECT runs FROM agentrun.prune(now(), '{queued,running}')")
    assert (told["runs"], keys(conn)) == (0, ["k"])


def test_a_tree_goes_as_a_whole_and_never_below_a_parent_that_lives(
    db: OpenDatabase, conn: Connection
) -> None:
    @agentrun.agent
    def leaf() -> str:
        return "leaf"

    @agentrun.agent
    def middle() -> str:
        return leaf()

    @agentrun.tool(approve=True)
    def sign() -> str:
        return "signed: "

    @agentrun.agent
    def top() -> str:
        middle()
        return sign() + middle()

    with pytest.raises(agentrun.RunHeld) as held:
        top.with_options(key="top").run()
    age(conn, *keys(conn))
    assert agentrun.prune(MONTH).runs == 0, "the parent could still replay"
    assert len(keys(conn)) == 3
    assert held.value.step is not None
    agentrun.approve("top", held.value.step)
    assert top.with_options(key="top").run() == "signed: leaf"
    age(conn, "top")
    assert agentrun.prune(MONTH).runs == 0, "two children of it ended a moment ago"
    age(conn, *keys(conn))
    assert agentrun.prune(MONTH, dry_run=True).runs == 5
    assert agentrun.prune(MONTH, agent="leaf").runs == 0, "the top is asked"
    assert agentrun.prune(MONTH, agent="top").runs == 5
    assert keys(conn) == []


def test_no_child_is_begun_below_a_run_that_was_pruned(db: OpenDatabase, conn: Connection) -> None:
    """As by a process that was stopped between its intent and the child, for longer than that."""
    worked.with_options(key="top").run("a")
    parent = find_run(db, "top").run_id
    agentrun.prune(NONE)
    assert not db.create("top/left", "worked", {"args": {}}, "", parent=parent)
    assert keys(conn) == []


def test_a_child_that_is_begun_while_its_parent_is_pruned(
    db: OpenDatabase, conn: Connection
) -> None:
    """It keeps the tree where it was earlier, and is refused where it is later."""
    for key in ("goes", "stays"):
        worked.with_options(key=key).run("a")
    runs = {key: find_run(db, key).run_id for key in ("goes", "stays")}
    child = (
        "INSERT INTO agentrun.runs (run_id, key, agent, status, parent)"
        " SELECT gen_random_uuid(), 'stays/child', 'worked', 'queued', run_id FROM agentrun.runs"
        " WHERE run_id = %s FOR KEY SHARE"
    )
    with psycopg.connect(db.dsn) as calling:
        calling.execute(child, [runs["stays"]])
        with ThreadPoolExecutor(1) as pool, open_prune(db.dsn) as pruning:
            given: Any = {"args": {}}
            late = pool.submit(db.create, "goes/child", "worked", given, "", parent=runs["goes"])
            until_blocked(conn, "INSERT INTO agentrun.runs")
            pruning.commit()
            assert late.result(60) is False
        calling.rollback()
    assert keys(conn) == ["stays"]


def test_a_child_that_is_begun_before_its_tree_is_looked_at_again(
    db: OpenDatabase, conn: Connection
) -> None:
    """The batch found its trees before, and waits at another one of them."""
    for key in ("first", "second"):
        worked.with_options(key=key).run("a")
    with psycopg.connect(db.dsn) as blocking, ThreadPoolExecutor(1) as pool:
        blocking.execute(TOMBSTONES + " WHERE key = 'first'")
        removed = pool.submit(agentrun.prune, NONE)
        until_blocked(conn, "agentrun.prune(")
        second = find_run(db, "second").run_id
        assert db.create("second/child", "worked", {"args": {}}, "", parent=second)
        blocking.rollback()
        assert removed.result(60).runs == 1
    assert keys(conn) == ["second", "second/child"]


def test_a_value_that_two_runs_recorded_stays_with_the_one_that_stays(
    db: OpenDatabase, conn: Connection
) -> None:
    long = "the same " * 20_000
    for key in ("goes", "stays"):
        worked.with_options(key=key).run(long)
    assert len({r["digest"] for r in conn.execute("SELECT digest FROM agentrun.payloads")}) == 2
    age(conn, "goes")
    assert agentrun.prune(MONTH).runs == 1
    assert agentrun.transcript("stays").result == long


def test_a_dry_run_tells_the_same_and_writes_nothing(db: OpenDatabase, conn: Connection) -> None:
    worked.with_options(key="done").run("x" * 100_000)
    many(conn, 1100)
    conn.execute(
        "INSERT INTO agentrun.workers (worker, host, pid, lease, server_start, dead_at, cause)"
        " VALUES ('w-old', 'h', 1, '10 s', now(), now() - interval '40 days', 'stopped')"
    )
    before = dump(conn)
    told = agentrun.prune(NONE, forget_keys=NONE, dry_run=True)
    assert dump(conn) == before
    assert agentrun.prune(NONE, forget_keys=NONE) == told, "and no key of this very call is free"
    assert (told.runs, told.workers, told.keys) == (1101, 1, 0)


def test_a_dry_run_is_given_no_transaction_id(db: OpenDatabase, conn: Connection) -> None:
    many(conn, 3)
    asked = {
        "before": datetime.now(UTC), "batch": uuid4(), "dry_run": True, "statuses": ["done"],
        "agent": None, "after_at": None, "after_id": None, "limit": None,
    }  # fmt: skip
    with conn.transaction():
        for name in ("prune", "prune_workers", "forget_keys"):
            conn.execute(QUERIES[name], asked)
        (assigned,) = conn.execute("SELECT pg_current_xact_id_if_assigned() AS id")
    assert assigned["id"] is None


def test_workers_go_that_ended_for_certain_and_have_no_run(
    db: OpenDatabase, conn: Connection
) -> None:
    """One that was only stopped may come back, and must find that it was declared dead."""
    for name, cause, days in (
        ("stopped", "stopped", 40), ("gone", "process gone", 40), ("young", "stopped", 20),
        ("silent", "lease expired", 40), ("cut off", "session gone", 40), ("alive", None, None),
        ("owner", "process gone", 40),
    ):  # fmt: skip
        conn.execute(
            "INSERT INTO agentrun.workers (worker, host, pid, lease, server_start, dead_at, cause)"
            " VALUES (%s, 'h', 1, '10 s', now(), now() - make_interval(days => %s), %s)",
            [name, days, cause],
        )
    db.create("k", "worked", {"args": {}}, "")
    claimed(db, "k")
    (own,) = conn.execute("SELECT owner FROM agentrun.runs")
    conn.execute("SET session_replication_role = replica")  # past the append-only trigger
    conn.execute("UPDATE agentrun.runs SET owner = 'owner'")
    conn.execute("UPDATE agentrun.journal SET worker = 'owner' WHERE seq > 1")
    assert agentrun.prune(MONTH).workers == 2
    left = {r["worker"] for r in conn.execute("SELECT worker FROM agentrun.workers")}
    assert left == {"young", "silent", "cut off", "alive", "owner", own["owner"]}


# -- the door ----------------------------------------------------------------------------------


def refused(conn: Connection, first: str, change: str, match: str) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(first)  # type: ignore[arg-type]
        with pytest.raises(psycopg.errors.RaiseException, match=match), conn.transaction():
            conn.execute(change)  # type: ignore[arg-type]


def test_nothing_else_opens_the_journal(db: OpenDatabase, conn: Connection) -> None:
    worked.with_options(key="k").run("a")
    come_late(db, find_run(db, "k").run_id)
    for table in ("journal", "late_results"):
        for first in ("SELECT 1", TOMBSTONES):
            for change in ("DELETE FROM agentrun.{}", "UPDATE agentrun.{} SET step = 9",
                           "TRUNCATE agentrun.{}"):  # fmt: skip
                refused(conn, first, change.format(table), "append-only")


def test_no_run_is_removed_before_its_end_or_without_a_tombstone(
    db: OpenDatabase, conn: Connection
) -> None:
    remove = "DELETE FROM agentrun.runs"
    worked.with_options(key="done").run("a")
    refused(conn, "SELECT 1", remove, "keeps what is not pruned")
    worked.with_options(key="queued").submit("a")
    as_done = TOMBSTONES.replace("status, now()", "'done', now()")
    refused(conn, as_done, remove, "keeps what is not pruned")


# -- deaths, and several at once ---------------------------------------------------------------


def pruned(dsn: str, told: Callable[[agentrun.Pruned], object] = lambda _removed: None) -> None:
    with agentrun.connect(dsn):
        told(agentrun.prune(MONTH))


@contextmanager
def dying(at: str, times: int) -> Iterator[None]:
    """The process dies when it passes the point for the n-th time."""
    passed: list[str] = []

    def hook(point: str) -> None:
        passed.append(point)
        if passed.count(at) == times:
            die()

    points.arm(hook)
    yield


@pytest.mark.parametrize(
    ("at", "times", "left"), [("prune:before", 1, 1200), ("prune:after", 1, 700),
                              ("prune:before", 2, 700), ("prune:after", 2, 200)]
)  # fmt: skip
def test_a_kill_between_batches_loses_nothing(
    db: OpenDatabase, conn: Connection, at: str, times: int, left: int
) -> None:
    many(conn, 1200)

    def action() -> None:
        with dying(at, times):
            pruned(db.dsn)

    killed(action)
    assert len(keys(conn)) == left
    assert_invariants(db.dsn)
    removed = agentrun.prune(MONTH)
    assert (removed.runs, removed.events) == (left, 3 * left)
    assert keys(conn) == []


@pytest.mark.parametrize("fate", ["goes on", "is ended"])
def test_a_kill_inside_a_batch_leaves_all_of_it_or_none(
    db: OpenDatabase, conn: Connection, fate: str
) -> None:
    """The server may see the batch to its end, or notice that nobody is there."""
    many(conn, 40)
    agentrun.send("run-7", "signal")
    with psycopg.connect(db.dsn) as blocking:
        blocking.execute("SELECT FROM agentrun.mail FOR UPDATE")
        child = spawn(lambda: pruned(db.dsn))
        backend = until_blocked(conn, "agentrun.prune(")
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        assert len(keys(conn)) == 40
        if fate == "is ended":
            conn.execute("SELECT pg_terminate_backend(%s)", [backend])
    until(lambda: not backends(conn, backend))
    left = 40 if fate == "is ended" else 0
    assert len(keys(conn)) == left
    assert_invariants(db.dsn)
    assert agentrun.prune(MONTH).runs == left


def until_blocked(conn: Connection, query: str) -> int:
    """Wait until a statement waits for a lock; its backend."""
    found: list[int] = []

    def look() -> bool:
        rows = conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND strpos(query, %s) > 0 AND pid <> pg_backend_pid()",
            [query],
        )
        found.extend(row["pid"] for row in rows)
        return bool(found)

    until(look)
    return found[0]


def backends(conn: Connection, pid: int) -> list[Any]:
    return conn.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall()


def test_several_at_once_remove_each_run_once(db: OpenDatabase, conn: Connection) -> None:
    many(conn, 1500)
    told: list[agentrun.Pruned] = []
    threads = [threading.Thread(target=pruned, args=(db.dsn, told.append)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.append(agentrun.prune(MONTH))  # a batch skips what another has in hand
    assert sum(removed.runs for removed in told) == 1500
    assert sum(removed.events for removed in told) == 4500
    assert keys(conn) == []


def test_a_batch_whose_answer_is_lost_is_counted(db: OpenDatabase, conn: Connection) -> None:
    many(conn, 600)
    lost: list[str] = []

    def hook(point: str) -> None:
        if point == "prune:after" and not lost:
            lost.append(point)
            raise psycopg.OperationalError("the connection was lost")

    points.arm(hook)
    try:
        removed = agentrun.prune(MONTH)
    finally:
        points.arm(None)
    assert lost
    assert (removed.runs, removed.events) == (600, 1800)


# -- beside those who use the run --------------------------------------------------------------


@contextmanager
def open_prune(dsn: str) -> Iterator[Connection]:
    """A batch that has removed what it could, and has not committed."""
    with psycopg.connect(dsn, row_factory=dict_row) as pruning:
        pruning.execute("SELECT agentrun.prune(clock_timestamp())")
        yield pruning


@pytest.fixture
def failed(db: OpenDatabase, conn: Connection) -> FoundRun:
    """A run `k` that failed: it can be resumed."""
    with pytest.raises(agentrun.RunFailed):
        worked.with_options(key="k").run("oh", True)
    return find_run(db, "k")


def test_a_run_that_is_claimed_while_it_is_pruned_is_gone(
    db: OpenDatabase, conn: Connection, failed: FoundRun
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with open_prune(db.dsn) as pruning:
            claim = pool.submit(db.claim, failed, "resumed")
            until_blocked(conn, "unnest")
            pruning.commit()
        assert claim.result(60) is None
    assert dump(conn)["journal"] == []
    with pytest.raises(agentrun.RunPruned):
        db.claim(failed, "resumed")


def test_a_run_that_was_claimed_before_is_kept(
    db: OpenDatabase, conn: Connection, failed: FoundRun
) -> None:
    (last,) = db.query("tail", run_id=failed.run_id)
    event = Event(event="claimed", reason="resumed")
    row = to_row(event, failed.run_id, last["seq"] + 1, last["epoch"] + 1, db.heart.worker,
                 claimed_tail(failed).shared)  # fmt: skip
    with psycopg.connect(db.dsn, row_factory=dict_row) as claiming:
        assert sending.append(claiming, Batch([row])) == {failed.run_id}
        assert agentrun.prune(NONE).runs == 0, "and it does not wait"
        claiming.commit()
    assert agentrun.prune(NONE).runs == 0
    assert find_run(db, "k").status == "running"


def claimed_tail(run: FoundRun) -> JournalTail:
    return JournalTail(run.run_id, run.epoch, "nobody", 0)


def test_a_key_that_is_used_while_its_run_is_pruned_is_not_executed(
    db: OpenDatabase, conn: Connection
) -> None:
    ran: list[str] = []

    @agentrun.agent
    def once() -> None:
        ran.append("ran")

    once.with_options(key="k").run()
    with ThreadPoolExecutor(1) as pool:
        with open_prune(db.dsn) as pruning:
            again = pool.submit(once.with_options(key="k").run)
            until_blocked(conn, "INSERT INTO agentrun.runs")
            pruning.commit()
        with pytest.raises(agentrun.RunPruned):
            again.result(60)
    assert ran == ["ran"]
    assert keys(conn) == []


def test_a_letter_goes_with_its_run_or_is_refused(db: OpenDatabase, conn: Connection) -> None:
    worked.with_options(key="k").run("a")
    with psycopg.connect(db.dsn) as sending:
        sending.execute("SELECT agentrun.send('k', 'signal')")
        assert agentrun.prune(NONE).runs == 0, "and it does not wait"
    with ThreadPoolExecutor(1) as pool:
        with open_prune(db.dsn) as pruning:
            letter = pool.submit(send_letter, db, "k", "signal", by=None, payload={})
            until_blocked(conn, "agentrun.send(")
            pruning.commit()
        with pytest.raises(agentrun.RunPruned):
            letter.result(60)
    with pytest.raises(psycopg.errors.NoDataFound, match="'k' was pruned"):
        conn.execute("SELECT agentrun.send('k', 'signal')")
    assert dump(conn)["mail"] == []


def test_a_run_that_sent_a_letter_goes_on_when_the_other_is_pruned(db: OpenDatabase) -> None:
    """On resume it sends the letter again, and must take the same path."""

    @agentrun.tool(approve=True)
    def sign() -> str:
        return "signed"

    @agentrun.agent
    def telling() -> str:
        agentrun.send("other", "word")
        return sign()

    other.with_options(key="other").run()
    with pytest.raises(agentrun.RunHeld) as held:
        telling.with_options(key="k").run()
    assert agentrun.prune(NONE).runs == 1
    assert held.value.step is not None
    agentrun.approve("k", held.value.step)
    assert telling.with_options(key="k").run() == "signed"
    with pytest.raises(agentrun.RunPruned):
        agentrun.send("other", "word")


def test_what_a_zombie_of_a_pruned_run_does_leaves_nothing(
    db: OpenDatabase, conn: Connection
) -> None:
    db.create("k", "worked", {"args": {}}, "")
    tail = claimed(db, "k")
    with OpenDatabase(db.dsn) as successor:
        conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'process gone'")
        run = find_run(successor, "k")
        found = successor.claim(run, "took over")
        assert found is not None
        finished = Event(event="run_finished")
        successor.writer.wait(successor.writer.append(found[0], [finished]))
    assert agentrun.prune(NONE).runs == 1
    with pytest.raises(LeaseLost) as caught:
        db.writer.wait(db.writer.append(tail, [Event(event="diverged")]))
    assert type(caught.value) is LeaseLost, "nothing was lost: another saw it to its end"
    come_late(db, tail.run_id)
    assert_invariants(db.dsn)


def test_workers_lose_nothing_while_all_that_has_ended_is_pruned(
    db: OpenDatabase, conn: Connection
) -> None:
    acted: list[int] = []
    removed: list[agentrun.Pruned] = []
    over = threading.Event()

    @agentrun.tool
    def act(n: int) -> str:
        acted.append(n)
        return "x" * 100_000

    @agentrun.agent
    def below(n: int) -> int:
        return len(act(n))

    @agentrun.agent
    def above(n: int) -> int:
        return n + below(n)

    def prune_all() -> None:
        while not over.wait(0.01):
            removed.append(agentrun.prune(NONE))

    keyed = [above.with_options(key=f"k-{n}") for n in range(100)]
    with ThreadPoolExecutor(1) as pool:
        pruning = pool.submit(prune_all)
        try:
            with agentrun.Worker([above, below], concurrency=8):
                for n, handle in enumerate([run.submit(n) for n, run in enumerate(keyed)]):
                    with suppress(agentrun.RunPruned):
                        assert handle.result(timeout=60) == n + 100_000
        finally:
            over.set()
        pruning.result(60)
    assert sum(batch.runs for batch in removed) > 0, "it ran beside them"
    removed.append(agentrun.prune(NONE))
    for n, run in enumerate(keyed):
        with pytest.raises(agentrun.RunPruned):
            run.submit(n)
    assert sorted(acted) == list(range(100))
    assert sum(batch.runs for batch in removed) == 200
    assert keys(conn) == []


def test_the_room_of_what_was_pruned_is_used_again(db: OpenDatabase, conn: Connection) -> None:
    sizes = []
    for turn in range(8):
        many(conn, 1000, f"turn-{turn}")
        worked.with_options(key=f"kept-{turn}").submit("z")  # at the end: no file is cut off
        (found,) = conn.execute(
            "SELECT sum(pg_total_relation_size(c.oid))::bigint AS size FROM pg_class c"
            " WHERE oid IN ('agentrun.runs'::regclass, 'agentrun.journal'::regclass)"
        )
        sizes.append(found["size"])
        assert agentrun.prune(MONTH).runs == 1000
        conn.execute("VACUUM")
    # Pages of an index are free one VACUUM later: what three turns took is enough for all.
    assert max(sizes) < 1.1 * sizes[2]


# -- the tombstone -----------------------------------------------------------------------------


def test_a_pruned_key_is_not_executed_again_and_says_so(db: OpenDatabase, conn: Connection) -> None:
    ran: list[int] = []

    @agentrun.agent
    def paid(cents: int) -> int:
        ran.append(cents)
        return cents

    keyed = paid.with_options(key="ticket-42")
    keyed.run(5)
    handle = agentrun.get("ticket-42")
    agentrun.prune(NONE)
    uses: list[Callable[[], Any]] = [
        lambda: keyed.run(5),
        lambda: keyed.run(6),
        lambda: asyncio.run(keyed.arun(5)),
        lambda: keyed.submit(5),
        lambda: other.with_options(key="ticket-42").run(),
        lambda: agentrun.get("ticket-42"),
        lambda: agentrun.transcript("ticket-42"),
        lambda: agentrun.resume("ticket-42"),
        lambda: agentrun.send("ticket-42", "paid"),
        lambda: agentrun.cancel("ticket-42"),
        handle.status,
        handle.result,
        handle.transcript,
    ]
    for use in uses:
        with pytest.raises(agentrun.RunPruned, match=r"'ticket-42' was pruned on 20.*done") as told:
            use()
        assert told.value.key == "ticket-42"
        (stone,) = conn.execute("SELECT pruned_at FROM agentrun.tombstones")
        assert told.value.pruned_at == stone["pruned_at"]
        assert "another key" in str(told.value)
        assert "--forget-keys" in str(told.value)
    assert ran == [5]
    assert keys(conn) == []


def test_a_run_that_is_pruned_while_somebody_reads_it_says_so(
    db: OpenDatabase, conn: Connection
) -> None:
    worked.with_options(key="k").run("x" * 100_000)
    run_id: UUID = find_run(db, "k").run_id
    (payload,) = conn.execute("SELECT digest FROM agentrun.payloads LIMIT 1")
    agentrun.prune(NONE)
    with pytest.raises(agentrun.RunPruned):
        read_events(db, run_id)
    with pytest.raises(agentrun.RunPruned):
        read_payload(db, run_id, payload["digest"])
    refuse_pruned(db, key="another")


def test_a_forgotten_key_is_free(
    db: OpenDatabase, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_KEYS", 1)  # in a batch
    for key in ("a", "also", "b"):
        worked.with_options(key=key).run("1")
    agentrun.prune(NONE)
    conn.execute("UPDATE agentrun.tombstones SET pruned_at = now() - interval '400 days'"
                 " WHERE key <> 'b'")  # fmt: skip
    year = timedelta(days=365)
    assert agentrun.prune(forget_keys=year, agent="other").keys == 0
    assert agentrun.prune(forget_keys=year, dry_run=True) == agentrun.Pruned(keys=2)
    assert agentrun.prune(forget_keys=year) == agentrun.Pruned(keys=2)
    assert worked.with_options(key="a").run("2") == "2"
    with pytest.raises(agentrun.RunPruned):
        worked.with_options(key="b").run("1")


@pytest.mark.parametrize(
    ("rows", "statement"), [(1, "INSERT INTO agentrun.journal"), (3, "unnest(")],
    ids=["append_plain", "append"],
)  # fmt: skip
def test_a_zombie_that_writes_while_its_run_is_pruned_is_refused(
    db: OpenDatabase, conn: Connection, rows: int, statement: str
) -> None:
    """The row that stands in its way is on its way out, and it waits for that."""
    db.create("k", "worked", {"args": {}}, "")
    tail = claimed(db, "k")
    with OpenDatabase(db.dsn) as successor:
        conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'process gone'")
        found = successor.claim(find_run(successor, "k"), "took over")
        assert found is not None
        successor.writer.wait(successor.writer.append(found[0], [Event(event="run_finished")]))
    with ThreadPoolExecutor(1) as pool:
        with open_prune(db.dsn) as pruning:
            late = db.writer.append(tail, [Event(event="attempt_started")] * rows)
            waits = pool.submit(db.writer.wait, late)
            until_blocked(conn, statement)
            pruning.commit()
        with pytest.raises(LeaseLost):
            waits.result(60)
    assert dump(conn)["journal"] == []
