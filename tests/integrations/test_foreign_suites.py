"""The test-suites of others: nothing but what is named goes otherwise inside our runs.

They take some minutes each, and need the extras ``openai-suite``, ``openai-agents-suite``,
``anthropic-suite``, ``langgraph-suite`` and ``mcp-suite``, and a package index: `pytest -m suite`.
"""

from __future__ import annotations

import anthropic_suite
import langgraph_suite
import mcp_suite
import openai_agents_suite
import openai_suite
import pytest
from foreign_suite import Foreign, main

SUITES = [
    openai_suite.SUITE,
    openai_agents_suite.SUITE,
    anthropic_suite.SUITE,
    langgraph_suite.SUITE,
    mcp_suite.SUITE,
]


@pytest.mark.suite
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.distribution)
def test_no_test_of_others_differs_for_no_named_reason(suite: Foreign) -> None:
    assert main(suite, []) == 0
