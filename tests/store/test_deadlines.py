"""No call to the database waits for ever: each statement of a run vanishes once, the run goes on.

The N-th that a run sends to its server is lost, N = 1, 2, …, until a run finishes before its fault
strikes. A call without a deadline on the client's side would hang on such a socket, which is open
and silent, and no setting of the server would help. `proof/test_wire_matrix.py` has every frame.
"""

from __future__ import annotations

from itertools import count

import psycopg
import pytest
from proxy import Fault, FaultProxy, Frame, Link

import agentrun
from agentrun.api import agent as agents


class OurWords(FaultProxy):
    """Strikes the end of a statement; not the SQL of a tool's body, which may take its time."""

    def spares(self, link: Link, frame: Frame) -> bool:
        return link.lent or frame.kind not in (b"", b"Q", b"S")


def work(acted: list[str]) -> agents.DurableAgent[[], int]:
    @agentrun.tool
    def act(n: int) -> int:
        acted.append(f"act {n}")
        return n

    @agentrun.tool(effect="transaction")
    def insert(n: int) -> int:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (n,))
        return n

    @agentrun.agent
    def working() -> int:
        return act(1) + insert(2) + act(3)

    return working


@pytest.mark.usefixtures("impatient")
def test_each_statement_of_a_run_may_vanish(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE TABLE counted (n int)")
    for nth in count(1):
        acted: list[str] = []
        with OurWords(dsn, late=0.2) as proxy, agentrun.connect(proxy.dsn):
            proxy.arm(Fault.STALL, b"", nth=nth)
            assert work(acted).with_options(key=f"k{nth}").run() == 6
            struck = proxy.struck.is_set()
        assert acted == ["act 1", "act 3"]
        with psycopg.connect(dsn) as admin:
            assert admin.execute("SELECT n FROM counted").fetchall() == [(2,)] * nth
        if not struck:
            break
    assert nth > 10
