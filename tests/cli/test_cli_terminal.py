"""What the command line shows in a terminal, and what it costs to ask it for help."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
from command_line import APP, Cli, Write
from journals import HOSTILE
from terminal import printed, screen

from agentrun.cli import app
from agentrun.testing import Provider, Reply
from agentrun.view.layout import columns
from agentrun.view.safe import visible

# Typer itself loads pydantic where it reads options.
HEAVY = {
    "psycopg", "asyncio", "openai", "rich", "psutil", "genai_prices",
    "agentrun.public_face", "agentrun.core.transcript", "agentrun.store.database",
}  # fmt: skip

FAMILY = """
import agentrun

@agentrun.tool(effect="read")
def look(n: int) -> str:
    if n == 2:
        raise ValueError("no such order")
    return f"seen {n}"

@agentrun.agent
def child(n: int) -> str:
    return look(n)

@agentrun.agent
def parent(n: int) -> list:
    return [child(n), child(n + 10)]
"""

STREAMS = """
import os
import agentrun
from openai import OpenAI

@agentrun.agent
def streams() -> str:
    client = agentrun.wrap(OpenAI(base_url=os.environ["DOUBLE"], api_key="k"))
    asked = [{"role": "user", "content": "hi"}]
    reply = client.chat.completions.create(model="gpt-5-mini", messages=asked, stream=True)
    return "".join(c.choices[0].delta.content or "" for c in reply if c.choices)
