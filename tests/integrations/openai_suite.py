"""openai's own test-suite with our transport under every client: no test fails that passes without.

Run it as one command; it takes some minutes a pass, and two passes::

    pip install '.[openai-suite]' && python tests/integrations/openai_suite.py

`foreign_suite` says what it does. As a plugin it has `install()` in force, so that each model call
of each test is journaled; failures are left to the client, whose handling of them is what the suite
tests. Tests of the generated API resources are left out, since they need openai's mock server; some
others need openai's repository, and fail in both passes.
"""

from __future__ import annotations

import sys

from foreign_suite import Foreign, main, pytest_runtest_call

__all__ = ["SUITE", "pytest_configure", "pytest_runtest_call"]

SUITE = Foreign("openai", "openai_suite", ["tests", "--ignore=tests/api_resources"])


def pytest_configure() -> None:
    import agentrun

    agentrun.install(retries=None)  # the suite tests how its client retries


if __name__ == "__main__":
    sys.exit(main(SUITE, sys.argv[1:]))
