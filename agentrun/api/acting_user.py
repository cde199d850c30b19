"""The name under which decisions of this process are recorded."""

from __future__ import annotations

import getpass

from agentrun.core.events import UNNAMED

__all__ = ["acting_user"]


def acting_user() -> str:
    """The user's name in the operating system, or UNNAMED where the user has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return UNNAMED
