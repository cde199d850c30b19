"""A provider that cannot be reached is waited for: nothing was sent, and nobody is billed."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from crashing import ended, spawn, until
from openai import AsyncOpenAI, OpenAI
from sayings import Saying, Server, completion

import agentrun
from agentrun.core.pauses import Backoff
from agentrun.models.retries import is_unreached
from agentrun.steps import model_step

ASK: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is ours, and on which nobody listens: connections are refused."""
    with socket.socket() as closed:
        closed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


clients: list[OpenAI] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """The clients of a test are closed, or a later one is told of their connections."""
    yield
    while clients:
        clients.pop().close()


def client_of(url: str, patience: float | None = None) -> OpenAI:
    clients.append(agentrun.wrap(OpenAI(base_url=url, api_key="k"), patience=patience))
    return clients[-1]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrun.models.retries.BACKOFF", Backoff(0.01, 8.0))
    monkeypatch.setattr("agentrun.models.retries.RECONNECT_BACKOFF", Backoff(0.01, 0.05))


@contextmanager
def opened(port: int) -> Iterator[Server]:
    """The provider, from now on."""
    server = Server(port)
    server.say(Saying.json(completion("there")))  # first: a client that waits tries at any moment
    with server:
        yield server


def asking(port: int, patience: float | None = None) -> Any:
    client = client_of(f"http://127.0.0.1:{port}", patience)

    @agentrun.agent(name="asking")
    def agent() -> str:
        made = client.chat.completions.create(model="m", messages=ASK)
        return str(made.choices[0].message.content)

    return agent.with_options(key="k")


def attempts(sql: Any) -> list[tuple[Any, ...]]:
    return sql(  # type: ignore[no-any-return]
        "SELECT event, attempt, status FROM agentrun.journal WHERE kind = 'model' ORDER BY seq"
    )


WAITED = [("attempt_started", 1, None), ("attempt_failed", 1, "unreached")]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_refused_connection_is_waited_out_by_one_row(
    kind: str, port: int, db: Any, sql: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    real = model_step.reconnect_wait

    def noted(n: int) -> float:
        tries.append(n)
        return real(n)

    monkeypatch.setattr(model_step, "reconnect_wait", noted)
    agent = asking(port)
    if kind == "async":
        aclient = agentrun.wrap(AsyncOpenAI(base_url=f"http://127.0.0.1:{port}", api_key="k"))

        @agentrun.agent(name="asking")
        async def asynchronous() -> str:
            async with aclient:  # in its own loop
                made = await aclient.chat.completions.create(model="m", messages=ASK)
            return str(made.choices[0].message.content)

        agent = asynchronous.with_options(key="k")
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(agent.run()))
    thread.start()
    until(lambda: len(tries) > 5 or not thread.is_alive())
    assert attempts(sql) == [*WAITED, ("attempt_started", 2, None)]
    shown = agentrun.as_text(agentrun.transcript("k"), width=200)
    assert "unreached · waits for the provider: ConnectError" in shown
    assert ", since 20" in shown
    with opened(port) as server:
        thread.join(60)
    assert told == ["there"]
    assert len(server.requests) == 1
    assert attempts(sql) == [*WAITED, ("attempt_started", 2, None), ("step_finished", 2, "ok")]
    assert sql("SELECT attempt FROM agentrun.spend") == [(2,)]
    assert tries == list(range(len(tries)))


def test_at_the_end_of_patience_it_is_the_steps_error_and_resume_asks_again(
    port: int, db: Any, sql: Any, quick: None
) -> None:
    agent = asking(port, patience=0.2)
    with pytest.raises(agentrun.RunFailed) as failed:
        agent.run()
    assert isinstance(failed.value.__cause__, openai.APIConnectionError)
    assert sql("SELECT status FROM agentrun.steps") == [("error",)]
    assert sql("SELECT count(*) FROM agentrun.spend") == [(0,)]
    with opened(port) as server:
        with pytest.raises(agentrun.RunFailed):
            agent.run()
        assert agentrun.resume("k") == "there"
    assert len(server.requests) == 1


