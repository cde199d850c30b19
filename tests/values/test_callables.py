"""What can be a tool, a step or an agent, and what cannot."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any
from uuid import UUID

import pytest
from crashing import World, die_recorded, killed
from pydantic import BeforeValidator, Field

import agentrun


@pytest.fixture
def world(tmp_path: Any) -> World:
    return World(tmp_path / "effects")


@agentrun.tool(effect="idempotent")
async def mail(to: str, idempotency_key: str = "") -> str:
    """Send mail."""
    return f"sent to {to} under {idempotency_key or 'no key'}"


@agentrun.tool(effect="read", name="look_up")
def look(order: str, limit: int = 3) -> str:
    """Look up an order."""
    return f"order {order}, {limit}"


# -- a tool is a function --------------------------------------------------------------------------


def test_a_tool_is_a_function_as_frameworks_ask_for() -> None:
    assert inspect.isfunction(mail)
    assert inspect.iscoroutinefunction(mail)
    assert inspect.isfunction(look)
    assert not inspect.iscoroutinefunction(look)
    assert str(inspect.signature(mail)) == "(to: str) -> str"
    assert mail.__annotations__ == {"to": str, "return": str}
    assert (look.__name__, look.name, look.effect) == ("look_up", "look_up", "read")
    assert look.__doc__ == "Look up an order."
    assert look.function("7") == look("7") == "order 7, 3"
    assert asyncio.run(mail("ann")) == "sent to ann under no key"


def test_frameworks_take_a_tool_and_offer_its_arguments_alone() -> None:
    agents = pytest.importorskip("agents")
    core = pytest.importorskip("langchain_core.tools")
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from anthropic import beta_async_tool, beta_tool

    offered = agents.function_tool(mail).params_json_schema["properties"]
    assert list(offered) == ["to"]
    assert list(beta_async_tool(mail).input_schema["properties"]) == ["to"]  # type: ignore[arg-type]
    assert list(beta_tool(look).input_schema["properties"]) == ["order", "limit"]  # type: ignore[arg-type]
    assert agents.function_tool(look).name == "look_up"
    assert sorted(core.tool(mail).args) == ["to"]
    assert pydantic_ai.Tool(look).name == "look_up"
    assert list(pydantic_ai.Tool(mail).function_schema.json_schema["properties"]) == ["to"]


def test_an_async_tool_that_langchain_calls_is_a_recorded_step(db: Any) -> None:
    core = pytest.importorskip("langchain_core.tools")
    made = core.tool(mail)

    @agentrun.agent
    async def agent() -> str:
        return str(await made.ainvoke({"to": "ann"}))

    assert agent.with_options(key="k").run().startswith("sent to ann under ")
    (step,) = agentrun.transcript("k").steps
    assert (step.name, step.input) == ("mail", {"to": "ann"})


def test_what_another_decorator_puts_around_a_tool_is_no_tool_of_ours() -> None:
    @functools.wraps(look)
    def outer(order: str) -> str:
        return look(order).upper()

    with pytest.raises(agentrun.ConfigError, match="is not a tool"):
        agentrun.schemas(outer)  # type: ignore[arg-type]
    with pytest.raises(agentrun.ConfigError, match="is a tool or step already"):
        agentrun.tool(look)


# -- methods, partials, objects --------------------------------------------------------------------


class Shop:
    def __init__(self, orders: dict[str, str], world: World | None = None) -> None:
        self.orders, self.world = orders, world

    @agentrun.tool(effect="read")
    def look(self, order: str) -> str:
        """Look."""
        return self.orders[order]

    @agentrun.tool
    async def pay(self, order: str, cents: int = 5) -> str:
        assert self.world is not None
        self.world.act(f"paid {order}")
        return self.orders[order]

    @staticmethod
    @agentrun.tool
    def open(hour: int) -> bool:
        return hour > 8

    @agentrun.tool
    @classmethod
    def called(cls, prefix: str) -> str:
        return prefix + cls.__name__


def test_a_method_is_a_tool_of_its_object(db: Any) -> None:
    eu, us = Shop({"7": "paid"}), Shop({"7": "open"})
    (offered,) = agentrun.schemas(eu.look)
    assert list(offered["function"]["parameters"]["properties"]) == ["order"]
    assert offered["function"]["description"] == "Look."
    asked = {"id": "c1", "type": "function", "function": {"name": "look"}}
    asked["function"]["arguments"] = '{"order": "7"}'  # type: ignore[index]
    reply = {"role": "assistant", "tool_calls": [asked]}

    @agentrun.agent
    def agent() -> list[Any]:
        answers = [agentrun.call_tools(reply, [shop.look])[0]["content"] for shop in (eu, us)]
        return [eu.look("7"), us.look("7"), *answers, Shop.open(9), Shop.called("a ")]

    assert agent.with_options(key="k").run() == ["paid", "open", "paid", "open", True, "a Shop"]
    steps = agentrun.transcript("k").steps
    assert [step.name for step in steps] == ["look"] * 4 + ["open", "called"]
    assert [step.input for step in steps[:2]] == [{"order": "7"}] * 2
    assert agentrun.schemas(Shop.look) == [offered]
    with pytest.raises(agentrun.ConfigError, match="its object is missing"):
        agentrun.call_tools(reply, [Shop.look])


def test_a_killed_run_finds_what_its_methods_did(db: Any, dsn: str, world: World) -> None:
    crash = [True]

    @agentrun.agent
    async def agent() -> str:
        shop = Shop({"7": "paid", "8": "open"}, world)  # another object in each process
        first = await shop.pay("7")
        if crash[0]:
            die_recorded()
        return f"{first} {await shop.pay('8')}"

    def action() -> None:
        agentrun.connect(dsn)
        agent.with_options(key="k").run()

    killed(action)
    crash[0] = False
    assert agent.with_options(key="k").run() == "paid open"
    assert world.effects == ["paid 7", "paid 8"]


def get(session: object, order: str, limit: int = 2) -> str:
    """Get an order."""
    return f"{order} {limit} {type(session).__name__}"


async def aget(session: object, order: str) -> str:
    return f"{order} {type(session).__name__}"


class Adder:
    """Add to what it has."""

    def __init__(self, base: int) -> None:
        self.base = base

    def __call__(self, n: int) -> int:
        return self.base + n


class Later(Adder):
    async def __call__(self, n: int) -> int:  # type: ignore[override]
        return self.base + n


def test_a_partial_or_an_object_is_a_tool_of_what_it_leaves_open(db: Any) -> None:
    tools: list[Any] = [
        agentrun.tool(functools.partial(get, object(), limit=9)),
        agentrun.tool(functools.partial(aget, object()), name="later"),
        agentrun.tool(Adder(3), name="add"),
        agentrun.tool(effect="read")(Later(4)),
    ]
    described = [one["function"] for one in agentrun.schemas(*tools)]
    assert [one["name"] for one in described] == ["get", "later", "add", "Later"]
    assert [list(one["parameters"]["properties"]) for one in described] == [
        ["order"],
        ["order"],
        ["n"],
        ["n"],
    ]
    assert described[0]["description"] == "Get an order."
    assert described[2]["description"] == "Add to what it has."

    @agentrun.agent
    async def agent() -> list[Any]:
        one, two, three, four = tools
        return [one("7"), await two("8"), three(1), await four(1)]

    assert agent.with_options(key="k").run() == ["7 9 object", "8 object", 4, 5]
    inputs = [step.input for step in agentrun.transcript("k").steps]
    assert inputs == [{"order": "7"}, {"order": "8"}, {"n": 1}, {"n": 1}]


def test_a_partial_is_an_agent_of_what_it_leaves_open(db: Any) -> None:
    agent = agentrun.agent(name="asked")(functools.partial(get, None))
    assert agent.run("7") == "7 2 NoneType"
    assert agentrun.agent(Adder(1)).name == "Adder"


# -- what a framework fills in ---------------------------------------------------------------------


def test_a_frameworks_context_reaches_the_tool_and_is_no_argument(db: Any) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.test import TestModel

    def spend(ctx: Any, cents: int) -> str:
        return f"{ctx.deps} spent {cents}"

    spend.__annotations__["ctx"] = pydantic_ai.RunContext[str]
    tool = agentrun.tool(spend)
    assert list(agentrun.schemas(tool)[0]["function"]["parameters"]["properties"]) == ["cents"]
    clerk = pydantic_ai.Agent(TestModel(), deps_type=str, tools=[tool])

    @agentrun.agent
    async def agent() -> str:
        return str((await clerk.run("spend", deps="ann")).output)

    assert "ann spent 0" in agent.with_options(key="k").run()
    (step,) = agentrun.transcript("k").steps
    assert (step.name, step.input) == ("spend", {"cents": 0})
    asked = {"role": "assistant", "tool_calls": []}
    with pytest.raises(agentrun.ConfigError, match="its framework fills in"):
        agentrun.call_tools(asked, [tool])


def test_contexts_are_known_by_name_where_their_import_is_for_type_checkers_alone() -> None:
    def spend(ctx, runtime, cents):  # type: ignore[no-untyped-def]
        return cents

    spend.__annotations__.update(
        ctx="pydantic_ai.RunContext[str]", runtime="ToolRuntime", cents=int
    )
    offered = agentrun.schemas(agentrun.tool(spend))[0]["function"]["parameters"]["properties"]
    assert list(offered) == ["cents"]


# -- what is refused -------------------------------------------------------------------------------


def numbers(n: int) -> Iterator[int]:
    yield n


async def anumbers(n: int) -> AsyncIterator[int]:
    yield n


@contextmanager
def managed(n: int) -> Iterator[int]:
    yield n


@asynccontextmanager
async def amanaged(n: int) -> AsyncIterator[int]:
    yield n


async def slow(n: int) -> int:
    return n


@functools.wraps(slow)
def hidden(n: int) -> Any:
    return slow(n)


def promises(n: int) -> AsyncIterator[int]:
    return anumbers(n)


class Yields:
    def __call__(self, n: int) -> Iterator[int]:
        yield n


UNRECORDABLE = {
    "generator": numbers,
    "async generator": anumbers,
    "partial of a generator": functools.partial(numbers, 1),
    "object that yields": Yields(),
    "context manager": managed,
    "async context manager": amanaged,
    "async def in a plain wrapper": hidden,
    "returns an iterator, it says": promises,
    "class": World,
}


@pytest.mark.parametrize("made", UNRECORDABLE.values(), ids=UNRECORDABLE)
@pytest.mark.parametrize("decorate", [agentrun.tool, agentrun.step], ids=["tool", "step"])
def test_what_cannot_be_recorded_is_no_tool_and_no_step(
    decorate: Callable[..., Any], made: Any
) -> None:
    with pytest.raises(agentrun.ConfigError):
        decorate(made)


def odd(items: Annotated[tuple[int, ...], Field(default_factory=tuple)] = ()) -> None: ...


def test_a_parameter_that_cannot_be_checked_is_a_config_error() -> None:
    with pytest.raises(agentrun.ConfigError, match="the tool odd: its parameters"):
        agentrun.tool(odd)


def test_a_validator_of_the_users_may_raise_anything(db: Any) -> None:
    @agentrun.tool(effect="read")
    def add(n: Annotated[int, BeforeValidator(lambda value: value + 1)] = 1) -> int:
        return n

    assert add.effect == "read"


@pytest.mark.parametrize("made", [managed, amanaged, hidden, promises, World, Shop.look.function])
def test_what_cannot_be_recorded_is_no_agent(made: Any) -> None:
    with pytest.raises(agentrun.ConfigError):
        agentrun.agent(made)


# -- keys, and the step that is executing ----------------------------------------------------------


def test_a_key_is_a_text_or_a_uuid(db: Any) -> None:
    calls = []

    @agentrun.agent
    def agent() -> str:
        calls.append(1)
        return "ok"

    key = UUID(int=7)
    assert [agent.with_options(key=key).run() for _ in range(2)] == ["ok", "ok"]
    assert len(calls) == 1
    assert agentrun.get(key).key == str(key)
    assert agentrun.transcript(key).status == "done"
    for bad in ("", 7, b"k", ("a",)):
        with pytest.raises(agentrun.ConfigError, match="key="):
            agent.with_options(key=bad)  # type: ignore[arg-type]


def test_the_current_step_is_false_outside_a_step(db: Any) -> None:
    @agentrun.tool
    def inside() -> bool:
        return bool(agentrun.current_step())

    @agentrun.agent
    def agent() -> list[bool]:
        return [bool(agentrun.current_step()), inside()]

    assert not agentrun.current_step()
    assert (agentrun.current_step().key, agentrun.current_step().attempt) == ("", 1)
    assert inside() is False
    assert agent.run() == [False, True]
