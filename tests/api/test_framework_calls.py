"""`call` and `acall`: a framework's own tool call is a step, whatever its name and arguments."""

from __future__ import annotations

import asyncio
import json
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die, die_recorded, killed
from openai import OpenAI

import agentrun
from agentrun.testing import Call, Provider, Reply
from agentrun.view import phrases
from agentrun.view.selection import Selection, select

# Most of these runs have no model: the calls of a framework are what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::agentrun.NoModelWarning")

ODD = {"from": "ana", "x-y": [1, {"z": None}], "self": 2, "key": 3}


class Suspended(Exception):
    """A framework's control flow: raised to leave the graph, with an object that it reads again."""

    def __init__(self, interrupts: tuple[dict[str, Any], ...]) -> None:
        super().__init__(interrupts)
        self.interrupts = interrupts


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


def test_outside_a_run_the_function_is_called() -> None:
    assert agentrun.call("look", ODD, lambda **given: given) == ODD
    assert asyncio.run(agentrun.acall("look", ODD, lambda **given: given)) == ODD


@pytest.mark.parametrize("twin", ["call", "acall"])
def test_any_names_are_recorded_and_given_back(
    db: Any, dsn: str, world: World, sql: Any, twin: str
) -> None:
    def look(**given: Any) -> Any:
        world.act(json.dumps(given))
        return {"seen": given}

    @agentrun.agent
    def plain(crash: bool) -> Any:
        seen = agentrun.call("look", ODD, look, effect="read")
        if world.path.with_name("dies").exists():
            die_recorded()
        return seen

    @agentrun.agent
    async def awaited(crash: bool) -> Any:
        async def alook(**given: Any) -> Any:
            return look(**given)

        seen = await agentrun.acall("look", ODD, alook, effect="read")
        if world.path.with_name("dies").exists():
            die_recorded()
        return seen

    agent = (plain if twin == "call" else awaited).with_options(key="k")
    dies = world.path.with_name("dies")
    dies.touch()
    killed(lambda: (agentrun.connect(dsn), agent.run(True)))
    dies.unlink()
    assert agent.run(True) == {"seen": ODD}
    assert world.effects == [json.dumps(ODD)]
    assert sql("SELECT kind, name, effect, status, input->'args' FROM agentrun.steps") == [
        ("tool", "look", "read", "ok", ODD)
    ]


@pytest.mark.parametrize("twin", ["call", "acall"])
def test_the_function_gets_the_steps_key(db: Any, twin: str) -> None:
    def pay(cents: int, idempotency_key: str = "") -> tuple[str, str | None]:
        step = agentrun.current_step()
        return idempotency_key, step and step.key

    @agentrun.agent
    async def agent() -> Any:
        if twin == "acall":
            return await agentrun.acall("pay", {"cents": 1}, pay)
        return await asyncio.to_thread(agentrun.call, "pay", {"cents": 1}, pay)

    given, known = agent.run()
    assert given == known != ""


def test_a_call_id_finds_the_models_call(db: Any, provider: Provider, sql: Any) -> None:
    """Also where the framework adds defaults to the arguments, and calls in another order."""
    provider.say([
        Reply(tool_calls=[Call("pay", {"cents": 1}, id="one"), Call("pay", {"cents": 1}, id="two")])
    ])  # fmt: skip

    def say(what: str, **given: Any) -> str:
        return what

    @agentrun.agent
    def agent() -> Any:
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
        client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "go"}]
        )
        added = {"cents": 1, "currency": "EUR"}
        return [
            agentrun.call("pay", added, partial(say, by), call_id=by, effect="idempotent")
            for by in ("two", "one")
        ]

    assert agent.run() == ["two", "one"]
    calls = sql(
        "SELECT ident, output ->> 'result' FROM agentrun.journal "
        "WHERE kind = 'tool' AND event = 'step_finished' ORDER BY ident"
    )
    assert [(ident[-2:], result) for ident, result in calls] == [("#0", "one"), ("#1", "two")]


def test_a_killed_once_call_is_in_doubt_and_reconciled(db: Any, dsn: str, world: World) -> None:
    asked: list[Any] = []

    def pay(**given: Any) -> str:
        world.act("paid")
        die()
        return "unreachable"

    def reconcile(key: str, **given: Any) -> agentrun.Happened:
        asked.append(given)
        return agentrun.Happened("found")

    @agentrun.agent
    def agent() -> Any:
        return agentrun.call("pay", {"from": "ana"}, pay, reconcile=reconcile)

    once = agent.with_options(key="k")
    killed(lambda: (agentrun.connect(dsn), once.run()))
    assert once.run() == "found"
    assert asked == [{"from": "ana"}]
    assert world.effects == ["paid"]


