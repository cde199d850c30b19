"""Model calls in flight when their process dies or stops: picked up at the provider, paid once.

What was billed is the provider's own ledger; processes are real, and end by SIGKILL.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
import pytest
from crashing import die, ended, in_child, killed, spawn, until
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun import Budget
from agentrun.models import background_response
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Fault, Provider, Reply

SEED = int(os.environ.get("AGENTRUN_SEED", "0")) or random.randrange(1 << 30)
MODEL = "gpt-5-mini"
LEASE = 2.0  # seconds
KILLS, MANY = 10, 200  # of a run, and of many runs
TURNS = 15  # of a run that is killed so often
TAKES = 0.3  # seconds that a call takes at least
EVENTS = 11  # in which WORDS is streamed
WORDS = Reply("one two three", chunks=3)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as double:
        yield double
    while _opened:
        _opened.pop().close()


_opened: list[OpenAI] = []  # clients; left to the garbage, their sockets would warn


def client_of(provider: Provider, inflight: Any = "background") -> OpenAI:
    _opened.append(OpenAI(base_url=provider.base_url, api_key="k"))
    return agentrun.wrap(_opened[-1], inflight=inflight)


def said(client: OpenAI, stream: bool, **more: Any) -> Any:
    """The response to a question, streamed to its end or not."""
    ask: Any = {"model": MODEL, "input": "go", **more}
    if not stream:
        return client.responses.create(**ask)
    with client.responses.stream(**ask) as events:
        return events.get_final_response()


def talker(provider: Provider, *, stream: bool, inflight: Any = "background") -> Any:
    @agentrun.agent
    def talk() -> str:
        text: str = said(client_of(provider, inflight), stream).output_text
        return text

    return talk.with_options(key="k")


def execute(agent: Any, dsn: str, **options: Any) -> Callable[[], None]:
    def action() -> None:
        with agentrun.connect(dsn, **options):
            agent.run()

    return action


def journal(dsn: str) -> list[Any]:
    with agentrun.connect(dsn) as db:
        return read_events(db, find_run(db, "k").run_id)[0]


def rows(dsn: str, query: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(query).fetchall()


def accepted(dsn: str) -> list[str]:
    """The responses that a process which dies now leaves to be picked up, or has left before."""
    found = rows(
        dsn,
        "SELECT output ->> 'response' FROM agentrun.journal"
        " WHERE event = 'attempt_accepted' ORDER BY seq",
    )
    return [identifier for (identifier,) in found]


def spend(dsn: str) -> list[tuple[Any, ...]]:
    return rows(dsn, "SELECT step, billing FROM agentrun.spend ORDER BY step, billing")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    ended(pid)


# -- killed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [KILLS, pytest.param(MANY, marks=pytest.mark.long)])
def test_kills_at_random_moments_cost_nothing(dsn: str, provider: Provider, kills: int) -> None:
    """But one that strikes before the answer to the request itself is recorded: that is listed."""
    chance = random.Random(SEED)
    print(f"seed {SEED} (AGENTRUN_SEED)")
    turn = Reply("on", [Call("look")], delay_s=TAKES)
    provider.say([turn] * TURNS)

    @agentrun.tool(effect="read")
    def look() -> str:
        return "seen"

    @agentrun.agent
    def talk() -> int:
        client = client_of(provider)
        conversation: list[Any] = [{"role": "user", "content": "go on"}]
        for n in range(TURNS):
            tools = agentrun.schemas(look, api="responses")
            reply = said(client, bool(n % 2), input=conversation, tools=tools)
            conversation += [item.model_dump(exclude_none=True, include=SENT, warnings=False)
                             for item in reply.output]  # fmt: skip
            conversation += agentrun.call_tools(reply, [look])
        return len(conversation)

    runs = kills // KILLS
    for run in range(runs):
        action = execute(talk.with_options(key=f"k{run}"), dsn)
        for _ in range(KILLS):
            since = provider.billed()
            child = spawn(action)
            provider.wait_for("effect", since + 1)
            time.sleep(chance.uniform(0, TAKES))
            kill(child)
        action()
    answers = [identifier for (identifier,) in rows(dsn, ANSWERS)]
    billed = [bill.facts["response_id"] for bill in provider.effects()]
    blind = set(billed) - set(accepted(dsn))
    possibly = [step for step, billing in spend(dsn) if billing == "possibly billed"]
    print(f"{kills} kills, {len(answers)} model steps, {len(billed)} bills, {len(blind)} blind")
    assert len(answers) == runs * TURNS
    assert sorted(billed) == sorted([*answers, *blind])
    assert len(blind) <= len(possibly) <= kills


ANSWERS: LiteralString = """
    SELECT output -> 'body' ->> 'id' FROM agentrun.journal
    WHERE event = 'step_finished' AND kind = 'model'"""
SENT: Any = {"type", "role", "content", "call_id", "name", "arguments"}


@pytest.mark.parametrize("after", range(EVENTS))
def test_a_reader_killed_at_any_event_reads_the_same_text(
    dsn: str, provider: Provider, after: int
) -> None:
    provider.say([WORDS])
    deadly = [True]

    @agentrun.agent
    def talk() -> str:
        text = ""
        events = client_of(provider).responses.create(model=MODEL, input="go", stream=True)
        for number, event in enumerate(events):
            if deadly[0] and number == after:
                die()
            text += event.delta if event.type == "response.output_text.delta" else ""
        return text

    keyed = talk.with_options(key="k")
    killed(execute(keyed, dsn))
    deadly[0] = False
    with agentrun.connect(dsn):
        assert keyed.run() == "one two three"
    assert provider.billed() == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_kill_before_the_answer_to_the_request_is_possibly_billed(
    dsn: str, provider: Provider, stream: bool
) -> None:
    talk = talker(provider, stream=stream)
    provider.arm(Fault.hold(at="effect", when={"method": "POST"}))
    child = spawn(execute(talk, dsn))
    provider.wait_for("held")
    kill(child)
    execute(talk, dsn)()
    assert provider.billed() == 2
    assert spend(dsn) == [(1, "confirmed"), (1, "possibly billed")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("inflight", [("background", None), (None, "background")])
def test_the_mode_is_no_part_of_what_is_asked(
    dsn: str, provider: Provider, inflight: tuple[Any, Any], stream: bool
) -> None:
    """Another process may switch it on or off: what is under way is picked up, nothing diverges."""
    provider.say([Reply("done", delay_s=TAKES)])
    before, after = inflight
    if before is None:
        provider.arm(Fault.hold(at="effect"))
    child = spawn(execute(talker(provider, stream=stream, inflight=before), dsn))
    until(lambda: bool(accepted(dsn) if before else provider.billed()))
    kill(child)
    talk = talker(provider, stream=stream, inflight=after)
    with agentrun.connect(dsn):
        assert talk.run() == "done"
    assert provider.billed() == (1 if before else 2)
    (intent,) = [e for e in journal(dsn) if e.event == "attempt_started" and e.has_input]
    assert "background" not in intent.input["body"]


def test_a_ready_made_agent_takes_it(dsn: str, provider: Provider) -> None:
    provider.say([Reply("done", delay_s=TAKES)])
    agent = agentrun.Agent(
        name="ready", client=client_of(provider, None), model=MODEL,
        api="responses", inflight="background",
    ).with_options(key="k")  # fmt: skip

    def action() -> None:
        with agentrun.connect(dsn):
            assert agent.run("go") == "done"

    child = spawn(action)
    until(lambda: bool(accepted(dsn)))
    kill(child)
    action()
    assert provider.billed() == 1


def test_a_budget_settles_once(dsn: str, provider: Provider) -> None:
    provider.say([Reply("done", delay_s=TAKES)])
    talk = talker(provider, stream=False).with_options(budget=Budget(usd=1))
    child = spawn(execute(talk, dsn))
    until(lambda: bool(accepted(dsn)))
    kill(child)
    execute(talk, dsn)()
    assert spend(dsn) == [(1, "confirmed")]
    assert rows(dsn, "SELECT attempt FROM agentrun.reservations") == [(1,)]
    sums = "SELECT calls, possibly_billed, cost > 0 FROM agentrun.spend_by_run"
    assert rows(dsn, sums) == [(1, 0, True)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_failed_for_want_of_its_answer_is_resumed_with_it(
    dsn: str, provider: Provider, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_response, "UNREACHABLE_PATIENCE", 0.5)
    provider.say([replace(WORDS, pace_s=0.5)])
    provider.arm(Fault.error(503, times=0, when={"method": "GET"}), Fault.cut(3))
    talk = talker(provider, stream=stream)
    with agentrun.connect(dsn):
        with pytest.raises(agentrun.RunFailed):
            talk.run()
        assert spend(dsn) == [(1, "possibly billed")]
        assert not any(entry.path.endswith("/cancel") for entry in provider.ledger())
        provider.disarm()
        assert agentrun.resume("k", by="ada") == "one two three"
    assert provider.billed() == 1


# -- stopped, and long -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_longer_than_the_lease_is_paid_once(
    dsn: str, provider: Provider, stream: bool
) -> None:
    provider.say([Reply("one two three", chunks=3, pace_s=LEASE / 3)])
    with agentrun.connect(dsn, lease=LEASE):
        assert talker(provider, stream=stream).run() == "one two three"
    assert provider.billed() == 1
    assert [e.event for e in journal(dsn)].count("claimed") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_process_stopped_for_longer_than_its_lease_costs_nothing(
    dsn: str, provider: Provider, stream: bool
) -> None:
    provider.say([Reply("one two three", chunks=3, pace_s=LEASE / 3)])
    talk = talker(provider, stream=stream)
    action = execute(talk, dsn, lease=LEASE)
    zombie = spawn(action)
    until(lambda: bool(accepted(dsn)))
    os.kill(zombie, signal.SIGSTOP)
    assert in_child(action) == 0  # waits for the lease, takes over, picks the call up
    before = journal(dsn)
    os.kill(zombie, signal.SIGCONT)
    assert ended(zombie) == 0  # returns what the other has recorded
    assert journal(dsn) == before
    assert [e.event for e in before].count("claimed") == 2
    assert provider.billed() == 1
    assert spend(dsn) == [(1, "confirmed")]


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_knows_of_is_cancelled_by_who_began_it(
    dsn: str, provider: Provider, stream: bool
) -> None:
    """A process that was stopped before it knew the id, and has lost the run meanwhile."""
    provider.say([Reply("one two three", chunks=3, pace_s=0.4)])
    talk = talker(provider, stream=stream)
    provider.arm(Fault.hold(at="effect"))
    action = execute(talk, dsn, lease=LEASE)
    zombie = spawn(action)
    provider.wait_for("held")
    os.kill(zombie, signal.SIGSTOP)
    successor = spawn(action)
    until(lambda: bool(accepted(dsn)))
    provider.release()
    os.kill(zombie, signal.SIGCONT)
    assert (ended(successor), ended(zombie)) == (0, 0)
    first, second = (bill.facts["response_id"] for bill in provider.effects())
    assert accepted(dsn) == [second]
    cancelled = [e.path for e in provider.ledger() if e.path.endswith("/cancel")]
    assert cancelled == [f"/v1/responses/{first}/cancel"]
    assert spend(dsn) == [(1, "confirmed"), (1, "possibly billed")]


def test_a_drained_process_leaves_a_plain_call_to_the_next(dsn: str, provider: Provider) -> None:
    provider.say([Reply("done", delay_s=10 * TAKES)])
    talk = talker(provider, stream=False)
    child = spawn(execute(talk, dsn))
    until(lambda: bool(accepted(dsn)))
    os.kill(child, signal.SIGTERM)
    assert ended(child) != 0
    assert [e.event for e in journal(dsn)][-1] == "handed_back"
    with agentrun.connect(dsn):
        assert talk.run() == "done"
    assert provider.billed() == 1


# -- cancelled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "stream", "async", "async stream"])
def test_a_cancelled_run_cancels_its_response(dsn: str, provider: Provider, how: str) -> None:
    provider.say([Reply("one two three", chunks=3, pace_s=0.5)] * 2)
    stream = "stream" in how

    @agentrun.agent
    async def atalk() -> None:
        made = AsyncOpenAI(base_url=provider.base_url, api_key="k")
        async with agentrun.wrap(made, inflight="background") as client:
            answer: Any = await client.responses.create(model=MODEL, input="go", stream=stream)
            if stream:
                async for _ in answer:
                    pass

    talk = atalk.with_options(key="k") if "async" in how else talker(provider, stream=stream)
    with agentrun.connect(dsn, lease=LEASE), agentrun.Worker([talk]):
        handle = talk.submit()
        until(lambda: bool(accepted(dsn)))
        agentrun.cancel("k", by="ada")
        until(lambda: handle.status() == "cancelled")
    (identifier,) = accepted(dsn)
    cancelled = [e.path for e in provider.ledger() if e.path.endswith("/cancel")]
    assert cancelled == [f"/v1/responses/{identifier}/cancel"]


def test_a_run_that_nobody_executes_leaves_its_response_and_says_so(
    dsn: str, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever cancels it has no credentials."""
    provider.say([Reply("done", delay_s=TAKES)])
    child = spawn(execute(talker(provider, stream=False), dsn))
    until(lambda: bool(accepted(dsn)))
    kill(child)
    with agentrun.connect(dsn):
        until(lambda: cancels())
    (identifier,) = accepted(dsn)
    assert f"response {identifier}" in caplog.text


