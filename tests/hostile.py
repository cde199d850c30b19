"""Values that are hard to keep: any text that Python holds, and any finite JSON made of it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

UNITS = [
    "\0",
    "\ud83d",
    "\ude00",
    "😀",
    "␛",
    "␛0000",
    "\\",
    "\\u0000",
    "\\u241b0000",
    '"',
    "é",
    "\x7f",
    "\u202e",  # turns text around
    "\x1b[2J",
    "\r\n",
    "%s%(a)s{0}",
    "'; DROP TABLE agentrun.journal; --",
    "<script>",
    "[/oops]",
    "\n```\n",
]
TEXT = st.text(st.characters(exclude_categories=()), max_size=20) | st.lists(
    st.sampled_from(UNITS), max_size=8
).map("".join)
LARGEST = 10**4300 - 1
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e2, -0.0, 5e-324, LARGEST, -LARGEST])
)
JSON = st.recursive(
    SCALAR | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=25,
)


def exactly(value: Any) -> str:
    """A text that differs where ``==`` is blind: 1 and True, -0.0 and 0.0, the order of keys."""
    return repr(value)