"""


@pytest.fixture
def family(cli: Cli, write: Write) -> Path:
    """`top` with two child runs; `broken` whose child failed."""
    file = write(FAMILY, "family.py")
    assert cli("run", f"{file}:parent", 1, "--key", "top").exit_code == 0
    assert cli("run", f"{file}:child", 2, "--key", "broken").exit_code == 1
    return file


# -- help, completion ------------------------------------------------------------------------------


def loads(*args: str, **env: str) -> set[str]:
    """The heavy modules that a command loads."""
    code = (
        "import sys\n"
        "from agentrun.cli import app\n"
        "try: app(sys.argv[1:], prog_name='agentrun')\n"
        f"finally: sys.stderr.write(repr(sorted({HEAVY!r} & set(sys.modules))))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True,
        env={**os.environ, **env},
    )  # fmt: skip
    return set(json.loads(found.stderr.splitlines()[-1].replace("'", '"')))


@pytest.mark.parametrize(
    "args", [("--version",), ("--help",), ("ls", "--help"), ("run", "--help"), ("limits", "--help")]
)
def test_help_loads_nothing_heavy(args: tuple[str, ...]) -> None:
    assert loads(*args, AGENTRUN_DATABASE_URL="postgresql://nowhere/x") == set()


def test_help_lists_commands_under_headings(cli: Cli) -> None:
    text = cli("--help").stdout
    headings = [line[:-1] for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [
        "Options", "Run agents", "Look at runs", "Decide", "Serve", "Try and test",
        "Look after the database",
    ]  # fmt: skip
    looks = text.partition("Look at runs:")[2].partition("Decide:")[0]
    assert [line.split()[0] for line in looks.splitlines() if line.strip()][:3] == [
        "ls", "show", "watch",
    ]  # fmt: skip


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return {
        name: command for name, command in group.commands.items() if "commands" not in vars(command)
    }


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_examples_that_it_accepts(name: str) -> None:
    command = commands()[name]
    lines = [line.strip() for line in (command.epilog or "").splitlines() if "agentrun " in line]
    assert lines
    for line in lines:
        words = shlex.split(line.partition("&&")[0].partition(" > ")[0])
        assert words[:2] == ["agentrun", name]
        command.make_context(name, words[2:], obj=None)


def completed(*words: str, **env: str) -> list[str]:
    """What bash is offered for the last word."""
    found = subprocess.run(
        [sys.executable, "-m", "agentrun"], capture_output=True, text=True,
        env={**os.environ, "_AGENTRUN_COMPLETE": "complete_bash",
             "COMP_WORDS": " ".join(("agentrun", *words)), "COMP_CWORD": str(len(words)), **env},
    )  # fmt: skip
    return found.stdout.split()


def test_keys_and_commands_are_completed(cli: Cli, dsn: str, write: Write) -> None:
    file = write()
    for key in ("ticket-1", "ticket-2", "other", "ticket\x1b[2J"):
        assert cli("run", file, 1, "--key", key).exit_code == 0
    at = {"AGENTRUN_DATABASE_URL": dsn}
    assert completed("show", "tick", **at) == ["ticket-2", "ticket-1"]
    assert completed("show", "--full", "o", **at) == ["other"]
    assert completed("resume", "oth", **at) == ["other"]
    assert completed("ls", "--status", "he", **at) == ["held"]
    assert completed("wat", **at) == ["watch"]
    assert completed("show", "@", **at) == ["@last"]


def test_a_completion_starts_no_server(tmp_path: Path) -> None:
    home = tmp_path / "home"
    env = {"AGENTRUN_DATABASE_URL": "", "AGENTRUN_HOME": str(home)}
    assert completed("show", "tick", **env) == []
    assert not home.exists()
    nowhere = f"postgresql:///x?host={tmp_path}"
    assert completed("show", "tick", AGENTRUN_DATABASE_URL=nowhere) == []


def test_the_database_may_be_named_after_the_command(
    cli: Cli, dsn: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("run", write(), 1, "--key", "k").exit_code == 0
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", f"postgresql:///x?host={tmp_path}")
    assert cli("ls").exit_code == 5
    (row,) = json.loads(cli("ls", "--json", "--dsn", dsn).stdout)
    assert row["key"] == "k"
    assert cli("limits", "ls", "--dsn", dsn).exit_code == 0


def test_the_hint_about_a_dsn_is_not_masked(cli: Cli) -> None:
    told = cli("ls", "--dsn", "host=").stderr + cli("ls", "--dsn", "postgres//x").stderr
    assert "postgresql://USER@HOST:5432/DATABASE" in told
    assert "masked" not in told


# -- ls ------------------------------------------------------------------------------------------


def test_ls_is_one_line_a_run_on_a_narrow_screen(cli: Cli, dsn: str, family: Path) -> None:
    long = "k" * 90
    cli("run", f"{family}:child", 5, "--key", long)
    for width in (60, 80, 200):
        lines = printed("--dsn", dsn, "ls", columns=width).splitlines()
        assert len(lines) == 1 + 5
        assert max(map(columns, lines)) <= width
    lines = printed("--dsn", dsn, "ls", columns=120).splitlines()
    assert lines[0].split() == ["status", "key", "agent", "age", "took", "turns", "cost", "note"]
    (broken,) = [line for line in lines if " broken " in line]
    assert broken.startswith("failed")
    assert "ValueError: no such order" in broken


def test_ls_shows_child_runs_below_their_parents(cli: Cli, dsn: str, family: Path) -> None:
    rows = json.loads(cli("ls", "--tree", "--json").stdout)
    assert [(row["depth"], row["agent"]) for row in rows] == [
        (0, "child"), (0, "parent"), (1, "child"), (1, "child"),
    ]  # fmt: skip
    assert rows[2]["parent_key"] == "top"
    shown = printed("--dsn", dsn, "ls", "--tree", columns=120)
    assert shown.count("└ ") == 2
    below = json.loads(cli("ls", "--root", "top", "--json", "key,root_key").stdout)
    assert {row["root_key"] for row in below} == {"top"}
    assert len(below) == 3


def test_ls_filters_and_goes_on_after_a_run(cli: Cli, family: Path) -> None:
    def found(*args: object) -> list[str]:
        return [row["agent"] for row in json.loads(cli("ls", "--json", *args).stdout)]

    assert found("--agent", "parent") == ["parent"]
    assert found("--search", "NO SUCH ORDER") == ["child"]
    assert found("--since", "1h", "--status", "failed") == ["child"]
    assert found("--since", "2999-01-01") == []
    first = cli("ls", "--json", "key,cursor", "--limit", 1)
    (row,) = json.loads(first.stdout)
    assert f"--after {row['cursor']}" in first.stderr
    rest = [one["key"] for one in json.loads(cli("ls", "--json", "--after", row["cursor"]).stdout)]
    assert row["key"] == "broken"
    assert "broken" not in rest
    assert "top" in rest


def test_json_takes_the_names_of_fields(cli: Cli, family: Path) -> None:
    rows = json.loads(cli("ls", "--json", "key,status").stdout)
    assert {tuple(row) for row in rows} == {("key", "status")}
    assert json.loads(cli("ls", "--json=key", "--status", "failed").stdout) == [{"key": "broken"}]
    wrong = cli("ls", "--json", "kye")
    assert wrong.exit_code == 2
    assert "there is no field 'kye'; there are key, run_id, agent" in wrong.stderr


def test_piped_tables_are_lines_of_tab_separated_values(cli: Cli, dsn: str) -> None:
    hostile = HOSTILE.replace("\x00", "").replace("\ud800", "") + "\t|\n|"
    quoted = hostile.replace("'", "''")
    lines = cli("sql", f"SELECT 'a' AS one, '{quoted}' AS two, NULL AS three").stdout.split("\n")
    assert len(lines) == 3
    head, row = lines[0].split("\t"), lines[1].split("\t")
    assert (head, row[0], row[2]) == (["one", "two", "three"], "a", "")
    assert visible(row[1]) == row[1]
    assert "␉|⏎|" in row[1]
    csv = cli("sql", "--csv", f"SELECT '{quoted}' AS two").stdout
    assert "␉|\n|" in csv


# -- inbox -----------------------------------------------------------------------------------------


def commands_in(text: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("    agentrun ")]


def test_the_commands_of_the_inbox_decide(cli: Cli, dsn: str, in_doubt: Path) -> None:
    text = printed("--dsn", dsn, "inbox")
    assert text.splitlines()[0].startswith("ticket  step 1  doubt  payer · ")
    assert "  pay(cents=5)\n" in text
    asked = commands_in(text)
    assert [words[3] for words in asked] == ["--happened", "--not-happened", "--unknown"]
    assert cli(*asked[1]).exit_code == 0
    assert commands_in(printed("--dsn", dsn, "inbox")) == []
    assert "resolve by" in printed("--dsn", dsn, "inbox")


def test_an_approval_has_its_two_commands_and_json_has_them_too(
    cli: Cli, write: Write, dsn: str
) -> None:
    file = write(APP.replace('effect="once"', "approve=True"))
    assert cli("run", f"{file}:payer", 5, "--key", "a key").exit_code == 3
    (item,) = json.loads(cli("inbox", "--json", "key,commands,reason").stdout)
    assert item["commands"] == [
        "agentrun approve 'a key' 1",
        "agentrun reject 'a key' 1 --reason WHY",
    ]
    assert item["reason"] == "step 1, pay, waits for an approval"
    (row,) = json.loads(cli("ls", "--json", "note").stdout)
    assert row["note"] == item["reason"]
    text = printed("--dsn", dsn, "inbox", columns=60)
    assert commands_in(text) == [
        ["approve", "a key", "1"],
        ["reject", "a key", "1", "--reason", "WHY"],
    ]
    assert cli(*commands_in(text)[0]).exit_code == 0


def test_the_commands_of_the_inbox_name_a_run_of_any_key(cli: Cli, write: Write) -> None:
    file = write(APP.replace('effect="once"', "approve=True"))
    for key in ("-held", "two\tcells"):
        assert cli("run", f"{file}:payer", 5, "--key", key).exit_code == 3
    rows = json.loads(cli("inbox", "--json", "key,commands").stdout)
    assert {row["key"]: row["commands"][1] for row in rows} == {
        "-held": "agentrun reject --reason WHY -- -held 1",
        "two\tcells": "agentrun reject $'two\\tcells' 1 --reason WHY",
    }
    for row in rows:
        words = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {row['commands'][1]}"])
        assert cli(*words.decode().split("\0")[1:-1]).exit_code == 0
        assert cli("inbox", "--", row["key"]).exit_code == 0
    assert [row["commands"] for row in json.loads(cli("inbox", "--json").stdout)] == [[], []]


def test_a_hostile_inbox_is_inert(cli: Cli, write: Write, dsn: str) -> None:
    key = HOSTILE.replace("\x00", "").replace("\ud800", "")
    file = write(
        "import agentrun\n@agentrun.tool(approve=True)\ndef pay(text: str): ...\n"
        "@agentrun.agent\ndef payer(text: str):\n    return pay(text)\n"
    )
    assert cli("run", file, HOSTILE, "--key", key).exit_code == 3
    for command in (("inbox",), ("ls",), ("show", "@last", "--step", 1)):
        with screen("--dsn", dsn, *command, columns=2000, NO_COLOR="1") as shown:
            shown.wait()
        for text in shown.raw.replace("\x1b[1m", "").replace("\x1b[2m", "").split("\r\n"):
            plain = text.replace("\x1b[0m", "").replace("\x1b[1;2m", "")
            assert visible(plain) == plain


# -- show ------------------------------------------------------------------------------------------


def test_show_prints_one_step_or_what_went_wrong(cli: Cli, family: Path) -> None:
    assert "look(n=2) · read · error" in cli("show", "broken", "--step", 1).stdout
    part = cli("show", "top", "--step", 2)
    assert "child" in part.stdout
    assert "entries are not shown" in part.stderr
    wrong = json.loads(cli("show", "broken", "--errors", "--json").stdout)
    assert [entry["type"] for entry in wrong["entries"]] == ["step", "note"]
    fine = cli("show", "top", "--errors")
    assert "child(" not in fine.stdout
    missing = cli("show", "broken", "--step", 9)
    assert missing.exit_code == 2
    assert "has no step 9" in missing.stderr
    assert cli("show", "broken", "--turns", "x..").exit_code == 2


@pytest.mark.parametrize("part", [("--step", 2), ("--errors",)])
def test_the_head_of_a_part_is_that_of_the_whole_run(
    cli: Cli, family: Path, part: tuple[object, ...]
) -> None:
    whole, shown = (cli("show", "top", *some).stdout.splitlines() for some in ((), part))
    assert whole[0] == "top  parent · done · 2 steps"
    assert " UTC · worked " in whole[1]
    assert shown[:3] == whole[:3]
    assert len(shown) < len(whole)


def test_show_has_the_evidence_of_a_step_and_of_an_error(
    cli: Cli, family: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = cli("show", "broken", "--errors").stdout
    assert "".join(f"raised at {family}:7 in look".split()) in "".join(errors.split())
    assert 'raise ValueError("no such order")' in errors
    assert "the run, by step 1" in errors
    with Provider(script=["hello you"]) as provider:
        monkeypatch.setenv("DOUBLE", provider.base_url)
        assert cli("run", write(STREAMS, "streams.py"), "--key", "k").exit_code == 0
    short, whole = (cli("show", "k", "--step", 1, *full).stdout for full in ((), ("--full",)))
    assert '"model": "gpt-5-mini"' in short
    assert " more lines: --full" in short
    assert "more lines" not in whole
    assert '"content": "hello you"' in whole.partition("reply\n")[2]
    assert "request\n" not in cli("show", "k").stdout
    for turns, known in (("500..600", "no turns 500..600: it has the turns 1 to 1"),
                         ("2", "no turn 2: it has the turns 1 to 1"),
                         ("2..", "no turns 2..: it has the turns 1 to 1"),
                         ("3..1", "the range ends before it begins")):  # fmt: skip
        refused = cli("show", "k", "--turns", turns)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert known in refused.stderr
    assert "hello you" in cli("show", "k", "--turns", "1..9").stdout


def test_show_goes_through_the_pager_in_a_terminal(cli: Cli, dsn: str, family: Path) -> None:
    paged = printed("--dsn", dsn, "show", "broken", AGENTRUN_PAGER="sed -u s/^/PAGED/")
    assert "PAGEDbroken" in paged
    plain = printed("--dsn", dsn, "show", "broken", "--no-pager", AGENTRUN_PAGER="sed s/^/PAGED/")
    assert "PAGED" not in plain
    assert "broken" in printed("--dsn", dsn, "show", "broken", AGENTRUN_PAGER="no-such-pager")
    piped = cli("show", "broken", env={"AGENTRUN_PAGER": "sed s/^/PAGED/"}).stdout
    assert piped.startswith("broken  child")


def test_a_reader_who_leaves_the_pager_is_no_error(cli: Cli, dsn: str, family: Path) -> None:
    for _ in range(3):
        printed("--dsn", dsn, "show", "top", "--full", AGENTRUN_PAGER="true")


# -- sql -------------------------------------------------------------------------------------------

WIDE = "SELECT repeat('a', 50) AS first, repeat('b', 50) AS second, NULL AS third"


def test_a_table_wider_than_the_screen_is_printed_as_records(cli: Cli, dsn: str) -> None:
    records = [line.rstrip() for line in printed("--dsn", dsn, "sql", WIDE).splitlines()]
    assert records[0].startswith("─[ 1 ]──")
    assert records[1:] == ["first   " + "a" * 50, "second  " + "b" * 50, "third"]
    table = printed("--dsn", dsn, "sql", WIDE, columns=140).splitlines()
    assert table[0].split() == ["first", "second", "third"]
    assert table[1].split() == ["a" * 50, "b" * 50]


def test_backslash_d_describes_the_schema(cli: Cli) -> None:
    names = {row["name"]: row for row in json.loads(cli("sql", "--json", r"\d").stdout)}
    assert names["spend"]["kind"] == "view"
    assert names["journal"]["kind"] == "table"
    assert all(row["holds"] for row in names.values())
    described = json.loads(cli("sql", "--json", r"\d tool_calls").stdout)
    assert {"step", "name", "args"} <= {row["name"] for row in described}
    for wrong in (r"\d nothing", r"\e", r"\d a b"):
        assert cli("sql", wrong).exit_code == 2


def test_csv_keeps_line_breaks_and_quotes(cli: Cli) -> None:
    text = cli("sql", "--csv", "SELECT E'a\\nb' AS one, 'x\"y,z' AS two, NULL AS three").stdout
    assert text == 'one,two,three\n"a\nb","x""y,z",\n'
    assert cli("sql", "--csv", "--json", "SELECT 1").exit_code == 2


def test_the_prompt_has_history_and_knows_backslash_commands(dsn: str, tmp_path: Path) -> None:
    history = tmp_path / "history"
    with screen("--dsn", dsn, "sql", AGENTRUN_SQL_HISTORY=str(history)) as prompt:
        prompt.until(lambda text: "agentrun>" in text)
        prompt.type("SELECT 6 * 7 AS answer;\r")
        prompt.until(lambda text: "42" in text)
        prompt.type("\\d spend\r")
        prompt.until(lambda text: "billing" in text)
        prompt.type("\\x\r")
        prompt.until(lambda text: "records are on" in text)
        prompt.type("\\q\r")
        assert prompt.wait() == 0
    assert "SELECT 6 * 7 AS answer;" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


# -- watch, export ---------------------------------------------------------------------------------


def test_watch_with_exit_status_ends_where_a_person_must_decide(
    cli: Cli, dsn: str, in_doubt: Path
) -> None:
    held = cli("watch", "ticket", "--exit-status")
    assert held.exit_code == 3
    assert "its outcome is unknown" in held.stderr
    cli("cancel", "ticket")
    assert cli("watch", "ticket", "--exit-status").exit_code == 1
    cli("run", in_doubt, 1, "--key", "fine")
    assert cli("watch", "fine", "--exit-status").exit_code == 0


def test_watch_shows_the_text_that_a_model_writes_and_what_goes_on(dsn: str, write: Write) -> None:
    reply = Reply(" ".join(f"word{n}" for n in range(600)), pace_s=0.5)
    with Provider(script=[reply]) as provider:
        file = write(STREAMS, "streams.py")
        run = ("--dsn", dsn, "run", file, "--key", "k")
        with screen(*run, DOUBLE=provider.base_url) as running:
            running.until(lambda _: bool(provider.ledger()))
            with screen("--dsn", dsn, "watch", "k") as watching:
                watching.until(
                    lambda text: "word3" in text and "step 1 gpt-5-mini" in text, timeout=45
                )
                assert "running · turn 1 · " in watching.text
                assert "possibly billed" not in watching.text
                assert running.process.poll() is None  # the reply is not complete
                watching.process.send_signal(signal.SIGINT)
                assert watching.wait() == 130


def test_export_tree_writes_a_file_for_each_run(cli: Cli, family: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    assert cli("export", "top", "--tree", "--jsonl", "-o", folder).exit_code == 0
    files = sorted(folder.iterdir())
    assert len(files) == 3
    keys = {json.loads(cli("show", file, "--json").stdout)["key"] for file in files}
    assert keys == {row["key"] for row in json.loads(cli("ls", "--root", "top", "--json").stdout)}
    assert cli("export", "top", "--tree", "--jsonl").exit_code == 2
    assert cli("export", "top", "--tree", "-o", folder).exit_code == 2


def test_exported_pages_name_their_relatives_and_link_those_beside_them(
    cli: Cli, family: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    assert cli("export", "top", "--tree", "--html", "-o", folder).exit_code == 0
    rows = {row["key"]: row for row in json.loads(cli("ls", "--root", "top", "--json").stdout)}
    pages = {
        row["key"]: (file, file.read_text("utf-8"))
        for file in folder.iterdir()
        for row in [json.loads(cli("show", file, "--json").stdout)]
    }
    assert pages.keys() == rows.keys()

    def linked(key: str) -> set[Path]:
        links = re.findall(r'href="([^"#]+)"', pages[key][1])
        return {(folder / unquote(link)).resolve() for link in links}

    children = rows.keys() - {"top"}
    assert linked("top") == {pages[key][0].resolve() for key in children}
    assert "$0.00 with all runs below it" in pages["top"][1]
    for key in children:
        assert linked(key) == {pages["top"][0].resolve()}
        assert "child run of " in pages[key][1]
        assert f'>{key}</code></a></td><td align="left">done</td>' in pages["top"][1]
    alone = cli("export", "top", "--html").stdout
    assert all(f"<code>{key}</code></td>" in alone for key in children)
    assert "href" not in alone.split("<table>")[1].split("</table>")[0]
