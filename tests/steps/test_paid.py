"""The books of paid calls: polled responses, uploads, caches that were lost, free calls."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anthropic
import pytest
from openai import OpenAI
from sayings import Saying, Server

import agentrun
from agentrun import Budget
from agentrun.core.codec import detach, digest
from agentrun.testing import Provider, Reply

Sql = Callable[..., list[tuple[Any, ...]]]
MESSAGES: Any = [{"role": "user", "content": "hi"}]
SOUND = b"\xff\xfb\x00 not UTF-8 at all"


def polled(client: OpenAI, *, looks_after: int = 0) -> str:
    response = client.responses.create(model="gpt-5-mini", input="hi", background=True)
    while response.status in ("queued", "in_progress"):
        time.sleep(0.02)
        response = client.responses.retrieve(response.id)
    for _ in range(looks_after):
        assert client.responses.retrieve(response.id).status == "completed"
    return response.output_text


def test_a_polled_response_is_priced_once_however_often_it_is_looked_at(
    db: Any, client: OpenAI, provider: Provider, sql: Sql
) -> None:
    provider.say([Reply("fine", pace_s=0.02)])

    @agentrun.agent
    def poller() -> str:
        return polled(client, looks_after=3)

    assert poller.with_options(key="p").run() == "fine"
    ((billing, cost, tokens),) = sql("SELECT billing, cost, output_tokens FROM agentrun.spend")
    assert (billing, cost > 0, tokens > 0) == ("confirmed", True, True)
    totals = agentrun.transcript("p").totals
    assert (totals.cost, totals.unpriced) == (cost, 0)
    assert sql("SELECT unpriced, cost FROM agentrun.spend_by_run") == [(0, cost)]
    assert "fine" in str(agentrun.transcript("p"))


def test_a_response_that_nobody_looked_at_to_its_end_stays_unpriced(
    db: Any, client: OpenAI, provider: Provider, sql: Sql
) -> None:
    provider.say([Reply("late", pace_s=60.0)])

    @agentrun.agent
    def impatient() -> str:
        response = client.responses.create(model="gpt-5-mini", input="hi", background=True)
        return str(client.responses.retrieve(response.id).status)

    assert impatient.with_options(key="i").run() == "in_progress"
    assert sql("SELECT billing FROM agentrun.spend") == [("unpriced",)]
    assert agentrun.transcript("i").totals.unpriced == 1


def test_the_reservation_of_a_polled_response_settles_when_it_is_seen(
    db: Any, client: OpenAI, provider: Provider, sql: Sql
) -> None:
    provider.say([Reply("fine", pace_s=0.02)])

    @agentrun.agent
    def poller() -> str:
        response = client.responses.create(model="gpt-5-mini", input="hi", background=True)
        client.moderations.create(input="is it settled?")
        before = sql("SELECT billing FROM agentrun.reservations WHERE step = 1")
        assert before == [("goes on",)]
        while response.status in ("queued", "in_progress"):
            time.sleep(0.02)
            response = client.responses.retrieve(response.id)
        client.moderations.create(input="and now?")
        return response.output_text

    poller.with_options(budget=Budget(usd=2)).run()
    ((billing, usd),) = sql("SELECT billing, usd FROM agentrun.reservations WHERE step = 1")
    ((cost,),) = sql("SELECT cost FROM agentrun.spend WHERE cost > 0")
    assert (billing, usd) == ("confirmed", cost)


def test_a_run_that_deletes_its_files_goes_on_after_a_crash(db: Any, sql: Sql) -> None:
    made, gone = {"id": "file-1", "object": "file"}, {"error": {"message": "No such File"}}
    answers = [made, made, {"id": "file-1", "deleted": True}]
    with Server() as server:
        server.say(*map(Saying.json, answers), *[Saying.json(gone, 404)] * 9)
        client = agentrun.wrap(OpenAI(base_url=f"{server.url}/v1", api_key="test"))
        stops = [SystemExit]

        @agentrun.agent
        def tidy() -> str:
            file = client.files.create(file=("a.txt", b"facts"), purpose="assistants")
            assert client.files.retrieve(file.id).id == "file-1"
            assert client.files.delete(file.id).deleted
            if stops:
                raise stops.pop()
            return "tidied"

        with pytest.raises(SystemExit):
            tidy.with_options(key="tidy").run()
        assert tidy.with_options(key="tidy").run() == "tidied"
        assert len(server.requests) == 3
    names = sql("SELECT name, effect, cost FROM agentrun.steps ORDER BY step")
    assert names == [
        ("files", "idempotent", 0),
        ("files.get file-1", "read", None),
        ("files.delete file-1", "idempotent", 0),
    ]
    assert agentrun.transcript("tidy").totals.unpriced == 0


def test_an_upload_lies_in_payloads_by_its_digest(
    db: Any, client: OpenAI, provider: Provider, sql: Sql
) -> None:
    @agentrun.agent
    def typist() -> str:
        made = client.audio.transcriptions.create(model="whisper-1", file=io.BytesIO(SOUND))
        return made.text

    typist.with_options(key="t").run()
    ((kept,),) = sql("SELECT zstd FROM agentrun.payloads WHERE digest = %s", digest(SOUND))
    assert detach(bytes(kept), digest(SOUND)) == SOUND


def test_free_calls_cost_nothing_and_unknown_ones_are_unpriced(
    db: Any, client: OpenAI, provider: Provider, sql: Sql
) -> None:
    @agentrun.agent
    def clerk() -> str:
        client.moderations.create(input="a")
        client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
        client.vector_stores.create(name="b")
        return "done"

    clerk.run()
    rows = sql("SELECT billing, cost FROM agentrun.spend ORDER BY seq")
    assert rows == [("confirmed", 0), ("confirmed", 0), ("unpriced", None)]


def reply(text: str, *, stop: str = "end_turn", **usage: int) -> Reply:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 1, **usage},
    }
    return Reply(raw=message)


def wrote(tokens: int, read: int = 0) -> dict[str, int]:
    return {"cache_creation_input_tokens": tokens, "cache_read_input_tokens": read}


@pytest.mark.parametrize(
    ("after", "lost", "cost"),
    [
        (wrote(1100), 1000, Decimal("0.00345")),  # written again: 1.25, and not 0.1, of $3
        (wrote(100, read=1000), 0, 0),
        (wrote(0), 5, None),  # too short to be the same conversation: no more than it has
    ],
)
def test_what_a_lost_cache_cost_is_told_after_a_resume(
    after: dict[str, int], lost: int, cost: Any, db: Any, provider: Provider, sql: Sql
) -> None:
    provider.say([reply("one", **wrote(1000)), reply("two", **after)])
    client = agentrun.wrap(anthropic.Anthropic(base_url=provider.url, api_key="k"))
    broken = [True]

    @agentrun.agent
    def chatter() -> str:
        messages: Any = [{"role": "user", "content": "hi"}]
        for _ in range(2):
            said = client.messages.create(model="claude-double", max_tokens=50, messages=messages)
            messages.append({"role": "assistant", "content": said.content[0].to_dict()["text"]})
            messages.append({"role": "user", "content": "go on"})
            if broken and broken.pop():
                raise RuntimeError("the machine went away")
        return "done"

    run = chatter.with_options(key="c")
    with pytest.raises(agentrun.RunFailed):
        run.run()
    assert agentrun.resume("c") == "done"
    ((tokens, dollars, written),) = sql(
        "SELECT cache_lost_tokens, cache_lost, cache_write_tokens FROM agentrun.spend_by_run"
    )
    assert tokens == lost
    assert written == 1000 + after["cache_creation_input_tokens"]
    if cost is not None:
        assert dollars == cost
    totals = agentrun.transcript("c").totals
    assert (totals.cache_lost_tokens, totals.cache_write_tokens) == (lost, written)


def test_without_a_resume_nothing_is_lost(db: Any, provider: Provider, sql: Sql) -> None:
    provider.say([reply("one", **wrote(1000)), reply("two", **wrote(1100))])
    client = agentrun.wrap(anthropic.Anthropic(base_url=provider.url, api_key="k"))

    @agentrun.agent
    def chatter() -> str:
        messages: Any = [{"role": "user", "content": "hi"}]
        ask: Any = {"model": "claude-double", "max_tokens": 50}
        client.messages.create(**ask, messages=messages)
        more = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "go on"}]
        client.messages.create(**ask, messages=[*messages, *more])
        return "done"

    chatter.run()
    assert sql("SELECT cache_lost_tokens, cache_lost FROM agentrun.spend_by_run") == [(0, 0)]
