"""agentrun's log, from which secrets are removed like from everything else."""

from __future__ import annotations

import logging

from agentrun.core.secrets import redact

__all__ = ["logger", "now_and_then"]

logger = logging.getLogger("agentrun")


def _clean(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact.text(record.getMessage()), None
    if record.exc_info:  # as text only: whoever formats it again would not remove them
        text = logging.Formatter().formatException(record.exc_info)
        record.exc_text, record.exc_info = redact.text(text), None
    return True


logger.addFilter(_clean)


def now_and_then(times: int) -> bool:
    """Whether to say once more what was tried in vain so many times before."""
    return times in (0, 3) or (times > 0 and times % 20 == 0)
