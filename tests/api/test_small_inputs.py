"""Small inputs that were fatal: no arguments at all, an agent that raises GeneratorExit, settings
of a database."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from crashing import until
from openai import OpenAI

import agentrun
from agentrun.testing import Call, Provider, Reply

ASK: Any = [{"role": "user", "content": "go"}]


@pytest.mark.parametrize("sent", ["null", "", " ", "{}"])
@pytest.mark.parametrize("how", ["call_tools", "plain"])
def test_no_arguments_are_none(
    sent: str, how: str, db: Any, provider: Provider, client: OpenAI, sql: Any
) -> None:
    provider.say([Reply(tool_calls=[Call("ping", sent)])])

    @agentrun.tool(effect="idempotent")
    def ping(times: int = 1) -> str:
        return f"pong {times}"

    @agentrun.agent
    def agent() -> str:
        reply = client.chat.completions.create(model="m", messages=ASK)
        if how == "plain":
            return ping()
        return str(agentrun.call_tools(reply, [ping])[0]["content"])

    assert agent.with_options(key="k").run() == "pong 1"
    assert sql("SELECT ident FROM agentrun.steps WHERE kind = 'tool'") == [("1#0",)]


def exits(kind: str) -> Any:
    @agentrun.agent(name="sync")
    def sync() -> None:
        raise GeneratorExit

    @agentrun.agent(name="asynchronous")
    async def asynchronous() -> None:
        await agentrun.asleep(0)
        raise GeneratorExit

    @agentrun.tool(effect="idempotent")
    def act() -> None:
        raise GeneratorExit

    @agentrun.agent(name="in_tool")
    def in_tool() -> None:
        act()

    return {"sync": sync, "async": asynchronous, "in a tool": in_tool}[kind]


@pytest.mark.parametrize("kind", ["sync", "async", "in a tool"])
@pytest.mark.parametrize("worker", [False, True])
def test_generator_exit_fails_a_run(kind: str, worker: bool, db: Any) -> None:
    agent = exits(kind).with_options(key="k")
    if worker:
        with agentrun.Worker([agent]), pytest.raises(agentrun.RunFailed, match="GeneratorExit"):
            agent.submit().result(timeout=25)
    else:
        with pytest.raises(agentrun.RunFailed, match="GeneratorExit"):
            agent.run()
    assert agentrun.get("k").status() == "failed"


SETTINGS = {
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "America/St_Johns",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "row_security": "off",
    "client_encoding": "LATIN1",
    "search_path": "nowhere",
    "default_transaction_isolation": "serializable",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_database_sets_by_default_does_not_count(setting: str, dsn: str) -> None:
    @agentrun.tool(effect="transaction")
    def note(text: str) -> str:
        agentrun.current_step().connection.execute("INSERT INTO public.noted VALUES (1)")
        return text

    @agentrun.agent
    def agent(text: str) -> list[str]:
        agentrun.sleep(0.01)
        return [note(text), agentrun.receive("more"), str(agentrun.now().tzinfo)]

    with psycopg.connect(dsn, autocommit=True) as conn:
        (name,) = conn.execute("SELECT current_database()").fetchone() or ("",)
        conn.execute("CREATE TABLE public.noted (n integer)")
        conn.execute(f"ALTER DATABASE {name} SET {setting} TO '{SETTINGS[setting]}'")
    text = "ä\\n 'quoted' €"
    with agentrun.connect(dsn), agentrun.Worker([agent]):
        handle = agent.with_options(key="k").submit(text)
        until(lambda: handle.status() == "waiting")
        agentrun.send("k", "more", text)
        assert handle.result(timeout=60) == [text, text, "UTC"]
        assert agentrun.transcript("k").status == "done"
    with psycopg.connect(dsn) as conn:  # above READ COMMITTED the body may be run again
        assert conn.execute("SELECT count(*) FROM public.noted").fetchone() == (1,)