def test_no_patience_is_none(port: int, db: Any, sql: Any) -> None:
    with pytest.raises(agentrun.RunFailed):
        asking(port, patience=0).run()
    assert attempts(sql) == [("attempt_started", 1, None), ("step_finished", 1, "error")]
    with pytest.raises(agentrun.ConfigError, match="patience"):
        asking(port, patience=-1)


def test_a_name_that_nobody_knows_is_waited_for(db: Any, sql: Any, quick: None) -> None:
    client = client_of("http://nobody.invalid", 0.5)

    @agentrun.agent
    def agent() -> None:
        client.chat.completions.create(model="m", messages=ASK)

    with pytest.raises(agentrun.RunFailed):
        agent.with_options(key="k").run()
    assert attempts(sql)[:2] == WAITED


def test_a_worker_parks_a_run_that_waits_and_executes_others(
    port: int, db: Any, sql: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentrun.models.retries.RECONNECT_BACKOFF", Backoff(0.4, 0.4))
    monkeypatch.setattr(model_step, "LONGEST_WAIT_IN_PLACE", 0.1)
    agent = asking(port)

    @agentrun.agent
    def other() -> str:
        return "done"

    with agentrun.Worker([agent, other], concurrency=1):
        handle = agent.submit()
        until(lambda: bool(sql("SELECT 1 FROM agentrun.journal WHERE event = 'parked'")))
        reason = str(sql("SELECT reason FROM agentrun.journal WHERE event = 'parked'")[0])
        assert "waits for the provider: ConnectError" in reason
        assert other.with_options(key="o").submit().result(timeout=60) == "done"
        with opened(port) as server:
            assert handle.result(timeout=60) == "there"
    assert len(server.requests) == 1
    assert sql("SELECT count(*) FROM agentrun.spend") == [(1,)]
    told = sql("SELECT DISTINCT substring(reason FROM 'since (.*) UTC;') FROM agentrun.journal "
               "WHERE event = 'parked'")  # fmt: skip
    assert len(told) == 1, "it waits since the first try, whoever tries"


def test_killed_while_it_waits_it_goes_on_waiting_and_asks_once(
    port: int, db: Any, dsn: str, sql: Any, quick: None
) -> None:
    agent = asking(port)

    def action() -> None:
        with agentrun.connect(dsn):
            agent.run()

    child = spawn(action)
    until(lambda: len(attempts(sql)) == 3)
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    with opened(port) as server:
        assert agent.run() == "there"
    assert len(server.requests) == 1


def test_a_run_that_waits_can_be_cancelled(port: int, db: Any, sql: Any) -> None:
    agent = asking(port)
    ends: list[BaseException] = []

    def execute() -> None:
        try:
            agent.run()
        except agentrun.AgentrunError as error:
            ends.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    until(lambda: len(attempts(sql)) > 1)
    agentrun.cancel("k", by="ada")
    thread.join(60)
    assert agentrun.get("k").status() == "cancelled"
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("name", "message", "waits"),
    [
        ("ConnectError", "[Errno 111] Connection refused", True),
        ("ConnectError", "[Errno -2] Name or service not known", True),
        ("ConnectError", "[SSL: WRONG_VERSION_NUMBER] wrong version number", True),
        ("ConnectError", "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", False),
        ("ConnectTimeout", "timed out", True),
        ("ProxyError", "502 Bad Gateway", True),
        ("ProxyError", "407 Proxy Authentication Required", False),
        ("ReadTimeout", "timed out", False),
        ("ReadError", "", False),
        ("RemoteProtocolError", "Server disconnected without sending a response.", False),
        ("PoolTimeout", "", False),
    ],
)
def test_what_is_waited_for(name: str, message: str, waits: bool) -> None:
    assert is_unreached(name, message) is waits
