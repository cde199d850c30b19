"""Streams while they come, and what is left of them after a crash: real processes and SIGKILL."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from anthropic import Anthropic
from crashing import ended, spawn, until
from openai import OpenAI
from typer.testing import CliRunner

import agentrun
from agentrun.cli import app
from agentrun.core.messages import reply_messages
from agentrun.steps import model_step
from agentrun.store import partials
from agentrun.store.runs import find_run
from agentrun.testing import Fault, Provider, Reply

ASKED: Any = [{"role": "user", "content": "go"}]
WORDS = " ".join(f"word{n}" for n in range(12))


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk is worth a statement, so that a kill at any of them finds the last."""
    monkeypatch.setattr(partials, "EVERY", 0.01)
    monkeypatch.setattr(model_step, "EVERY", 0.0)


def chat(provider: Provider) -> str:
    with agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k")) as client:
        chunks = client.chat.completions.create(model="gpt-5-mini", messages=ASKED, stream=True)
        return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)


def responses(provider: Provider) -> str:
    with agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k")) as client:
        events = client.responses.create(model="gpt-5-mini", input="go", stream=True)
        return "".join(one.delta for one in events if one.type == "response.output_text.delta")


def messages(provider: Provider) -> str:
    with (
        agentrun.wrap(Anthropic(base_url=provider.url, api_key="k")) as client,
        client.messages.stream(model="claude", max_tokens=100, messages=ASKED) as events,
    ):
        return "".join(events.text_stream)


def talker(provider: Provider, ask: Callable[[Provider], str] = chat) -> Any:
    @agentrun.agent
    def talk() -> str:
        return ask(provider)

    return talk.with_options(key="k")


def executed(dsn: str, agent: Any) -> int:
    def action() -> None:
        with agentrun.connect(dsn):
            agent.run()

    return spawn(action)


def kept(dsn: str) -> list[tuple[int, str]]:
    """Of which attempts something is kept, and what they said."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("SELECT attempt, body FROM agentrun.partials").fetchall()
    return [
        (attempt, "".join(message.text for message in reply_messages(body)))
        for attempt, body in rows
    ]


@pytest.mark.parametrize(
    ("ask", "at"), [*((chat, at) for at in range(2, 13)), (responses, 9), (messages, 9)]
)
def test_a_killed_stream_leaves_a_partial_that_the_transcript_shows(
    dsn: str, provider: Provider, ask: Any, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.say([Reply(WORDS, chunks=12)])
    provider.arm(Fault.hold(at))
    talk = talker(provider, ask)
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


def test_watch_prints_what_models_write(dsn: str, provider: Provider) -> None:
    provider.say([Reply(WORDS, chunks=12)])
    provider.arm(Fault.slow(0.1))
    child = executed(dsn, talker(provider))
    provider.wait_for("received")
    told = CliRunner().invoke(app, ["--dsn", dsn, "watch", "k", "--text"])
    assert (told.exit_code, told.stdout) == (0, f"{WORDS}\n")
    assert ended(child) == 0


def test_many_streams_share_a_few_statements(
    dsn: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "EVERY", 0.5)
    provider.say([Reply(WORDS, chunks=12)])
    provider.arm(Fault.slow(0.1, times=0))
    sent: list[int] = []
    talk = talker(provider)
    with agentrun.connect(dsn) as db:
        plain = db.partials._send

        def send(told: list[Any], over: set[Any]) -> None:
            sent.append(len(told))
            plain(told, over)

        db.partials._send = send  # type: ignore[method-assign]
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            runs = [talk.with_options(key=f"k{n}") for n in range(20)]
            assert [run.result() for run in [pool.submit(run.run) for run in runs]] == [WORDS] * 20
        took = time.monotonic() - began
        until(lambda: kept(dsn) == [])
    assert max(sent) > 10  # many in one
    assert len(sent) <= took / 0.5 + 3


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
        run_id = find_run(db, "k").run_id
        db.partials.publish(run_id, 1, 1, "w-gone", 1, {"choices": []})
        db.partials.close()
    assert kept(dsn) == []
