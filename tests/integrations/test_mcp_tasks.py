"""MCP tasks: a call that became a task is never sent again, and a server's tasks outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import mcp
import mcp.types
import mcp_agents
import pytest
from crashing import killed, until
from mcp import MCPError, StdioServerParameters
from mcp_agents import cashier, customer, packed, packer, payer

import agentrun
from agentrun.integrations import mcp_server, mcp_tasks
from agentrun.integrations.mcp import KEY, Tasks
from agentrun.integrations.mcp_server import make_server


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTSIDE", str(tmp_path))
    return tmp_path


def with_server(
    use: Callable[[mcp.Client], Awaitable[Any]],
    *extensions: Any,
    answers: bool = False,
    agents: Sequence[Any] = (packer, payer),
) -> Any:
    """What ``use`` returns of a client of a server in this process."""

    async def serve() -> Any:
        server = make_server(list(agents), answers=answers)
        async with mcp.Client(server, extensions=list(extensions)) as client:
            return await use(client)

    return asyncio.run(serve())


def with_worker(run: Callable[..., Any], **arguments: Any) -> Any:
    """What a run returns that calls a server in this process, while a worker works for that."""
    with agentrun.Worker([packer, payer]):
        return run(**arguments)


# -- the client ------------------------------------------------------------------------------------


def test_killed_while_its_task_goes_on_a_run_sends_no_call_again(
    db: Any, dsn: str, outside: Path, sql: Any
) -> None:
    keyed = customer.with_options(key="k")
    (outside / "die").write_text("k")
    killed(lambda: (agentrun.connect(dsn), with_worker(keyed.run, orders=["7"])))
    (recorded,) = sql("SELECT result ->> 'taskId', status FROM agentrun.tool_calls WHERE key = 'k'")
    (outside / "die").unlink()
    assert with_worker(keyed.run, orders=["7"]) == ["packed 7"]
    tasks = sql("SELECT key, status FROM agentrun.runs WHERE agent = 'mcp_packer'")
    assert tasks == [(recorded[0], "done")]
    assert packed() == ["7"]
    sent = sql("SELECT attempt, effect FROM agentrun.tool_calls WHERE key = 'k'")
    assert sent == [(1, "idempotent")]


def test_a_worker_parks_a_run_while_its_task_goes_on(
    db: Any, outside: Path, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_server, "POLL_INTERVAL_MS", 3000)  # new tasks count for 2 seconds
    (outside / "wait").touch()
    with agentrun.Worker([customer, packer]):
        handle = customer.with_options(key="k").submit(orders=["7"])
        parked = "SELECT 1 FROM agentrun.journal WHERE event = 'parked' AND parked_for = 'time'"
        until(lambda: bool(sql(parked)))
        (outside / "wait").unlink()
        assert handle.result() == ["packed 7"]
    assert len(sql("SELECT 1 FROM agentrun.runs WHERE agent = 'mcp_packer'")) == 1


def test_a_cancelled_run_cancels_its_task(db: Any, outside: Path, sql: Any) -> None:
    (outside / "wait").touch()
    polls = "SELECT 1 FROM agentrun.steps WHERE name = 'tasks/get'"
    cancelled = (
        "SELECT r.agent FROM agentrun.mail m JOIN agentrun.runs r USING (run_id) "
        "WHERE m.kind = 'cancel' ORDER BY 1"
    )

    def cancel() -> None:
        until(lambda: bool(sql(polls)))
        agentrun.cancel("k")

    cancelling = threading.Thread(target=cancel)
    with agentrun.Worker([packer]):
        cancelling.start()
        with pytest.raises(agentrun.RunError):
            customer.with_options(key="k").run(orders=["7"])
        cancelling.join()
        found = sql(cancelled)
        (outside / "wait").unlink()
    assert found == [("mcp_customer",), ("mcp_packer",)]


def test_what_a_task_asks_is_answered_by_the_client_once(db: Any, outside: Path, sql: Any) -> None:
    assert with_worker(cashier.with_options(key="k").run) == {"paid": 5}
    asked = (outside / "asked").read_text().splitlines()
    assert len(asked) == 1
    assert 'mcp_payer asks to call mcp_pay with {"cents": 5}' in asked[0]
    (decision,) = sql("SELECT status, by FROM agentrun.journal WHERE event = 'resolved'")
    assert decision[0] == "approved"


def test_without_a_run_the_extension_waits_for_the_task(db: Any) -> None:
    async def call(client: mcp.Client) -> Any:
        result = await client.call_tool("mcp_packer", {"order": "7"})
        return result.content[0].text  # type: ignore[union-attr]

    assert with_server(call, Tasks()) == "packed 7"


def test_an_interrupted_call_whose_answer_is_lost_is_in_doubt(db: Any, sql: Any) -> None:
    server = mcp.server.MCPServer("shop")

    @server.tool()
    def buy() -> str:
        raise MCPError(mcp.types.CONNECTION_CLOSED, "Connection closed")

    @agentrun.agent(name="mcp_buyer")
    async def buyer() -> None:
        async with mcp.Client(server) as shop:
            await mcp_agents.durable(shop).call_tool("buy", {})

    with pytest.raises(agentrun.RunHeld, match="outcome is unknown"):
        buyer.run()


def test_an_error_of_a_server_keeps_its_code(db: Any) -> None:
    server = mcp.server.MCPServer("shop")

    @server.tool()
    def buy() -> str:
        raise MCPError(-7, "sold out", {"left": 0})

    @agentrun.agent(name="mcp_late_buyer")
    async def late_buyer() -> Any:
        async with mcp.Client(server) as shop:
            try:
                await mcp_agents.durable(shop).call_tool("buy", {})
            except MCPError as error:
                return [error.code, error.message, error.data]

    keyed = late_buyer.with_options(key="k")
    assert keyed.run() == [-7, "sold out", {"left": 0}]


# -- the server ------------------------------------------------------------------------------------


def test_agents_are_tools_and_a_key_names_the_run(db: Any, sql: Any) -> None:
    async def use(client: mcp.Client) -> Any:
        (first, second) = (await client.list_tools()).tools
        assert first.description == "Pack an order."
        order = {"type": "string", "description": "the number of the order."}
        assert first.input_schema["properties"]["order"] == order
        assert second.name == "mcp_payer"
        texts = []
        for arguments, meta in (
            ({"order": "7", "key": "a"}, None),
            ({"order": "7"}, {KEY: "a"}),
            ({"order": "8"}, {KEY: "a"}),
            ({"order": 7.5}, None),
            ({"order": "none"}, None),
        ):
            result = await client.call_tool("mcp_packer", arguments, meta=meta)  # type: ignore[arg-type]
            texts.append((result.is_error, result.content[0].text))  # type: ignore[union-attr]
        with pytest.raises(MCPError, match="there is no tool 'x'"):
            await client.call_tool("x", {})
        return texts

    one, again, other, wrong, failed = with_server(use)
    assert one == again == (False, "packed 7")
    assert other[0]
    assert "run 'a' was started with other arguments" in other[1]
    assert wrong[0]
    assert "the arguments are not valid: order" in wrong[1]
    assert failed[0]
    assert "there is no such order" in failed[1]
    assert len(sql("SELECT 1 FROM agentrun.runs WHERE key = 'a'")) == 1


def test_what_waits_for_a_person_says_how_to_answer(db: Any) -> None:
    async def call(client: mcp.Client) -> Any:
        result = await client.call_tool("mcp_payer", {"cents": 5, "key": "k"})
        return result.is_error, result.content[0].text  # type: ignore[union-attr]

    async def ask(client: mcp.Client) -> Any:
        task = await mcp_tasks.read_task(client.session, "k")
        (waiting,) = agentrun.inbox("k")
        said = mcp.types.ElicitResult(action="accept", content={"decision": "approve"})
        answers: Any = {f"{waiting.step}-{waiting.fingerprint}": said}
        update = mcp_tasks.TaskUpdate(task_id="k", input_responses=answers)
        request = mcp_tasks.UpdateTaskRequest(params=update)
        await client.session.send_request(request, mcp.types.Result)
        return task

    failed, text = with_server(call)
    assert failed
    assert "agentrun inbox k" in text
    assert "call again with key='k'" in text
    task = with_server(ask, Tasks())
    assert (task.status, task.input_requests) == ("input_required", {})
    assert "agentrun inbox k" in task.status_message
    assert len(agentrun.inbox("k")) == 1  # clients may not decide here


def test_a_request_for_a_larger_budget_is_no_question_about_a_call(
    db: Any, client: Any, provider: Any
) -> None:
    provider.say(["one", "two"])

    @agentrun.agent(name="mcp_poor")
    def poor() -> str:
        for question in ("a", "b"):
            client.responses.create(model="gpt-5-mini", input=question)
        return "done"

    with pytest.raises(agentrun.RunHeld):
        poor.with_options(key="k", budget=agentrun.Budget(model_calls=1)).run()

    (waiting,) = agentrun.inbox("k")

    async def approve(client: mcp.Client) -> Any:
        said = mcp.types.ElicitResult(action="accept", content={"decision": "approve"})
        answers: Any = {f"{waiting.step}-{waiting.fingerprint}": said}
        update = mcp_tasks.TaskUpdate(task_id="k", input_responses=answers)
        request = mcp_tasks.UpdateTaskRequest(params=update)
        await client.session.send_request(request, mcp.types.Result)
        return await mcp_tasks.read_task(client.session, "k")

    task = with_server(approve, Tasks(), answers=True, agents=[poor])
    assert (task.status, task.input_requests) == ("input_required", {})
    assert "agentrun inbox k" in task.status_message
    assert agentrun.inbox("k") == [waiting]  # it is not decided


def test_only_runs_of_its_agents_are_tasks_and_only_for_clients_that_declare_them(
    db: Any, outside: Path
) -> None:
    @agentrun.agent(name="mcp_stranger")
    def stranger() -> str:
        return "secret"

    stranger.with_options(key="other").run()

    async def ask(client: mcp.Client) -> list[int]:
        codes = []
        for task in ("other", "missing"):
            with pytest.raises(MCPError) as refused:
                await mcp_tasks.read_task(client.session, task)
            codes.append(refused.value.code)
        return codes

    assert with_server(ask, Tasks()) == [mcp.types.INVALID_PARAMS] * 2
    assert with_server(ask) == [mcp.types.MISSING_REQUIRED_CLIENT_CAPABILITY] * 2


def test_the_command_serves_over_stdin_and_keeps_what_agents_print_away(
    dsn: str, outside: Path
) -> None:
    env = {**os.environ, "AGENTRUN_DATABASE_URL": dsn, "OUTSIDE": str(outside)}
    file = str(Path(mcp_agents.__file__))
    command = ["-m", "agentrun", "mcp", f"{file}:mcp_packer", f"{file}:mcp_payer"]
    server = StdioServerParameters(command=sys.executable, args=command, env=env)

    async def use() -> Any:
        async with mcp.Client(server, extensions=[Tasks()]) as client:
            return await client.call_tool("mcp_packer", {"order": "7"})

    assert asyncio.run(use()).content[0].text == "packed 7"


def run_or_resume(agent: Any, **arguments: Any) -> Any:
    """Run the agent; resume it where the client of the SDK gave the server up before it was back.

    That depends on how long a server takes to start. The task must not be lost either way.
    """
    try:
        return agent.run(**arguments)
    except agentrun.RunFailed as failed:
        if "ExceptionGroup" not in str(failed):
            raise
        for _ in range(20):
            time.sleep(1)
            with contextlib.suppress(agentrun.RunFailed):
                return agentrun.resume("k")
        raise


def test_a_killed_server_is_restarted_and_its_task_goes_on(
    db: Any, dsn: str, outside: Path, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("URL", f"http://127.0.0.1:{port}/mcp")
    command = [sys.executable, "-m", "agentrun", "--dsn", dsn, "mcp", mcp_agents.__file__]

    def start() -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [*command, "--http", "--port", str(port), "--json"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=os.environ["AGENTRUN_HOME"],
        )
        assert started.stdout is not None
        with started.stdout:
            assert started.stdout.readline()
        return started

    (outside / "die").touch()
    servers = [start()]

    def restart() -> None:
        servers[0].wait()
        (outside / "die").unlink()
        servers.append(start())

    restarting = threading.Thread(target=restart)
    restarting.start()
    try:
        assert run_or_resume(customer.with_options(key="k"), orders=["7"]) == ["packed 7"]
    finally:
        restarting.join()
        servers[-1].terminate()
        servers[-1].wait()
    assert packed() == ["7"]
    assert len(sql("SELECT 1 FROM agentrun.runs WHERE agent = 'mcp_packer'")) == 1
