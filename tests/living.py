"""The whole life of a few runs, for tests of where they live."""

from __future__ import annotations

from functools import partial

from crashing import die_recorded, killed

import agentrun

armed = [False]


@agentrun.tool(effect="idempotent")
def large(text: str) -> str:
    return text * 100_000


@agentrun.tool(effect="transaction")
def tally(n: int) -> int:
    agentrun.current_step().connection.execute("SELECT 1")
    return n


@agentrun.tool(effect="idempotent")
def crash() -> None:
    if armed[0]:
        die_recorded()


def live(dsn: str, runs: int = 3) -> None:
    """Runs that crash, are taken over, wait for mail, have children and large values."""

    @agentrun.agent
    def below(n: int) -> int:
        return len(large(str(n)))

    @agentrun.agent
    def life(n: int) -> int:
        size = len(large("é"))
        tally(n)
        crash()
        below(n)
        paid: int = agentrun.receive("paid", timeout=60)
        return size + paid

    def begin(n: int, key: str) -> None:
        agentrun.connect(dsn)
        life.with_options(key=key).run(n)

    armed[0] = True
    keys = [f"life-{n}" for n in range(runs)]
    for n, key in enumerate(keys):
        killed(partial(begin, n, key))
    armed[0] = False
    with agentrun.connect(dsn), agentrun.Worker([life, below]):
        for n, key in enumerate(keys):
            agentrun.send(key, "paid", n)
        results = [agentrun.get(key).result(timeout=60) for key in keys]
        assert results == [100_000 + n for n in range(runs)]
        for key in keys:
            assert agentrun.transcript(key).status == "done"
