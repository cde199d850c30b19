"""`python -m benchmarks.reading`: CPU seconds to read, fold and render long conversations.

A conversation of so many turns, and one twice as long, are recorded with a double of the provider:
each turn calls a tool, and each request repeats the conversation. Then the journal is read, folded
to a transcript, and rendered as a page and as lines. `resume` reads it as a worker does, which goes
on with it. Each figure is the least of some repeats, in CPU seconds of this thread, and the last
column says how many times as long the longer conversation takes. What is aimed at is 2.2.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from openai import OpenAI

import agentrun
from agentrun.core.history import History
from agentrun.core.transcript import fold
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply
from agentrun.view.jsonl import write_jsonl
from agentrun.view.page import as_page
from benchmarks.dsn import database

LIMIT = 2.2
_TEXT = "The order is in the warehouse, and it leaves with the next carrier. "


@agentrun.tool(effect="read")
def look(n: int) -> str:
    """Look up something new."""
    return f"{n}: " + _TEXT * 5


def converse(client: OpenAI, turns: int) -> str:
    """A conversation of so many model calls. Each reply but the last one asks for a tool."""
    messages: list[Any] = [{"role": "user", "content": "Where is my order?"}]
    tools: Any = agentrun.schemas(look)
    while True:
        reply = client.chat.completions.create(model="gpt-5-mini", messages=messages, tools=tools)
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content or ""
        messages += agentrun.call_tools(message, [look])


def record(turns: int) -> str:
    """Record a conversation of so many turns; the key of its run."""
    script: list[Any] = [Reply(tool_calls=[Call("look", {"n": n})]) for n in range(turns - 1)]
    key = f"conversation-{turns}"
    with (
        Provider(script=[*script, "It is on its way."]) as provider,
        OpenAI(base_url=provider.base_url, api_key="k") as client,
    ):
        agentrun.wrap(client)

        @agentrun.agent(name=f"converses {turns}")
        def converses(turns: int) -> str:
            return converse(client, turns)

        converses.with_options(key=key).run(turns)
    return key


def measure(store: Any, key: str, repeats: int) -> dict[str, float]:
    """CPU seconds of each, by its name."""
    run_id = find_run(store, key).run_id
    events = read_events(store, run_id)[0]
    transcript = fold(events)
    work: dict[str, Callable[[], object]] = {
        "read": lambda: read_events(store, run_id),
        "fold": lambda: fold(events),
        "page": lambda: as_page(transcript, events),
        "read + fold + page": lambda: _show(store, run_id),
        "lines": lambda: list(write_jsonl(events)),
        "json": lambda: fold(events).to_json(),
        "resume": lambda: History(read_events(store, run_id, exact=True)[0]),
    }
    return {name: min(_cpu(do) for _ in range(repeats)) for name, do in work.items()}


def _show(store: Any, run_id: Any) -> str:
    events = read_events(store, run_id)[0]
    return as_page(fold(events), events)


def _cpu(do: Callable[[], object]) -> float:
    gc.collect()
    gc.freeze()  # else the collector searches what the recording has left, again and again
    begun = time.thread_time()
    do()
    return time.thread_time() - begun


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--turns", type=int, default=300, help="of the shorter conversation")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with database(agentrun.connect().dsn, "reading") as dsn, agentrun.connect(dsn) as opened:
        short, long = (
            measure(opened, record(turns), options.repeats)
            for turns in (options.turns, 2 * options.turns)
        )
    print(f"{'CPU seconds':20}{options.turns:>8}{2 * options.turns:>8}{'x':>8}")
    for name, seconds in short.items():
        print(f"{name:20}{seconds:8.2f}{long[name]:8.2f}{long[name] / seconds:8.2f}")
    ratio = long["read + fold + page"] / short["read + fold + page"]
    print(json.dumps({"turns": options.turns, "short": short, "long": long, "ratio": ratio}))
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
