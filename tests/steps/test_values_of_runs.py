"""Values inside runs: what is recorded is used, and what could not be given back is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field

import agentrun


class Order(BaseModel):
    name: str
    id: UUID = Field(default_factory=uuid4)


@dataclass
class Parcel:
    name: str
    sent: datetime = field(default_factory=lambda: datetime.now(UTC))


class Odd:
    """No data: nothing could be recorded of it."""


class Animal(BaseModel):
    name: str


class Dog(Animal):
    breed: str


def asked(name: str, arguments: str) -> Any:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }


def rerun(agent: Any, *args: Any) -> Any:
    """Run it, have it stop itself at the end, and resume it."""
    keyed = agent.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run(*args)
    return keyed.run(*args)


@pytest.fixture
def stop() -> Callable[[], None]:
    """Stops the run the first time that it comes here."""
    first = [True]

    def once() -> None:
        if first.pop() if first else False:
            raise SystemExit

    return once


@agentrun.tool(effect="read")
def add_up(numbers: Iterable[int], more: Iterable[str] | None = None) -> Iterable[int]:
    return [sum(numbers), len(list(more or ()))]


def test_an_iterable_is_recorded_as_a_list(db: Any, stop: Callable[[], None]) -> None:
    @agentrun.agent
    def adder(numbers: Iterable[int]) -> list[Any]:
        seen = [
            add_up(numbers),
            add_up((n for n in (1, 2)), more={"a"}),
            *agentrun.call_tools(asked("add_up", '{"numbers": [3, 4], "more": ["b"]}'), [add_up]),
        ]
        stop()
        return [*seen, list(numbers)]

    first, second, (told), last = rerun(adder, [5, 6])
    assert (first, second, told["content"], last) == ([11, 0], [3, 1], "[7, 1]", [5, 6])
    schema = agentrun.schemas(add_up)[0]["function"]["parameters"]["properties"]["numbers"]
    assert schema == {"items": {"type": "integer"}, "type": "array"}


@pytest.mark.parametrize("way", ["sent", "dict", "model", "parcel sent", "parcel dict"])
@pytest.mark.parametrize("effect", ["once", "idempotent", "read"])
def test_a_recorded_call_uses_recorded_arguments(
    db: Any, stop: Callable[[], None], way: str, effect: Any
) -> None:
    seen: list[Any] = []

    @agentrun.tool(effect=effect)
    def order(order: Order) -> Order:
        seen.append(order.id)
        return order

    @agentrun.tool(effect=effect)
    def post(parcel: Parcel) -> Parcel:
        seen.append(parcel.sent)
        return parcel

    @agentrun.agent
    def shop() -> str:
        match way:
            case "sent":
                got = str(agentrun.call_tools(asked("order", '{"order": {"name": "n"}}'), [order]))
            case "dict":
                got = repr(order({"name": "n"}))  # type: ignore[arg-type]
            case "model":
                got = repr(order(Order(name="n")))
            case "parcel sent":
                got = str(agentrun.call_tools(asked("post", '{"parcel": {"name": "n"}}'), [post]))
            case _:
                got = repr(post({"name": "n"}))  # type: ignore[arg-type]
        stop()
        return got

    result = rerun(shop)
    assert len(seen) == 1
    assert str(seen[0]).replace(" ", "T")[:19] in result or repr(seen[0]) in result


def test_an_attempt_after_a_crash_has_the_arguments_of_the_first(
    db: Any, stop: Callable[[], None]
) -> None:
    seen: list[UUID] = []

    @agentrun.tool(effect="idempotent")
    def order(order: Order) -> None:
        seen.append(order.id)
        stop()

    @agentrun.agent
    def shop() -> None:
        order(Order(name="n"))

    rerun(shop)
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_each_attempt_has_the_arguments_that_were_given(db: Any) -> None:
    seen: list[str] = []

    @agentrun.tool(effect="idempotent", retries=1)
    def order(lines: list[Any], more: dict[str, Any]) -> None:
        seen.append(repr((lines, more)))
        lines[0]["n"] = 2
        more["deep"]["k"] = "changed"
        if len(seen) == 1:
            raise ConnectionError

    @agentrun.agent
    def shop() -> None:
        order([{"n": 1}], {"deep": {}})

    shop.run()
    assert seen == [repr(([{"n": 1}], {"deep": {}}))] * 2


def test_a_child_is_refused_an_argument_in_the_same_words_in_every_process(db: Any) -> None:
    @agentrun.agent
    def child(number: int) -> None: ...

    @agentrun.agent
    def parent() -> str:
        with pytest.raises(agentrun.ConfigError) as refused:
            child(set("abcdef"))  # type: ignore[arg-type]
        assert refused.value.__context__ is None
        return str(refused.value)

    assert parent.run() == (
        "child: the arguments are not valid: number: Input should be a valid integer"
    )


def test_a_run_is_the_same_whatever_its_input_was_filled_up_with(db: Any) -> None:
    @agentrun.agent
    def shop(order: Order, more: frozenset[str] = frozenset()) -> UUID:
        return order.id

    keyed = shop.with_options(key="k")
    first = keyed.run(Order(name="n"), frozenset({"a", "b", "c"}))
    assert keyed.run(Order(name="n"), frozenset({"c", "b", "a"})) == first
    with pytest.raises(agentrun.RunConflict):
        keyed.run(Order(name="other"), frozenset({"a", "b", "c"}))
    with pytest.raises(agentrun.RunConflict):
        keyed.run(Order(name="n", id=UUID(int=1)), frozenset({"a", "b", "c"}))


def test_what_could_not_be_given_back_is_refused_before_the_effect(db: Any) -> None:
    done: list[Any] = []

    @agentrun.tool
    def take(what: Any) -> None:
        done.append(what)

    @agentrun.agent
    def shop() -> str:
        with pytest.raises(agentrun.ToolFailed) as refused:
            take({"deep": [Odd()]})
        with pytest.raises(agentrun.ToolFailed, match=r"what is of type .*\.Dog"):
            take(Dog(name="n", breed="b"))
        return str(refused.value)

    said = shop.run()
    assert "take: the arguments cannot be recorded: what.deep[0] is of type" in said
    assert "declare a model, a dataclass" in said
    assert done == []

    @agentrun.agent(name="start")
    def start(what: Any) -> None: ...

    with pytest.raises(agentrun.ConfigError, match=r"what is of type .*\.Dog"):
        start.run(Dog(name="n", breed="b"))


def test_a_result_that_could_not_be_given_back_is_not_lost_and_no_surprise(
    db: Any, stop: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []
    seen: list[str] = []

    @agentrun.tool
    def buy() -> Any:
        done.append("bought")
        return {"dog": Dog(name="n", breed="b"), "n": 1}

    @agentrun.agent
    def shop() -> str:
        seen.append(repr(buy()))
        stop()
        return seen[-1]

    with caplog.at_level(logging.WARNING, "agentrun"):
        rerun(shop)
    assert seen == [repr({"dog": {"name": "n", "breed": "b"}, "n": 1})] * 2
    assert done == ["bought"]
    assert (
        "buy: the dict that it returned cannot be recorded as it is: value.dog is of" in caplog.text
    )


def test_objects_that_code_mutates_are_its_own(db: Any, stop: Callable[[], None]) -> None:
    given: list[Any] = []

    @agentrun.tool(effect="read")
    def look(items: Any) -> Any:
        items.append("mine")
        given.append({"k": items})
        return given[-1]

    @agentrun.agent
    def shop() -> str:
        items = [1]
        found = look(items)
        before = repr((items, found))
        found["k"].append("changed")
        stop()
        return before

    assert rerun(shop) == repr(([1], {"k": [1, "mine"]}))


def test_a_result_whose_type_was_changed_is_refused_by_name(
    db: Any, stop: Callable[[], None]
) -> None:
    sent: list[str] = []

    def deploy(returns: Any) -> Any:
        def look() -> Any:
            return {"name": "n", "size": 3}

        look.__annotations__["return"] = returns
        found = agentrun.tool(effect="read")(look)

        @agentrun.tool
        def send(text: str) -> None:
            sent.append(text)

        @agentrun.agent
        def shop() -> str:
            got = found()
            stop()
            send(repr(got))
            return repr(got)

        return shop.with_options(key="k")

    class Wide(BaseModel):
        name: str
        size: int
        note: str = "new"

    class Narrow(BaseModel):
        name: str

    with pytest.raises(SystemExit):
        deploy(dict[str, Any]).run()
    for changed in (Narrow, list[str], str):
        with pytest.raises(
            agentrun.Diverged, match=r"step 1, tool 'look' has a recorded result"
        ) as refused:
            deploy(changed).run()
        assert refused.value.diff
        assert sent == []
    assert deploy(Wide).run() == "Wide(name='n', size=3, note='new')"
    assert len(sent) == 1


def test_the_end_of_a_run_whose_type_was_changed_is_refused(db: Any) -> None:
    def deploy(returns: Any) -> Any:
        def shop() -> Any:
            return {"a": (1, 2)}

        shop.__annotations__["return"] = returns
        return agentrun.agent(shop).with_options(key="k")

    assert deploy(Any).run() == {"a": (1, 2)}
    assert agentrun.get("k").result() == {"a": (1, 2)}
    with pytest.raises(agentrun.Diverged, match="run 'k' has a recorded result"):
        deploy(list[int]).run()
    with pytest.raises(agentrun.Diverged, match="run 'k' has a recorded result"):
        deploy(list[int]).submit().result()


def test_an_input_whose_type_was_changed_is_refused(db: Any, stop: Callable[[], None]) -> None:
    def deploy(takes: Any) -> Any:
        def shop(order: Any) -> str:
            stop()
            return repr(order)

        shop.__annotations__["order"] = takes
        return agentrun.agent(shop)

    with pytest.raises(SystemExit):
        deploy(Dog).with_options(key="k").run(Dog(name="n", breed="b"))
    deploy(Animal)
    with pytest.raises(agentrun.Diverged, match=r"input .* 'order'"):
        agentrun.resume("k")
    deploy(Dog)
    assert agentrun.resume("k") == "Dog(name='n', breed='b')"


def test_a_parameter_without_a_default_that_was_added_is_refused(
    db: Any, stop: Callable[[], None]
) -> None:
    @agentrun.agent
    def shop(order: str) -> str:
        stop()
        return order

    with pytest.raises(SystemExit):
        shop.with_options(key="k").run("o")

    @agentrun.agent(name="shop")
    def with_more(order: str, tenant: str) -> str:
        return repr(tenant)

    with pytest.raises(agentrun.Diverged, match="the parameters have changed: tenant"):
        agentrun.resume("k")


def test_children_and_their_input_are_given_back_as_they_were(
    db: Any, stop: Callable[[], None]
) -> None:
    seen: list[str] = []

    @agentrun.agent
    def child(animals: list[Animal], tags: set[str]) -> tuple[Animal, set[str]]:
        return animals[0], tags

    @agentrun.agent
    def parent() -> None:
        dog, tags = child.run([Dog(name="n", breed="b")], {"x", "y"})
        seen.append(repr((dog, sorted(tags), type(tags))))
        stop()

    rerun(parent)
    assert seen == [repr((Dog(name="n", breed="b"), ["x", "y"], set))] * 2
