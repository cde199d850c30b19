"""The double's background mode: what is created so is written, whoever listens, and billed once."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from openai import OpenAI

from agentrun.testing import Fault, Provider, Reply

ASK: Any = {"model": "gpt-5-mini", "input": "hello there", "background": True}


def finished(client: OpenAI, identifier: str) -> Any:
    """The response once it is written."""
    while (response := client.responses.retrieve(identifier)).status == "in_progress":
        time.sleep(0.01)
    return response


def test_it_is_billed_at_once_and_there_when_it_is_written(
    provider: Provider, client: OpenAI
) -> None:
    provider.say([Reply("slowly", delay_s=0.2)])
    made = client.responses.create(**ASK)
    assert (made.status, made.background, made.output, provider.billed()) == ("queued", True, [], 1)
    assert client.responses.retrieve(made.id).status == "in_progress"
    written = finished(client, made.id)
    assert (written.id, written.output_text, written.status) == (made.id, "slowly", "completed")
    (bill,) = provider.effects()
    assert bill.facts["response_id"] == made.id
    assert bill.facts["usage"]["output_tokens"] == written.usage.output_tokens


@pytest.mark.parametrize("chunks", range(9))
def test_a_stream_that_is_cut_goes_on_where_it_was(
    provider: Provider, client: OpenAI, chunks: int
) -> None:
    provider.say([Reply("one two three", chunks=3)])
    whole = [e.model_dump() for e in client.responses.create(**ASK, stream=True)]
    provider.arm(Fault.cut(chunks + 1, clean=True))
    first = list(client.responses.create(**ASK, stream=True))
    assert len(first) == chunks + 1
    last, identifier = first[-1].sequence_number, first[0].response.id  # type: ignore[union-attr]
    rest = list(client.responses.retrieve(identifier, stream=True, starting_after=last))
    seen = [e.model_dump() for e in [*first, *rest]]
    assert [(e["type"], e["sequence_number"]) for e in seen] == [
        (e["type"], e["sequence_number"]) for e in whole
    ]
    assert "".join(e["delta"] for e in seen if "delta" in e) == "one two three"
    assert provider.billed() == 2


def test_it_outlives_its_client(provider: Provider, client: OpenAI) -> None:
    provider.say([Reply("one two three four", chunks=4, pace_s=0.05)])
    stream = client.responses.create(**ASK, stream=True)
    begun: Any = next(iter(stream))
    stream.close()
    assert finished(client, begun.response.id).output_text == "one two three four"
    *_, last = client.responses.retrieve(begun.response.id, stream=True)
    assert last.type == "response.completed"
    assert provider.billed() == 1


def test_an_old_one_is_streamed_no_more() -> None:
    with (
        Provider(restream_s=0.0) as provider,
        OpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client,
    ):
        first: Any = next(iter(client.responses.create(**ASK, stream=True)))
        identifier = first.response.id
        with pytest.raises(openai.BadRequestError, match="more than 5 minutes old"):
            client.responses.retrieve(identifier, stream=True, starting_after=1)
        assert finished(client, identifier).output_text == "echo: hello there"


def test_one_that_was_no_stream_is_streamed_never(provider: Provider, client: OpenAI) -> None:
    identifier = client.responses.create(**ASK).id
    with pytest.raises(openai.BadRequestError, match=r"not created with stream=true"):
        client.responses.retrieve(identifier, stream=True)


def test_cancelling_ends_what_is_under_way_and_leaves_what_is_written(
    provider: Provider, client: OpenAI
) -> None:
    provider.say([Reply("never", delay_s=60)])
    identifier = client.responses.create(**ASK).id
    for _ in range(2):
        assert client.responses.cancel(identifier).status == "cancelled"
    assert client.responses.retrieve(identifier).status == "cancelled"
    provider.say()
    written = finished(client, client.responses.create(**ASK).id)
    assert client.responses.cancel(written.id).status == "completed"


def test_others_are_not_there(provider: Provider, client: OpenAI) -> None:
    plain = client.responses.create(model="gpt-5-mini", input="hello")
    for identifier in (plain.id, "resp_nobody"):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(identifier)
        with pytest.raises(openai.NotFoundError):
            client.responses.cancel(identifier)


def test_it_has_to_be_stored(provider: Provider, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="store"):
        client.responses.create(**ASK, store=False)
    assert provider.billed() == 0
