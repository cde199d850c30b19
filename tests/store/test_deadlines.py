"""No call to the database waits for ever: each message of a run vanishes once, and the run goes on.

The N-th message that a run sends to its server is lost, N = 1, 2, …, until a run finishes before
its fault strikes. A call without a deadline on the client's side would hang on such a socket,
which is open and silent, and no setting of the server would help.
"""

from __future__ import annotations

from itertools import count

import psycopg
import pytest
from proxy import Fault, FaultProxy

import agentrun
from agentrun.runner import agent as agents
from agentrun.store import connection

DEADLINE = 0.4  # seconds; the first message of a connection has 2, libpq's least


class OurWords(FaultProxy):
    """Leaves the SQL of a tool's own body alone: how long that may take is not ours to say."""

    def _fault_for(self, message: bytes) -> Fault | None:
        theirs = b"BEGIN" in message or b"INTO counted" in message
        return None if theirs else super()._fault_for(message)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_agents", {})
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 2)
    monkeypatch.setattr(connection.connect, "__kwdefaults__", {"deadline": DEADLINE})
    monkeypatch.setattr(connection._Lent, "deadline", DEADLINE)


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


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.BLACK_HOLE_BEFORE, id="unheard"),
        pytest.param(Fault.BLACK_HOLE_AFTER, id="unanswered", marks=pytest.mark.long),
    ],
)
def test_each_message_of_a_run_may_vanish(dsn: str, fault: Fault) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE TABLE counted (n int)")
    for nth in count(1):
        acted: list[str] = []
        with OurWords(dsn) as proxy, agentrun.connect(proxy.dsn):
            proxy.arm(fault, b"", nth=nth)
            assert work(acted).with_options(key=f"k{nth}").run() == 6
            struck = proxy.struck.is_set()
        assert acted == ["act 1", "act 3"]
        with psycopg.connect(dsn) as admin:
            assert admin.execute("SELECT n FROM counted").fetchall() == [(2,)] * nth
        if not struck:
            break
    assert nth > 10