def cancels() -> bool:
    """Cancel the run once its owner is known to be dead."""
    agentrun.cancel("k", by="ada")
    return agentrun.get("k").status() == "cancelled"


# -- webhooks ----------------------------------------------------------------------------------


def test_a_webhook_wakes_the_run_that_is_parked_for_its_response(
    dsn: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, the run would look again in ten minutes."""
    monkeypatch.setattr(background_response, "SHORTEST_POLL_WAIT", 600.0)
    monkeypatch.setattr(background_response, "LONGEST_POLL_WAIT", 600.0)
    provider.say([Reply("done", delay_s=0.5)])
    talk = talker(provider, stream=False)
    with agentrun.connect(dsn), agentrun.Worker([talk], concurrency=1):
        handle = talk.submit()
        until(lambda: handle.status() == "waiting")
        (identifier,) = accepted(dsn)
        assert not agentrun.response_ended("resp_of_somebody_else")
        with OpenAI(base_url=provider.base_url, api_key="k", webhook_secret=SECRET) as client:
            until(lambda: client.responses.retrieve(identifier).status == "completed")
            event = client.webhooks.unwrap(*signed(identifier))
        assert event.type == "response.completed"
        assert agentrun.response_ended(event.data.id)
        assert handle.result(timeout=60) == "done"
    assert provider.billed() == 1
    assert spend(dsn) == [(1, "confirmed")]


def test_a_webhook_of_a_response_that_was_read_wakes_nobody(
    dsn: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run waits for its second response, and hears once more of its first."""
    monkeypatch.setattr(background_response, "SHORTEST_POLL_WAIT", 600.0)
    monkeypatch.setattr(background_response, "LONGEST_POLL_WAIT", 600.0)
    provider.say([Reply("done", delay_s=0.5)])

    @agentrun.agent
    def talks() -> str:
        client = client_of(provider)
        return " ".join(said(client, stream=False).output_text for _ in range(2))

    with agentrun.connect(dsn), agentrun.Worker([talks], concurrency=1):
        handle = talks.with_options(key="k").submit()
        for n in (1, 2):
            until(lambda n=n: len(accepted(dsn)) == n and handle.status() == "waiting")
            assert rows(dsn, "SELECT parked_for FROM agentrun.runs") == [("response",)]
            if n == 2:
                assert not agentrun.response_ended(accepted(dsn)[0])
            until(lambda n=n: is_completed(provider, accepted(dsn)[n - 1]))
            assert agentrun.response_ended(accepted(dsn)[n - 1])
        assert handle.result(timeout=60) == "done done"


def is_completed(provider: Provider, identifier: str) -> bool:
    with OpenAI(base_url=provider.base_url, api_key="k") as client:
        return client.responses.retrieve(identifier).status == "completed"


SECRET = "whsec_" + base64.b64encode(b"a secret of 24 bytes ...").decode()


def signed(identifier: str) -> tuple[str, dict[str, str]]:
    """What OpenAI posts, and its headers."""
    at = str(int(time.time()))
    body = json.dumps({
        "id": "evt_1", "object": "event", "created_at": int(at), "type": "response.completed",
        "data": {"id": identifier},
    })  # fmt: skip
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.digest(key, f"msg_1.{at}.{body}".encode(), "sha256")
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return body, {
        "webhook-id": "msg_1", "webhook-timestamp": at, "webhook-signature": signature,
    }  # fmt: skip
