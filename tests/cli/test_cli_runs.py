"""Running, resuming and deciding from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli, Write

TYPED = """
from datetime import date
from pydantic import BaseModel
import agentrun

class Point(BaseModel):
    x: int
    y: int = 0

@agentrun.agent
def typed(text: str, count: int, when: date, at: Point | None = None, free=None) -> list:
    return [text, count + 1, when.isoformat(), at and at.x, free]
"""


def test_run_prints_the_result_and_nothing_else_on_stdout(cli: Cli, write: Write) -> None:
    result = cli("run", f"{write()}:payer", 12, "lunch", "--key", "one")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"paid": 12, "note": "lunch"}
    assert "paying" in result.stderr


def test_run_as_json_names_the_run(cli: Cli, write: Write) -> None:
    result = cli("run", write(), 12, "--json")
    told = json.loads(result.stdout)
    assert told["result"] == {"paid": 12, "note": "-"}
    assert told["status"] == "done"
    assert f"run {told['key']}" in result.stderr
    assert cli("show", told["key"]).exit_code == 0


LEAKING = """
import agentrun

@agentrun.agent
def leak(fail: bool) -> dict:
    secret = "sk-proj-" + "a1B2" * 12
    if fail:
        raise ValueError(f"refused: {secret}")
    return {"told": secret}
"""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_an_agent_returns_or_raises_is_shown_without_secrets(
    cli: Cli, write: Write, options: list[str]
) -> None:
    for fail, told in (("false", '"told"'), ("true", "refused: ")):
        result = cli("--debug", "run", write(LEAKING), fail, *options)
        shown = result.stdout + result.stderr
        assert told in shown
        assert "[masked: openai key, 56 chars" in shown
        assert "a1B2a1B2" not in shown


def test_the_same_key_is_the_same_run(cli: Cli, write: Write) -> None:
    file = write()
    first = cli("run", file, 12, "--key", "one")
    again = cli("run", file, 12, "--key", "one")
    assert again.stdout == first.stdout
    assert "paying" not in again.stderr


def test_other_arguments_for_a_key_are_a_conflict(cli: Cli, write: Write) -> None:
    file = write()
    cli("run", file, 12, "--key", "one")
    result = cli("run", file, 13, "--key", "one")
    assert result.exit_code == 7
    assert "other arguments" in result.stderr


def test_arguments_are_json_where_their_type_wants_it_and_else_text(cli: Cli, write: Write) -> None:
    file = write(TYPED)
    result = cli("run", file, "42", "1", "2026-11-22", '{"x": 7}', "[1, null]", "--json")
    assert json.loads(result.stdout)["result"] == ["42", 2, "2026-11-22", 7, [1, None]]
    result = cli("run", file, '"q"', "1", "2026-11-22", "null", "plain words", "--json")
    assert json.loads(result.stdout)["result"] == ['"q"', 2, "2026-11-22", None, "plain words"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["a", "many", "2026-11-22"], "count"),
        (["a"], "when: Field required"),
        (["a", 1, "2026-11-22", "null", "x", "more"], "takes 5 arguments, not 6"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    cli: Cli, write: Write, args: list[object], told: str
) -> None:
    result = cli("run", write(TYPED), *args)
    assert result.exit_code == 2
    assert told in result.stderr
    assert cli("ls", "--json").stdout.strip() == "[]"


def test_an_async_agent_runs(cli: Cli, write: Write) -> None:
    file = write(
        "import agentrun\n@agentrun.agent\nasync def shout(q: str) -> str: return q.upper()"
    )
    assert cli("run", f"{file}:shout", "hello").stdout == "HELLO\n"


def test_of_several_agents_one_must_be_named(cli: Cli, write: Write) -> None:
    file = write("import agentrun\nfor n in 'ab': agentrun.agent(name=n)(lambda: 1)\n")
    assert cli("run", file).exit_code == 2  # bound to no name: nothing to be found
    file = write("import agentrun\na, b = (agentrun.agent(name=n)(lambda: 1) for n in 'ab')\n")
    result = cli("run", file)
    assert result.exit_code == 2
    assert "a, b" in result.stderr
    assert cli("run", f"{file}:b").stdout == "1\n"
    assert "no agent named 'c'" in cli("run", f"{file}:c").stderr


def test_a_file_that_does_not_import_is_named_with_line_and_exception(
    cli: Cli, write: Write
) -> None:
    for text, told in [
        ("import agentrun\nx = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import agentrun\n\ndef f(:\n", "line 3: SyntaxError: "),
        ("import no_such_module_here\n", "line 1: ModuleNotFoundError: "),
        ("import sys\nsys.exit('no arguments')\n", "line 2: SystemExit: no arguments"),
    ]:
        file = write(text)
        result = cli("run", file)
        assert result.exit_code == 2
        assert str(file) in result.stderr
        assert told in result.stderr
        assert "Traceback" not in result.stderr


def test_an_error_in_an_imported_neighbour_names_both_files(cli: Cli, write: Write) -> None:
    neighbour = write("def f():\n    return {}['x']\n", "neighbour_that_fails.py")
    result = cli("run", write("import neighbour_that_fails\n\nneighbour_that_fails.f()\n"))
    assert "app.py cannot be imported, line 3: KeyError: 'x'" in result.stderr
    assert f"(raised in {neighbour}, line 2)" in result.stderr


@pytest.mark.parametrize("call", ["go.run()", "import asyncio; asyncio.run(go.arun())"])
def test_a_run_at_import_is_refused_naming_the_guard(cli: Cli, write: Write, call: str) -> None:
    result = cli("run", write(f"import agentrun\n@agentrun.agent\ndef go(): return 1\n{call}\n"))
    assert result.exit_code == 2
    assert 'if __name__ == "__main__":' in result.stderr
    assert "line 4" in result.stderr
    assert cli("ls", "--json").stdout.strip() == "[]"


def test_a_failed_run_exits_1_and_resume_goes_on_with_edited_code(cli: Cli, write: Write) -> None:
    code = "import agentrun\n@agentrun.agent\ndef go(): {}\n"
    file = write(code.format("raise ValueError('boom')"))
    failed = cli("run", file, "--key", "one")
    assert failed.exit_code == 1
    assert "ValueError: boom" in failed.stderr
    assert "Traceback" not in failed.stderr
    write(code.format("return 'there'          "))  # as long as before, in the same second
    resumed = cli("resume", "one", file)
    assert (resumed.exit_code, resumed.stdout) == (0, "there\n")


def test_debug_shows_the_traceback(cli: Cli, write: Write) -> None:
    file = write("import agentrun\n@agentrun.agent\ndef go(): raise ValueError('boom')\n")
    assert "Traceback" in cli("--debug", "run", file).stderr


def test_code_that_diverged_exits_6(cli: Cli, write: Write) -> None:
    code = (
        "import agentrun\n@agentrun.tool\ndef first(): return 1\n@agentrun.tool\n"
        "def second(): return 2\n@agentrun.agent\ndef go():\n    {}()\n    raise ValueError\n"
    )
    file = write(code.format("first"))
    assert cli("run", file, "--key", "one").exit_code == 1
    write(code.format("second"))
    result = cli("resume", "one", file)
    assert result.exit_code == 6
    assert "diverged" in result.stderr
    (row,) = json.loads(cli("ls", "--json", "note,reason").stdout)
    assert "\n" in row["reason"]  # the difference, which `show` prints
    assert row["note"] == f"{row['reason'].splitlines()[0]} …"


DEPLOYED = """
import agentrun

