"""Times in URLs, and bars for days."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from agentrun.view.safe import Markup, element
from agentrun.web.page import Refused

__all__ = ["days_since", "draw_days", "time_in"]

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def time_in(values: Mapping[str, str], name: str, now: datetime) -> datetime | None:
    """A time among the parameters: an age such as ``7d``, or ISO 8601 (UTC without a zone).

    Raises Refused.
    """
    text = values.get(name, "").strip()
    if not text:
        return None
    try:
        if found := re.fullmatch(r"([0-9]{1,5})([mhdw])", text):
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(400, "bad_time", f"{name} is an age such as 7d, or a time") from None


def days_since(since: datetime, now: datetime) -> list[str]:
    """The days from one time to another, as ``2026-11-30``. At most the last 366."""
    count = min(366, (now.astimezone(UTC).date() - since.astimezone(UTC).date()).days + 1)
    last = now.astimezone(UTC).date()
    return [str(last - timedelta(days=back)) for back in range(count - 1, -1, -1)]


def draw_days(
    days: Sequence[str], amounts: Mapping[str, float], bad: Mapping[str, float], label: str
) -> Markup:
    """One bar a day, as a picture that needs no script; ``bad`` is the part drawn in red."""
    most = max([*amounts.values(), 0.0]) or 1.0
    bars = []
    for place, day in enumerate(days):
        amount = amounts.get(day, 0.0)
        for kind, part in (("", amount), ("bad", bad.get(day, 0.0))):
            if part > 0:
                height = max(1.0, 50 * part / most)
                shape = {
                    "x": f"{10 * place + 1}", "width": "8", "class": kind,
                    "y": f"{52 - height:.1f}", "height": f"{height:.1f}",
                }  # fmt: skip
                bars.append(element("rect", element("title", f"{day}: {part:g}"), **shape))
    view = {
        "viewBox": f"0 0 {10 * max(1, len(days))} 54", "preserveAspectRatio": "none",
        "class": "spark", "role": "img", "aria-label": label,
    }  # fmt: skip
    return element("svg", *bars, **view)
