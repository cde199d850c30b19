"""An agent of google-genai, which calls the tools itself; its answers are streamed."""

from __future__ import annotations

from google import genai
from outside_tools import KEY, act, look, models_url

import agentrun

agentrun.install()


@agentrun.tool(effect="read")
def look_up(order: str) -> str:
    """Look an order up."""
    return look(order)


@agentrun.tool(effect="idempotent")
def keep(order: str) -> str:
    """Keep an order."""
    return act(order)


@agentrun.agent
def with_google_genai(question: str) -> str:
    options = {"base_url": models_url().removesuffix("/v1")}
    client = genai.Client(api_key=KEY, http_options=options)
    chat = client.chats.create(model="gemini-3-flash", config={"tools": [look_up, keep]})
    return "".join(chunk.text or "" for chunk in chat.send_message_stream(question))
