"""A conversation is told once, in whichever tasks its model calls were made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI

import agentrun
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply
from agentrun.view.chat import as_openai
from agentrun.view.markdown import as_markdown

TURNS = 6
SAID = [text for n in range(TURNS) for text in (f"question {n}", f"reply {n}")]


def sql(db: Any, key: str) -> list[tuple[str, str]]:
    with db.connection() as conn:
        rows = conn.execute(
            "SELECT role, content FROM agentrun.transcript WHERE key = %s ORDER BY seq, position",
            (key,),
        ).fetchall()
    return [(row["role"], row["content"]) for row in rows]


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("tasks", [False, True], ids=["one task", "a task each"])
def test_a_conversation_is_told_once(db: Any, tasks: bool, long: bool) -> None:
    """A long one is stored by reference to what the run holds already; a short one is not."""
    more = " and a lot more than that" * 9 if long else ""
    said = [text + more for text in SAID]

    @agentrun.agent
    async def chat(base_url: str) -> None:
        async with agentrun.wrap(AsyncOpenAI(base_url=base_url, api_key="k")) as client:
            messages: Any = []
            for n in range(TURNS):
                messages.append({"role": "user", "content": said[2 * n]})
                call = client.chat.completions.create(model="gpt-5-mini", messages=messages)
                reply = await (asyncio.create_task(call) if tasks else call)
                text = reply.choices[0].message.content
                messages.append({"role": "assistant", "content": text})

    with Provider(script=said[1::2]) as provider:
        chat.with_options(key="k").run(provider.base_url)
    transcript = agentrun.transcript("k")
    pages = str(transcript), as_markdown(transcript)
    for text in SAID:
        assert [page.count(f"{text}{more[:4]}") for page in pages] == [1, 1]
    journal = read_events(db, find_run(db, "k").run_id)[0]
    assert [message["content"] for message in as_openai(journal)] == said
    assert [content for _, content in sql(db, "k")] == said


def test_tool_calls_in_tasks_of_their_own_are_told_once(db: Any) -> None:
    @agentrun.tool(effect="read")
    async def find(doc: str) -> str:
        return f"found {doc}"

    @agentrun.agent
    async def agent(base_url: str) -> None:
        async with agentrun.wrap(AsyncOpenAI(base_url=base_url, api_key="k")) as client:
            messages: Any = [{"role": "user", "content": "find x and y"}]
            while True:
                call = client.chat.completions.create(model="gpt-5-mini", messages=messages)
                reply = (await asyncio.create_task(call)).choices[0].message
                messages.append(reply.model_dump(exclude_none=True))
                if not reply.tool_calls:
                    return
                answers = asyncio.create_task(agentrun.acall_tools(reply, [find]))
                messages += await answers

    asks = Reply("one moment", tool_calls=[Call("find", {"doc": doc}) for doc in "xy"])
    with Provider(script=[asks, "here they are"]) as provider:
        agent.with_options(key="k").run(provider.base_url)
    assert [role for role, _ in sql(db, "k")] == ["user", "assistant", "tool", "tool", "assistant"]
    journal = read_events(db, find_run(db, "k").run_id)[0]
    assert [message["role"] for message in as_openai(journal)] == [role for role, _ in sql(db, "k")]
    page = as_markdown(agentrun.transcript("k"))
    assert [page.count(text) for text in ("one moment", "here they are")] == [1, 1]
