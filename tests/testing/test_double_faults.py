"""Each fault, as the real SDK meets it, and what the ledger says of it."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from agentrun.testing import Control, Entry, Fault, Provider

MODEL = "gpt-5-mini"
HELLO: list[Any] = [{"role": "user", "content": "one two three four"}]
AGES = 3600.0  # seconds; no test waits for it


def say(client: OpenAI, text: str = "hello") -> str:
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}]
    )
    return str(reply.choices[0].message.content)


def stream(client: OpenAI, got: list[str] | None = None) -> list[str]:
    """The pieces of a streamed echo; ``got`` keeps those that came before an error."""
    pieces = [] if got is None else got
    for event in client.chat.completions.create(model=MODEL, messages=HELLO, stream=True):
        pieces.append(event.choices[0].delta.content or "")
    return pieces


def only(provider: Provider) -> Entry:
    [entry] = provider.ledger()
    return entry


WHOLE = ["", "echo:", " one", " two", " three", " four", ""]


def test_dropped_before_answering_is_not_billed(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.drop())
    with pytest.raises(openai.APIConnectionError):
        say(client)
    assert (only(provider).outcome, only(provider).reason) == (
        "refused",
        "fault: dropped at received",
    )
    assert say(client) == "echo: hello"


def test_dropped_after_billing_is_billed_and_lost(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.drop(at="effect"))
    with pytest.raises(openai.APIConnectionError):
        say(client)
    assert provider.billed() == 1
    assert only(provider).ending == "aborted"


def test_stalled_before_the_headers_is_billed_and_runs_into_a_timeout(
    provider: Provider, client: OpenAI
) -> None:
    provider.arm(Fault.stall(AGES))
    with pytest.raises(openai.APITimeoutError):
        say(client.with_options(timeout=0.2))
    provider.wait_for("aborted")
    assert provider.billed() == 1


def test_stalled_amid_a_stream_delivers_the_chunks_before(
    provider: Provider, client: OpenAI
) -> None:
    provider.arm(Fault.stall(AGES, at=3))
    got: list[str] = []
    with pytest.raises((openai.APITimeoutError, httpx2.ReadTimeout)):
        stream(client.with_options(timeout=0.5), got)
    assert got == WHOLE[:3]
    provider.wait_for("aborted")


def test_a_short_stall_only_delays(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.stall(0.01, at=3))
    assert stream(client) == WHOLE


def test_cut_amid_a_stream_is_an_error(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.cut(after=4))
    got: list[str] = []
    with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
        stream(client, got)
    assert got == WHOLE[:4]
    assert only(provider).ending == "aborted"


def test_cut_cleanly_looks_like_the_end(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.cut(after=4, clean=True))
    assert stream(client) == WHOLE[:4]
    assert only(provider).ending == "aborted"
    assert stream(client) == WHOLE


def test_a_stream_can_lack_its_done_marker(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.no_done())
    body: dict[str, Any] = {"model": MODEL, "messages": HELLO, "stream": True}
    url = f"{provider.base_url}/chat/completions"
    lacking = httpx2.post(url, json=body, trust_env=False).text
    whole = httpx2.post(url, json=body, trust_env=False).text
    assert "[DONE]" not in lacking
    assert whole.count("data: ") == lacking.count("data: ") + 1
    assert whole.endswith("data: [DONE]\n\n")
    provider.arm(Fault.no_done())
    assert stream(client) == WHOLE


def test_a_429_names_when_to_come_back(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.error(429, retry_after=0.01))
    with pytest.raises(openai.RateLimitError) as error:
        say(client)
    assert error.value.response.headers["retry-after"] == "0.01"
    assert only(provider).outcome == "refused"


def test_the_sdk_retries_through_errors_and_is_billed_once(
    provider: Provider, client: OpenAI
) -> None:
    provider.arm(Fault.error(503, retry_after=0.01, times=2))
    assert say(client.with_options(max_retries=2)) == "echo: hello"
    assert [entry.outcome for entry in provider.ledger()] == ["refused", "refused", "effect"]


def test_errors_keep_the_connection_usable(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.error(500))
    with pytest.raises(openai.InternalServerError, match="armed to answer 500"):
        say(client)
    assert say(client) == "echo: hello"


def test_malformed_json_is_billed(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.malformed())
    with pytest.raises((openai.APIError, json.JSONDecodeError)):
        say(client)
    assert provider.billed() == 1
    assert only(provider).ending == "delivered"


def test_a_malformed_event_breaks_a_stream(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.malformed())
    got: list[str] = []
    with pytest.raises((openai.APIError, json.JSONDecodeError)):
        stream(client, got)
    assert got == WHOLE[:4]


@pytest.mark.parametrize("talk", [say, stream])
def test_a_truncated_body_is_an_error(provider: Provider, client: OpenAI, talk: Any) -> None:
    provider.arm(Fault.truncate())
    with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
        talk(client)
    assert provider.billed() == 1
    assert only(provider).ending == "aborted"


def test_slow_chunks_leave_one_by_one(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.slow(AGES))
    events = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    with pytest.raises(TimeoutError, match="chunk did not reach 1"):
        provider.wait_for("chunk", timeout=0.1)
    events.close()
    provider.wait_for("aborted")
    provider.arm(Fault.slow(0.001))
    assert stream(client) == WHOLE


def test_a_held_request_goes_on_when_released(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.hold(at="received"))
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(say(client)))
    thread.start()
    provider.wait_for("held")
    assert provider.billed() == 0
    provider.release()
    thread.join()
    assert answers == ["echo: hello"]
    assert provider.billed() == 1


def test_a_stream_is_held_after_exactly_so_many_chunks(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.hold(at=3))
    events = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    first = [next(events).choices[0].delta.content for _ in range(3)]
    provider.wait_for("held")
    with pytest.raises(TimeoutError):
        provider.wait_for("chunk", 4, timeout=0.05)
    provider.release()
    rest = [event.choices[0].delta.content or "" for event in events]
    assert [*first, *rest] == WHOLE


def test_a_fault_strikes_the_nth_matching_request(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.error(500, nth=2, times=2, when={"contains": "red"}))
    outcomes = []
    for text in ("red", "blue", "red", "blue", "red", "red"):
        try:
            outcomes.append(say(client, text))
        except openai.InternalServerError:
            outcomes.append("500")
    assert outcomes == ["echo: red", "echo: blue", "500", "echo: blue", "500", "echo: red"]


def test_a_fault_without_a_limit_ends_when_disarmed(provider: Provider, client: OpenAI) -> None:
    provider.arm(Fault.error(500, times=0))
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            say(client)
    provider.disarm()
    assert say(client) == "echo: hello"


def test_a_double_is_armed_by_url_alone(provider: Provider, client: OpenAI) -> None:
    Control(provider.url).arm(Fault.error(500))
    with pytest.raises(openai.InternalServerError):
        say(client)


def test_faults_may_be_armed_at_the_start() -> None:
    with (
        Provider(faults=[Fault.error(500)]) as provider,
        OpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client,
        pytest.raises(openai.InternalServerError),
    ):
        say(client)


def test_a_fault_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="nth >= 1"):
        Fault.drop(nth=0)
    with pytest.raises(ValueError, match="no field turns;"):
        Fault.drop(when={"turns": 1})  # type: ignore[typeddict-unknown-key]
