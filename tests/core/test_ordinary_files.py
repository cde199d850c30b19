"""Ordinary text is left alone, and searched in a few passes.

At most 0.02 % of source files may hold something masked: `tests/proof/test_false_positives.py`.
"""

from __future__ import annotations

import random
import re

from ordinary import masked, sources


def test_a_share_of_ordinary_files_is_left_alone() -> None:
    paths = random.Random(11).sample(sources(), 400)
    assert len(masked(paths)) <= 1, masked(paths)


def test_clean_text_is_searched_in_a_few_passes() -> None:
    """No rule is tried on a text that does not hold its hint."""
    from agentrun.core import rules

    text = "an ordinary text of an ordinary conversation. " * 1000
    tried = [rule for rule in rules.RULES if rule.hint in text.lower()]
    assert len(tried) <= 3, [rule.kind for rule in tried]
    assert not re.search(r"\(\?:.*\)\*\)\*", "".join(rule.regex for rule in rules.RULES))
