"""Crash tests for users: each planted fault is found, and nothing is found where nothing is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import crash_agents
import pytest

import agentrun
from agentrun.testing import Call, Carrier, Reply
from agentrun.testing.crash import Finding, Report
from agentrun.testing.plugin import Crashtest


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTSIDE", str(tmp_path))
    return tmp_path


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> Iterator[Carrier]:
    with Carrier() as double:
        monkeypatch.setenv("CARRIER_URL", double.url)
        yield double


def calls(*names: str) -> list[Reply | str]:
    return [Reply(tool_calls=[Call(name, {"order": "7"}) for name in names]), "Done."]


def only(report: Report) -> Finding:
    (found,) = report.findings
    return found


def test_an_agent_without_fault_passes(crashtest: Crashtest) -> None:
    report = crashtest(crash_agents.sound, "go", script=calls("look_up", "keep"))
    report.check()
    assert report.doubts == ()
    assert {"send:before", "body:after", "append:after"} <= set(report.killed)
    assert len(report.killed) > 15
    assert "AGENTRUN_DATABASE_URL" not in os.environ


@pytest.mark.long
def test_streams_tasks_and_child_runs_pass(crashtest: Crashtest) -> None:
    report = crashtest(crash_agents.busy, "go", script=calls("look_up", "keep"))
    report.check()
    assert "chunk:after" in report.killed


def test_a_clock_in_the_prompt_is_found_though_it_only_tells_the_day(crashtest: Crashtest) -> None:
    found = only(crashtest(crash_agents.clocked, "go", script=calls("look_up")))
    assert (found.kind, found.step, found.name) == ("divergence", 1, "gpt-5-mini")
    assert found.place.endswith(at("reply = ask("))
    assert '"content": "Today is' in found.detail
    assert "agentrun.now()" in found.way_out
    assert found.kills > 5


def test_a_tool_that_is_not_idempotent_is_found_by_the_files_it_writes(
    crashtest: Crashtest,
) -> None:
    found = only(crashtest(crash_agents.careless, "go", script=calls("note")))
    assert (found.kind, found.name) == ("repeated", "note")
    assert 'notes.txt: ["7", "7"], not ["7"]' in found.what
    assert "body:after" in found.points
    assert found.place.endswith(at("# here"))


def test_a_tool_that_is_not_idempotent_is_found_by_what_the_world_says(
    crashtest: Crashtest, carrier: Carrier
) -> None:
    found = only(
        crashtest(
            crash_agents.van,
            "go",
            script=calls("order_van"),
            world=lambda: {"vans": len(carrier.pickups())},
        )
    )
    assert (found.kind, found.name) == ("repeated", "order_van")
    assert "world.vans: 2, not 1" in found.what


def test_a_request_that_is_sent_again_without_its_key_is_found(
    crashtest: Crashtest, carrier: Carrier
) -> None:
    script = calls("order_van", "order_keyed", "order_derived")
    found = only(crashtest(crash_agents.van, "go", script=script))
    assert (found.kind, found.name) == ("no key", "order_van")
    assert "sent POST /pickups again" in found.what
    assert found.place.endswith(at("build_opener"))


def test_a_value_that_is_another_one_on_a_resume_is_found(crashtest: Crashtest) -> None:
    report = crashtest(crash_agents.dated, "go", script=["Done."])
    found = only(report)
    assert (found.kind, found.step, found.name) == ("values", 1, "price")
    live, resumed = found.detail.splitlines()
    assert "crash_agents.Price(cents=1, _day='" in live
    assert live.removeprefix("live:   ") != resumed.removeprefix("resume: ")
    assert [one["kind"] for one in report.to_dict()["findings"]] == ["values"]
    assert found.kills > 1


def test_an_exception_that_is_another_one_on_a_resume_is_found(crashtest: Crashtest) -> None:
    found = only(crashtest(crash_agents.refused, "go", script=["Done."]))
    assert (found.kind, found.step, found.name) == ("exceptions", 1, "refuse")
    live, resumed = found.detail.splitlines()
    assert "NoSuchOrder(" in live
    assert "NoSuchOrder(" in resumed
    assert "compute nothing in its class" in found.way_out


def test_an_effect_outside_any_step_is_found(crashtest: Crashtest, outside: Path) -> None:
    found = only(crashtest(crash_agents.outspoken, "go", script=calls("look_up")))
    assert (found.kind, found.step, found.kills) == ("outside", None, 0)
    assert f"writes {outside}/audit.log" in found.what
    assert found.place.endswith(at("# here"))
    assert "@agentrun.step" in found.way_out


def test_a_doubt_is_told_and_is_no_fault(crashtest: Crashtest) -> None:
    report = crashtest(crash_agents.payer, "go", script=calls("pay"))
    report.check()
    (doubt,) = report.doubts
    assert (doubt.name, doubt.decided) == ("pay", "held")
    assert {"body:before", "body:after"} <= set(doubt.points)


def test_a_reconcile_that_does_not_look_is_found(crashtest: Crashtest) -> None:
    found = only(crashtest(crash_agents.trusting, "go", script=calls("pay_carelessly")))
    assert (found.kind, found.name) == ("wrong reconcile", "pay_carelessly")
    assert "reconcile (never) said" in found.what


def test_no_process_reaches_another_machine(crashtest: Crashtest) -> None:
    with pytest.raises(agentrun.ConfigError, match=r"192\.0\.2\.1:80 .*crash_agents\.py"):
        crashtest(crash_agents.far, "go")


def test_an_agent_that_fails_by_itself_is_no_finding(crashtest: Crashtest) -> None:
    with pytest.raises(agentrun.ConfigError, match="broken fails without a kill: out of"):
        crashtest(crash_agents.broken, "go")


def test_an_agent_that_does_not_end_is_ended(crashtest: Crashtest) -> None:
    with pytest.raises(agentrun.ConfigError, match="did not end within 1 s"):
        crashtest(crash_agents.endless, "go", timeout=1)


def at(text: str) -> str:
    """The only line of the agents' file that holds this text, as findings name it."""
    lines = Path(crash_agents.__file__).read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if text in line]
    return f"crash_agents.py:{number}"
