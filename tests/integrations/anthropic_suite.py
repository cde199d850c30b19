"""anthropic's own tests of its tool runner and its streams, inside our runs: none of them differs.

Run it as one command; it takes some minutes a pass, and two passes::

    pip install '.[anthropic-suite]' && python tests/integrations/anthropic_suite.py

`foreign_suite` says what it does. As a plugin it has `install()` in force, so that each model call
of each test is journaled; failures are left to the client, whose handling of them is what the suite
tests.
"""

from __future__ import annotations

import sys

from foreign_suite import Foreign, main, pytest_runtest_call

__all__ = ["SUITE", "pytest_configure", "pytest_runtest_call"]

SUITE = Foreign(
    "anthropic",
    "anthropic_suite",
    ["tests/lib/tools", "tests/lib/streaming", "tests/lib/threads"],
)


def pytest_configure() -> None:
    import agentrun

    agentrun.install(retries=None)  # the suite tests how its client retries


if __name__ == "__main__":
    sys.exit(main(SUITE, sys.argv[1:]))
