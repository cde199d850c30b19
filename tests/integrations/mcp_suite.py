"""mcp's own tests of its client, with every tool call of a client a recorded step.

Run it as one command; it takes some minutes a pass, and two passes::

    pip install '.[mcp-suite]' && python tests/integrations/mcp_suite.py

`foreign_suite` says what it does. As a plugin it gives every client and every session of a test to
`durable`, and puts every async test into a run of its own, but for those under trio, which runs do
not know. `DIFFERS` names what differs and why.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
from foreign_suite import Foreign, main

_SAME = "compares by identity, and gets the result or exception as it is read from its record"
DIFFERS = {
    "test_claimed_result_resolves_transparently_to_the_resolvers_result": _SAME,
    "test_resolver_exception_propagates_untouched": _SAME,
    "test_claimed_result_raises_unexpected_claimed_result_by_default": (
        "the exception holds an object of the test's own class, which is recorded by its texts"
    ),
    "test_client_tool_call_with_meta[meta1]": "the call's meta has the idempotency key, too",
    "test_default_sse_limit_fails_one_large_tool_call_and_keeps_the_session_usable": (
        "a call whose answer is lost is in doubt, and its run is held for a person"
    ),
}
SUITE = Foreign(
    "mcp",
    "mcp_suite",
    ["tests/client"],
    differs=DIFFERS,
    without=["logfire", "asyncio"],
    step_kind="tool",
)


class _AnyTool(dict[str, Any]):
    """Says of every tool that it acts once, so that no list of tools has to be read."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "once"


def pytest_configure() -> None:
    from mcp import Client, ClientSession

    for kind in (Client, ClientSession):
        kind.__init__ = _and_durable(kind.__init__)  # type: ignore[assignment]


def _and_durable(begin: Callable[..., None]) -> Callable[..., None]:
    import agentrun
    from agentrun.integrations.mcp import durable

    @functools.wraps(begin)
    def begin_durable(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        if not agentrun.current_step():  # else it is the adapter's own connection
            durable(self, effects=_AnyTool())

    return begin_durable


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: Any) -> None:
    """Put an async test, its fixtures being there, into a run of its own."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if inspect.iscoroutinefunction(item.obj) and "trio" not in str(parameters):
        item.obj = in_run(item.obj)


def in_run(test: Callable[..., Any]) -> Callable[..., Any]:
    """``test`` as it is performed in a fresh run; what it raises is raised again outside."""
    import agentrun

    @functools.wraps(test)
    async def perform(**fixtures: Any) -> None:
        raised: list[BaseException] = []

        @agentrun.agent(name="a test of others")
        async def run() -> None:
            try:
                await test(**fixtures)
            except agentrun.Interrupt:
                raise
            except BaseException as error:  # a skipped test raises no Exception
                raised.append(error)

        await run.arun()
        if raised:
            raise raised[0]

    return perform


if __name__ == "__main__":
    sys.exit(main(SUITE, sys.argv[1:]))
