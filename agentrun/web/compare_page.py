"""Two runs side by side, by the identity of their steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from agentrun.api.comparison import compare
from agentrun.view.comparison import comparison_html
from agentrun.web.page import Page
from agentrun.web.site import PageRoute, Site

__all__ = ["PAGES", "CompareData"]


@dataclass(frozen=True)
class CompareData:
    """The comparison of two runs, as `agentrun compare --json` has it; null without two keys."""

    a: str
    b: str
    comparison: dict[str, Any] | None


async def _compare(site: Site, request: Request) -> Page:
    a, b = (request.query_params.get(name, "") for name in ("a", "b"))
    if not (a and b):
        return Page("compare.html", CompareData(a, b, None), {"html": ""})
    found = await site.read(compare, a, b)
    return Page(
        "compare.html",
        CompareData(a, b, found.to_dict()),
        {"html": comparison_html(found, styled=False)},
    )


PAGES = (
    PageRoute(
        "compare",
        _compare,
        "Two runs, compared by the identity of their steps",
        CompareData,
        {"a": "the key of a run", "b": "the key of another"},
        name="Compare",
    ),
)
