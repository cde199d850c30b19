"""The logger of agentrun. It masks secrets, because people read logs."""

from __future__ import annotations

import logging
import re

from agentrun.core.secrets import mask

__all__ = ["logger", "should_log_again"]

# Control characters, line separators, and characters that change the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

logger = logging.getLogger("agentrun")


def _clean(record: logging.LogRecord) -> bool:
    record.msg, record.args = _in_a_line(mask.text(record.getMessage())), None
    if record.exc_info:  # kept as text only, because a handler would format the secrets again
        text = logging.Formatter().formatException(record.exc_info)
        record.exc_text, record.exc_info = mask.text(text), None
    return True


def _in_a_line(text: str) -> str:
    """Escape control characters: text of a model must not begin a log line or move the cursor."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


logger.addFilter(_clean)


def should_log_again(times: int) -> bool:
    """Whether to log a failure again that has occurred ``times`` times before.

    True for the first and the fourth time, and then for every twentieth.
    """
    return times in (0, 3) or (times > 0 and times % 20 == 0)
