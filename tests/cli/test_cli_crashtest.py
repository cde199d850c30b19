"""`agentrun crashtest`: exit codes, JSON, where replies come from, and the bundled agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli

import agentrun.demo
from agentrun.testing import Call, Provider, Reply

HERE = Path(__file__).parent
AGENTS = HERE.parent / "testing" / "crash_agents.py"
BUNDLED = Path(agentrun.demo.__file__).with_name("support.py")
LOOK_UP = [{"tool_calls": [{"name": "look_up", "arguments": {"order": "7"}}]}, "Done."]


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTSIDE", str(tmp_path))
    return tmp_path


def script(folder: Path, told: Any) -> Path:
    file = folder / "script.json"
    file.write_text(json.dumps(told))
    return file


def test_a_clean_agent_exits_with_0(process: Cli, outside: Path) -> None:
    done = process("crashtest", f"{AGENTS}:sound", "go", "--script", script(outside, LOOK_UP))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sound: nothing found; ")
    assert done.stderr == ""


def test_findings_exit_with_1_and_are_told_as_a_table(process: Cli, outside: Path) -> None:
    done = process("crashtest", f"{AGENTS}:clocked", "go", "--script", script(outside, LOOK_UP))
    assert done.returncode == 1, done.stderr
    head, row, *_ = done.stdout.splitlines()
    assert head.split() == ["finding", "step", "where", "kills", "at", "what"]
    assert row.startswith("divergence\t1 gpt-5-mini\t")
    assert "crash_agents.py:" in row
    assert "\ndivergence → take time" in done.stdout
    assert "clocked: 1 finding; " in done.stdout


def test_findings_as_json(process: Cli, outside: Path) -> None:
    told = script(outside, LOOK_UP)
    done = process("crashtest", f"{AGENTS}:outspoken", "go", "--script", told, "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == [
        *("agent", "clean", "points", "kills", "killed_at", "processes", "seconds"),
        *("findings", "doubts", "notes"),
    ]
    assert (report["agent"], report["clean"]) == ("outspoken", False)
    assert sum(report["killed_at"].values()) == report["kills"] > 10
    (finding,) = report["findings"]
    assert list(finding) == [
        *("kind", "what", "way_out", "step", "name", "place", "points", "kills", "detail")
    ]
    assert finding["kind"] == "outside"


def test_a_client_that_nobody_wrapped_meets_the_double_and_is_found(process: Cli) -> None:
    done = process("crashtest", f"{AGENTS}:unwrapped", "go", "--json")
    assert done.returncode == 1, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["kind"] == "paid twice"
    assert "agentrun.wrap" in finding["way_out"]


def test_sets_are_in_another_order_in_another_interpreter(process: Cli) -> None:
    done = process("crashtest", f"{AGENTS}:unordered", "go", "--json")
    assert done.returncode == 1, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["kind"], finding["kills"]) == ("divergence", 1)


@pytest.mark.long
def test_where_nothing_can_be_forked_every_process_is_started_anew(process: Cli) -> None:
    done = process("crashtest", f"{AGENTS}:unordered", "go", "--json", "--spawn", timeout=240)
    assert done.returncode == 1, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["kills"] > 2


RECORDED = [
    Reply(tool_calls=[Call("look_up", {"order": "8"}), Call("keep", {"order": "8"})]),
    Reply(tool_calls=[Call("look_up", {"order": "9"})]),
    "All done.",
]


def test_replies_and_arguments_of_a_recorded_run(
    process: Cli, cli: Cli, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Provider(script=RECORDED) as provider:
        monkeypatch.setattr("agentrun.core.recorder.stand_in", provider.base_url)
        ran = cli("run", f"{AGENTS}:sound", "what about it?", "--key", "ticket")
        assert (ran.exit_code, ran.stdout) == (0, "All done.\n")
    done = process("crashtest", f"{AGENTS}:sound", "--replies", "@last", "--json", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["killed_at"]["body:after"] == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--script", "nowhere.json"], "holds no script"),
        (["--replies", "nobody"], "no run has the key"),
        (["--replies", "nobody", "--script", "x"], "say one of"),
        (["--world", "bundled_world.py:nothing"], "has no function 'nothing'"),
        (["--timeout", "0"], "'--timeout'"),
    ],
)
def test_a_wrong_set_up_is_no_finding(cli: Cli, options: list[str], told: str) -> None:
    options = [str(HERE / word) if ".py" in word else word for word in options]
    done = cli("crashtest", f"{AGENTS}:sound", "go", *options)
    assert done.exit_code in (2, 4)
    assert told in done.stderr


def test_a_script_in_the_wrong_shape_is_refused(cli: Cli, outside: Path) -> None:
    told = script(outside, [{"words": "hello"}])
    done = cli("crashtest", f"{AGENTS}:sound", "go", "--script", told)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "It is a JSON list of replies" in done.stderr


def test_an_agent_that_fails_by_itself_exits_with_2(process: Cli) -> None:
    done = process("crashtest", f"{AGENTS}:broken", "go")
    assert (done.returncode, done.stdout) == (2, "")
    assert "fails without a kill: out of order" in done.stderr


@pytest.mark.long
def test_the_bundled_agent_passes(process: Cli, outside: Path) -> None:
    told = script(
        outside,
        [
            {"text": "Looking.", "tool_calls": [call("look_up_order", order_id="A-1")]},
            {
                "tool_calls": [
                    call("refund_order", order_id="A-1", cents=2400),
                    call("book_pickup", order_id="A-1", address="5 Kiln Lane"),
                    call("send_email", to="jo@example.com", subject="Your mug", body="Sorry."),
                ]
            },
            "Refunded, booked and written.",
        ],
    )
    done = process(
        *("crashtest", f"{BUNDLED}:support", "Order A-1: a mug is broken.", "--json"),
        *("--script", told, "--world", f"{HERE / 'bundled_world.py'}:world"),
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["findings"] == report["doubts"] == report["notes"] == []
    assert {"checkpoint:after", "commit:after", "chunk:after"} <= set(report["killed_at"])


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}
