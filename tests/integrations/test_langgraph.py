"""LangGraph's checkpointers and interrupts, and langchain's agents, in runs that are killed."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import langgraph_agents
import pytest
from crashing import die, in_child
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId
from langchain_core.tools import tool as langchain_tool
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt
from matrix import SEED

import agentrun
from agentrun.core import points
from agentrun.integrations.langgraph import (
    DurableMiddleware,
    DurableSaver,
    durable_tools,
    invoke_and_ask,
)
from agentrun.testing import Call, Provider, Reply
from agentrun.testing.plugin import Crashtest

pytestmark = pytest.mark.usefixtures("outside")

ORDER = {"order": "7"}
SCRIPT: list[Reply | str] = [
    Reply(tool_calls=[Call("look_up", ORDER), Call("keep", ORDER)]),
    "First.",
    Reply(tool_calls=[Call("keep", {"order": "8"})]),
    "Done.",
]
FAN_OUT = langgraph_agents.with_fan_out
SAVERS = [langgraph_agents.with_sqlite_saver, langgraph_agents.with_async_sqlite_saver]
ASKING = [langgraph_agents.with_interrupts, langgraph_agents.with_interrupts_async]
LANGCHAIN = [
    langgraph_agents.with_langchain,
    langgraph_agents.with_langchain_async,
    langgraph_agents.with_langchain_streamed,
]
ANSWERED = ["order 7", "kept 7: thanks", "shipped by a bike"]


@pytest.fixture
def at_provider(at_provider: Provider) -> Iterator[Provider]:
    """The provider that the agents ask, those of langchain too."""
    chat = langgraph_agents.chat
    clients: list[Any] = [chat.root_client, chat.root_async_client]
    before = [one.base_url for one in clients]
    for one in clients:
        one.base_url = at_provider.base_url
    yield at_provider
    for one, url in zip(clients, before, strict=True):
        one.base_url = url


def name_of(agent: Any) -> str:
    return str(agent.name)


# -- checkpointers ---------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("durability", ["exit", "async"])
@pytest.mark.parametrize("agent", [*SAVERS, FAN_OUT], ids=name_of)
def test_a_checkpointer_holds_the_same_after_a_kill_at_every_point(
    crashtest: Crashtest, agent: Any, durability: str, outside: Path
) -> None:
    def world() -> Any:
        for file in outside.glob("checkpoints.db*"):
            file.unlink()
        return langgraph_agents.stored

    said = [] if agent is FAN_OUT else ["hi"]
    report = crashtest(agent, *said, durability, script=SCRIPT, world=world)
    # The sync agents open their SQLite file themselves, and nothing else is found.
    found = [finding for finding in report.findings if not finding.what.startswith("opens ")]
    assert found == [], str(report)
    assert report.doubts == ()
    assert len(report.killed) > 30


@pytest.mark.parametrize("agent", SAVERS, ids=name_of)
def test_killed_in_a_tool_a_conversation_is_read_as_before_and_saved_once(
    db: Any, dsn: str, at_provider: Provider, outside: Path, agent: Any
) -> None:
    at_provider.say(SCRIPT)
    (outside / "saved").touch()
    keyed = agent.with_options(key="k")
    (outside / "die at 8").touch()  # in the second call of the graph, which has read the first
    assert in_child(lambda: (agentrun.connect(dsn), keyed.run("hi", "exit"))) == -signal.SIGKILL
    (outside / "die at 8").unlink()
    said = keyed.run("hi", "exit")
    assert [text for text in said if text] == [
        "hi", "order 7 is ready", "kept 7", "First.", "and again", "kept 8", "Done.",
    ]  # fmt: skip
    assert at_provider.billed() == 4
    assert langgraph_agents.stored() == ([("", 3), ("", 8)], said)
    if agent is langgraph_agents.with_sqlite_saver:
        assert (outside / "saved").read_text() == "3\n8\n"


def test_the_version_of_a_channel_is_the_same_on_a_resume(db: Any, dsn: str, outside: Path) -> None:
    @agentrun.agent
    def versions() -> None:
        version = DurableSaver(InMemorySaver()).get_next_version(None, None)
        with (outside / "versions").open("a") as file:
            file.write(f"{version}\n")
        if (outside / "die").exists():
            die()

    keyed = versions.with_options(key="k")
    (outside / "die").touch()
    assert in_child(lambda: (agentrun.connect(dsn), keyed.run())) == -signal.SIGKILL
    (outside / "die").unlink()
    keyed.run()
    first, second = (outside / "versions").read_text().split()
    assert first == second


def test_what_parallel_nodes_write_is_saved_as_steps(db: Any, sql: Any) -> None:
    """LangGraph saves it from threads that do not know the run."""

    def work(_state: Any) -> dict[str, Any]:
        time.sleep(0.2)  # so that it does not end in the thread that began it
        return {"messages": []}

    graph = StateGraph(MessagesState)
    for name in ("a", "b"):
        graph.add_node(name, work)
        graph.add_edge(START, name)
    compiled = graph.compile(checkpointer=DurableSaver(InMemorySaver()))

    @agentrun.agent
    def working() -> None:
        compiled.invoke({"messages": [HumanMessage("go")]}, langgraph_agents.THREAD)

    working.run()
    saved = sql("SELECT count(*) FROM agentrun.steps WHERE name = 'save writes'")
    assert saved == [(3,)]  # of the input and of each node


def test_a_run_that_goes_on_in_its_own_process_does_not_read_ahead(db: Any) -> None:
    inner = InMemorySaver()
    counting = StateGraph(MessagesState)
    counting.add_node("count", lambda state: {"messages": [AIMessage(f"{len(state['messages'])}")]})
    counting.add_edge(START, "count")
    compiled = counting.compile(checkpointer=DurableSaver(inner))
    fails = [True]

    @agentrun.agent
    def counter() -> list[Any]:
        for said in ("a", "b"):
            state = compiled.invoke({"messages": [HumanMessage(said)]}, langgraph_agents.THREAD)
        agentrun.step(effect="read")(lambda: None)()
        if fails.pop():
            fails.append(False)
            raise ValueError("fails once")
        return [message.content for message in state["messages"]]

    keyed = counter.with_options(key="k")
    with pytest.raises(agentrun.RunFailed):
        keyed.run()
    assert agentrun.resume("k") == ["a", "1", "b", "3"]
    kept = [one.metadata["step"] for one in inner.list(langgraph_agents.THREAD)]
    assert kept == [4, 3, 2, 1, 0, -1]


def test_a_checkpointer_in_memory_is_restored_in_a_new_process(
    db: Any, dsn: str, outside: Path
) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("echo", lambda state: {"messages": [AIMessage("echo")]})
    graph.add_edge(START, "echo")

    @agentrun.agent
    def echoing() -> Any:
        compiled = graph.compile(checkpointer=DurableSaver(InMemorySaver()))
        for said in ("a", "b", "c"):
            if said == "c" and (outside / "die").exists():
                die()
            compiled.invoke({"messages": [HumanMessage(said)]}, langgraph_agents.THREAD)
        history = list(compiled.get_state_history(langgraph_agents.THREAD))
        texts = [message.content for message in history[0].values["messages"]]
        return [len(history), texts]

    keyed = echoing.with_options(key="k")
    (outside / "die").touch()
    assert in_child(lambda: (agentrun.connect(dsn), keyed.run())) == -signal.SIGKILL
    (outside / "die").unlink()
    assert keyed.run() == [9, ["a", "echo", "b", "echo", "c", "echo"]]


@pytest.mark.parametrize("inside", [True, False], ids=["in a run", "outside"])
@pytest.mark.parametrize("inner", ["memory", "sqlite", "postgres"])
def test_langgraphs_own_conformance_tests_pass(
    db: Any, dsn: str, outside: Path, sql: Any, inner: str, inside: bool
) -> None:
    numbers = itertools.count()

    async def make() -> AsyncIterator[DurableSaver]:
        if inner == "memory":
            yield DurableSaver(InMemorySaver())
        elif inner == "sqlite":
            path = str(outside / f"{next(numbers)}.db")
            async with AsyncSqliteSaver.from_conn_string(path) as sqlite:
                yield DurableSaver(sqlite)
        else:
            async with AsyncPostgresSaver.from_conn_string(dsn) as postgres:
                await postgres.setup()
                yield DurableSaver(postgres)

    # What the inner checkpointer does not have.
    lacking = {"delete_for_runs", "copy_thread"} | ({"prune"} if inner != "postgres" else set())
    registered = checkpointer_test(f"{inner} {inside}", skip_capabilities=lacking)(make)

    @agentrun.agent
    async def conforming() -> list[Any]:
        report = await validate(registered)
        report.print_report()
        found = report.results.values()
        return [report.conformance_level(), [one.failures for one in found if one.failures],
                sum(one.tests_passed for one in found)]  # fmt: skip

    level, failures, passed = conforming.run() if inside else asyncio.run(conforming.function())
    assert (level, failures, passed) == ("FULL", [], 66 if inner == "postgres" else 58)
    saved = sql("SELECT count(*) FROM agentrun.steps WHERE name = 'save checkpoint'")
    assert (saved[0][0] > 50) == inside


# -- interrupts ------------------------------------------------------------------------------------


def answer_all(key: str) -> None:
    """What a person does at the inbox."""
    for waiting in agentrun.inbox(key):
        asked = waiting.args["value"]
        if asked == "may I pay order 7?":
            agentrun.approve(key, waiting.step)
        else:
            answer = "a bike" if asked == "which carrier?" else "thanks"
            agentrun.approve(key, waiting.step, arguments={"answer": answer})


def answered(keyed: Any, key: str) -> Any:
    """The result of the run, which a person helps whenever it waits for one."""
    while True:
        try:
            return keyed.run("exit")
        except agentrun.RunHeld:
            answer_all(key)


def die_at(number: int) -> None:
    """Kill this process at its point ``number``, from 0."""
    passed = itertools.count()
    points.arm(lambda _name: die() if next(passed) == number else None)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::agentrun.NoWorkerWarning")
@pytest.mark.parametrize("agent", ASKING, ids=name_of)
def test_killed_at_every_point_each_question_is_asked_once_and_each_answer_counts(
    db: Any, dsn: str, sql: Any, outside: Path, agent: Any, request: pytest.FixtureRequest
) -> None:
    def go(keyed: Any, key: str, number: int) -> None:
        agentrun.connect(dsn)
        die_at(number)
        answered(keyed, key)

    # A run waits some seconds for each answer, so a share of the points is drawn by the seed.
    share = 1 if request.config.getoption("--whole") else 9
    for number in itertools.count(SEED % share, share):
        key = f"k{number}"
        keyed = agent.with_options(key=key)
        for file in outside.glob("*"):
            file.unlink()
        code = in_child(partial(go, keyed, key, number))
        assert code in (0, -signal.SIGKILL)
        assert answered(keyed, key) == ANSWERED
        assert len(list(outside.glob("*.kept"))) == 1
        assert langgraph_agents.stored()[1] == ANSWERED
        asked = sql("SELECT status FROM agentrun.steps WHERE key = %s AND name = 'interrupt'", key)
        assert asked == [("ok",)] * 3
        if code == 0:
            break
    assert number > 40


@pytest.mark.filterwarnings("ignore::agentrun.NoWorkerWarning")
@pytest.mark.parametrize("agent", ASKING, ids=name_of)
def test_interrupts_wait_in_the_inbox_together_and_a_person_answers_them(
    db: Any, dsn: str, outside: Path, agent: Any
) -> None:
    keyed = agent.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run("async")
    waiting = agentrun.inbox("k")
    assert [(one.name, one.args["value"]) for one in waiting] == [
        ("interrupt", "may I pay order 7?"),
        ("interrupt", "which carrier?"),
    ]
    answer_all("k")
    (outside / "die at 7").touch()

    def go() -> None:
        agentrun.connect(dsn)
        with pytest.raises(agentrun.RunHeld):
            keyed.run("async")
        answer_all("k")
        keyed.run("async")

    assert in_child(go) == -signal.SIGKILL  # in the effect behind the last answer
    (outside / "die at 7").unlink()
    assert keyed.run("async") == ANSWERED


@pytest.mark.filterwarnings("ignore::agentrun.NoWorkerWarning")
def test_a_rejected_interrupt_is_false_in_the_node(db: Any) -> None:
    keyed = langgraph_agents.with_interrupts.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    first, second = agentrun.inbox("k")
    agentrun.reject("k", first.step, reason="no money")
    agentrun.approve("k", second.step)
    assert keyed.run() == ["order 7", "not paid", "shipped by True"]


@pytest.mark.filterwarnings("ignore::agentrun.NoWorkerWarning")
@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_langchains_own_approvals_are_decided_in_the_inbox(
    db: Any, at_provider: Provider, decision: str
) -> None:
    at_provider.say([Reply(tool_calls=[Call("keep", ORDER)]), "Done."])
    desk = create_agent(
        langgraph_agents.chat,
        [langgraph_agents.keep_in_graph],
        middleware=[HumanInTheLoopMiddleware({"keep": True}), DurableMiddleware()],
        checkpointer=DurableSaver(InMemorySaver()),
    )

    @agentrun.agent
    def approving() -> list[str]:
        start = {"messages": [HumanMessage("keep order 7")]}
        state = invoke_and_ask(desk, start, langgraph_agents.THREAD)
        return [str(message.content) for message in state["messages"] if message.content]

    keyed = approving.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    (waiting,) = agentrun.inbox("k")
    getattr(agentrun, decision)("k", waiting.step, reason="so be it")
    first, tool, last = keyed.run()
    assert (first, last) == ("keep order 7", "Done.")
    assert tool == "kept 7" if decision == "approve" else "so be it" in tool


def test_what_cannot_be_asked_is_refused_by_name(db: Any) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda _state: {"messages": [interrupt(datetime.now(UTC))]})
    graph.add_edge(START, "ask")

    @agentrun.agent
    def refusing(saver: bool) -> None:
        checkpointer = InMemorySaver() if saver else None
        start = {"messages": [HumanMessage("hi")]}
        invoke_and_ask(graph.compile(checkpointer), start, langgraph_agents.THREAD)

    with pytest.raises(agentrun.RunFailed, match="needs a checkpointer"):
        refusing.run(False)
    with pytest.raises(agentrun.RunFailed, match="cannot be shown in the inbox"):
        refusing.run(True)


def test_outside_a_run_nothing_changes(outside: Path) -> None:
    compiled = langgraph_agents.order_desk.compile(checkpointer=langgraph_agents.sqlite_saver())
    start = {"messages": [HumanMessage("order 7")]}
    state = invoke_and_ask(compiled, start, langgraph_agents.THREAD)
    asked = {one.value: one.id for one in state["__interrupt__"]}
    answers = {asked["may I pay order 7?"]: False, asked["which carrier?"]: "a van"}
    state = compiled.invoke(Command(resume=answers), langgraph_agents.THREAD)
    assert [message.content for message in state["messages"]][1:] == [
        "not paid",
        "shipped by a van",
    ]


# -- langchain -------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("agent", LANGCHAIN, ids=name_of)
def test_killed_at_every_point_an_agent_of_langchain_repeats_nothing(
    crashtest: Crashtest, agent: Any
) -> None:
    report = crashtest(agent, "hi", script=[SCRIPT[0], SCRIPT[2], "Done."])
    report.check()
    assert report.doubts == ()
    assert len(report.killed) > 15


@pytest.mark.parametrize("agent", LANGCHAIN, ids=name_of)
def test_killed_in_a_tool_an_agent_of_langchain_goes_on(
    db: Any, dsn: str, at_provider: Provider, outside: Path, sql: Any, agent: Any
) -> None:
    at_provider.say([SCRIPT[0], SCRIPT[2], "Done."])
    keyed = agent.with_options(key="k")
    (outside / "die at 8").touch()
    assert in_child(lambda: (agentrun.connect(dsn), keyed.run("hi"))) == -signal.SIGKILL
    (outside / "die at 8").unlink()
    assert keyed.run("hi") == "Done."
    assert at_provider.billed() == 3
    assert len(list(outside.glob("*.kept"))) == 2
    found = sql("SELECT name, effect FROM agentrun.tool_calls ORDER BY args ->> 'order', name")
    assert found == [("keep", "idempotent"), ("look_up", "read"), ("keep", "idempotent")]


def test_a_command_and_an_interrupt_of_a_tool_pass_the_middleware(
    db: Any, at_provider: Provider
) -> None:
    @langchain_tool
    def leave(tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Leave, once a person has agreed."""
        told = ToolMessage(f"left: {interrupt('leave?')}", tool_call_id=tool_call_id)
        return Command(update={"messages": [told]})

    at_provider.say([Reply(tool_calls=[Call("leave", {})]), "Bye."])
    leaver = create_agent(
        langgraph_agents.chat,
        [leave],
        middleware=[DurableMiddleware()],
        checkpointer=DurableSaver(InMemorySaver()),
    )

    @agentrun.agent
    def leaving() -> list[Any]:
        first = leaver.invoke({"messages": [HumanMessage("go")]}, langgraph_agents.THREAD)
        (asked,) = first["__interrupt__"]
        last = leaver.invoke(Command(resume="yes"), langgraph_agents.THREAD)
        return [asked.value, *(message.content for message in last["messages"][2:])]

    assert leaving.run() == ["leave?", "left: yes", "Bye."]


@pytest.mark.filterwarnings("ignore::agentrun.NoModelWarning")
def test_commands_to_the_parent_graph_are_joined_as_without_a_run(db: Any) -> None:
    @langchain_tool
    def hand_over(to: str) -> Any:
        """Hand over."""
        return Command(graph=Command.PARENT, goto=[Send(to, {})])

    calls = [{"name": "hand_over", "args": {"to": to}, "id": to} for to in ("ann", "bob")]
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([hand_over], **durable_tools()))
    graph.add_edge(START, "tools")
    team = StateGraph(MessagesState)
    team.add_node("desk", graph.compile())
    for name in ("ann", "bob"):
        team.add_node(name, lambda _state, name=name: {"messages": [AIMessage(name)]})
    team.add_edge(START, "desk")

    @agentrun.agent
    def handing_over() -> list[str]:
        start: Any = {"messages": [AIMessage("", tool_calls=calls)]}
        return sorted(message.content for message in team.compile().invoke(start)["messages"][1:])

    assert handing_over.run() == ["ann", "bob"]
