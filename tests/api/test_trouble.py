"""Bad input gets a clear error or a recorded answer, and nothing is lost.

What a model may send (nothing, half a reply, hostile text), what a tool may return, and a provider
that refuses: the run goes on, or fails with its reason recorded and goes on once that is mended.
"""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

import agentrun
from agentrun.testing import Call, Fault, Provider, Reply

MODEL = "gpt-5-mini"
VIEWS = ["steps", "turns", "tool_calls", "model_calls", "attempts", "transcript", "in_doubt",
         "inbox", "resumes", "spend", "spend_by_run", "late_answers"]  # fmt: skip

acted: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> Iterator[None]:
    yield
    acted.clear()


@agentrun.tool
def act(what: str) -> str:
    acted.append(what)
    return f"did {what}"


def completion(message: dict[str, Any] | None, finish_reason: str = "stop") -> dict[str, Any]:
    """The body of a chat completion with this message, or with none at all."""
    choices = [{"index": 0, "message": message, "finish_reason": finish_reason}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [] if message is None else choices,
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def conversation(url: str, tools: list[Any]) -> list[Any]:
    """A loop as users write it: it ends with the first reply that asks for no tool."""
    messages: list[Any] = [{"role": "user", "content": "go"}]
    with OpenAI(base_url=url, api_key="k") as client:
        agentrun.wrap(client)
        while True:
            reply = client.chat.completions.create(model=MODEL, messages=messages)
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return messages
            messages += agentrun.call_tools(reply, tools)


@agentrun.agent(name="troubled")
def talk(url: str) -> list[Any]:
    return conversation(url, [act])


def told(messages: list[Any]) -> list[str]:
    return [m["content"] for m in messages if m["role"] == "tool"]


# -- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [{"role": "assistant"}, {"role": "assistant", "content": ""}])
def test_a_reply_without_text_and_calls_is_recorded_as_it_came(
    db: Any, provider: Provider, message: dict[str, Any]
) -> None:
    provider.say([Reply(raw=completion(message))])
    messages = talk.with_options(key="k").run(provider.base_url)
    assert messages[1:] == [message]
    assert talk.with_options(key="k").run(provider.base_url) == messages
    assert provider.billed() == 1
    assert str(agentrun.transcript("k"))


def test_a_reply_without_choices_fails_the_loop_that_expects_one_after_its_attempts(
    db: Any, provider: Provider, events: Any
) -> None:
    provider.say([Reply(tool_calls=[Call("act", {"what": "it"})]), Reply(raw=completion(None))])
    for _ in range(2):
        with pytest.raises(agentrun.RunFailed, match="IndexError"):
            talk.with_options(key="k").run(provider.base_url)
    assert acted == ["it"]
    assert provider.billed() == 1 + 3  # the second run() asks for nothing
    (ended,) = [e for e in events("k") if e.event == "run_failed"]
    assert "reply.choices[0]" in json.dumps(ended.output)  # the traceback names the line
    assert str(agentrun.transcript("k"))


@pytest.mark.parametrize("body", [completion(None), completion({"role": "assistant"}), {}])
def test_an_empty_reply_asks_for_no_tool(body: dict[str, Any]) -> None:
    assert agentrun.call_tools(body, [act]) == []


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_arguments_that_were_cut_off_are_told_to_the_model_and_act_on_nothing(
    db: Any, provider: Provider, stream: bool
) -> None:
    cut = Call("act", '{"what": "pay 100')
    whole = Call("act", {"what": "pay 1000"})
    provider.say(
        [Reply(tool_calls=[cut], finish_reason="length"), Reply(tool_calls=[whole]), "done"]
    )

    def ask(client: OpenAI, messages: list[Any]) -> Any:
        if not stream:
            return client.chat.completions.create(model=MODEL, messages=messages)
        folded: dict[str, Any] = completion({"role": "assistant", "content": None})
        calls: dict[int, dict[str, Any]] = {}
        for chunk in client.chat.completions.create(model=MODEL, messages=messages, stream=True):
            for choice in chunk.choices:
                folded["choices"][0]["finish_reason"] = choice.finish_reason
                for piece in choice.delta.tool_calls or ():
                    call = calls.setdefault(piece.index, {"name": "", "arguments": ""})
                    call["id"] = piece.id or call["id"]
                    assert piece.function is not None
                    call["name"] += piece.function.name or ""
                    call["arguments"] += piece.function.arguments or ""
        folded["choices"][0]["message"]["tool_calls"] = [
            {"id": call.pop("id"), "type": "function", "function": call} for call in calls.values()
        ] or None
        return ChatCompletion.model_validate(folded)

    @agentrun.agent
    def cut_off() -> list[str]:
        messages: list[Any] = [{"role": "user", "content": "go"}]
        with OpenAI(base_url=provider.base_url, api_key="k") as client:
            agentrun.wrap(client)
            while True:
                reply = ask(client, messages)
                message = reply.choices[0].message
                if not message.tool_calls:
                    return told(messages)
                messages.append(message.model_dump(exclude_none=True))
                messages += agentrun.call_tools(reply, [act])

    first, second = cut_off.run()
    assert "the reply was cut off at its length limit" in json.loads(first)["error"]
    assert second == "did pay 1000"
    assert acted == ["pay 1000"]


# -- results -------------------------------------------------------------------------------------

CYCLE: list[Any] = []
CYCLE.append(CYCLE)
STRANGE = {
    "an object": object(),
    "a value that contains itself": CYCLE,
    "infinity": float("inf"),
    "NaN deep inside": {"a": [1.0, float("nan")]},
    "a function": print,
    "an open file": os,
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_result_that_cannot_be_stored_is_told_and_its_effect_not_repeated(
    db: Any, provider: Provider, events: Any, what: str
) -> None:
    @agentrun.tool
    def strange() -> Any:
        acted.append(what)
        return STRANGE[what]

    @agentrun.agent
    def meets() -> list[Any]:
        return conversation(provider.base_url, [strange])

    provider.say([Reply(tool_calls=[Call("strange")]), "sorry"])
    (answer,) = told(meets.with_options(key="k").run())
    error = json.loads(answer)["error"]
    assert error.startswith("strange took effect, but its result cannot be recorded: ")
    assert acted == [what]
    assert [e.status for e in events("k") if e.kind == "tool" and e.event == "step_finished"] == [
        "error"
    ]


AWKWARD = ["nul \x00", "lone \ud800 surrogate", {"nested": ["\x00", "\udfff"]}, "x" * 10_000_000]


@pytest.mark.parametrize("value", AWKWARD, ids=["nul", "surrogate", "nested", "ten megabytes"])
@pytest.mark.parametrize("raised", [False, True], ids=["returned", "raised"])
def test_awkward_text_reaches_the_journal_whole_and_the_model_as_text(
    db: Any, provider: Provider, events: Any, value: Any, raised: bool
) -> None:
    @agentrun.tool
    def awkward() -> Any:
        if raised:
            raise ValueError(value)
        return value

    @agentrun.agent
    def meets() -> int:
        return len(conversation(provider.base_url, [awkward]))

    provider.say([Reply(tool_calls=[Call("awkward")]), "noted"])
    assert meets.with_options(key="k").run() == 4
    (outcome,) = [e for e in events("k") if e.kind == "tool" and e.event == "step_finished"]
    if not raised:
        assert outcome.output == {"result": value}
    assert provider.billed() == 2
    assert str(agentrun.transcript("k"))


# -- a provider that refuses ---------------------------------------------------------------------


def test_a_missing_key_fails_the_run_with_the_sdks_own_words_and_resume_goes_on(
    db: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
    provider.say(["hello"])

    @agentrun.agent
    def keyless() -> str | None:
        act("first")
        with OpenAI() as client:
            reply = agentrun.wrap(client).chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "x"}]
            )
        return reply.choices[0].message.content

    for _ in range(2):
        with pytest.raises(agentrun.RunFailed, match="OPENAI_API_KEY") as failure:
            keyless.with_options(key="k").run()
    assert isinstance(failure.value.__cause__, openai.OpenAIError)
    (failed,) = [e for e in events("k") if e.event == "run_failed"]
    assert "OPENAI_API_KEY" in failed.reason
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-of-a-test-0123456789")
    assert agentrun.resume("k") == "hello"
    assert acted == ["first"]
    assert provider.billed() == 1


