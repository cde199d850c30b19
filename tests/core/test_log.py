"""The log: a line is a line, whatever a model wrote."""

from __future__ import annotations

import pytest

from agentrun.core.log import logger


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nERROR root: paid", r"a\nERROR root: paid"),
        ("a\r\x1b[2Jb", r"a\r\x1b[2Jb"),
        ("a\u2028b\u202ec\x9b", r"a\u2028b\u202ec\x9b"),
        ("tab\tand ü stay readable", r"tab\tand ü stay readable"),
    ],
)
def test_text_of_a_model_begins_no_line_of_its_own(
    caplog: pytest.LogCaptureFixture, text: str, shown: str
) -> None:
    logger.warning("it said: %s", text)
    assert caplog.messages == [f"it said: {shown}"]
