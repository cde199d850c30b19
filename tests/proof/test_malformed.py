"""Malformed replies: what the SDK makes of one without us, it makes of it in a run, and on resume.

Whatever a provider sends, no error comes out of agentrun itself: the code sees the SDK's own value
or the SDK's own error, `call_tools` answers what cannot be made, and what is recorded can be read
by every viewer and every view. Two differences are meant: a stream that ends without its last word
is an error in a run, where the SDK may say nothing; and nothing is handed on that follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from replies import BODIES, STREAMS
from sayings import Saying, Server

import agentrun
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.view.chat import as_openai
from agentrun.view.jsonl import read_jsonl, write_jsonl
from agentrun.view.markdown import as_markdown

pytestmark = pytest.mark.long

ASK: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "go"}]}
RESPOND: Any = {"model": "gpt-5-mini", "input": "go"}
MESSAGE: Any = {**ASK, "model": "claude-double", "max_tokens": 99}
VIEWS = ("steps", "turns", "tool_calls", "model_calls", "attempts", "transcript", "in_doubt",
         "inbox", "resumes", "spend")  # fmt: skip

Ask = Callable[[Any], Any]
ASKS: dict[str, Ask] = {
    "chat": lambda client: client.chat.completions.create(**ASK),
    "responses": lambda client: client.responses.create(**RESPOND),
    "messages": lambda client: client.messages.create(**MESSAGE),
}
STREAMED: dict[str, Ask] = {
    "chat": lambda client: client.chat.completions.create(**ASK, stream=True),
    "responses": lambda client: client.responses.create(**RESPOND, stream=True),
    "messages": lambda client: client.messages.create(**MESSAGE, stream=True),
}


ENDLESS = {"nothing", "no end", "no end and no first event"}
OVERLONG = {"its end first", "its end twice", "more after its end", "broken off after its end",
            "a name in place of its end", "events of another API"}  # fmt: skip
BROKEN_EARLY = {"broken off in a frame"}
UNREADABLE = {"told to be gzip"}  # found when it is first read, which a run does before the caller


@agentrun.tool(effect="read")
def look(at: Any) -> str:
    return f"at {at!r}"[:80]


def client_of(api: str, url: str) -> Any:
    kind = anthropic.Anthropic if api == "messages" else openai.OpenAI
    return kind(base_url=url, api_key="k", max_retries=0)


def dumped(value: Any) -> Any:
    """What an SDK gave, as something to compare."""
    dump = getattr(value, "model_dump", None)
    return repr(dump(warnings=False)) if callable(dump) else repr(value)


def seen(client: Any, ask: Ask) -> tuple[list[Any], Any]:
    """Everything that the caller sees, and the reply itself if it is one."""
    told: list[Any] = []
    reply = None
    try:
        reply = ask(client)
        if isinstance(reply, openai.Stream | anthropic.Stream):
            told.extend(dumped(part) for part in reply)
        else:
            told.append(dumped(reply))
    except Exception as error:
        told.append((type(error), str(error)))
    return told, reply


def answered(reply: Any) -> Any:
    """What `call_tools` makes of a reply; it takes no plain text for one."""
    if not hasattr(reply, "model_dump"):
        return None
    return agentrun.call_tools(reply, [look])


class Malformed:
    """One database and one server for many cases, each a run of its own."""

    def __init__(self, database: Any, server: Server) -> None:
        self.database, self.server = database, server
        self.resuming = False

    def run(self, key: str, api: str, ask: Ask) -> list[Any]:
        told: list[Any] = []

        @agentrun.agent(name="malformed")
        def agent() -> None:
            with client_of(api, self.server.url) as client:
                found, reply = seen(agentrun.wrap(client), ask)
            told.extend(found)
            told.append(answered(reply))
            if not self.resuming:
                raise SystemExit

        keyed = agent.with_options(key=key)
        if self.resuming:
            keyed.run()
        else:
            with pytest.raises(SystemExit):
                keyed.run()
        return told

    def replay(self, key: str, api: str, ask: Ask, saying: Saying) -> tuple[list[Any], list[Any]]:
        """What is seen without us and with us; that a resume sees the same is proved here."""
        # A model of its own: after failures in a row a model is left alone for a minute.
        for body in (ASK, RESPOND, MESSAGE):
            body["model"] = f"double-{key}"
        self.server.sayings, self.server.requests = [saying], []
        with client_of(api, self.server.url) as client:
            without, _ = seen(client, ask)
        self.server.sayings, self.server.requests = [saying], []
        self.resuming = False
        within = self.run(key, api, ask)
        self.resuming = True
        assert self.run(key, api, ask) == within, "a resume sees the same"
        assert len(self.server.requests) == 1
        self.read(key)
        return without, within[:-1]

    def read(self, key: str) -> None:
        """Every viewer and every view can read the run."""
        events, _ = read_events(self.database, find_run(self.database, key).run_id)
        transcript = agentrun.transcript(key)
        assert agentrun.as_text(transcript)
        assert agentrun.as_html(transcript)
        assert as_markdown(transcript)
        as_openai(events)
        assert list(read_jsonl(write_jsonl(events))) == events
        with self.database.connection() as conn:
            for view in VIEWS:
                query = f"SELECT v::text FROM agentrun.{view} v WHERE key = %s"  # noqa: S608
                conn.execute(query, [key])


def same_stream(name: str, within: list[Any], without: list[Any]) -> bool:
    """Whether a run sees of this stream what the SDK alone does, but for what is meant."""
    if within == without:
        return True
    if name in ENDLESS:
        return within[:-1] == without and isinstance(within[-1], tuple)
    if name in BROKEN_EARLY:  # before any content: the attempt failed, and nothing was handed on
        return len(within) == 1 and isinstance(within[0], tuple) and isinstance(without[-1], tuple)
    if name in OVERLONG:
        return len(within) > 0 and within == without[: len(within)]
    return name in UNREADABLE and all(isinstance(told, tuple) for told in within + without)


@pytest.fixture
def malformed(dsn: str) -> Iterator[Malformed]:
    with agentrun.connect(dsn) as database, Server() as server:
        yield Malformed(database, server)


@pytest.mark.parametrize("api", BODIES)
def test_a_body(malformed: Malformed, proof: Any, api: str) -> None:
    for number, case in enumerate(proof.cases(f"malformed {api}", list(BODIES[api]), share=12)):
        with case:
            saying = BODIES[api][case.name]
            without, within = malformed.replay(f"run-{number}", api, ASKS[api], saying)
            assert within == without
            case.count(escapes=0)


@pytest.mark.parametrize("api", STREAMS)
def test_a_stream(malformed: Malformed, proof: Any, api: str) -> None:
    names = list(STREAMS[api])
    for number, case in enumerate(proof.cases(f"malformed {api} stream", names, share=12)):
        with case:
            saying = STREAMS[api][case.name]
            without, within = malformed.replay(f"run-{number}", api, STREAMED[api], saying)
            assert same_stream(case.name, within, without)
            case.count(escapes=0)
