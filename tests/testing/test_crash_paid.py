"""Agents that pay for more than conversations, killed at every point: nothing is paid twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paid_agents
import pytest

import agentrun
from agentrun.testing import Reply
from agentrun.testing.crash import Rig


@pytest.mark.parametrize(
    "agent",
    ["jobs", *(pytest.param(name, marks=pytest.mark.long) for name in ("studio", "clouds"))],
)
def test_a_killed_process_pays_for_nothing_again(agent: str) -> None:
    with Rig() as rig:
        report = rig.test(getattr(paid_agents, agent))
    assert report.clean, str(report)
    assert len(report.killed) > 10


def test_a_polled_response_is_seen_again_and_paid_once() -> None:
    with Rig(script=[Reply("fine", pace_s=0.02)]) as rig:
        report = rig.test(paid_agents.poller)
        with rig._session.connection() as conn:
            spent = conn.execute(
                "SELECT key, count(*) AS calls, sum(cost) AS cost,"
                " array_agg(DISTINCT billing) AS billing FROM agentrun.spend"
                " WHERE billing NOT IN ('possibly billed', 'running') GROUP BY key"
            ).fetchall()
    assert report.clean, str(report)
    assert spent
    assert {row["calls"] for row in spent} == {1}
    assert {tuple(row["billing"]) for row in spent} == {("confirmed",)}
    assert all(row["cost"] > 0 for row in spent)


def test_a_paid_call_that_no_step_records_is_found() -> None:
    with Rig() as rig:
        report = rig.test(paid_agents.forgetful)
    found = {finding.kind: finding for finding in report.findings}
    assert "unrecorded" in found, str(report)
    assert "/v1/images/generations" in found["unrecorded"].what


def test_what_a_step_does_with_another_client_is_recorded_by_it() -> None:
    act = agentrun.tool(effect="idempotent", name="paint")(paid_agents.forgetful.function)

    @agentrun.agent
    def painter() -> str:
        return act()

    with Rig() as rig:
        report = rig.test(painter)
    assert "unrecorded" not in {finding.kind for finding in report.findings}, str(report)


@pytest.mark.parametrize("name", [pytest.param("plain", marks=pytest.mark.long), "marked"])
def test_a_resumed_request_begins_as_the_live_one_would_have(name: str) -> None:
    from agentrun.demo import caching

    with Rig(script=caching.SCRIPT, cache=True) as rig:
        report = rig.test(getattr(caching, name))
    assert report.clean, str(report)
    assert report.prefixes is not None
    assert report.prefixes.requests > 10
    assert report.prefixes.bytes > 10_000
    assert report.prefixes.changed_bytes == 0
    assert report.to_dict()["prefixes"]["changed_bytes"] == 0


def test_an_agent_that_asks_with_another_prefix_after_a_resume_is_found() -> None:
    import os

    from openai import OpenAI

    @agentrun.agent(name="another prefix")
    def careless() -> str:
        client = agentrun.wrap(OpenAI())
        # `user` is no part of what is compared, and stands before the messages.
        ask: Any = {"user": f"process-{os.getpid():07d}", "model": "m", "messages": []}
        for word in ("one", "two", "three"):
            ask["messages"].append({"role": "user", "content": word * 20})
            client.post("/chat/completions", cast_to=object, body=ask)
        return "done"

    with Rig(cache=True) as rig:
        report = rig.test(careless)
    found = {finding.kind: finding for finding in report.findings}
    assert set(found) == {"cache"}, str(report)
    assert report.prefixes is not None
    assert report.prefixes.changed_bytes > 0


@pytest.mark.long
def test_the_command_tells_the_demo_agents_apart(tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from agentrun.cli import app

    result = CliRunner().invoke(app, ["crashtest", "--cache", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["changed_prefix_bytes"] == 0
    assert [report["agent"] for report in told["agents"]] == ["plain", "marked"]
    assert all(report["clean"] for report in told["agents"])
