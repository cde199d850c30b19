"""agentrun: a durable harness for AI-agent loops.

Wrap the loop you already have; kill the process anywhere; it resumes mid-conversation without
paying again for a model call that was answered and without repeating a tool that acted.

    client = agentrun.wrap(OpenAI())          # model calls are recorded steps

    @agentrun.tool(effect="idempotent")       # so are tool calls
    def refund(order_id: str, cents: int, idempotency_key: str = "") -> dict: ...

    @agentrun.agent                           # the loop is a durable run
    def support(question: str) -> str: ...

    support.with_options(key="ticket-42").run("refund order 7")

The public names stand in `agentrun.public_face`, which is loaded when one of them is first used. So
`agentrun --help` and the completion of keys need not load it.

(PYTEST_DONT_REWRITE: imported before pytest, this package must not make it warn.)
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrun.public_face import *  # noqa: F403  the star is what keeps one list
    from agentrun.public_face import __all__ as __all__

__version__ = "0.1.0"


if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        """Load the public names, and return the one that is asked for."""
        if name == "__all__" or not (name.startswith("__") or _is_module(name)):
            public = import_module("agentrun.public_face")
            for each in public.__all__:  # a name that was assigned before stays
                globals().setdefault(each, getattr(public, each))
            globals()["__all__"] = [*public.__all__, "__version__"]
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})

    def _is_module(name: str) -> bool:
        """A submodule is imported by whoever asks for it, without the public names."""
        return name.isidentifier() and find_spec(f"{__name__}.{name}") is not None