def test_a_person_edits_the_arguments(db: Any) -> None:
    @agentrun.agent
    def agent() -> Any:
        big = lambda cents, **_: cents > 100  # noqa: E731
        small = agentrun.call("pay", {"cents": 5}, lambda **given: given, approve=big)
        return [small, agentrun.call("pay", {"cents": 500}, lambda **given: given, approve=big)]

    held = agent.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        held.run()
    (request,) = agentrun.inbox("k")
    agentrun.approve("k", request.step, arguments={"cents": 50})
    assert held.run() == [{"cents": 5}, {"cents": 50}]


def test_control_flow_is_no_failure_to_retry_and_comes_back_whole(
    db: Any, dsn: str, world: World
) -> None:
    def ask(**given: Any) -> str:
        world.act("asked")
        raise Suspended(({"value": "ok?", "id": 7},))

    @agentrun.agent
    def agent() -> Any:
        try:
            agentrun.call("ask", {}, ask, effect="idempotent", retries=3, passes=(Suspended,))
        except Suspended as error:
            if world.path.with_name("dies").exists():
                die_recorded()
            return [error.interrupts, error.args]

    suspended = agent.with_options(key="k")
    dies = world.path.with_name("dies")
    dies.touch()
    killed(lambda: (agentrun.connect(dsn), suspended.run()))
    dies.unlink()
    whole = ({"value": "ok?", "id": 7},)
    assert suspended.run() == [whole, (whole,)]
    assert world.effects == ["asked"]


def test_control_flow_is_shown_as_no_error(db: Any, provider: Provider, sql: Any) -> None:
    def leave(**_: Any) -> None:
        raise Suspended(())

    def look(**given: Any) -> None:
        raise LookupError("no such order")

    def echo(**given: Any) -> Any:
        return given

    @agentrun.agent
    def agent(breaks: bool) -> None:
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
        client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "go"}]
        )
        with suppress(Suspended):
            agentrun.call("leave", {}, leave, passes=(Suspended,))
        with suppress(LookupError):
            agentrun.call("look", {}, look if breaks else echo, effect="read")

    for key, breaks in (("whole", False), ("broken", True)):
        agent.with_options(key=key).run(breaks)
    transcript = agentrun.transcript("whole")
    (_, left, looked) = transcript.steps
    assert left.error is not None
    assert left.error.type.endswith("Suspended")
    assert not left.failed
    assert not looked.failed
    assert phrases.first_error(transcript) is None
    assert select(transcript, Selection(errors=True)).entries == ()
    (wrong,) = select(agentrun.transcript("broken"), Selection(errors=True)).steps
    assert wrong.name == "look"
    assert "ar-error" not in agentrun.as_html(transcript).partition("</style>")[2]
    summaries = {run.key: (run.failed_step, run.error_type) for run in agentrun.runs()}
    assert summaries == {"whole": (None, None), "broken": (3, "LookupError")}
    assert sql("SELECT key, errors FROM agentrun.turns ORDER BY key") == [
        ("broken", 1),
        ("whole", 0),
    ]


def test_concurrent_calls_keep_their_outcomes(db: Any, dsn: str, world: World) -> None:
    @agentrun.agent
    async def agent() -> Any:
        async def act(n: int) -> int:
            await asyncio.sleep(0.01 * (3 - n))
            world.act(str(n))
            return n

        made = await asyncio.gather(*(agentrun.acall("act", {"n": n}, act) for n in range(3)))
        if world.path.with_name("dies").exists():
            die_recorded()
        return made

    once = agent.with_options(key="k")
    dies = world.path.with_name("dies")
    dies.touch()
    killed(lambda: (agentrun.connect(dsn), once.run()))
    dies.unlink()
    assert once.run() == [0, 1, 2]
    assert sorted(world.effects) == ["0", "1", "2"]


def test_what_cannot_be_called_is_refused_before_anything_happens(db: Any) -> None:
    async def act() -> None: ...

    with pytest.raises(agentrun.ConfigError, match=r"is async; use `await agentrun\.acall"):
        agentrun.call("act", {}, act)

    @agentrun.agent
    def agent() -> Any:
        return agentrun.call("act", {1: 2}, print)  # type: ignore[dict-item]

    with pytest.raises(agentrun.RunFailed, match="the argument name 1 is no string"):
        agent.run()


def test_a_run_that_records_no_model_call_is_warned_of_once(db: Any, provider: Provider) -> None:
    @agentrun.agent
    async def asks(client: str) -> None:
        made = OpenAI(base_url=provider.base_url, api_key="k")
        with made if client == "plain" else agentrun.wrap(made):
            made.chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}]
            )
        agentrun.call("look", {}, lambda: 1, effect="read")
        await agentrun.acall("look", {}, lambda: 2, effect="read")

    with pytest.warns(
        agentrun.NoModelWarning, match=r"run 'k', tool 'look': no model call"
    ) as given:
        asks.with_options(key="k").run("plain")
    assert [one.category for one in given] == [agentrun.NoModelWarning]
    assert "agentrun.install()" in str(given[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asks.run("wrapped")
