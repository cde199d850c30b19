"""Large values outside the database: real files, a real S3 protocol, real deaths."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from crashing import in_child, until
from psycopg.rows import dict_row
from s3 import BUCKET, S3

import agentrun
from agentrun.core import points
from agentrun.core.codec import Payload, attach
from agentrun.core.events import Event
from agentrun.store import blobs as blobs_module
from agentrun.store.blobs import ABANDONED, Blobs
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run
from agentrun.store.values import read_events, read_payload
from agentrun.view.jsonl import write_jsonl

NONE = timedelta()
Connection = psycopg.Connection[dict[str, Any]]


class Place(NamedTuple):
    """Where blobs are put, and what is there, seen from outside."""

    url: str
    names: Callable[[], list[str]]


@pytest.fixture(scope="module")
def one_s3() -> Iterator[S3]:
    with S3() as s3:
        yield s3


@pytest.fixture
def s3(one_s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    one_s3.door = None
    for name, value in one_s3.environment.items():
        monkeypatch.setenv(name, value)
    return one_s3


@pytest.fixture
def bucket(s3: S3) -> Place:
    prefix = f"here/{uuid4().hex}"
    return Place(
        f"s3://{BUCKET}/{prefix}",
        lambda: sorted(k.removeprefix(f"{prefix}/") for k in s3.names() if k.startswith(prefix)),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    root = tmp_path / "large values"
    return Place(
        f"file://{tmp_path}/large%20values",
        lambda: sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()),
    )


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def db(dsn: str, place: Place) -> Iterator[OpenDatabase]:
    with agentrun.connect(dsn, blobs=place.url) as database:
        yield database


@pytest.fixture
def conn(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        yield connection


def kept(place: Place) -> list[str]:
    """The blobs there, without the proof that one can be written."""
    return [name for name in place.names() if not name.endswith("/writable")]


def named(conn: Connection) -> list[str]:
    """The blobs that rows name."""
    rows = conn.execute("SELECT blob FROM agentrun.payloads WHERE blob IS NOT NULL ORDER BY blob")
    return [row["blob"] for row in rows]


def inside(conn: Connection) -> int:
    """How many large values lie in the database."""
    return len(conn.execute("SELECT FROM agentrun.payloads WHERE zstd IS NOT NULL").fetchall())


calls: list[int] = []


@agentrun.tool(effect="once")
def download(size: int) -> str:
    calls.append(size)
    return "x" * size


@agentrun.agent
def reader(text: str, size: int = 200_000) -> int:
    return len(text) + len(download(size))


@agentrun.agent
def small() -> str:
    return str(len(download(10)))


@pytest.fixture(autouse=True)
def fresh_calls() -> Iterator[None]:
    calls.clear()
    yield
    points.arm(None)


# -- out and back ------------------------------------------------------------------------------


def test_large_values_lie_outside_and_come_back(
    dsn: str, db: OpenDatabase, place: Place, conn: Connection
) -> None:
    keyed = reader.with_options(key="k")
    assert keyed.run("y" * 100_000) == 300_000
    assert inside(conn) == 0
    assert len(named(conn)) == 2, "the argument, and what the tool returned"
    assert kept(place) == named(conn)
    lines = "".join(write_jsonl(read_events(db, find_run(db, "k").run_id)[0]))
    assert "x" * 200_000 in lines
    assert "y" * 100_000 in lines
    with agentrun.connect(dsn, blobs=place.url):
        assert keyed.run("y" * 100_000) == 300_000
        assert agentrun.transcript("k").key == "k"
    assert calls == [200_000], "recorded steps are not performed again"


def test_small_values_and_small_exact_bytes_stay(
    db: OpenDatabase, place: Place, conn: Connection
) -> None:
    small.with_options(key="k").run()
    tail = claimed(db, "other")
    raw = Event(event="step_finished", step=1, kind="model", status="ok", output={},
                has_output=True, raw=b"data: [DONE]")  # fmt: skip
    db.writer.wait(db.writer.append(tail, [raw]))
    assert kept(place) == []
    assert inside(conn) == 1


def test_exact_bytes_go_out_where_they_are_many(
    db: OpenDatabase, place: Place, conn: Connection
) -> None:
    raw = os.urandom(3_000_000)
    tail = claimed(db, "k")
    event = Event(event="step_finished", step=1, kind="model", status="ok", output={},
                  has_output=True, raw=raw)  # fmt: skip
    db.writer.wait(db.writer.append(tail, [event]))
    assert kept(place) == named(conn) != []
    payload = attach(raw)
    assert read_payload(db, tail.run_id, payload.digest) == payload.zstd


def test_async_agents_put_values_outside_too(
    db: OpenDatabase, place: Place, conn: Connection
) -> None:
    @agentrun.tool(effect="read")
    async def fetch(n: int) -> str:
        return str(n) * 100_000

    @agentrun.agent
    async def crawl() -> int:
        return sum(map(len, await asyncio.gather(*[fetch(n) for n in range(5)])))

    assert asyncio.run(crawl.with_options(key="k").arun()) == 500_000
    assert len(kept(place)) == 5
    assert kept(place) == named(conn)


def test_what_commits_with_other_things_stays_inside(
    db: OpenDatabase, place: Place, conn: Connection
) -> None:
    @agentrun.tool(effect="transaction")
    def table() -> str:
        agentrun.current_step().connection.execute("SELECT 1")
        return "z" * 100_000

    @agentrun.agent
    def tabulate() -> int:
        return len(table())

    assert tabulate.with_options(key="k").run() == 100_000
    assert kept(place) == []
    assert inside(conn) == 1


# -- processes that are set up otherwise -------------------------------------------------------


def test_a_process_without_the_setting_says_what_it_lacks(
    dsn: str, folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agentrun.connect(dsn, blobs=folder.url):
        reader.with_options(key="k").run("y")
    (name,) = kept(folder)

    def agentrun_cli(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agentrun", "--dsn", dsn, *args]
        return subprocess.run(command, capture_output=True, text=True)

    with agentrun.connect(dsn):
        asks: list[Callable[[], object]] = [
            lambda: agentrun.transcript("k"),
            lambda: reader.with_options(key="k").run("y"),
        ]
        for ask in asks:
            with pytest.raises(agentrun.StoreUnavailable, match="AGENTRUN_BLOBS") as told:
                ask()
            assert name in str(told.value)
    bare = agentrun_cli("show", "k")
    assert bare.returncode == 5
    assert name in bare.stderr
    assert "AGENTRUN_BLOBS" in bare.stderr
    assert agentrun_cli("--blobs", folder.url, "show", "k").returncode == 0
    monkeypatch.setenv("AGENTRUN_BLOBS", folder.url)
    exported = agentrun_cli("export", "k", "--jsonl")
    assert "x" * 200_000 in exported.stdout, exported.stderr
    with agentrun.connect(dsn):
        assert agentrun.transcript("k").key == "k"


def test_a_blob_that_is_gone_is_named(
    dsn: str, db: OpenDatabase, place: Place, conn: Connection, folder: Place
) -> None:
    reader.with_options(key="k").run("y")
    with (
        agentrun.connect(dsn, blobs=folder.url + "/elsewhere"),
        pytest.raises(agentrun.StoreUnavailable, match=named(conn)[0]),
    ):
        agentrun.transcript("k")


def test_a_blob_that_was_changed_is_refused(db: OpenDatabase, conn: Connection) -> None:
    reader.with_options(key="k").run("y")
    assert db.blobs is not None
    db.blobs._put(named(conn)[0], attach(b"[]").zstd)
    with pytest.raises(agentrun.AgentrunError, match="damaged"):
        agentrun.transcript("k")


def test_the_package_that_is_missing_is_named(
    dsn: str, folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(agentrun.ConfigError, match=r"agentrun-harness\[blobs\]"):
        agentrun.connect(dsn, blobs=folder.url)
    agentrun.connect(dsn).close()


@pytest.mark.parametrize(
    "url",
    ["http://host/x", "s3://", "s3://key:secret@bucket", "s3://bucket?region=x", "file://host/x",
     "file:///", "/var/blobs", "bucket", "file:///proc/1/blobs"],
)  # fmt: skip
def test_what_names_no_place_is_refused(dsn: str, url: str) -> None:
    with pytest.raises(agentrun.ConfigError) as told:
        agentrun.connect(dsn, blobs=url)
    assert "secret" not in str(told.value)


def test_a_forked_child_is_told_not_to(db: OpenDatabase, dsn: str, place: Place) -> None:
    reader.with_options(key="k").run("y")

    def in_fork() -> None:
        with (
            agentrun.connect(dsn, blobs=place.url),
            pytest.raises(agentrun.ConfigError, match="spawn"),
        ):
            reader.with_options(key="another").run("y")

    assert in_child(in_fork) == 0


# -- a store that is away, or refuses ----------------------------------------------------------


@pytest.mark.parametrize("door", [0, 503, 429])
def test_a_store_that_is_away_is_waited_for_by_those_who_need_it_alone(
    dsn: str, s3: S3, bucket: Place, conn: Connection, caplog: pytest.LogCaptureFixture, door: int
) -> None:
    with agentrun.connect(dsn, blobs=bucket.url):
        results: list[int] = []
        small.with_options(key="first").run()
        s3.door = door
        waiting = threading.Thread(
            target=lambda: results.append(reader.with_options(key="k").run("y"))
        )
        with caplog.at_level(logging.WARNING):
            waiting.start()
            until(lambda: "waiting for the blob store" in caplog.text)
        assert small.with_options(key="second").run() == "10", "no other run is held up"
        assert conn.execute("SELECT FROM agentrun.payloads").fetchall() == []
        asked = s3.asked
        until(lambda: s3.asked > asked)
        s3.door = None
        waiting.join(60)
        assert results == [200_001]
    assert kept(bucket) == named(conn) != []


def test_nothing_of_a_run_overtakes_its_large_values(
    dsn: str, s3: S3, bucket: Place, conn: Connection
) -> None:
    with agentrun.connect(dsn, blobs=bucket.url) as database:
        tails = [claimed(database, key) for key in ("k", "other")]
        s3.door, asked = 0, s3.asked
        events = [finished("x" * 100_000), finished("small", 2), finished("y" * 100_000, 3)]
        queued = [database.writer.append(tails[0], [event]) for event in events]
        database.writer.wait(database.writer.append(tails[1], [finished("small")]))
        until(lambda: s3.asked > asked + 4)
        assert not any(done.finished for done in queued)
        s3.door = None
        database.writer.wait(queued[2])
        assert all(done.finished and done.error is None for done in queued)
        written, _ = read_events(database, tails[0].run_id)
        assert [event.output for event in written[2:]] == [event.output for event in events]


def test_arguments_and_reads_wait_as_well(dsn: str, s3: S3, bucket: Place) -> None:
    with agentrun.connect(dsn, blobs=bucket.url):
        for action in (
            lambda: reader.with_options(key="k").submit("y" * 100_000),
            lambda: agentrun.transcript("k"),
        ):
            s3.door, asked = 0, s3.asked
            done = threading.Thread(target=action)
            done.start()
            until(lambda asked=asked: s3.asked > asked + 2)
            s3.door = None
            done.join(60)
            assert not done.is_alive()
    assert len(kept(bucket)) == 1


@pytest.mark.parametrize("door", [403, 401, 404])
def test_a_store_that_refuses_loses_nothing(
    dsn: str, s3: S3, bucket: Place, conn: Connection, caplog: pytest.LogCaptureFixture, door: int
) -> None:
    with agentrun.connect(dsn, blobs=bucket.url):
        small.with_options(key="first").run()
        s3.door = door
        assert reader.with_options(key="k").run("y" * 100_000) == 300_000
    assert "kept in the database" in caplog.text
    assert bucket.url in caplog.text
    assert inside(conn) == 2
    with agentrun.connect(dsn):
        assert reader.with_options(key="k").run("y" * 100_000) == 300_000
    assert calls == [10, 200_000]


@pytest.mark.parametrize(
    ("door", "error"),
    [(403, agentrun.ConfigError), (404, agentrun.ConfigError), (0, agentrun.StoreUnavailable)],
)
def test_nobody_takes_a_run_whose_values_he_could_not_put_there(
    dsn: str, s3: S3, bucket: Place, door: int, error: type[Exception]
) -> None:
    with agentrun.connect(dsn, blobs=bucket.url):
        s3.door = door
        with pytest.raises(error, match=bucket.url):
            reader.with_options(key="k").run("y")
        assert calls == []
        s3.door = None
        assert reader.with_options(key="k").run("y") == 200_001


def test_a_database_that_is_closed_waits_for_no_store(
    dsn: str, s3: S3, bucket: Place, conn: Connection
) -> None:
    database = agentrun.connect(dsn, blobs=bucket.url)
    tail = claimed(database, "k")
    s3.door = 0
    done = database.writer.append(tail, [finished("x" * 100_000)])
    database.close()
    assert done.finished
    assert done.error is None
    assert inside(conn) == 1


def test_a_file_is_synced_with_the_folders_that_lead_to_it(
    dsn: str, folder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(opened: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{opened}").readlink()))
        fsync(opened)

    with agentrun.connect(dsn, blobs=folder.url) as database:
        tail = claimed(database, "k")
        monkeypatch.setattr(os, "fsync", noted)
        database.writer.wait(database.writer.append(tail, [finished("x" * 100_000)]))
    (name,) = kept(folder)
    file = tmp_path / "large values" / name
    root = tmp_path / "large values"
    assert {str(file), *[str(p) for p in file.parents if p.is_relative_to(root)]} <= set(synced)


# -- deaths ------------------------------------------------------------------------------------

APP = """
import os, signal
import agentrun
from agentrun.core import points