def test_a_refused_key_fails_the_run_and_resume_asks_again(db: Any, provider: Provider) -> None:
    provider.arm(Fault.error(401))
    provider.say([Reply(tool_calls=[Call("act", {"what": "it"})]), "done"])
    keyed = talk.with_options(key="k")
    for _ in range(2):
        with pytest.raises(agentrun.RunFailed, match="401") as failure:
            keyed.run(provider.base_url)
    assert isinstance(failure.value.__cause__, openai.AuthenticationError)
    assert len(provider.requests()) == 1  # a refusal is an answer: the second run repeats it
    agentrun.resume("k", reason="the key was renewed")
    assert acted == ["it"]
    assert provider.billed() == 2


# -- hostile text --------------------------------------------------------------------------------

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x1b[31m red \x9b31m \x00 \u202egnihton\u202c \r\n\x08"
    "<script>alert(1)</script><img src=x onerror=alert(1)> ' \" &amp; {} %s %(a)s \\u0000 ␛0000 "
    "'; DROP TABLE agentrun.journal; -- [link=javascript:alert(1)]x[/link] [bold]"
)
# What may act on a terminal: C0 but for newline, DEL, C1, and the characters that turn text around.
ACTIVE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def hostile(db: Any, provider: Provider) -> str:
    """The key of a run in which the model, and a tool that echoes it, said hostile things."""
    provider.say([
        Reply(HOSTILE, tool_calls=[
            Call("act", {"what": HOSTILE}), Call(HOSTILE, {"a": HOSTILE}, id=HOSTILE),
            Call("act", HOSTILE),
        ]),
        Reply(HOSTILE, finish_reason="length"),
    ])  # fmt: skip
    talk.with_options(key="k").run(provider.base_url)
    assert acted == [HOSTILE]
    return "k"


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, [name for name, _ in attrs]))


