"""The names of those APIs of providers that are treated in a way of their own.

A name stands in the journal, in `ModelRequest.api`. `agentrun.models.endpoints` says by a table
which request belongs to which API, and names those that need no rules of their own as well.
"""

from __future__ import annotations

__all__ = [
    "CHAT",
    "COHERE_CHAT",
    "COMPLETIONS",
    "CONVERSE",
    "EMBEDDINGS",
    "GENERATE_CONTENT",
    "IMAGE_APIS",
    "MESSAGES",
    "OLLAMA_CHAT",
    "OLLAMA_EMBED",
    "OLLAMA_GENERATE",
    "RESPONSES",
    "RETRIEVE_RESPONSE",
]

CHAT = "chat.completions"
COMPLETIONS = "completions"
RESPONSES = "responses"
RETRIEVE_RESPONSE = "responses.retrieve"
EMBEDDINGS = "embeddings"
IMAGE_APIS = ("images.generations", "images.edits", "images.variations")
MESSAGES = "messages"  # Anthropic's
GENERATE_CONTENT = "generateContent"  # Google's
CONVERSE = "converse"  # Amazon's
COHERE_CHAT = "chat"
OLLAMA_CHAT = "ollama.chat"
OLLAMA_GENERATE = "ollama.generate"
OLLAMA_EMBED = "ollama.embed"