def hook(point):
    if point == os.environ.get("DIE_AT") and os.path.exists(os.environ["ARMED"]):
        os.kill(os.getpid(), signal.SIGKILL)

points.arm(hook)

@agentrun.tool(effect="idempotent")
def download(size: int) -> str:
    with open(os.environ["EFFECTS"], "a") as file:
        file.write("download\\n")
    open(os.environ["ARMED"], "w").close()
    return "x" * size

@agentrun.tool(effect="idempotent")
def after() -> str:
    with open(os.environ["EFFECTS"], "a") as file:
        file.write("after\\n")
    return "y"

@agentrun.agent
def two() -> int:
    return len(download(200_000)) + len(after())
"""


@pytest.mark.parametrize(
    ("at", "orphans", "downloads"),
    [("put:before", 0, 2), ("put:after", 1, 2), ("append:before", 1, 2), ("append:after", 0, 1)],
)
def test_a_kill_between_a_blob_and_its_row_leaves_at_most_an_orphan(
    dsn: str, place: Place, conn: Connection, tmp_path: Path, at: str, orphans: int, downloads: int
) -> None:
    file, effects = tmp_path / "app.py", tmp_path / "effects"
    file.write_text(APP)
    names = {"EFFECTS": str(effects), "ARMED": str(tmp_path / "armed"), "AGENTRUN_BLOBS": place.url}

    def run(**env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agentrun", "--dsn", dsn, "run", f"{file}:two", "--key", "k"],
            env={**os.environ, **names, **env},
            capture_output=True,
            text=True,
        )

    assert run(DIE_AT=at).returncode == -signal.SIGKILL
    assert len(set(kept(place)) - set(named(conn))) == orphans
    if at == "append:after":
        assert kept(place) == named(conn) != [], "a row has its blob"
    done = run()
    assert done.returncode == 0, done.stderr
    assert "200001" in done.stdout
    assert effects.read_text().splitlines() == ["download"] * downloads + ["after"]
    assert len(set(kept(place)) - set(named(conn))) == orphans
    with agentrun.connect(dsn, blobs=place.url):
        assert agentrun.prune(timedelta(days=30)).blobs == orphans
        assert kept(place) == named(conn) != []
        assert agentrun.transcript("k").key == "k"


# -- removal -----------------------------------------------------------------------------------


def claimed(db: OpenDatabase, key: str) -> Any:
    db.create(key, "reader", {"args": {}}, "")
    found = db.claim(find_run(db, key), "first claim")
    assert found is not None
    return found[0]


def finished(text: str, step: int = 1) -> Event:
    return Event(event="step_finished", step=step, kind="tool", name="t", ident=f"t{step}",
                 attempt=1, status="ok", effect="read", output=text, has_output=True)  # fmt: skip


def orphan(db: OpenDatabase, run_id: UUID, epoch: int) -> str:
    """A blob whose row never came."""
    assert db.blobs is not None
    put = db.blobs.keep(attach(os.urandom(70_000)), run_id, f"{epoch}-{uuid4().hex[:8]}")
    assert put.blob is not None
    return put.blob


def test_the_blobs_of_a_run_go_with_it(db: OpenDatabase, place: Place, conn: Connection) -> None:
    for key in ("old", "young"):
        reader.with_options(key=key).run("y" * 100_000)
    conn.execute("UPDATE agentrun.runs SET changed_at = now() - interval '40 days'"
                 " WHERE key = 'old'")  # fmt: skip
    assert len(kept(place)) == 4
    month = timedelta(days=30)
    assert agentrun.prune(month, dry_run=True).blobs == 0
    assert len(kept(place)) == 4
    removed = agentrun.prune(month)
    assert (removed.runs, removed.blobs) == (1, 2)
    assert kept(place) == named(conn)
    assert len(kept(place)) == 2
    assert reader.with_options(key="young").run("y" * 100_000) == 300_000
    assert agentrun.prune(month) == agentrun.Pruned()


def test_what_a_row_may_still_name_is_kept(
    db: OpenDatabase, place: Place, conn: Connection
) -> None:
    tail = claimed(db, "k")
    late = orphan(db, tail.run_id, 0)  # of a call that creates the run, but it is there
    pending = orphan(db, tail.run_id, tail.epoch)
    ahead = orphan(db, tail.run_id, tail.epoch + 1)
    nobody = orphan(db, uuid4(), 0)
    assert agentrun.prune(NONE).blobs == 1
    assert kept(place) == sorted([pending, ahead, nobody])
    assert late not in kept(place)
    db.writer.wait(db.writer.append(tail, [finished("x" * 100_000), Event(event="run_finished")]))
    assert agentrun.prune(timedelta(days=1)).blobs == 1, "its claim is over"
    assert kept(place) == sorted([ahead, nobody, *named(conn)])
    assert agentrun.prune(NONE).blobs == 2, "the run is gone"
    assert kept(place) == [nobody]


def test_a_call_that_died_before_it_created_its_run_is_cleaned_up_after_a_day(
    dsn: str, folder: Place, tmp_path: Path
) -> None:
    with agentrun.connect(dsn, blobs=folder.url) as database:
        files = [tmp_path / "large values" / orphan(database, uuid4(), 0) for _ in range(2)]
        torn = files[1].with_name("half#1")
        torn.write_bytes(b"half")
        yesterday = time.time() - ABANDONED.total_seconds() - 60
        for file in (files[0], torn):
            os.utime(file, (yesterday, yesterday))
        assert agentrun.prune(NONE).blobs == 1
    assert [file.exists() for file in (*files, torn)] == [False, True, False]


def test_what_is_not_ours_is_left_alone(
    dsn: str, db: OpenDatabase, place: Place, conn: Connection
) -> None:
    """Several databases may have one place, and people put things there, too."""
    assert db.blobs is not None
    other = Blobs(place.url, uuid4())
    theirs = other.keep(attach(os.urandom(70_000)), uuid4(), "0-ab")
    db.blobs._put(f"{db.blobs._folder}/notes.txt", b"mine")
    reader.with_options(key="k").run("y")
    before = kept(place)
    assert theirs.blob in before
    assert agentrun.prune(timedelta(days=1)).blobs == 0
    assert kept(place) == before


def test_a_page_at_a_time(db: OpenDatabase, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "_PAGE", 2)
    tail = claimed(db, "k")
    for _ in range(5):
        orphan(db, tail.run_id, 0)
    assert agentrun.prune(NONE, dry_run=True).blobs == 5
    assert agentrun.prune(NONE).blobs == 5
    assert kept(place) == []


def test_a_late_answer_is_kept_in_the_database(
    dsn: str, db: OpenDatabase, place: Place, conn: Connection
) -> None:
    tail = claimed(db, "k")
    conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'process gone'")
    with OpenDatabase(dsn) as successor:
        assert successor.claim(find_run(successor, "k"), "took over") is not None
    answer = Event(event="step_finished", step=1, kind="tool", name="t", ident="0", attempt=1,
                   status="ok", effect="once", output="x" * 100_000, has_output=True)  # fmt: skip
    with pytest.raises(agentrun.LeaseLost):
        db.writer.wait(db.writer.append(tail, [answer]))
    until(lambda: bool(conn.execute("SELECT FROM agentrun.late_results").fetchall()))
    assert (inside(conn), named(conn)) == (1, [])
    assert agentrun.prune(NONE).blobs == 1
    assert kept(place) == []


def test_a_payload_lies_in_one_place(conn: Connection) -> None:
    for zstd, blob in ((None, None), (b"x", "name")):
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute(
                "INSERT INTO agentrun.payloads VALUES (gen_random_uuid(), 'd', 1, %s, %s)",
                [zstd, blob],
            )


def test_names_say_whose_they_are(db: OpenDatabase) -> None:
    assert db.blobs is not None
    run_id = uuid4()
    put = db.blobs.keep(Payload("0" * 32, 70_000, b"x"), run_id, "7-00c0ffee")
    ((blob,),) = db.blobs.pages()
    assert (blob.name, blob.run_id, blob.epoch, blob.digest) == (put.blob, run_id, 7, "0" * 32)
    assert json.dumps(blob.name).isascii()
