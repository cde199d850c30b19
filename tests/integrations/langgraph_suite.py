"""langgraph-prebuilt's own tests, with every call of a `ToolNode` a recorded step.

Run it as one command; it takes about a minute a pass, and two passes::

    pip install '.[langgraph-suite]' && python tests/integrations/langgraph_suite.py

`foreign_suite` says what it does. As a plugin it gives every `ToolNode` the wrappers of
`durable_tools`, inside those that a test gives itself, and puts a `DurableSaver` around every
checkpointer that a graph is compiled with.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from foreign_suite import Foreign, main, pytest_runtest_call

__all__ = ["SUITE", "pytest_configure", "pytest_runtest_call"]

# The same four fail with a wrapper that only calls the tool, and without agentrun.
WRAPPED = "a ToolNode with any wrapper answers an error that its handler does not take"
SUITE = Foreign(
    "langgraph-prebuilt",
    "langgraph_suite",
    ["tests"],
    differs={
        "test_react_agent::test_tool_node_inject_store": WRAPPED,
        "test_tool_node::test_tool_node_error_handling_callable": WRAPPED,
        "test_tool_node::test_tool_node_inject_state[_InjectStateSchema]": WRAPPED,
        "test_tool_node::test_tool_node_inject_store": WRAPPED,
    },
    step_kind="tool",
)


def pytest_configure() -> None:
    from langgraph.graph.state import StateGraph
    from langgraph.prebuilt import ToolNode

    from agentrun.integrations.langgraph import DurableSaver, durable_tools

    init, compile_graph = ToolNode.__init__, StateGraph.compile
    ours = durable_tools()

    @functools.wraps(init)
    def create_node(self: Any, *args: Any, **options: Any) -> None:
        around, aaround = options.get("wrap_tool_call"), options.get("awrap_tool_call")
        if around is None and aaround is None:
            options = {**options, **ours}
        if around is not None:
            options["wrap_tool_call"] = lambda request, execute: around(
                request, lambda asked: ours["wrap_tool_call"](asked, execute)
            )
        if aaround is not None:

            async def awrap(request: Any, execute: Any) -> Any:
                async def record(asked: Any) -> Any:
                    return await ours["awrap_tool_call"](asked, execute)

                return await aaround(request, record)

            options["awrap_tool_call"] = awrap
        init(self, *args, **options)

    @functools.wraps(compile_graph)
    def compile_durable(self: Any, checkpointer: Any = None, **options: Any) -> Any:
        if checkpointer and checkpointer is not True and not isinstance(checkpointer, DurableSaver):
            checkpointer = DurableSaver(checkpointer)
        return compile_graph(self, checkpointer, **options)

    ToolNode.__init__ = create_node  # type: ignore[method-assign]
    StateGraph.compile = compile_durable  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main(SUITE, sys.argv[1:]))
