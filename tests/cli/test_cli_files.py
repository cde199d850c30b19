"""`export` and what `show` reads back; `watch` of a run in another process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from command_line import Cli, Write
from crashing import until
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentrun.store.audit import wake_delay
from agentrun.view.jsonl import read_jsonl

SLOW = """
import os, time
import agentrun

@agentrun.tool(effect="read")
def look(n: int) -> dict:
    for _ in range(6000):  # a minute: it must not outlive its test
        if os.path.exists(os.environ["GO"] + str(n)):
            break
        time.sleep(0.01)
    return {"seen": n}

@agentrun.agent
def looker(upto: int) -> str:
    for n in range(upto):
        look(n)
    if upto > 9:
        raise ValueError("too far")
    return "looked"
"""


@pytest.fixture
def ticket(cli: Cli, write: Write) -> Cli:
    """A run `ticket-1`, done."""
    assert cli("run", write(), 7, "--key", "ticket-1").exit_code == 0
    return cli


# -- export, show ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "html"])
def test_an_exported_run_is_shown_without_a_database(
    ticket: Cli, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"run.{ending}"
    wrote = ticket("export", "ticket", "-o", file)
    assert (wrote.exit_code, wrote.stdout) == (0, "")
    assert str(file) in wrote.stderr
    live = ticket("show", "ticket-1", "--json").stdout
    nowhere = ("--dsn", f"postgresql:///x?host={tmp_path}")
    assert ticket(*nowhere, "show", file, "--json").stdout == live
    assert "pay(cents=7) · once · ok" in ticket(*nowhere, "show", file).stdout
    again = ticket(*nowhere, "export", file, "--jsonl")
    assert [e.seq for e in read_jsonl(again.stdout.splitlines())] == list(range(1, 6))


def test_export_writes_every_format_to_stdout(ticket: Cli) -> None:
    html, md, jsonl, openai, as_json = (
        ticket("export", "@last", f"--{name}").stdout
        for name in ("html", "md", "jsonl", "openai", "json")
    )
    assert html.startswith("<!DOCTYPE html>")
    assert html.endswith("</html>\n")
    assert "Content-Security-Policy" in html
    assert md.startswith("# ` ticket-1 `\n")
    assert json.loads(jsonl.splitlines()[0])["event"] == "created"
    assert json.loads(openai) == []
    assert json.loads(as_json)["result"] == {"paid": 7, "note": "-"}


def test_export_does_not_guess_a_format(ticket: Cli, tmp_path: Path) -> None:
    for args in ([], ["--html", "--md"], ["-o", tmp_path / "run.txt"]):
        result = ticket("export", "ticket-1", *args)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--html, --md, --jsonl, --openai" in result.stderr
    assert list(tmp_path.glob("run.*")) == []
    assert ticket("export", "nobody", "--md").exit_code == 4
    missing = ticket("export", "ticket-1", "-o", tmp_path / "no" / "run.html")
    assert missing.exit_code == 2


def test_a_file_that_is_no_export_is_named(cli: Cli, tmp_path: Path) -> None:
    for name, text, told in (
        ("a.jsonl", '{"event": "created"}\n{"event": 1}\n', "line 2"),
        ("b.html", "<p>hello</p>", "contains no journal"),
        ("c.jsonl", "\udcff", "cannot be read"),
    ):
        (tmp_path / name).write_text(text, errors="surrogateescape")
        result = cli("show", tmp_path / name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert told in result.stderr
    assert cli("show", tmp_path / "none.jsonl").exit_code == 4  # then it is a key


# -- watch -----------------------------------------------------------------------------------------


@contextmanager
def started(dsn: str, *args: object, **env: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m agentrun …`, killed at the end if it still runs."""
    command = [sys.executable, "-m", "agentrun", "--dsn", dsn, *map(str, args)]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], told: str) -> list[str]:
    """What the process prints, up to the line that holds ``told``."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if told in line:
            return lines
    raise AssertionError(f"{told!r} never came: {lines} {process.communicate()[1]}")


def wait_for_run(dsn: str, key: str) -> None:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as conn:
        query = "SELECT key FROM agentrun.runs WHERE key = %s"
        while conn.execute(query, [key]).fetchone() is None:
            time.sleep(0.02)


def test_watch_prints_a_step_when_it_begins_and_when_it_ends(
    dsn: str, write: Write, tmp_path: Path
) -> None:
    go = {"GO": str(tmp_path / "go")}
    with started(dsn, "run", f"{write(SLOW)}:looker", 2, "--key", "k", **go):
        wait_for_run(dsn, "k")
        with started(dsn, "watch", "k") as watching:
            lines_until(watching, "looker")
            Path(go["GO"] + "0").touch()
            lines_until(watching, "look(n=0) · read · ok")
            Path(go["GO"] + "1").touch()
            rest = lines_until(watching, "total")
            assert watching.wait(60) == 0
    assert any("result  looked" in line for line in rest)


def test_watch_as_json_is_the_journal_a_line_an_event(
    dsn: str, write: Write, tmp_path: Path
) -> None:
    go = {"GO": str(tmp_path / "go")}
    for n in range(10):
        Path(f"{go['GO']}{n}").touch()
    with started(dsn, "run", f"{write(SLOW)}:looker", 10, "--key", "k", **go) as run:
        wait_for_run(dsn, "k")
        with started(dsn, "watch", "k", "--json") as watching:
            output, errors = watching.communicate(timeout=60)
            assert watching.returncode == 1, errors  # the run failed
        run.wait(60)
    events = list(read_jsonl(output.splitlines()))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].event == "run_failed"


def test_watch_outlives_a_lost_database_and_misses_nothing(
    dsn: str, write: Write, tmp_path: Path
) -> None:
    """Every session is ended again and again; the run's own process survives that as well."""
    go = {"GO": str(tmp_path / "go")}
    end = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with (
        psycopg.connect(dsn, autocommit=True) as conn,
        started(dsn, "run", f"{write(SLOW)}:looker", 3, "--key", "k", **go),
    ):
        wait_for_run(dsn, "k")
        with started(dsn, "watch", "k", "--json") as watching:
            lines = lines_until(watching, '"event":"claimed"')
            for n in range(3):
                conn.execute(end)
                Path(f"{go['GO']}{n}").touch()
                lines += lines_until(watching, '"event":"step_finished"')
            conn.execute(end)
            lines += lines_until(watching, '"event":"run_finished"')
            assert watching.wait(60) == 0
    seqs = [event.seq for event in read_jsonl(lines)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_watch_says_why_nothing_comes_and_goes_on_when_it_does(
    in_doubt: Path, cli: Cli, dsn: str, process: Cli
) -> None:
    with started(dsn, "watch", "ticket") as watching:
        assert watching.stderr is not None
        assert "waits for a person" in watching.stderr.readline()
        cli("resolve", "ticket", 1, "--not-happened")
        assert process("resume", "ticket", in_doubt).returncode == 0
        lines_until(watching, "result")
        assert watching.wait(60) == 0


def test_ctrl_c_ends_the_watching_and_not_the_run(in_doubt: Path, dsn: str) -> None:
    with started(dsn, "watch", "ticket") as watching:
        lines_until(watching, "ticket  payer")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 130


def test_watch_of_an_ended_run_prints_it_and_ends(ticket: Cli) -> None:
    result = ticket("watch", "ticket-1")
    assert result.exit_code == 0
    shown = ticket("show", "ticket-1").stdout
    assert [line.rstrip() for line in result.stdout.splitlines() if line.strip()] == [
        line.rstrip() for line in shown.splitlines() if line.strip()
    ]
    assert ticket("watch", "nobody").exit_code == 4


# -- doctor ----------------------------------------------------------------------------------------


def doctor(cli: Cli, *args: object) -> dict[str, object]:
    told: dict[str, object] = json.loads(cli(*args, "doctor", "--json").stdout)
    return told


@pytest.mark.tampers
def test_doctor_names_the_runs_that_are_stuck_and_why(cli: Cli, dsn: str, in_doubt: Path) -> None:
    cli("submit", f"{in_doubt}:payer", 1, "--key", "waiting")
    cli("submit", f"{in_doubt}:payer", 1, "--key", "later", "--delay", 3600)
    cli("run", f"{in_doubt}:payer", 1, "--key", "fine")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("UPDATE agentrun.runs SET changed_at = changed_at - interval '90 min'")
        conn.execute(
            "INSERT INTO agentrun.runs (run_id, key, agent, status, owner)"
            " VALUES (gen_random_uuid(), 'lost', 'payer', 'running', 'w-lost')"
        )
    told = doctor(cli)
    stuck = {run["key"]: run for run in told["stuck"]}  # type: ignore[attr-defined]
    assert {key: run["why"] for key, run in stuck.items()} == {
        "ticket": "held", "waiting": "no worker", "lost": "owner dead",
    }  # fmt: skip
    assert "agentrun inbox" in stuck["ticket"]["way_on"]
    assert "w-lost" in stuck["lost"]["way_on"]
    shown = cli("doctor")
    assert shown.exit_code == 1
    assert "waiting, for 1 h: no live worker serves the agent 'payer'" in shown.stdout


def test_a_live_worker_is_reason_enough_to_wait(dsn: str, cli: Cli, write: Write) -> None:
    file = write()
    cli("submit", f"{file}:payer", 1, "--key", "waiting", "--queue", "other")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("UPDATE agentrun.runs SET changed_at = changed_at - interval '90 min'")
    assert len(doctor(cli)["stuck"]) == 1  # type: ignore[arg-type]
    with started(dsn, "worker", file, "--json") as worker:
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline()) == {"agents": ["payer"], "queues": ["default"]}
        until(lambda: alive(dsn) == [["default"]])
        (stuck,) = doctor(cli)["stuck"]  # type: ignore[misc]
        assert "`agentrun worker FILE --queue other` starts one" in stuck["way_on"]
    with started(dsn, "worker", file, "--queue", "other"):
        until(lambda: doctor(cli)["stuck"] == [])


