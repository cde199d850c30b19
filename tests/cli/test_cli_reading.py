"""Looking at runs and at the database from the command line; and how it fails."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from command_line import APP, Cli, Write
from journals import HOSTILE
from terminal import printed

import agentrun
from agentrun.api import health
from agentrun.core.events import Event
from agentrun.core.transcript import Transcript
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run
from agentrun.view.safe import visible


@pytest.fixture
def runs(cli: Cli, write: Write) -> Cli:
    """Runs ticket-1, ticket-2 and other, in this order."""
    file = write()
    for number, key in enumerate(["ticket-1", "ticket-2", "other"]):
        assert cli("run", file, number, "--key", key).exit_code == 0
    return cli


def keys(result: object) -> list[str]:
    return [row["key"] for row in json.loads(result.stdout)]  # type: ignore[attr-defined]


# -- ls, show, keys -------------------------------------------------------------------------


def test_ls_lists_the_newest_first(runs: Cli) -> None:
    assert keys(runs("ls", "--json")) == ["other", "ticket-2", "ticket-1"]
    assert keys(runs("ls", "--json", "--limit", "1")) == ["other"]
    assert keys(runs("ls", "--json", "--status", "failed")) == []
    lines = runs("ls", "--status", "done").stdout.splitlines()
    assert lines[0].split("\t")[:3] == ["status", "key", "agent"]
    assert [line.split("\t")[:3] for line in lines[1:]] == [
        ["done", "other", "payer"],
        ["done", "ticket-2", "payer"],
        ["done", "ticket-1", "payer"],
    ]


def test_ls_of_nothing_writes_no_data(cli: Cli) -> None:
    result = cli("ls")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no runs\n")


def test_an_unknown_status_is_a_usage_error_that_lists_them(cli: Cli) -> None:
    result = cli("ls", "--status", "finished")
    assert result.exit_code == 2
    assert "'held'" in result.stderr


def test_show_prints_the_transcript(runs: Cli) -> None:
    shown = runs("show", "ticket-2").stdout
    assert "pay(cents=1) · once · ok" in shown
    told = json.loads(runs("show", "ticket-2", "--json").stdout)
    assert set(told) == {*Transcript.__dataclass_fields__, "decided"}
    assert (told["key"], told["result"]) == ("ticket-2", {"paid": 1, "note": "-"})


def test_a_unique_prefix_and_last_name_a_run(runs: Cli) -> None:
    for given, meant in [("oth", "other"), ("@last", "other"), ("ticket-1", "ticket-1")]:
        assert json.loads(runs("show", given, "--json").stdout)["key"] == meant


def test_an_ambiguous_prefix_lists_the_candidates(runs: Cli) -> None:
    result = runs("show", "tick")
    assert result.exit_code == 4
    assert "ticket-2, ticket-1" in result.stderr


def test_a_whole_key_is_never_a_prefix(runs: Cli, write: Write) -> None:
    runs("run", write(), 9, "--key", "ticket")
    assert json.loads(runs("show", "ticket", "--json").stdout)["key"] == "ticket"


@pytest.mark.parametrize("command", [["show"], ["resume"], ["resolve"]])
def test_an_unknown_key_exits_4(cli: Cli, command: list[str]) -> None:
    rest = ["1", "--unknown"] if command == ["resolve"] else []
    for key in ("nobody", "@last"):
        result = cli(*command, key, *rest)
        assert (result.exit_code, result.stdout) == (4, "")
        assert result.stderr.startswith("error: ")


# -- hostile text ------------------------------------------------------------------------------


def test_nothing_recorded_can_act_on_the_terminal(cli: Cli, write: Write) -> None:
    name = HOSTILE.replace("\x00", "").replace("\ud800", "")
    file = write(
        "import agentrun\n"
        f"@agentrun.agent(name={name!r})\n"
        "def echo(text: str):\n"
        "    if text.endswith('!'): raise ValueError(text)\n"
        "    return text\n"
    )
    results = [
        cli("run", file, HOSTILE, "--key", name),
        cli("run", file, HOSTILE + "!", "--key", f"{name}!"),
        cli("ls"),
        cli("show", name),
        cli("show", f"{name}!", "--full"),
        cli("show", name[:5]),
        cli("sql", 'SELECT r.key AS "\x1b[31m", r.agent, j.reason, j.input FROM runs r '
            "JOIN journal j USING (run_id)"),
        cli("run", file, HOSTILE, HOSTILE),
        cli("sql", f"SELECT {name}"),
        cli("show", name, "--json"),
        cli("run", file, HOSTILE, "--key", name, "--json"),
    ]  # fmt: skip
    assert [result.exit_code for result in results] == [0, 1, 0, 0, 0, 4, 0, 2, 1, 0, 0]
    for result in results:
        for text in (result.stdout, result.stderr):
            assert visible(text, multiline=True) == text.replace("\t", " " * 4)
    assert json.loads(results[-1].stdout)["result"] == HOSTILE


def test_a_terminal_that_knows_only_ascii_is_no_error(runs: Cli, process: Cli) -> None:
    result = process("show", "other", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "\\xb7" in result.stdout


# -- sql ---------------------------------------------------------------------------------------


def test_sql_as_a_table_and_as_json(runs: Cli) -> None:
    query = "SELECT key, status, NULL AS nothing FROM runs WHERE key = 'other'"
    assert [line.split() for line in runs("sql", query).stdout.splitlines()] == [
        ["key", "status", "nothing"],
        ["other", "done"],
    ]
    row = {"key": "other", "status": "done", "nothing": None}
    assert json.loads(runs("sql", "--json", query).stdout) == [row]


def test_sql_json_holds_every_kind_of_value(cli: Cli) -> None:
    query = (
        "SELECT 1.50::numeric AS money, 'NaN'::float8 AS nan, '\\x00ff'::bytea AS bytes,"
        " '2026-11-22 12:00:00+00'::timestamptz AS at, '{\"a\": [1, null]}'::json AS json,"
        " ARRAY['a', NULL] AS list, interval '1 s' AS took"
    )
    (row,) = json.loads(cli("sql", "--json", query).stdout)
    assert row == {
        "money": "1.50", "nan": "nan", "bytes": "00ff", "at": "2026-11-22T12:00:00+00:00",
        "json": {"a": [1, None]}, "list": ["a", None], "took": "0:00:01",
    }  # fmt: skip


def test_sql_takes_a_query_from_a_pipe(cli: Cli) -> None:
    assert json.loads(cli("sql", "--json", input="SELECT 1 AS one").stdout) == [{"one": 1}]
    assert cli("sql", input="").exit_code == 2


def test_a_long_table_is_whole_in_a_pipe_and_cut_in_a_terminal(cli: Cli, dsn: str) -> None:
    query = "SELECT generate_series(1, 1001) AS n"
    assert len(cli("sql", query).stdout.splitlines()) == 1 + 1001
    assert len(cli("sql", "--csv", query).stdout.splitlines()) == 1 + 1001
    assert len(json.loads(cli("sql", "--json", query).stdout)) == 1001
    lines = printed("--dsn", dsn, "sql", query).splitlines()
    assert len(lines) == 1 + 1000 + 1
    assert lines[-1].startswith("only the first 1,000 rows are shown")


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM runs",
        "INSERT INTO mail (run_id, id, kind) VALUES (gen_random_uuid(), gen_random_uuid(), 'x')",
        "WITH d AS (DELETE FROM workers RETURNING 1) SELECT * FROM d",
        "CREATE TABLE public.x ()",
        "SET TRANSACTION READ WRITE",
        "SELECT 1; DELETE FROM workers",
        "COMMIT; DELETE FROM agentrun.workers",
        "DO $$ BEGIN SET TRANSACTION READ WRITE; DELETE FROM agentrun.workers; END $$",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "COMMIT",
        "COPY runs TO STDOUT",
        "SELEC",
    ],
)
def test_sql_refuses_to_write(runs: Cli, dsn: str, query: str) -> None:
    count = "SELECT (SELECT count(*) FROM agentrun.runs), (SELECT count(*) FROM agentrun.workers)"
    with psycopg.connect(dsn, autocommit=True) as conn:
        before = conn.execute(count).fetchone()
        result = runs("sql", query)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert conn.execute(count).fetchone() == before


def test_sql_cannot_lose_a_column_to_another_of_its_name(cli: Cli) -> None:
    result = cli("sql", "--json", "SELECT 1 AS a, 2 AS a")
    assert result.exit_code == 2
    assert "named 'a'" in result.stderr


def test_sql_joins_tables_of_ones_own(runs: Cli, dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE TABLE orders AS SELECT key FROM agentrun.runs LIMIT 1")
    query = "SELECT count(*) AS n FROM runs JOIN orders USING (key)"
    assert json.loads(runs("sql", "--json", query).stdout) == [{"n": 1}]


def test_sql_reads_a_database_whose_schema_is_not_ours(cli: Cli, dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("DELETE FROM agentrun.migrations")
    assert cli("sql", "SELECT count(*) FROM runs").exit_code == 0


def test_the_prompt_answers_until_the_end_of_its_input(runs: Cli, dsn: str) -> None:
    keyboard, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "agentrun", "sql", "--json"],
        env={**os.environ, "AGENTRUN_DATABASE_URL": dsn},
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as prompt:
        os.close(terminal)
        os.write(keyboard, b"DROP TABLE runs;\n\nSELECT key\nFROM runs WHERE key = 'other';\n\x04")
        stdout, stderr = prompt.communicate(timeout=60)
    os.close(keyboard)
    assert '{"key": "other"}' in stdout
    assert "DROP TABLE in a read-only transaction" in stderr
    assert prompt.returncode == 0


# -- migrate, doctor ----------------------------------------------------------------------------


def test_migrate_lists_then_applies_then_is_content(cli: Cli, empty_dsn: str) -> None:
    def names(*args: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = json.loads(
            cli("--dsn", empty_dsn, "migrate", "--json", *args).stdout
        )
        return found

    missing = names("--dry-run")["missing"]
    assert missing == ["0001_schema.sql"]
    assert names() == {"applied": missing}
    assert names() == {"applied": []}
    assert "current" in cli("--dsn", empty_dsn, "migrate").stderr


def test_doctor_of_a_sound_database(runs: Cli) -> None:
    told = json.loads(runs("doctor", "--json").stdout)
    assert told["agentrun"] == agentrun.__version__
    assert told["database"]["embedded"] is False
    assert told["schema"] == "current"
    assert told["server"]["synchronous_commit"] == "on"
    assert told["workers"] == {"alive": 0, "dead": 0}
    assert told["problems"] == []
    shown = runs("doctor")
    assert shown.exit_code == 0
    assert "Postgres" in shown.stdout


@pytest.mark.tampers
@pytest.mark.direct("alters a setting of the database, which sessions of a pool had before")
def test_doctor_names_what_needs_attention(cli: Cli, dsn: str, in_doubt: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "UPDATE agentrun.runs SET status = 'running', owner = 'w-lost', parked_for = NULL "
            "WHERE key = 'ticket'"
        )
        (name,) = conn.execute("SELECT current_database()").fetchone() or ("",)
        conn.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    result = cli("doctor")
    assert result.exit_code == 1
    assert "! 1 running runs belong to dead workers" in result.stdout
    assert "! synchronous_commit is off" in result.stdout


@pytest.mark.tampers
def test_doctor_names_what_keeps_dead_rows(
    cli: Cli, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_DEAD_ROWS", 100)
    monkeypatch.setattr(health, "_LONG_TRANSACTION", 0.0)
    with psycopg.connect(dsn, application_name="a report") as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM agentrun.runs")
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("ALTER TABLE agentrun.runs SET (autovacuum_enabled = off)")
            conn.execute(
                "INSERT INTO agentrun.runs (run_id, key, agent, status)"
                " SELECT gen_random_uuid(), n::text, 'a', 'done' FROM generate_series(1, 200) n"
            )
            conn.execute("UPDATE agentrun.runs SET reason = key")
            conn.execute("SELECT pg_stat_force_next_flush()")
            conn.execute("SELECT 1")
        shown = cli("doctor")
        told = json.loads(cli("doctor", "--json").stdout)
    assert shown.exit_code == 1
    assert "! autovacuum is off for runs" in shown.stdout
    assert "'a report' idle in transaction; end it" in shown.stdout
    assert "! runs has 200 dead rows" in shown.stdout
    assert told["vacuum"]["dead_rows"]["runs"] == 200
    assert told["vacuum"]["oldest"]["age"] > 0


def test_doctor_says_that_commits_are_slow(cli: Cli, dsn: str) -> None:
    with OpenDatabase(
        dsn, lease=30.0
    ) as database:  # so long that a busy machine declares none dead
        database.create("k", "agent", {}, "")
        claimed = database.claim(find_run(database, "k"), "a test")
        assert claimed is not None
        with psycopg.connect(dsn) as conn:
            conn.execute("LOCK TABLE agentrun.journal IN SHARE MODE")
            done = database.writer.append(claimed[0], [Event(event="run_finished")])
            for _ in range(1000):
                if "! the database is slow" in (shown := cli("doctor").stdout):
                    break
        assert "1 events wait" in shown
        told = json.loads(cli("doctor", "--json").stdout)
        assert told["commits"]["slowest_ms"] > 1000
        database.writer.wait(done)


def test_doctor_shows_where_the_embedded_server_is_and_stops_it(
    cli: Cli, new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENTRUN_DATABASE_URL")
    monkeypatch.setenv("AGENTRUN_HOME", str(new_home))
    told = json.loads(cli("doctor", "--json").stdout)
    assert told["database"]["data"] == str(new_home / "pgdata")
    assert told["schema"] == "missing"
    assert told["problems"] == [
        "the schema is missing: the first use makes it, or `agentrun migrate` now"
    ]
    assert "doctor --stop" in cli("doctor").stdout
    assert json.loads(cli("doctor", "--stop", "--json").stdout) == {"stopped": True}
    assert json.loads(cli("doctor", "--stop", "--json").stdout) == {"stopped": False}


# -- how it fails -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["ls"], ["show", "x"], ["sql", "SELECT 1"], ["migrate"], ["doctor"], ["inbox"]]
)
def test_no_database_exits_5_and_hides_the_password(
    cli: Cli, tmp_path: Path, command: list[str]
) -> None:
    result = cli("--dsn", f"postgresql://me:sesame@/x?host={tmp_path}", *command)
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.startswith("error: ")
    assert "sesame" not in result.stderr


def test_a_malformed_dsn_is_a_usage_error(cli: Cli) -> None:
    result = cli("--dsn", "no dsn", "ls")
    assert result.exit_code == 2
    assert "expected something like postgresql://" in result.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM agentrun.migrations", "run `agentrun migrate`"),
        ("INSERT INTO agentrun.migrations VALUES (9999, 'future', '', now())", "newer"),
    ],
)
def test_another_schema_exits_5_and_names_the_way_out(
    cli: Cli, dsn: str, change: str, told: str
) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(change)
    result = cli("ls")
    assert result.exit_code == 5
    assert told in result.stderr
    assert told in cli("doctor").stdout


def test_help_lists_the_commands_and_the_exit_codes(cli: Cli) -> None:
    shown = cli("--help").stdout
    for name in ("demo", "run", "ls", "show", "watch", "export", "resume", "inbox", "resolve",
                 "sql", "prune", "migrate", "doctor"):  # fmt: skip
        assert f"\n  {name} " in shown
    assert "   6  the code diverged from the journal\n" in shown
    assert cli("-h").stdout == shown


def test_the_command_line_starts_without_rich() -> None:
    code = "import sys, agentrun.cli; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_module_is_the_command(process: Cli, write: Write) -> None:
    assert process("--version").stdout == f"{agentrun.__version__}\n"
    assert "Usage: agentrun run " in process("run", "--help").stdout
    result = process("run", write(APP), 3, "--json")
    assert json.loads(result.stdout)["result"] == {"paid": 3, "note": "-"}
