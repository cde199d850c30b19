"""Changed code on runs under way: kept replies, new paths, former names, repeated calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die, die_recorded, killed, until
from openai import OpenAI

import agentrun
from agentrun.core import points
from agentrun.core.pauses import Backoff
from agentrun.lifecycle import registry
from agentrun.lifecycle.code_version import code_version
from agentrun.steps import function_step
from agentrun.store.arrays import UUIDS
from agentrun.store.database import OpenDatabase
from agentrun.testing import Call, Provider, Reply


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


class Chat:
    """An agent whose system prompt and way may change; killed after its second reply."""

    def __init__(self, provider: Provider, world: World) -> None:
        self.crash, self.prompt, self.stream = True, "You help.", False
        provider.say([
            Reply(tool_calls=[Call("act", {"what": "one"})]),
            Reply(tool_calls=[Call("act", {"what": "two"})]),
            Reply("done"),
        ])  # fmt: skip
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))

        @agentrun.tool
        def act(what: str) -> str:
            world.act(what)
            return what

        def converse() -> str:
            messages: list[Any] = [{"role": "system", "content": self.prompt}]
            messages.append({"role": "user", "content": "hi"})
            while True:
                reply = client.chat.completions.create(
                    model="gpt-5-mini", messages=messages, tools=agentrun.schemas(act)
                )
                message = reply.choices[0].message
                messages.append(message.model_dump(exclude_none=True))
                if not message.tool_calls:
                    return str(message.content)
                if self.crash and len(messages) > 4:
                    die_recorded()
                messages += agentrun.call_tools(message, [act])

        self.converse = converse
        self.agent = agentrun.agent(name="chat")(converse)

    def deploy(self) -> Any:
        self.crash, self.prompt = False, "You help politely."
        return self.agent.with_options(key="k")


@pytest.fixture
def chat(db: Any, dsn: str, provider: Provider, world: World) -> Chat:
    made = Chat(provider, world)

    def first() -> None:
        agentrun.connect(dsn)
        made.agent.with_options(key="k").run()

    killed(first)
    return made


def test_kept_replies_are_not_paid_again_and_their_differences_are_recorded_once(
    chat: Chat, dsn: str, provider: Provider, world: World, events: Callable[[str], list[Any]]
) -> None:
    deployed = chat.deploy().with_options(on_divergence="keep")
    chat.crash = True

    def again() -> None:
        agentrun.connect(dsn)
        deployed.run()

    killed(again)
    chat.crash = False
    assert deployed.run() == "done"
    assert provider.billed() == 3
    assert world.effects == ["one", "two"]
    changed = [event for event in events("k") if event.event == "request_changed"]
    assert [(event.step, event.by) for event in changed] == [
        (1, "on_divergence"),
        (3, "on_divergence"),
    ]
    assert "the system prompt differs" in changed[0].reason
    assert "You help politely." in changed[0].reason
    assert all(not step.set_aside for step in agentrun.transcript("k").steps)


def test_what_was_kept_stands_for_whoever_resumes_next(chat: Chat, provider: Provider) -> None:
    deployed = chat.deploy()
    with pytest.raises(agentrun.Diverged):
        deployed.run()
    assert agentrun.resume("k", on_divergence="keep", by="ann", reason="a nicer tone") == "done"
    assert provider.billed() == 3
    assert deployed.run() == "done"
    notes = [e for e in agentrun.transcript("k").entries if getattr(e, "event", "") == "resumed"]
    assert [note.text for note in notes] == ["by ann · a nicer tone"]


def test_a_call_whose_answer_is_not_recorded_is_made_with_the_new_request(
    db: Any, dsn: str, provider: Provider
) -> None:
    provider.say([Reply("done")])
    prompt = ["a"]
    client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))

    @agentrun.agent(on_divergence="keep")
    def ask() -> str:
        system: Any = {"role": "system", "content": prompt[0]}
        question: Any = {"role": "user", "content": "hi"}
        reply = client.chat.completions.create(model="gpt-5-mini", messages=[system, question])
        return str(reply.choices[0].message.content)

    def first() -> None:
        agentrun.connect(dsn)
        points.arm(lambda point: die() if point == "send:before" else None)
        ask.with_options(key="k").run()

    killed(first)
    prompt[0] = "b"
    assert ask.with_options(key="k").run() == "done"
    steps = agentrun.transcript("k").steps
    assert [step.set_aside for step in steps] == [True, False]
    assert len({step.idempotency_key for step in steps}) == 2


def test_an_agent_says_what_its_runs_do(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    chat = Chat(provider, world)
    kept = agentrun.agent(name="chat", on_divergence="keep")(chat.converse)

    def first() -> None:
        agentrun.connect(dsn)
        kept.with_options(key="k").run()

    killed(first)
    chat.deploy()
    with pytest.raises(agentrun.Diverged):
        kept.with_options(key="k", on_divergence="refuse").run()
    assert kept.with_options(key="k").run() == "done"
    assert provider.billed() == 3
    for wrong in ("ignore", "", 1):
        with pytest.raises(agentrun.ConfigError, match="choose one of refuse, keep, accept"):
            agentrun.agent(on_divergence=wrong)  # type: ignore[call-overload]
        with pytest.raises(agentrun.ConfigError, match="choose one of refuse, keep, accept"):
            agentrun.resume("k", on_divergence=wrong)  # type: ignore[arg-type]


def test_to_keep_replies_accepts_no_other_difference(db: Any, dsn: str, world: World) -> None:
    what = ["one"]

    @agentrun.tool
    def act(what: str) -> str:
        world.act(what)
        return what

    @agentrun.agent
    def run() -> str:
        result = act(what[0])
        if what[0] == "one":
            die_recorded()
        return result

    keyed = run.with_options(key="k", on_divergence="keep")

    def first() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(first)
    what[0] = "two"
    with pytest.raises(agentrun.Diverged, match="keep     does not apply: more than the request"):
        keyed.run()
    assert world.effects == ["one"]


def test_children_do_what_their_parent_does_on_a_divergence(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    chat = Chat(provider, world)

    @agentrun.agent
    def parent() -> str:
        return str(chat.agent())

    keyed = parent.with_options(key="k")

    def first() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(first)
    chat.deploy()
    with pytest.raises(agentrun.RunHeld, match="diverged at step 1: the system prompt differs"):
        keyed.run()
    assert keyed.with_options(on_divergence="keep").run() == "done"
    assert provider.billed() == 3
    assert world.effects == ["one", "two"]


def test_a_child_that_a_new_path_finds_again_is_not_begun_again(
    db: Any, dsn: str, world: World, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    version = [1]

    @agentrun.tool
    def act(what: str) -> str:
        world.act(what)
        return what

    @agentrun.agent
    def child(what: str) -> str:
        said = act(what)
        if version[0] == 1 and what == "two":  # the parent has no outcome of it yet
            die_recorded()
        return said

    @agentrun.agent
    def parent() -> list[str]:
        results = [act("more")] if version[0] == 2 else []
        return [*results, child("one"), child("two"), child("three")]

    keyed = parent.with_options(key="k", on_divergence="accept")

    def first() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(first)
    version[0] = 2
    assert keyed.run() == ["more", "one", "two", "three"]
    assert world.effects == ["one", "two", "more", "three"]
    keys = [key for (key,) in sql("SELECT key FROM agentrun.runs ORDER BY created_at")]
    assert keys[:3] == ["k", "k/1", "k/2"]
    assert len(keys) == 4


@pytest.mark.parametrize("effect", ["idempotent", "once", "transaction"])
def test_a_new_path_finds_each_recorded_effect_again_once(
    db: Any, dsn: str, world: World, effect: Any
) -> None:
    version = [1]

    @agentrun.tool(effect=effect)
    def act(what: str, idempotency_key: str = "") -> str:
        world.act(f"{what} {idempotency_key}")
        return what

    @agentrun.agent
    def run() -> list[str]:
        order = ["a", "b", "a"] if version[0] == 1 else ["new", "a", "a", "a", "b"]
        results = [act(what) for what in order]
        if version[0] < 3:
            die_recorded()
        return results

    keyed = run.with_options(key="k", on_divergence="accept")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    version[0] = 2
    killed(action)  # the new path is recorded itself
    version[0] = 3
    assert keyed.run() == ["new", "a", "a", "a", "b"]
    effects = [line.split() for line in world.effects]
    assert [what for what, _ in effects] == ["a", "b", "a", "new", "a"]
    assert len({key for _, key in effects}) == 5
    shown = {step.step: step.set_aside for step in agentrun.transcript("k").steps}
    assert shown == dict.fromkeys(range(1, 6), False)


def test_an_effect_in_doubt_that_a_new_path_asks_for_is_not_done_silently(
    db: Any, dsn: str, world: World
) -> None:
    version = [1]

    @agentrun.tool
    def act(what: str) -> str:
        world.act(what)
        if version[0] == 1:
            die()
        return what

    @agentrun.agent
    def run() -> str:
        return (act("new") if version[0] == 2 else "") + act("one")

    keyed = run.with_options(key="k", on_divergence="accept")

    def first() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(first)
    version[0] = 2
    with pytest.raises(agentrun.RunHeld, match="outcome is unknown"):
        keyed.run()
    assert world.effects == ["one", "new"]
    agentrun.resolve("k", 1, agentrun.Happened("one"))
    assert keyed.run() == "newone"
    assert world.effects == ["one", "new"]


@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_of_the_new_path_in_another_task_is_not_set_aside(
    db: Any, dsn: str, world: World, recorded: bool
) -> None:
    version = [1]

    @agentrun.tool
    async def act(what: str) -> str:
        world.act(what)
        return what

    @agentrun.agent
    async def run() -> str:
        if version[0] > 1:
            await asyncio.create_task(act("side"))
        result = await act("one" if version[0] == 1 else "two")
        if version[0] == 1 and recorded:
            await asyncio.create_task(act("side"))
        if version[0] < 3:
            die_recorded()
        return result

    keyed = run.with_options(key="k", on_divergence="accept")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    version[0] = 2
    killed(action)
    version[0] = 3
    for _ in range(2):
        assert world.effects == ["one", "side", "two"]
        shown = {step.input["what"]: step.set_aside for step in agentrun.transcript("k").steps}
        assert shown == {"one": True, "side": False, "two": False}
        assert keyed.run() == "two"


def test_a_changed_call_of_a_reused_reply_is_made_once(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    provider.say([Reply(tool_calls=[Call("act", {"what": "one"})])])
    client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
    version = [1]

    def action() -> str:
        agentrun.connect(dsn)

        def act(what: str, language: str = "en" if version[0] == 1 else "de") -> str:
            world.act(f"{what} {language}")
            return what

        @agentrun.agent
        def run() -> str:
            agentrun.step(lambda: None, name="greet" if version[0] == 1 else "welcome")()
            tools = [agentrun.tool(act)]
            question: Any = [{"role": "user", "content": "hi"}]
            reply = client.chat.completions.create(model="m", messages=question)
            agentrun.call_tools(reply, tools)
            if version[0] < 3:
                die_recorded()
            return "done"

        return str(run.with_options(key="k", on_divergence="accept").run())

    killed(action)
    version[0] = 2
    killed(action)
    version[0] = 3
    assert action() == "done"
    assert provider.billed() == 1
    assert world.effects == ["one en", "one de"]


def test_a_retry_whose_body_takes_another_path_is_recorded_as_it_was(
    db: Any, dsn: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function_step, "_BACKOFF", Backoff(0.01, 0.01))
    crash = [True]

    @agentrun.tool
    def act(what: str) -> str:
        world.act(what)
        return what

    @agentrun.tool(effect="idempotent", retries=1)
    def work() -> str:
        step = agentrun.current_step()
        assert step is not None
        if step.attempt == 1:
            act("once")
            act("more")
            raise ValueError("try again")
        result = act("again")
        if crash[0]:
            die_recorded()
        return result

    @agentrun.agent
    def run() -> str:
        return str(work())

    keyed = run.with_options(key="k", on_divergence="accept")

    def first() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(first)
    crash[0] = False
    assert keyed.run() == "again"
    assert world.effects == ["once", "more", "again"]
    aside = [step.set_aside for step in agentrun.transcript("k").steps]
    assert aside == [False, True, True, False]


def test_a_question_to_a_person_outlives_the_divergence_of_another_task(
    db: Any, dsn: str, world: World
) -> None:
    version, asked = [1], threading.Event()

    @agentrun.tool
    async def act(what: str) -> str:
        world.act(what)
        return what

    @agentrun.tool(effect="read")
    async def look() -> None:
        while not asked.is_set():
            await asyncio.sleep(0.01)

    @agentrun.tool(approve=True)
    async def pay() -> str:
        world.act("paid")
        return "paid"

    @agentrun.agent
    async def run() -> str:
        if version[0] == 1:
            await act("one")
            die_recorded()
        payment = asyncio.create_task(pay())
        await asyncio.create_task(look())  # a run does not park while a step is under way
        await act("two")
        return await payment

    def person() -> None:
        try:
            until(lambda: [one.step for one in agentrun.inbox("k")] == [2])
            asked.set()
            until(lambda: world.effects == ["one", "two"])
            agentrun.approve("k", 2)
            until(lambda: world.effects == ["one", "two", "paid"])
        except BaseException:
            agentrun.cancel("k")
            raise

    keyed = run.with_options(key="k", on_divergence="accept", on_held="wait")

    def first() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(first)
    version[0] = 2
    with ThreadPoolExecutor() as pool:
        decided = pool.submit(person)
        assert keyed.run() == "paid"
        decided.result()
    assert world.effects == ["one", "two", "paid"]


# -- runs that workers parked ----------------------------------------------------------------------


@pytest.fixture
def parked(chat: Chat, world: World) -> Chat:
    """A worker with changed code has parked the run."""
    chat.deploy()
    with agentrun.Worker([chat.agent]):
        until(lambda: agentrun.get("k").status() == "held")
    assert world.effects == ["one"]
    return chat


def test_a_run_that_a_worker_parked_is_listed_with_its_ways_on(parked: Chat) -> None:
    (waiting,) = agentrun.inbox("k")
    assert (waiting.waits_for, waiting.step) == ("divergence", 1)
    assert waiting.reason.startswith("diverged at step 1: the system prompt differs\n")
    for way in ("keep", "accept", "restore", "cancel"):
        assert f"\n  {way} " in waiting.reason
    with pytest.raises(agentrun.RunError, match=r"(?s)no decision about a call.*accept "):
        agentrun.approve("k", 1)


def test_a_worker_that_starts_with_the_restored_code_takes_it_up(
    parked: Chat, provider: Provider, world: World
) -> None:
    parked.prompt = "You help."
    with agentrun.Worker([parked.agent]):
        until(lambda: agentrun.get("k").status() == "done")
    assert (provider.billed(), world.effects) == (3, ["one", "two"])


def test_a_version_of_the_code_tries_a_run_once(
    parked: Chat, db: OpenDatabase, events: Callable[[str], list[Any]]
) -> None:
    def tried_by(worker: Any, version: str) -> list[Any]:
        return db.query(
            "diverged", agents=["chat"], known=[], queues=["default"], here=UUIDS([]),
            started=worker._started, version=version, limit=10,
        )  # fmt: skip

    claims = sum(event.event == "claimed" for event in events("k"))
    with agentrun.Worker([parked.agent]) as worker:  # its code does not fit either
        until(lambda: sum(event.event == "claimed" for event in events("k")) > claims)
        until(lambda: agentrun.get("k").status() == "held")
        assert tried_by(worker, code_version()) == []
        assert [run["key"] for run in tried_by(worker, "another")] == ["k"]
    last = events("k")[-1]
    assert last.output["divergence"]["step"] == 1
    assert set(last.output["divergence"]["versions"]) == {code_version()}


def test_all_diverged_runs_go_on_by_one_recorded_decision(
    parked: Chat, provider: Provider, world: World
) -> None:
    assert agentrun.resume_diverged("another", on_divergence="keep") == []
    with agentrun.Worker([parked.agent]):
        assert agentrun.resume_diverged("chat", on_divergence="keep", by="ann") == ["k"]
        until(lambda: agentrun.get("k").status() == "done")
    assert (provider.billed(), world.effects) == (3, ["one", "two"])
    kept = [e for e in agentrun.transcript("k").entries if getattr(e, "event", "") == "resumed"]
    assert "ann" in kept[0].text
    with pytest.raises(agentrun.ConfigError, match="choose one of"):
        agentrun.resume_diverged(on_divergence="all")  # type: ignore[arg-type]


def test_what_a_submitted_run_was_told_counts_in_workers(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    chat = Chat(provider, world)
    handle = chat.agent.with_options(key="k", on_divergence="keep").submit()

    def first() -> None:
        with agentrun.connect(dsn), agentrun.Worker([chat.agent]):
            agentrun.get("k").result(timeout=60)

    killed(first)
    chat.deploy()
    with agentrun.Worker([chat.agent]):
        assert handle.result(timeout=60) == "done"
    assert (provider.billed(), world.effects) == (3, ["one", "two"])


def test_a_child_that_diverged_in_a_worker_is_taken_up_by_the_restored_code(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    chat = Chat(provider, world)

    @agentrun.agent
    def parent() -> str:
        return str(chat.agent())

    handle = parent.with_options(key="k").submit()

    def first() -> None:
        with agentrun.connect(dsn), agentrun.Worker([parent]):
            agentrun.get("k").result(timeout=60)

    killed(first)
    chat.deploy()
    with agentrun.Worker([parent]):
        until(lambda: [one.key for one in agentrun.inbox()] == ["k/1"])
    chat.prompt = "You help."
    with agentrun.Worker([parent]):
        assert handle.result(timeout=60) == "done"
    assert (provider.billed(), world.effects) == (3, ["one", "two"])


# -- former names and added parameters -------------------------------------------------------------


def renamed(function: Any, **options: Any) -> Any:
    """An agent as another process would define it, under its new name."""
    for name in ("old", "new"):
        registry._agents.pop(name, None)
    return agentrun.agent(**options)(function)


def test_a_renamed_agent_goes_on_with_its_runs(db: Any, dsn: str, world: World) -> None:
    crash = [True]

    @agentrun.tool
    def act() -> str:
        world.act("x")
        return "x"

    def body() -> str:
        act()
        if crash[0]:
            die_recorded()
        return "done"

    def parent_body() -> str:
        return str(registry.registered("old")())

    parent = agentrun.agent(name="parent")(parent_body)
    old = renamed(body, name="old")

    def first() -> None:
        agentrun.connect(dsn)
        parent.with_options(key="parent").run()

    killed(first)
    crash[0] = False
    submitted = old.with_options(key="submitted").submit()
    other = renamed(body, name="new")
    with pytest.raises(agentrun.RunConflict, match=r"aliases=\('old',\)"):
        other.with_options(key="submitted").run()
    new = renamed(body, name="new", aliases=("old",))
    assert parent.with_options(key="parent").run() == "done"
    assert world.effects == ["x"]
    with agentrun.Worker([new]):
        assert submitted.result(timeout=60) == "done"
    assert new.with_options(key="submitted").run() == "done"
    assert agentrun.resume("submitted") == "done"


def test_two_agents_may_not_claim_one_name() -> None:
    def body() -> None: ...

    renamed(body, name="new", aliases=("old",))
    with pytest.raises(agentrun.ConfigError, match="two agents are named 'old'"):
        agentrun.agent(name="old")(body)
    with pytest.raises(agentrun.ConfigError, match="two agents are named 'old'"):
        agentrun.agent(name="third", aliases=("old",))(body)
    renamed(body, name="new", aliases=("old",))
    agentrun.agent(name="new")(body)  # the cell is run again, without its alias
    agentrun.agent(name="old")(body)
    with pytest.raises(agentrun.ConfigError, match="give a tuple of names"):
        agentrun.agent(aliases="old")
    renamed(body, name="new")


def test_a_parameter_with_a_default_makes_no_other_run(db: Any) -> None:
    def one(question: str) -> str:
        return question

    def two(question: str, language: str = "en", limit: float = 3.0) -> str:
        return question + language + str(limit)

    renamed(one, name="new").with_options(key="k").submit("a")
    new = renamed(two, name="new").with_options(key="k")
    assert new.run("a") == "aen3.0"
    assert new.run("a", language="en", limit=3) == "aen3.0"
    with pytest.raises(agentrun.RunConflict, match='argument language was added: "de"'):
        new.run("a", language="de")
    with pytest.raises(agentrun.RunConflict, match='argument question "a" → "b"') as conflict:
        new.run("b")
    assert "`agentrun resume k FILE`" in str(conflict.value)


# -- calls that repeat a call ----------------------------------------------------------------------


def times(attempts: int, call: Callable[[], Any]) -> Any:
    """A retry library."""
    for attempt in range(attempts):
        try:
            return call()
        except ConnectionError:
            if attempt == attempts - 1:
                raise
    return None


@pytest.mark.parametrize("effect", ["idempotent", "once", "read"])
@pytest.mark.parametrize("kind", ["tool", "step"])
def test_a_call_repeated_after_its_error_keeps_its_key(
    db: Any, dsn: str, world: World, effect: Any, kind: str
) -> None:
    crash = [True]
    decorate: Any = agentrun.tool if kind == "tool" else agentrun.step

    @decorate(effect=effect)
    def act(what: str, idempotency_key: str = "") -> str:
        world.act(f"{what} {idempotency_key}")
        if sum(line.startswith(what) for line in world.effects) < 3:
            if crash[0] and what == "b" and len(world.effects) == 5:
                die_recorded()
            raise ConnectionError("the answer was lost")
        return what

    @agentrun.agent
    def run() -> list[str]:
        return [times(5, lambda what=what: act(what)) for what in ("a", "b", "a")]  # type: ignore[misc]

    keyed = run.with_options(key="k")

    def first() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(first)
    crash[0] = False
    if effect == "once":
        with pytest.raises(agentrun.RunHeld):
            keyed.run()
        step = agentrun.inbox("k")[0].step
        assert step is not None
        agentrun.resolve("k", step, agentrun.NotHappened())
    assert keyed.run() == ["a", "b", "a"]
    keys = [line.split() for line in world.effects]
    assert len({key for what, key in keys[:3]}) == 1
    assert len({key for what, key in keys if what == "b"}) == 1
    assert len({key for _, key in keys}) == 3  # the call that no error preceded is a new one


def test_a_call_of_a_reply_that_is_answered_again_keeps_its_key(
    db: Any, dsn: str, world: World, provider: Provider
) -> None:
    provider.say([
        Reply(tool_calls=[Call("act", {"what": "a"}), Call("act", {"what": "b"})]),
        Reply(tool_calls=[Call("act", {"what": "a"})]),
        Reply("done"),
    ])  # fmt: skip
    crash = [True]
    client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))

    @agentrun.tool(effect="idempotent")
    async def act(what: str, idempotency_key: str = "") -> str:
        world.act(f"{what} {idempotency_key}")
        if len(world.effects) in (1, 3):
            raise ConnectionError("the answer was lost")
        if crash[0] and len(world.effects) == 5:
            die_recorded()
        return what

    @agentrun.agent
    async def run() -> str:
        messages: list[Any] = [{"role": "user", "content": "hi"}]
        while True:
            reply = client.chat.completions.create(
                model="gpt-5-mini", messages=messages, tools=agentrun.schemas(act)
            )
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return str(message.content)
            answers = await agentrun.acall_tools(message, [act])
            while any("error" in one["content"] for one in answers):
                answers = await agentrun.acall_tools(message, [act])
            messages += answers

    keyed = run.with_options(key="k")

    def first() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(first)
    crash[0] = False
    assert keyed.run() == "done"
    calls = [line.split() for line in world.effects]
    early = {tuple(call) for call in calls[:4]}
    assert len(early) == 2  # both calls of the first reply were made twice, under one key each
    assert len({key for _, key in calls}) == 3
