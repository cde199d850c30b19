"""Streams while they come, and what is left of them after a crash: real processes and SIGKILL."""

from __future__ import annotations

import os
import signal
from typing import Any

import psycopg
import pytest
from crashing import ended, spawn, until
from openai import OpenAI

import agentrun
from agentrun.runner import model_step
from agentrun.store import partials
from agentrun.testing import Fault, Provider, Reply

WORDS = " ".join(f"word{n}" for n in range(12))


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk is worth a statement, so that a kill at any of them finds the last."""
    monkeypatch.setattr(partials, "EVERY", 0.01)
    monkeypatch.setattr(model_step, "EVERY", 0.0)


def talker(provider: Provider) -> Any:
    @agentrun.agent
    def talk() -> str:
        with agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k")) as client:
            chunks = client.chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": "go"}], stream=True
            )
            return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)

    return talk.with_options(key="k")


def executed(dsn: str, agent: Any) -> int:
    def action() -> None:
        with agentrun.connect(dsn):
            agent.run()

    return spawn(action)


def kept(dsn: str) -> list[tuple[Any, ...]]:
    query = (
        "SELECT attempt, body -> 'choices' -> 0 -> 'message' ->> 'content' FROM agentrun.partials"
    )
    with psycopg.connect(dsn) as conn:
        return conn.execute(query).fetchall()


@pytest.mark.parametrize("at", [3, 6, 9])
def test_a_killed_stream_leaves_a_partial_that_the_transcript_shows(
    dsn: str, provider: Provider, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.say([Reply(WORDS, chunks=12)])
    provider.arm(Fault.hold(at))
    talk = talker(provider)
    child = executed(dsn, talk)
    provider.wait_for("held")
    until(lambda: bool(kept(dsn)) and bool(kept(dsn)[0][1]))
    os.kill(child, signal.SIGKILL)
    ended(child)
    ((attempt, said),) = kept(dsn)
    assert (attempt, WORDS.startswith(said)) == (1, True)
    monkeypatch.setattr(model_step, "EVERY", 60.0)  # the next attempt leaves nothing
    with agentrun.connect(dsn):
        assert talk.run() == WORDS
        until(lambda: kept(dsn) == [])
        told = agentrun.transcript("k")
        (step,) = told.steps
        assert [one.partial for one in step.attempts] == [said, None]
        for shown in (agentrun.as_text(told), agentrun.as_html(told)):
            assert f"superseded partial: {said}" in " ".join(shown.split())
    assert provider.billed() <= 2


def test_another_process_reads_along_and_goes_on_from_any_piece(
    dsn: str, provider: Provider
) -> None:
    provider.say([Reply(WORDS, chunks=12)])
    provider.arm(Fault.slow(0.3))
    child = executed(dsn, talker(provider))
    provider.wait_for("received")
    with agentrun.connect(dsn):
        pieces = list(agentrun.get("k").stream())
        assert len(pieces) > 2
        assert "".join(piece.text for piece in pieces) == WORDS
        for at, piece in enumerate(pieces):
            rest = agentrun.get("k").stream(after=piece)
            assert "".join(one.text for one in rest) == "".join(p.text for p in pieces[at + 1 :])
    assert ended(child) == 0


def test_a_stream_goes_on_while_the_database_is_away(dsn: str, provider: Provider) -> None:
    """What cannot be kept is not waited for."""
    provider.say([Reply(WORDS, chunks=12)])
    with agentrun.connect(dsn) as db:
        db.partials._send = lambda *_: (_ for _ in ()).throw(psycopg.OperationalError("away"))  # type: ignore[method-assign]
        assert talker(provider).run() == WORDS


def test_a_former_owner_writes_no_partial(dsn: str, provider: Provider) -> None:
    provider.say([Reply(WORDS, chunks=12)])
    with agentrun.connect(dsn) as db:
        db.create("k", "talk", {"args": {}}, "")
        run_id = db.find("k")["run_id"]
        db.partials.tell(run_id, 1, 1, "w-gone", 1, {"choices": []})
        db.partials.close()
    assert kept(dsn) == []
