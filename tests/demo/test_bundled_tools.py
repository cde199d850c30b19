"""The bundled tools, each against its double: what it does, and what a lost answer makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from agentrun.bundled.tools import TOOLS, book_pickup, look_up_order, refund_order, send_email

import agentrun
from agentrun.bundled import resource
from agentrun.demo.play import WorkerProcess
from agentrun.demo.world import World
from agentrun.testing import Fault

pytestmark = pytest.mark.usefixtures("places")

MAIL = {"to": "jo@example.com", "subject": "Your mug", "body": "We are sorry.\n.\nReally."}


@pytest.fixture
def places(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)


def in_a_run(act: Callable[[], Any]) -> Any:
    """What ``act`` returns, as a run of its own."""

    @agentrun.agent(name=f"acting-{uuid4()}")
    def acting() -> Any:
        return act()

    return acting.run()


def test_there_is_one_tool_for_each_effect_class() -> None:
    assert {tool.name: tool.effect for tool in TOOLS} == {
        "look_up_order": "read",
        "refund_order": "transaction",
        "book_pickup": "once",
        "send_email": "idempotent",
    }


def test_the_model_is_told_of_every_argument_and_of_no_key() -> None:
    for schema in agentrun.schemas(*TOOLS):
        function = schema["function"]
        assert function["strict"]
        assert function["description"]
        properties = function["parameters"]["properties"]
        assert all(field["description"] for field in properties.values())
        assert "idempotency_key" not in properties


def test_an_order_is_looked_up(world: World) -> None:
    order = in_a_run(lambda: look_up_order(world.order_id))
    assert (order["customer"], order["cents"], order["refunded_cents"]) == ("Jo Clay", 4800, 0)


def test_an_unknown_order_is_told_to_the_model() -> None:
    with pytest.raises(agentrun.RunFailed, match="there is no order 'x'"):
        in_a_run(lambda: look_up_order("x"))


def test_a_refund_counts_against_the_order(world: World) -> None:
    def twice() -> Any:
        refund_order(world.order_id, 1800)
        refund_order(world.order_id, 3000)
        return look_up_order(world.order_id)

    assert in_a_run(twice)["refunded_cents"] == 4800
    assert world.refunds() == [1800, 3000]


@pytest.mark.parametrize("cents", [0, -1, 4801])
def test_no_more_is_refunded_than_was_paid(world: World, cents: int) -> None:
    with pytest.raises(agentrun.RunFailed, match="between 1 and 4800 cents"):
        in_a_run(lambda: refund_order(world.order_id, cents))
    assert world.refunds() == []


def test_an_email_arrives_as_it_was_written(world: World) -> None:
    assert in_a_run(lambda: send_email(**MAIL)) == "sent to jo@example.com"
    (message,) = world.smtp.messages()
    assert message["subject"] == "Your mug"
    assert message["recipients"] == ["jo@example.com"]
    assert "We are sorry.\r\n.\r\nReally." in message["raw"]


def test_an_email_whose_answer_was_lost_is_the_same_message_again(world: World) -> None:
    world.smtp.arm(Fault.drop(at="effect"))
    in_a_run(lambda: send_email(**MAIL))
    assert len(world.smtp.messages()) == 2
    assert world.smtp.distinct() == 1


def test_outside_a_run_two_emails_are_two_messages(world: World) -> None:
    send_email(**MAIL)
    send_email(**MAIL)
    assert world.smtp.distinct() == 2


def test_a_pickup_is_booked_under_its_key(world: World) -> None:
    booked = in_a_run(lambda: book_pickup(world.order_id, "5 Kiln Lane"))
    assert booked["status"] == "booked"
    assert [p["id"] for p in world.carrier.pickups(booked["reference"])] == [booked["id"]]


@pytest.mark.parametrize("lost", [Fault.drop(at="effect"), Fault.truncate()])
def test_a_booking_whose_answer_was_lost_is_found_and_not_repeated(
    world: World, lost: Fault
) -> None:
    world.carrier.arm(lost)
    booked = in_a_run(lambda: book_pickup(world.order_id, "5 Kiln Lane"))
    assert [pickup["id"] for pickup in world.carrier.pickups()] == [booked["id"]]


@pytest.mark.parametrize("fault", [Fault.drop(), Fault.error(503)])
def test_a_booking_that_did_not_happen_is_made_after_asking(world: World, fault: Fault) -> None:
    world.carrier.arm(fault)
    in_a_run(lambda: book_pickup(world.order_id, "5 Kiln Lane"))
    asked = [(entry.method, entry.outcome) for entry in world.carrier.ledger()]
    assert [method for method, _ in asked] == ["POST", "GET", "POST"]
    assert len(world.carrier.pickups()) == 1


def test_a_refusal_of_the_carrier_is_told_to_the_model(world: World) -> None:
    world.carrier.arm(Fault.error(422))
    with pytest.raises(agentrun.RunFailed, match="the carrier refused"):
        in_a_run(lambda: book_pickup(world.order_id, "5 Kiln Lane"))
    assert world.carrier.pickups() == []


def test_the_agent_streams_asks_for_tools_and_sends_back_what_the_api_knows(world: World) -> None:
    assert world.provider is not None
    with WorkerProcess(world, "unharmed") as worker:
        assert not worker.wait_for(lambda _: False)
    assert worker.last_words.startswith("Refunded 24.00")
    bodies = world.provider.requests()
    assert [len(body["messages"]) for body in bodies] == [2, 4, 8]
    assert all(body["stream"] for body in bodies)
    prompt = resource("prompts", "support.md").read_text("utf-8").strip()
    assert bodies[0]["messages"][0] == {"role": "system", "content": prompt}
    call = bodies[-1]["messages"][2]["tool_calls"][0]
    assert set(call) <= {"id", "type", "function", "index"}
    assert set(call["function"]) == {"name", "arguments"}
    assert json.loads(call["function"]["arguments"]) == {"order_id": world.order_id}
    assert (world.provider.billed(), len(world.refunds())) == (3, 1)