def alive(dsn: str) -> list[list[str]]:
    """The queues of each worker that serves any."""
    with psycopg.connect(dsn) as conn:
        found = conn.execute("SELECT queues FROM agentrun.workers WHERE queues <> '{}'").fetchall()
    return [queues for (queues,) in found]


@pytest.mark.direct("tells a direct connection from a pooled one")
def test_doctor_tells_a_pooler_from_a_direct_connection(cli: Cli, dsn: str, tmp_path: Path) -> None:
    assert "connection direct" in cli("doctor").stdout
    with pooled(dsn, tmp_path) as through:
        told = cli("--dsn", through, "doctor")
        assert json.loads(cli("--dsn", through, "doctor", "--json").stdout)["server"]["pooler"]
    assert told.exit_code == 0
    assert "through a pooler" in told.stdout


@contextmanager
def pooled(dsn: str, folder: Path) -> Iterator[str]:
    """A way to the server that, as poolers do, names a session that is not the server's."""
    given = conninfo_to_dict(dsn)
    name = f".s.PGSQL.{given.get('port', 5432)}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / name))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(Path(str(given["host"])) / name))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=copy, args=(source, sink), daemon=True).start()

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError), source:
            while piece := source.recv(1 << 16):
                key = b"K\0\0\0\x0c"  # BackendKeyData: the session's pid follows
                before, found, after = piece.partition(key)
                sink.sendall(before + found + (b"\0\0\0\1" + after[4:] if found else after))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield make_conninfo(dsn, host=str(folder))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_doctor_sees_a_thread_that_computes_without_a_pause() -> None:
    """It keeps the interpreter for the switch interval, however fast the machine is."""
    before, stop = sys.getswitchinterval(), threading.Event()
    sys.setswitchinterval(0.05)
    thread = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    thread.start()
    try:
        late, worst = wake_delay(naps=5)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert worst >= late > 0.02


# -- limits ----------------------------------------------------------------------------------------


def test_limits_are_set_listed_and_removed(cli: Cli) -> None:
    assert cli("limits", "set", "openai/gpt-5-mini", "--rpm", 500).exit_code == 0
    cli("limits", "set", "openai/*", "--concurrency", 3)
    listed = json.loads(cli("limits", "ls", "--json").stdout)
    assert [(row["model"], row["rpm"], row["concurrency"]) for row in listed] == [
        ("openai/*", None, 3), ("openai/gpt-5-mini", 500, None),
    ]  # fmt: skip
    assert "openai/gpt-5-mini" in cli("limits", "ls").stdout
    assert cli("limits", "rm", "openai/*").exit_code == 0
    for wrong in (("rm", "openai/*"), ("set", "gpt-5-mini", "--rpm", 5), ("set", "openai/m")):
        assert cli("limits", *wrong).exit_code == 2