def test_a_hostile_conversation_is_recorded_as_it_was(hostile: str, events: Any) -> None:
    replies = [e.output["body"] for e in events(hostile) if e.kind == "model" and e.has_output]
    messages = [reply["choices"][0]["message"] for reply in replies]
    assert [message["content"] for message in messages] == [HOSTILE, HOSTILE]
    assert messages[0]["tool_calls"][1]["id"] == HOSTILE
    assert messages[0]["tool_calls"][2]["function"]["arguments"] == HOSTILE


def test_a_hostile_conversation_is_inert_wherever_it_is_shown(hostile: str) -> None:
    transcript = agentrun.transcript(hostile)
    for text in (agentrun.as_text(transcript), str(transcript), repr(transcript)):
        assert not ACTIVE.search(text)
        assert "alert(1)" in text or text == repr(transcript)
    page = agentrun.as_html(transcript)
    assert not ACTIVE.search(page)
    seen = Tags(page).seen
    assert {tag for tag, _ in seen}.isdisjoint({"script", "img", "a", "iframe", "object"})
    assert not [name for _, names in seen for name in names if name.startswith("on")]


def test_every_view_answers_on_a_hostile_journal(hostile: str, sql: Any) -> None:
    counts = {view: len(sql(f"SELECT * FROM agentrun.{view}")) for view in VIEWS}  # noqa: S608
    assert (counts["tool_calls"], counts["model_calls"], counts["turns"]) == (3, 2, 2)
    (text,) = sql("SELECT string_agg(t::text, '') FROM agentrun.transcript t")[0]
    assert "DROP TABLE" in text
    assert sql("SELECT count(*) FROM agentrun.journal")[0][0] > 0


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
@pytest.mark.parametrize("view", VIEWS)
def test_psql_reads_every_view_of_a_hostile_journal(hostile: str, dsn: str, view: str) -> None:
    query = f"SELECT * FROM agentrun.{view}"  # noqa: S608
    command = ["psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--expanded", "-c", query, dsn]
    shown = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert shown.stderr == b""
    assert b"\x1b" not in shown.stdout
    assert b"\x00" not in shown.stdout
