"""A `once` attempt with an intent and no outcome: every way in which the doubt is decided."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die, die_recorded, in_child, killed

import agentrun
from agentrun import Happened, NotHappened, Unknown


class Shop:
    """One agent with one tool, killed around its effect in a child process."""

    def __init__(self, dsn: str, world: World) -> None:
        self.dsn = dsn
        self.world = world
        self.crash: str | None = "after"
        self.use: Callable[[Any], str] | None = None  # what the agent does with the result

    def agent(self, key: str = "k", **options: Any) -> Any:
        @agentrun.tool(**options)
        def act(item: str) -> Any:
            if self.crash == "before":
                die()
            self.world.act(item)
            if self.crash == "after":
                die()
            return f"{item} done"

        @agentrun.agent
        def run() -> str:
            if self.crash == "begin":
                die_recorded()
            if self.use is not None:
                return self.use(act("hat"))
            try:
                return act("hat")
            except agentrun.ToolFailed as error:
                return f"told: {error}"

        return run.with_options(key=key)

    def crashed(self, when: str = "after", **options: Any) -> Any:
        """The agent, after its process was killed before or after the effect."""
        agent = self.agent(**options)

        def action() -> None:
            agentrun.connect(self.dsn)
            agent.run()

        self.crash = when
        killed(action)
        self.crash = None
        return agent


@pytest.fixture
def shop(dsn: str, db: Any, tmp_path: Path) -> Shop:
    return Shop(dsn, World(tmp_path / "effects"))


Events = Callable[[str], list[Any]]


def decisions(events: Events) -> list[tuple[str, str]]:
    """How it was decided, and by whom: as a letter claims, or else as the journal knows."""
    decided = [e for e in events("k") if e.event == "resolved"]
    return [(e.status, (e.output or {}).get("claimed_by", e.by)) for e in decided]


def test_the_default_holds_the_run_for_a_person(shop: Shop, sql: Any) -> None:
    agent = shop.crashed()
    for _ in range(2):
        with pytest.raises(agentrun.RunHeld, match="agentrun inbox k"):
            agent.run()
    assert agentrun.get("k").status() == "held"
    assert shop.world.effects == ["hat"]
    assert sql("SELECT key, step, name FROM agentrun.in_doubt") == [("k", 1, "act")]
    assert len(sql("SELECT * FROM agentrun.inbox")) == 1


@pytest.mark.parametrize("key", ["a b", "x; touch owned", "$(touch owned)", "'`touch owned`", "*"])
def test_a_command_that_is_named_takes_any_key_as_one(shop: Shop, key: str) -> None:
    """It is there to be copied into a shell, and a key may come from anywhere."""
    crashed = shop.crashed("before", key=key)
    with pytest.raises(agentrun.RunHeld) as held:
        crashed.run()
    command = str(held.value).rpartition("`")[0].partition(". `")[2]
    assert shlex.split(command) == ["agentrun", "inbox", key]


def test_a_person_says_that_it_happened(shop: Shop, events: Events) -> None:
    agent = shop.crashed()
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    agentrun.resolve("k", 1, Happened("seen in the books"), by="ada", reason="called the shop")
    assert agent.run() == "seen in the books"
    assert shop.world.effects == ["hat"]
    assert decisions(events) == [("happened", "ada")]


def test_a_person_says_that_it_did_not_happen(shop: Shop, events: Events) -> None:
    agent = shop.crashed("before")
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    agentrun.resolve("k", 1, NotHappened(), by="ada")
    assert agent.run() == "hat done"
    assert shop.world.effects == ["hat"]
    assert decisions(events) == [("not_happened", "ada")]


def test_a_person_says_that_nobody_knows(shop: Shop, events: Events) -> None:
    agent = shop.crashed()
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    agentrun.resolve("k", 1, Unknown(), by="ada")
    assert "unknown" in agent.run()
    assert shop.world.effects == ["hat"]


def test_resolving_what_is_not_in_doubt_is_refused(shop: Shop) -> None:
    agent = shop.crashed()
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    with pytest.raises(agentrun.RunError, match="about step 1"):
        agentrun.resolve("k", 2, NotHappened())
    with pytest.raises(agentrun.RunNotFound):
        agentrun.resolve("nope", 1, NotHappened())


def test_what_reconcile_asks_is_no_step_of_the_run(shop: Shop, events: Events) -> None:
    """No later resume asks again, so a step there would be in the way of those that follow."""

    @agentrun.tool(effect="read")
    def look_up(item: str) -> bool:
        return item in shop.world.effects

    def find(key: str, item: str) -> Happened | NotHappened:
        return Happened(item) if look_up(item) else NotHappened()

    agent = shop.crashed(reconcile=find)
    assert agent.run() == "hat"
    assert {e.name for e in events("k") if e.kind == "tool"} == {"act"}


def test_reconcile_finds_that_it_happened(shop: Shop, events: Events) -> None:
    asked: list[tuple[str, str]] = []

    def reconcile(key: str, item: str) -> agentrun.Happened:
        asked.append((key, item))
        return Happened("found")

    agent = shop.crashed(reconcile=reconcile)
    assert agent.run() == "found"
    assert shop.world.effects == ["hat"]
    (started,) = [e for e in events("k") if e.event == "attempt_started"]
    assert asked == [(started.key, "hat")]
    assert decisions(events) == [("happened", "reconcile (reconcile)")]


def test_reconcile_finds_that_it_did_not(shop: Shop, events: Events) -> None:
    agent = shop.crashed("before", reconcile=lambda key, item: NotHappened())
    assert agent.run() == "hat done"
    assert shop.world.effects == ["hat"]
    assert [e.attempt for e in events("k") if e.event == "attempt_started"] == [1, 2]


def test_a_doubt_is_settled_when_its_worker_can_send_nothing_more(
    shop: Shop, db: Any, events: Events
) -> None:
    """Its session is gone, but the process may only be cut off, and about to send."""
    left: list[float] = []

    def reconcile(key: str, item: str) -> agentrun.Happened:
        (started,) = [e for e in events("k") if e.event == "attempt_started"]
        left.append(db.settled_in(started.worker))
        return Happened("found")

    agent = shop.crashed(reconcile=reconcile)
    with db.connection() as conn:
        conn.execute(
            "UPDATE agentrun.workers SET cause = 'session gone', dead_at = now(), beat_at = now(),"
            " lease = interval '2 seconds' WHERE worker = (SELECT owner FROM agentrun.runs)"
        )
    assert agent.run() == "found"
    assert left == [0.0]


def broken(key: str, item: str) -> Any:
    raise OSError("the shop's books are closed")


@pytest.mark.parametrize("reconcile", [lambda key, item: Unknown(), broken])
def test_a_reconcile_that_cannot_tell_leaves_it_to_on_doubt(shop: Shop, reconcile: Any) -> None:
    agent = shop.crashed(reconcile=reconcile, on_doubt="tell_model")
    assert "unknown" in agent.run()
    assert shop.world.effects == ["hat"]


@pytest.mark.parametrize("found", [float("nan"), object()])
def test_what_reconcile_found_and_cannot_be_recorded_is_told(
    shop: Shop, found: Any, events: Events
) -> None:
    agent = shop.crashed(reconcile=lambda key, item: Happened(found))
    assert agent.run().startswith("told: act took effect, but its result cannot be recorded: ")
    assert shop.world.effects == ["hat"]
    assert decisions(events) == [("happened", "reconcile (<lambda>)")]


def test_a_resume_asks_reconcile_once_more(shop: Shop) -> None:
    answers: list[Any] = [Unknown(), Happened("found late")]
    agent = shop.crashed(reconcile=lambda key, item: answers.pop(0))
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    assert agentrun.resume("k", by="ada") == "found late"


def test_on_doubt_tells_the_model(shop: Shop, events: Events) -> None:
    agent = shop.crashed(on_doubt="tell_model")
    assert "may or may not have taken effect" in agent.run()
    assert shop.world.effects == ["hat"]
    assert decisions(events) == [("unknown", "on_doubt")]


def test_on_doubt_fails_the_step(shop: Shop) -> None:
    agent = shop.crashed(on_doubt="fail")
    assert "interrupted" in agent.run()
    assert shop.world.effects == ["hat"]


def test_on_doubt_retries_by_a_recorded_decision(shop: Shop, events: Events) -> None:
    agent = shop.crashed(on_doubt="retry")
    assert agent.run() == "hat done"
    assert shop.world.effects == ["hat", "hat"]
    assert decisions(events) == [("retry", "on_doubt")]


@pytest.mark.parametrize("effect", ["read", "idempotent"])
def test_repeatable_effects_are_repeated_with_the_same_key(
    shop: Shop, effect: str, events: Events
) -> None:
    agent = shop.crashed(effect=effect)
    assert agent.run() == "hat done"
    assert shop.world.effects == ["hat", "hat"]
    assert len({e.key for e in events("k") if e.step == 1}) == 1


def test_a_wait_in_place_ends_when_somebody_decides(shop: Shop, dsn: str) -> None:
    agent = shop.crashed().with_options(on_held="wait")

    def decide() -> None:
        import time

        agentrun.connect(dsn)
        while agentrun.get("k").status() != "held":
            time.sleep(0.02)
        agentrun.resolve("k", 1, Happened("at last"))

    import threading

    outcome: list[int] = []
    thread = threading.Thread(target=lambda: outcome.append(in_child(decide)))
    thread.start()
    assert agent.run() == "at last"
    thread.join()
    assert outcome == [0]


def test_a_killed_transaction_happened_wholly_or_not_at_all(dsn: str, db: Any, sql: Any) -> None:
    with db.connection() as conn:
        conn.execute("CREATE TABLE counted (n int)")
    crash: list[str] = ["inside"]

    @agentrun.tool(effect="transaction")
    def insert() -> int:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (1)")
        if crash[0] == "inside":
            die()
        return 1

    @agentrun.agent
    def run() -> int:
        value = insert()
        if crash[0] == "after":
            die()
        return value

    keyed = run.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    assert sql("SELECT count(*) FROM counted") == [(0,)]
    crash[0] = "after"
    killed(action)
    assert sql("SELECT count(*) FROM counted") == [(1,)]
    crash[0] = "never"
    assert keyed.run() == 1
    assert sql("SELECT count(*) FROM counted") == [(1,)]


def test_a_doubt_about_a_second_attempt_shows_what_was_asked_for(shop: Shop) -> None:
    for attempt in (1, 2):
        agent = shop.crashed("before")
        with pytest.raises(agentrun.RunHeld):
            agent.run()
        (waiting,) = agentrun.inbox("k")
        assert (waiting.args, waiting.attempt) == ({"item": "hat"}, attempt)
        agentrun.resolve("k", 1, NotHappened(), by="ada")


def test_a_decided_doubt_leaves_the_inbox(shop: Shop, sql: Any) -> None:
    agent = shop.crashed()
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    (waiting,) = agentrun.inbox("k")
    assert (waiting.step, waiting.waits_for, waiting.effect) == (1, "doubt", "once")
    agentrun.resolve("k", 1, NotHappened())
    assert sql("SELECT * FROM agentrun.inbox") == []


def test_an_approval_is_no_answer_to_a_doubt(shop: Shop, sql: Any) -> None:
    agent = shop.crashed()
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    for tell in (agentrun.approve, agentrun.reject):
        with pytest.raises(agentrun.RunError, match="does not wait for a decision about step 1"):
            tell("k", 1)
    sql("SELECT agentrun.send('k', 'approve', 1)")  # by hand
    assert sql("SELECT waits_for, step FROM agentrun.inbox") == [("doubt", 1)]


def test_a_resolution_is_no_answer_to_who_waits_for_an_approval(db: Any, sql: Any) -> None:
    @agentrun.tool(approve=True)
    def act() -> str:
        return "acted"

    @agentrun.agent
    def run() -> str:
        return act()

    with pytest.raises(agentrun.RunHeld):
        run.with_options(key="k").run()
    with pytest.raises(agentrun.RunError, match="is not in doubt"):
        agentrun.resolve("k", 1, NotHappened())
    sql("""SELECT agentrun.send('k', 'resolve', 1, '{"outcome": "unknown"}')""")
    assert sql("SELECT waits_for, step FROM agentrun.inbox") == [("decision", 1)]


@pytest.mark.parametrize("on_doubt", ["hold", "tell_model", "fail"])
def test_resume_asks_a_person_and_repeats_nothing_where_nobody_knew(
    shop: Shop, events: Events, on_doubt: Any
) -> None:
    shop.use = str
    agent = shop.crashed(on_doubt=on_doubt)
    if on_doubt == "hold":
        with pytest.raises(agentrun.RunHeld):
            agent.run()
        agentrun.resolve("k", 1, Unknown(), by="ada")
    with pytest.raises(agentrun.RunFailed, match="outcome"):
        agent.run()
    with pytest.raises(agentrun.RunHeld, match="agentrun inbox k"):
        agentrun.resume("k")
    (waiting,) = agentrun.inbox("k")
    agentrun.resolve("k", waiting.step or 0, Happened("in the books"), by="bo")
    assert agent.run() == "in the books"
    assert shop.world.effects == ["hat"]
    assert decisions(events)[-1] == ("happened", "bo")


def test_a_resume_that_is_killed_before_it_asks_repeats_nothing_either(shop: Shop) -> None:
    shop.use = str
    agent = shop.crashed(on_doubt="fail")
    with pytest.raises(agentrun.RunFailed, match="outcome"):
        agent.run()
    shop.crash = "begin"
    killed(lambda: (agentrun.connect(shop.dsn), agentrun.resume("k")))
    shop.crash = None
    with pytest.raises(agentrun.RunHeld, match="agentrun inbox k"):
        agent.run()
    assert shop.world.effects == ["hat"]


def test_a_result_that_the_code_cannot_use_is_asked_for_again(shop: Shop) -> None:
    shop.use = lambda told: told["id"]
    agent = shop.crashed()
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    agentrun.resolve("k", 1, Happened("seen in the books"), by="ada")
    with pytest.raises(agentrun.RunFailed, match="TypeError"):
        agent.run()
    with pytest.raises(agentrun.RunHeld, match="agentrun inbox k"):
        agentrun.resume("k")
    (waiting,) = agentrun.inbox("k")
    assert (waiting.step, waiting.waits_for) == (1, "doubt")
    agentrun.resolve("k", 1, Happened({"id": "17"}), by="ada")
    assert agent.run() == "17"
    assert shop.world.effects == ["hat"]
