"""What the agent's code saw is what it sees again; people see masks, and how much is masked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, LiteralString, cast

import psycopg
import pytest
from openai import OpenAI
from psycopg import sql as statements
from zstandard import ZstdDecompressor

import agentrun
from agentrun.core.codec import fingerprint
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply
from agentrun.view.jsonl import read_jsonl, write_jsonl

MODEL = "gpt-5-mini"
EVERYTHING = "SELECT t::text FROM agentrun.{} t"
KEY = "sk-" + "proj-" + "a1B2" * 12
PASSWORD = "hV7-tq2Lx9"
TEXTS = [
    '<p class="sk-text-repr-fallback">x</p>',
    f'connect(user="app", password="{PASSWORD}")',
    "postgres://postgres:postgres@localhost/app",
    f"DB_PASSWORD={PASSWORD}\nDEBUG=1",
    "-----BEGIN PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{'aB3d' * 16}\n-----END PRIVATE KEY-----\n",
    f'{{"password": "{PASSWORD}", "deep": ["{KEY}"]}}',
    f"\0 {KEY} \u241b",
    KEY + " " + "large " * 20_000,
]


def looped(client: OpenAI, tools: list[Any], trace: list[Any], stop: Callable[[], None]) -> Any:
    @agentrun.agent(name="masked loop")
    def loop(question: str) -> str:
        trace.append(question)
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            reply = client.chat.completions.create(
                model=MODEL, messages=messages, tools=agentrun.schemas(*tools)
            )
            message = reply.choices[0].message
            trace.append(message.model_dump())
            stop()
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content or ""
            results = agentrun.call_tools(message, tools)
            trace.append(results)
            messages += results

    return loop


@pytest.mark.parametrize("text", TEXTS)
def test_a_resumed_agent_sees_every_byte_that_the_live_one_saw(
    db: Any, provider: Provider, client: OpenAI, reincarnate: Any, text: str
) -> None:
    arguments: dict[str, Any] = {"text": text, "password": PASSWORD}
    calls = [Call("write", arguments), Call("write", {"text": "b", "password": KEY})]
    provider.say([Reply(tool_calls=calls), Reply(tool_calls=[Call("write", arguments)]),
                  Reply(f"done with {text}")])  # fmt: skip
    written: list[Any] = []
    trace: list[Any] = []
    left = 0

    def stop() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise SystemExit

    @agentrun.tool(effect="idempotent")
    def write(text: str, password: str) -> dict[str, str]:
        written.append((text, password))
        return {"told": f"{text} by {password}", "token": KEY}

    loop = looped(client, [write], trace, stop)
    keyed = loop.with_options(key="k")
    traces = []
    for left in (1, 2, 3, 0):  # the last time it comes to its end
        trace.clear()
        if left:
            with pytest.raises(SystemExit):
                keyed.run(f"q {text}")
        else:
            assert keyed.run(f"q {text}") == f"done with {text}"
        traces.append(list(trace))
        reincarnate()
    for shorter, longer in itertools.pairwise(traces):
        assert longer[: len(shorter)] == shorter
    assert written == [(text, PASSWORD), ("b", KEY), (text, PASSWORD)]
    assert keyed.run(f"q {text}") == f"done with {text}"
    assert agentrun.get("k").result() == f"done with {text}"


def test_people_see_masks_and_that_something_is_masked(
    db: Any, provider: Provider, client: OpenAI, sql: Any
) -> None:
    provider.say([Reply(tool_calls=[Call("write", {"text": KEY})]), Reply(f"said {KEY}")])

    @agentrun.tool(effect="idempotent")
    def write(text: str) -> str:
        return f"wrote {text}"

    looped(client, [write], [], lambda: None).with_options(key="k").run("q")
    tables = ["journal", "runs", "summaries", "payloads", "mail", "partials"]
    views = ["tool_calls", "model_calls", "transcript", "attempts"]
    dump = "".join(str(row) for name in tables + views for row in sql(EVERYTHING.format(name)))
    transcript = agentrun.transcript("k")
    for shown in (dump, str(transcript), transcript.to_json(), transcript._repr_html_() or ""):
        assert "a1B2a1B2" not in shown
        assert "[masked: openai key, 56 chars, #" in shown
    one = {"openai key": {"count": 1, "chars": 56}}
    assert sql("SELECT masked FROM agentrun.tool_calls") == [({"input": one, "output": one},)]
    assert sql("SELECT masked -> 'output' FROM agentrun.model_calls ORDER BY seq") == [(one,)] * 2
    said = sql("SELECT role, masked FROM agentrun.transcript ORDER BY seq, position")
    assert said[0] == ("user", None)
    assert said[-1] == ("assistant", "openai key, 56 chars")
    kept = sql("SELECT part, zstd FROM agentrun.exact_values")
    assert any(KEY in ZstdDecompressor().decompress(zstd).decode() for _, zstd in kept)


def test_clean_values_have_no_exact_row(
    db: Any, provider: Provider, client: OpenAI, sql: Any
) -> None:
    provider.say([Reply(tool_calls=[Call("write", {"text": "x"})]), Reply("done")])

    @agentrun.tool
    def write(text: str) -> str:
        return text

    looped(client, [write], [], lambda: None).with_options(key="k").run("q")
    assert sql("SELECT count(*) FROM agentrun.exact_values") == [(0,)]
    assert sql("SELECT count(*) FROM agentrun.journal WHERE masked IS NOT NULL") == [(0,)]


def test_the_inbox_says_what_of_the_arguments_is_masked(db: Any, sql: Any) -> None:
    @agentrun.tool(approve=True)
    def shell(command: str) -> str:
        return command

    @agentrun.agent
    def run() -> str:
        return shell(f"export TOKEN={PASSWORD}x1; rm -rf ~/backups")

    with pytest.raises(agentrun.RunHeld):
        run.with_options(key="k").run()
    ((args, masked),) = sql("SELECT args ->> 'command', masked FROM agentrun.inbox")
    assert args.endswith("; rm -rf ~/backups")
    assert PASSWORD not in args
    assert masked == {"token": {"count": 1, "chars": 12}}
    (waiting,) = agentrun.inbox()
    assert (waiting.masked, waiting.args) == (masked, {"command": args})
    (step,) = agentrun.transcript("k").steps
    assert step.masked == {"input": masked}
    assert "masked: token (12 characters)" in str(agentrun.transcript("k"))
    agentrun.approve("k", 1, by="ada")
    assert run.with_options(key="k").run() == f"export TOKEN={PASSWORD}x1; rm -rf ~/backups"


def test_a_letter_and_its_answer_are_exact(db: Any, sql: Any, reincarnate: Any) -> None:
    heard: list[Any] = []

    @agentrun.agent
    def run() -> str:
        heard.append(agentrun.receive("word"))
        return f"{heard[-1]}"

    handle = run.with_options(key="k").submit()
    agentrun.send("k", "word", {"password": PASSWORD})
    assert PASSWORD not in str(sql("SELECT m::text FROM agentrun.mail m"))
    assert run.with_options(key="k").run() == f"{{'password': '{PASSWORD}'}}"
    assert heard == [{"password": PASSWORD}]
    assert handle.result() == f"{{'password': '{PASSWORD}'}}"


def test_only_workers_read_exact_values_and_pruning_takes_them(
    db: Any, provider: Provider, client: OpenAI, sql: Any
) -> None:
    provider.say([Reply(f"said {KEY}")])
    loop = looped(client, [], [], lambda: None).with_options(key="k")
    with db.connection() as conn:
        role = f"reader_{conn.info.dbname}"
        name = statements.Identifier(role)
        conn.execute(statements.SQL("CREATE ROLE {}").format(name))
        conn.execute(statements.SQL("GRANT USAGE ON SCHEMA agentrun TO {}").format(name))
        try:
            loop.run("q")
            for view in ("tool_calls", "model_calls", "transcript", "attempts", "inbox", "runs"):
                for granted in (
                    "journal",
                    "runs",
                    "mail",
                    "workers",
                    "steps",
                    "in_doubt",
                    "asked",
                    view,
                ):
                    grant = f"GRANT SELECT ON agentrun.{granted} TO {role}"
                    conn.execute(cast(LiteralString, grant))
                conn.execute(statements.SQL("SET ROLE {}").format(name))
                conn.execute(cast(LiteralString, EVERYTHING.format(view)))
                for table in ("exact_values", "mask_key", "gateway_answers"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        conn.execute(cast(LiteralString, EVERYTHING.format(table)))
                conn.execute("RESET ROLE")
        finally:
            conn.execute("RESET ROLE")
            conn.execute(statements.SQL("DROP OWNED BY {}").format(name))
            conn.execute(statements.SQL("DROP ROLE {}").format(name))
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            conn.execute("DELETE FROM agentrun.exact_values")
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            conn.execute("UPDATE agentrun.exact_values SET name = 'x'")
    assert sql("SELECT count(*) > 0 FROM agentrun.exact_values") == [(True,)]
    agentrun.prune(timedelta(0))
    assert sql("SELECT count(*) FROM agentrun.exact_values") == [(0,)]


def test_a_fingerprint_cannot_be_guessed(db: Any, sql: Any) -> None:
    @agentrun.tool
    def login(password: str) -> None: ...

    @agentrun.agent
    def run(password: str) -> None:
        login(password)

    run.with_options(key="k").run(PASSWORD)
    found = {one for (one,) in sql("SELECT fingerprint FROM agentrun.journal") if one}
    guesses = [["tool", "login", {"args": {"password": PASSWORD}}], {"password": PASSWORD}]
    assert found
    assert not found & {fingerprint(guess) for guess in guesses}
    key = db.mask_key
    assert found == {fingerprint(guess, key) for guess in guesses}


def test_json_of_an_export_keeps_the_masks(db: Any, provider: Provider, client: OpenAI) -> None:
    provider.say([Reply(f"said {KEY}")])
    looped(client, [], [], lambda: None).with_options(key="k").run("q")
    events, _ = read_events(db, find_run(db, "k").run_id)
    lines = list(write_jsonl(events))
    assert KEY not in "".join(lines)
    again = list(read_jsonl(lines))
    assert [event.masked for event in again] == [event.masked for event in events]
    assert json.dumps([event.output for event in again]) == json.dumps([e.output for e in events])
