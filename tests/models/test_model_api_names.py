"""An API of a provider has one name, by which every table of the package knows it."""

from __future__ import annotations

from agentrun.core import apis
from agentrun.core.divergence import _CONVERSATIONS
from agentrun.models import cost_estimate, endpoints, reply, reply_flaws, request

NAMES = {row.api for row in (*endpoints.ENDPOINTS, endpoints.RETRIEVE)}
TABLES = {
    "limits of a reply": set(cost_estimate.LIMITS),
    "pictures": set(cost_estimate.PICTURE_OUTPUT_TOKENS),
    "replies that are checked": set(reply_flaws.KNOWN),
    "streams with an end": set(reply.APIS_WITH_END_EVENT),
    "requests that the body decides": set(request.APIS_COMPARED_BY_BODY),
}


def test_each_name_is_that_of_an_endpoint() -> None:
    listed: set[str] = set()
    for name in apis.__all__:
        value = getattr(apis, name)
        listed |= {value} if isinstance(value, str) else set(value)
    assert listed <= NAMES


def test_every_table_speaks_of_apis_that_an_endpoint_has() -> None:
    assert {what: names - NAMES for what, names in TABLES.items() if names - NAMES} == {}
    assert {name.partition(".")[0] for name in NAMES} >= _CONVERSATIONS


def test_the_names_are_those_that_journals_hold() -> None:
    """Another name would make each call of a run in progress a divergence."""
    assert (apis.CHAT, apis.COMPLETIONS, apis.EMBEDDINGS) == (
        "chat.completions",
        "completions",
        "embeddings",
    )
    assert (apis.RESPONSES, apis.RETRIEVE_RESPONSE) == ("responses", "responses.retrieve")
    assert (apis.MESSAGES, apis.GENERATE_CONTENT) == ("messages", "generateContent")
    assert (apis.CONVERSE, apis.COHERE_CHAT) == ("converse", "chat")
    assert apis.IMAGE_APIS == ("images.generations", "images.edits", "images.variations")
    ollama = (apis.OLLAMA_CHAT, apis.OLLAMA_GENERATE, apis.OLLAMA_EMBED)
    assert ollama == ("ollama.chat", "ollama.generate", "ollama.embed")
