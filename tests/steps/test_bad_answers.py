"""Answers that are none: recorded as errors, so that a failed run has a way on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from sayings import Saying, Server, chunk, completion

import agentrun
from agentrun.core.pauses import Backoff
from agentrun.view.layout import as_text

BUSY = Saying.json({"error": {"message": "Provider returned error", "code": 502}})
PAGE = Saying((b"<html>bad gateway</html>",), headers=(("content-type", "text/html"),))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("agentrun.models.retries.BACKOFF", Backoff(0.0, 0.0))
    with Server() as server:
        yield server


def asking(server: Server, stream: bool = False) -> Any:
    client = agentrun.wrap(openai.OpenAI(base_url=server.url, api_key="k"))

    @agentrun.agent(name="asking")
    def agent() -> str:
        messages: Any = [{"role": "user", "content": "hi"}]
        made = client.chat.completions.create(model="m", messages=messages, stream=stream)
        if stream:
            return "".join(part.choices[0].delta.content or "" for part in made)
        return str(made.choices[0].message.content)

    return agent.with_options(key="k")


@pytest.mark.parametrize(("bad", "billing"), [(BUSY, None), (PAGE, "possibly billed")])
def test_a_failed_run_asks_again_once_the_provider_is_well(
    db: Any, told: Server, sql: Any, bad: Saying, billing: str | None
) -> None:
    told.say(bad, bad, bad)
    agent = asking(told)
    with pytest.raises(agentrun.RunFailed):
        agent.run()
    assert sql("SELECT status FROM agentrun.steps") == [("error",)]
    bills = [row[0] for row in sql("SELECT billing FROM agentrun.spend ORDER BY seq")]
    assert bills == ([billing] * 3 if billing else [])
    shown = as_text(agentrun.transcript("k"))
    assert "NoAnswer" in shown
    with pytest.raises(agentrun.RunFailed):
        agent.run()
    assert len(told.requests) == 3
    told.say(Saying.json(completion("well again")))
    assert agentrun.resume("k") == "well again"
    assert agent.run() == "well again"
    assert len(told.requests) == 4


def test_an_error_in_the_middle_of_a_stream_is_reopened(db: Any, told: Server, sql: Any) -> None:
    told.say(Saying.events(chunk("half"), {"error": {"message": "overloaded"}}))
    agent = asking(told, stream=True)
    with pytest.raises(agentrun.RunFailed) as failed:
        agent.run()
    assert isinstance(failed.value.__cause__, openai.APIError)
    assert sql("SELECT status FROM agentrun.steps") == [("error",)]
    told.say(Saying.events(chunk("all of it"), chunk(finish="stop"), "[DONE]"))
    assert agentrun.resume("k") == "all of it"
