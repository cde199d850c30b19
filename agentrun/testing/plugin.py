"""The pytest plugin: the fixture ``crashtest``. It imports nothing until a test uses the fixture.

::

    def test_support_survives_kills(crashtest):
        script = [Reply(tool_calls=[Call("refund", {"order_id": "7"})]), "Refunded."]
        crashtest(support, "refund order 7", script=script).check()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agentrun.testing.crash import Report
    from agentrun.testing.replies import Reply, Rule

__all__ = ["Crashtest", "crashtest"]


class Crashtest:
    """Crash-tests an agent; takes the arguments of `crash.Rig` and of its `test`."""

    def __call__(
        self,
        agent: Any,
        *args: Any,
        script: Sequence[Reply | str] = (),
        rules: Sequence[Rule] = (),
        world: Callable[[], Any] | None = None,
        network: bool = False,
        every_chunk: bool = False,
        cache: bool = False,
        timeout: float = 60.0,
        **kwargs: Any,
    ) -> Report:
        from agentrun.testing.crash import Rig

        rig = Rig(
            script=script,
            rules=rules,
            network=network,
            every_chunk=every_chunk,
            cache=cache,
            timeout=timeout,
        )
        with rig:
            return rig.test(agent, *args, world=world, **kwargs)


@pytest.fixture
def crashtest() -> Crashtest:
    """Kill an agent at every point, resume it, and return the report; call its ``.check()``."""
    return Crashtest()
