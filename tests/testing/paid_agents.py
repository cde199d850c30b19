"""Agents that pay for more than conversations; every client is addressed to its real provider."""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

import agentrun

SOUND = b"ID3\x04 a short sound \xff\xfb"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


@agentrun.agent
def studio(subject: str = "a cat") -> list[str]:
    """Pictures, sounds and a moderation, by OpenAI."""
    from openai import OpenAI

    client = agentrun.wrap(OpenAI())
    picture = client.images.generate(model="gpt-image-1", prompt=subject).data
    edited = client.images.edit(model="gpt-image-1", image=io.BytesIO(SOUND), prompt="bigger").data
    said = client.audio.speech.create(model="tts-1", voice="ash", input=subject).content
    heard = client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", io.BytesIO(said)))
    flagged = client.moderations.create(input=subject).results[0].flagged
    pictures = [image.b64_json or "" for image in (picture or []) + (edited or [])]
    return [*map(digest, map(str.encode, pictures)), digest(said), heard.text, str(flagged)]


@agentrun.agent
def jobs() -> list[str]:
    """What is kept at the provider: the later calls name what the earlier ones made."""
    from openai import OpenAI

    client = agentrun.wrap(OpenAI())
    file = client.files.create(file=("b.jsonl", b'{"n": 1}\n'), purpose="batch")
    batch: Any = client.batches.create(
        input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
    )
    store = client.vector_stores.create(name="shelf")
    conversation = client.conversations.create()
    assert batch.input_file_id == file.id
    return [kind.partition("_")[0] for kind in (batch.id, store.id, conversation.id)]


@agentrun.agent
def clouds(question: str = "how are you") -> list[str]:
    """Bedrock streamed, Gemini and Ollama by a plain HTTP client, legacy completions."""
    from anthropic import AnthropicBedrock
    from openai import OpenAI

    bedrock = agentrun.wrap(
        AnthropicBedrock(aws_access_key="k", aws_secret_key="s", aws_region="us-east-1")
    )
    with bedrock.messages.stream(
        model="anthropic.claude-sonnet-4-5-20250929-v1:0",
        max_tokens=50,
        messages=[{"role": "user", "content": question}],
    ) as stream:
        first = "".join(stream.text_stream)
    with agentrun.http_client() as http:
        gemini = http.post(
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
            json={"contents": [{"role": "user", "parts": [{"text": question}]}]},
            headers={"x-goog-api-key": "k"},
        ).json()
        ask = {"model": "llama3.2", "prompt": question}
        with http.stream("POST", "http://ollama.invalid:11434/api/generate", json=ask) as lines:
            ollama = list(lines.iter_lines())
    legacy = agentrun.wrap(OpenAI()).completions.create(model="m", prompt=question)
    text = gemini["candidates"][0]["content"]["parts"][0]["text"]
    return [first, text, str(len(ollama)), legacy.choices[0].text]


@agentrun.agent
def poller(question: str = "how are you") -> str:
    """Its own background response, asked about until it is done."""
    from openai import OpenAI

    client = agentrun.wrap(OpenAI())
    response = client.responses.create(model="gpt-5-mini", input=question, background=True)
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response.output_text


@agentrun.agent
def forgetful(subject: str = "a cat") -> str:
    """Pays by a client that nobody wrapped, and not even an SDK's."""
    import json
    import os
    import urllib.request

    url = f"{os.environ['OPENAI_BASE_URL']}/images/generations"
    body = json.dumps({"model": "gpt-image-1", "prompt": subject}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return digest(answer.read()[-40:])
