"""A provider double and a client of it, fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from agentrun.testing import Provider


@pytest.fixture
def client(provider: Provider) -> Iterator[OpenAI]:
    with OpenAI(base_url=provider.base_url, api_key="sk-very-secret", max_retries=0) as made:
        yield made