@agentrun.tool
def pay(cents: int) -> int:
    return cents

@agentrun.agent
def payer() -> int:
    {}
    raise ValueError
"""


def test_accepting_a_divergence_lists_its_price_and_asks_for_yes(cli: Cli, write: Write) -> None:
    file = write(DEPLOYED.format("pay(1); pay(2)"))
    for key in ("one", "two"):
        assert cli("run", file, "--key", key).exit_code == 1
    write(DEPLOYED.format("return pay(2) + pay(1) + pay(4)").replace("    raise ValueError\n", ""))
    assert cli("resume", "one", file).exit_code == 6
    inbox = json.loads(cli("inbox", "--json").stdout)
    assert [(row["key"], row["waits_for"], row["step"]) for row in inbox] == [
        ("one", "divergence", 1)
    ]
    asked = cli("resume", "one", file, "--accept")
    assert asked.exit_code == 6
    assert "pay(cents=1) [once], pay(cents=2) [once]" in asked.stdout
    assert "--yes" in asked.stderr
    assert json.loads(cli("resume", "one", file, "--accept", "--json").stdout) == [
        {"key": "one", "calls": 0, "cost": "0", "effects": ["pay(cents=1) [once]",
                                                          "pay(cents=2) [once]"]}
    ]  # fmt: skip
    accepted = cli("resume", "one", file, "--accept", "--yes")
    assert (accepted.exit_code, accepted.stdout) == (0, "7\n")
    calls = cli(
        "sql", "SELECT args FROM agentrun.tool_calls WHERE key = 'one' ORDER BY step", "--json"
    )
    assert [row["args"]["cents"] for row in json.loads(calls.stdout)] == [1, 2, 4]


def test_all_runs_that_diverged_are_resumed_at_once(cli: Cli, write: Write) -> None:
    file = write(DEPLOYED.format("pay(1)"))
    for key in ("one", "two"):
        assert cli("run", file, "--key", key).exit_code == 1
    write(DEPLOYED.format("return pay(3)").replace("    raise ValueError\n", ""))
    for key in ("one", "two"):
        assert cli("resume", key, file).exit_code == 6
    assert cli("resume", "--diverged", "--agent", "other", file).stdout == ""
    assert cli("resume", "--diverged", "--accept").exit_code == 6
    due = cli("resume", "--diverged", "--keep")
    assert (due.exit_code, due.stdout) == (0, "one due\ntwo due\n")
    assert cli("resume", "--diverged", file).exit_code == 1
    done = cli("resume", "--diverged", "--accept", "--yes", file)
    assert (done.exit_code, done.stdout) == (0, "one done\ntwo done\n")
    assert "no run has diverged" in cli("resume", "--diverged", file).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("one", "--agent", "a"), ("one", "--keep", "--accept"), ("one", "--yes"),
        ("--diverged", "file", "another"), ("--diverged", "--redo", "1"), ("one", "--once"),
        ("one", "--redo", "1", "--accept"),
    ],
)  # fmt: skip
def test_resume_refuses_what_does_not_go_together(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli("resume", *arguments).exit_code == 2


def test_resume_without_the_file_asks_for_it(cli: Cli, in_doubt: Path, process: Cli) -> None:
    result = process("resume", "ticket")
    assert result.returncode == 2
    assert "agentrun resume ticket FILE" in result.stderr


def test_resume_with_a_file_of_other_agents_names_the_right_one(
    cli: Cli, in_doubt: Path, write: Write
) -> None:
    other = write("import agentrun\n@agentrun.agent\ndef other(): return 1\n", "other.py")
    result = cli("resume", "ticket", other)
    assert result.exit_code == 2
    assert "belongs to agent 'payer'" in result.stderr


def test_a_run_in_doubt_is_resolved_and_goes_on(cli: Cli, in_doubt: Path) -> None:
    (waiting,) = json.loads(cli("inbox", "--json").stdout)
    assert (waiting["key"], waiting["name"], waiting["args"]) == ("ticket", "pay", {"cents": 5})
    assert "ticket" in cli("inbox").stdout
    assert cli("run", in_doubt, 5, "--key", "ticket").exit_code == 3
    told = cli("resolve", "tick", waiting["step"], "--happened", '{"paid": 5}', "--by", "ann",
               "--reason", "the bank says so", "--json")  # fmt: skip
    assert told.exit_code == 0
    assert json.loads(told.stdout)["key"] == "ticket"
    result = cli("resume", "@last", in_doubt, "--json")
    assert json.loads(result.stdout)["result"] == {"paid": 5, "note": "-"}
    assert "ann" in cli("show", "ticket").stdout
    assert json.loads(cli("inbox", "--json").stdout) == []


def test_an_effect_that_did_not_happen_is_attempted_again(cli: Cli, in_doubt: Path) -> None:
    assert cli("resolve", "ticket", 1, "--not-happened").exit_code == 0
    assert cli("resume", "ticket", in_doubt).exit_code == 0
    (step,) = json.loads(cli("sql", "--json", "SELECT attempt, status FROM tool_calls").stdout)
    assert step == {"attempt": 2, "status": "ok"}


@pytest.mark.parametrize(
    "said",
    [[], ["--unknown", "--not-happened"], ["--happened", "1", "--unknown"],
     ["--happened", "oops"], ["--happened", "NaN"]],
)  # fmt: skip
def test_resolve_wants_one_outcome_and_json(cli: Cli, said: list[str]) -> None:
    result = cli("resolve", "ticket", 1, *said)
    assert result.exit_code == 2
    assert "--happened" in result.stderr


def test_resolve_of_a_step_not_in_doubt_is_refused(cli: Cli, in_doubt: Path) -> None:
    result = cli("resolve", "ticket", 7, "--unknown")
    assert result.exit_code == 1
    assert "is in doubt about step 1" in result.stderr


def test_ctrl_c_hands_the_run_back(dsn: str, cli: Cli, write: Write) -> None:
    code = "import agentrun, sys, time\n@agentrun.agent\ndef go():\n    {}\n"
    file = write(code.format("print('ready', flush=True); time.sleep(60)"))
    # What starts the tests may ignore SIGINT, and then a child does as well.
    command = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from agentrun.cli import app; app()"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", command, "run", str(file), "--key", "one"],
        env={**os.environ, "AGENTRUN_DATABASE_URL": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    assert started.stderr.readline() == "ready\n"
    started.send_signal(signal.SIGINT)
    stdout, stderr = started.communicate(timeout=60)
    assert (started.returncode, stdout) == (130, "")
    assert "interrupted" in stderr
    (run,) = json.loads(cli("ls", "--json").stdout)
    assert run["status"] == "queued"
    write(code.format("return 'went on'"))
    assert cli("resume", "one", file).stdout == "went on\n"


def test_a_key_that_begins_with_at_is_refused(cli: Cli, write: Write) -> None:
    assert cli("run", write(), 1, "--key", "@last").exit_code == 2
