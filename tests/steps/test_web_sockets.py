"""A WebSocket to a model cannot be recorded, so it is refused inside a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

import agentrun


@pytest.fixture
def url() -> Iterator[str]:
    """A server that answers each message with the path of the connection."""

    def answer(connection: ServerConnection) -> None:
        for _ in connection:
            connection.send(connection.request.path if connection.request else "")

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


def say(url: str, path: str) -> str:
    with connect(f"ws://{url}{path}") as connection:
        connection.send("hello")
        return str(connection.recv())


def test_a_conversation_over_a_web_socket_is_refused_by_name(db: Any, url: str) -> None:
    client = agentrun.wrap(openai.OpenAI(base_url=f"http://{url}/v1", api_key="k"))

    @agentrun.agent
    def talk() -> None:
        with client.realtime.connect(model="gpt-realtime"):
            pass

    with pytest.raises(agentrun.RunFailed, match=r"127.0.0.1/v1/realtime .* WebSocket"):
        talk.run()
    assert say(url, "/v1/realtime") == "/v1/realtime", "outside a run it passes"


def test_in_async_code_and_for_the_responses_api_too(db: Any, url: str) -> None:
    client = agentrun.wrap(openai.AsyncOpenAI(base_url=f"http://{url}/v1", api_key="k"))

    @agentrun.agent
    async def talk() -> None:
        async with client.responses.connect():
            pass

    with pytest.raises(agentrun.RunFailed, match="/v1/responses"):
        asyncio.run(talk.arun())


def test_other_web_sockets_and_those_of_a_step_pass(db: Any, url: str) -> None:
    agentrun.wrap(openai.OpenAI(api_key="k"))
    talk_to_model = agentrun.step(say)

    @agentrun.agent
    def talk() -> list[str]:
        return [say(url, "/prices"), talk_to_model(url, "/v1/realtime")]

    assert talk.run() == ["/prices", "/v1/realtime"]
