"""`masked=`: values that are never stored; who reads them back sees a mask, live and resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel
from zstandard import ZstdDecompressor

import agentrun
from agentrun.core.secrets import MASK
from agentrun.models.masked_replies import mask_reply
from agentrun.testing import Call, Provider, Reply

CARD = "4111 1111 1111 1111"
EVERYTHING = "SELECT * FROM agentrun.{}"
ZSTD = bytes.fromhex("28b52ffd")


def stored(sql: Any) -> str:
    """The whole database, with what is compressed in it."""
    tables = sql("SELECT tablename FROM pg_tables WHERE schemaname = 'agentrun'")
    rows = [row for (name,) in tables for row in sql(EVERYTHING.format(name))]
    assert rows
    opened = [
        ZstdDecompressor().decompress(value).decode("utf-8", "replace")
        for row in rows
        for value in row
        if isinstance(value, bytes) and value.startswith(ZSTD)
    ]
    return repr(rows) + "".join(opened)


def test_a_body_gets_the_value_and_nothing_stores_it(db: Any, sql: Any, reincarnate: Any) -> None:
    charged: list[Any] = []
    crash = True

    @agentrun.tool(effect="idempotent", masked=("card", "owner.pin", "result"))
    def charge(card: str, owner: dict[str, Any], cents: int) -> str:
        charged.append((card, owner, cents))
        if crash:
            raise SystemExit
        return f"charged {card}"

    @agentrun.agent
    def pay() -> str:
        return charge(CARD, {"name": "ada", "pin": 98765432}, 5)

    keyed = pay.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    reincarnate()
    crash = False
    told = keyed.run()
    assert charged == [(CARD, {"name": "ada", "pin": 98765432}, 5)] * 2
    assert MASK.fullmatch(told)
    reincarnate()
    assert keyed.run() == told, "a mask, live and resumed"
    assert CARD not in stored(sql)
    assert "98765432" not in stored(sql)
    ((args, masked),) = sql("SELECT args, masked FROM agentrun.tool_calls")
    assert args["cents"] == 5
    assert args["owner"]["name"] == "ada"
    assert args["card"].startswith("[masked: card, 19 chars, #")
    assert masked["input"]["card"] == {"count": 1, "chars": 19}


def test_another_value_is_a_divergence_though_the_masks_hide_it(db: Any, reincarnate: Any) -> None:
    card = CARD

    @agentrun.step(masked=("card",))
    def keep(card: str) -> None: ...

    @agentrun.agent
    def run() -> None:
        keep(card)
        if card == CARD:
            raise SystemExit

    with pytest.raises(SystemExit):
        run.with_options(key="k").run()
    reincarnate()
    card = CARD.replace("1", "2")
    with pytest.raises(agentrun.Diverged) as diverged:
        run.with_options(key="k").run()
    assert CARD not in str(diverged.value)


def test_an_agent_sees_masks_from_its_beginning(db: Any, sql: Any, reincarnate: Any) -> None:
    seen: list[Any] = []

    @agentrun.agent(masked=("card", "who.pin"))
    def run(card: str, who: dict[str, str]) -> str:
        seen.append((card, who))
        if len(seen) == 1:
            raise SystemExit
        return card

    keyed = run.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run(CARD, {"pin": "98765432"})
    reincarnate()
    assert keyed.run(CARD, {"pin": "98765432"}) == seen[0][0]
    assert seen[0] == seen[1]
    assert MASK.fullmatch(seen[0][0])
    assert MASK.fullmatch(seen[0][1]["pin"])
    assert CARD not in stored(sql)
    with pytest.raises(agentrun.RunConflict):
        keyed.run(CARD + "2", {"pin": "98765432"})


def test_what_cannot_hold_is_refused() -> None:
    def charge(card: str, cents: int) -> int:
        return cents

    for wrong in ("card", ("iban",), ("card.",), ("result",)):
        with pytest.raises(agentrun.ConfigError, match="mask"):
            agentrun.tool(masked=wrong)(charge)
    with pytest.raises(agentrun.ConfigError, match="declare it as str"):
        agentrun.agent(masked=("cents",))(charge)
    with pytest.raises(agentrun.ConfigError, match="declare it as str"):
        agentrun.schemas(agentrun.tool(masked=("cents",))(charge))


# -- what a model fills in -------------------------------------------------------------------------

ASKED = {"card": CARD, "owner": {"name": "ada", "pin": "98765432"}, "cents": 5}


def _chat(url: str, stream: bool, tools: list[Any]) -> Any:
    asked: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "pay"}]}
    asked["tools"] = agentrun.schemas(*tools)
    create = agentrun.wrap(OpenAI(base_url=url, api_key="k")).chat.completions
    if not stream:
        return create.create(**asked)
    with create.stream(**asked) as events:
        return events.get_final_completion()


def _responses(url: str, stream: bool, tools: list[Any]) -> Any:
    asked: Any = {"model": "gpt-5-mini", "input": "pay"}
    asked["tools"] = agentrun.schemas(*tools, api="responses")
    create = agentrun.wrap(OpenAI(base_url=url, api_key="k")).responses
    if not stream:
        return create.create(**asked)
    with create.stream(**asked) as events:
        return events.get_final_response()


def _messages(url: str, stream: bool, tools: list[Any]) -> Any:
    asked: Any = {"model": "claude-double", "messages": [{"role": "user", "content": "pay"}]}
    asked |= {"tools": agentrun.schemas(*tools, api="anthropic"), "max_tokens": 99}
    create = agentrun.wrap(Anthropic(base_url=url.removesuffix("/v1"), api_key="k")).messages
    if not stream:
        return create.create(**asked)
    with create.stream(**asked) as events:
        return events.get_final_message()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("ask", [_chat, _responses, _messages])
def test_what_a_model_fills_in_is_masked_for_the_code_and_nothing_stores_it(
    db: Any, sql: Any, reincarnate: Any, provider: Provider, ask: Any, stream: bool
) -> None:
    seen: list[Any] = []
    crashes = ["after the reply", "in the tool"]

    @agentrun.tool(effect="idempotent", masked=("card", "owner.pin"))
    def charge(card: str, owner: dict[str, str], cents: int) -> str:
        seen.append((card, owner, cents))
        if "in the tool" in crashes:
            crashes.clear()
            raise SystemExit
        return f"charged {card} of {owner}"

    @agentrun.tool(effect="idempotent")
    def note(card: str) -> str:
        return f"noted {card}"

    @agentrun.agent
    def pay() -> list[Any]:
        reply = ask(provider.base_url, stream, [charge, note])
        seen.append(reply.model_dump_json())
        if "after the reply" in crashes:
            crashes.remove("after the reply")
            raise SystemExit
        return agentrun.call_tools(reply, [charge, note])

    calls = [Call("charge", ASKED), Call("note", {"card": "of my own"}),
             Call("charge", {**ASKED, "card": None})]  # fmt: skip
    provider.say([Reply("well", tool_calls=calls)])
    keyed = pay.with_options(key="k")
    for _ in "12":
        with pytest.raises(SystemExit):
            keyed.run()
        reincarnate()
    told = str(keyed.run())
    assert len(provider.ledger()) == 1
    first, again, live, body, resumed = seen[0], seen[1], seen[2], seen[3], seen[4]
    assert first == again == body, "the reply, live and resumed"
    card, owner, cents = live
    assert live == resumed
    assert MASK.fullmatch(card)
    assert "card, 19 chars" in card
    assert MASK.fullmatch(owner["pin"])
    assert (owner["name"], cents) == ("ada", 5)
    assert f"charged {card}" in told
    assert "noted of my own" in told
    assert "the arguments are not valid: card: " in told
    for secret in (CARD, "98765432", "1111 1111"):
        assert secret not in str(seen) + told + stored(sql)


def test_malformed_arguments_are_masked_whole(
    db: Any, sql: Any, provider: Provider, reincarnate: Any
) -> None:
    @agentrun.tool(effect="idempotent", masked=("card",))
    def charge(card: str) -> str:
        return card

    @agentrun.agent
    def pay() -> list[Any]:
        return agentrun.call_tools(_chat(provider.base_url, False, [charge]), [charge])

    provider.say([Reply(tool_calls=[Call("charge", '{"card": "' + CARD)])])
    told = pay.with_options(key="k").run()
    assert "not valid JSON" in str(told)
    reincarnate()
    assert pay.with_options(key="k").run() == told
    assert CARD not in stored(sql) + str(told)


@pytest.mark.parametrize(
    "given", [{"Card": CARD}, {"charge": {"card": CARD}}, {"card": {"no": CARD}}]
)
def test_what_is_no_parameter_is_masked_whole(
    db: Any, sql: Any, provider: Provider, reincarnate: Any, given: dict[str, Any]
) -> None:
    @agentrun.tool(effect="idempotent", masked=("card",))
    def charge(card: str) -> str:
        return card

    @agentrun.agent
    def pay() -> list[Any]:
        return agentrun.call_tools(_chat(provider.base_url, False, [charge]), [charge])

    provider.say([Reply(tool_calls=[Call("charge", given)])])
    told = pay.with_options(key="k").run()
    reincarnate()
    assert pay.with_options(key="k").run() == told
    assert CARD not in stored(sql) + str(told)


@dataclass
class Box:
    number: str
    shape: Any = (1, 2)  # which plain JSON cannot hold: the box is recorded by its structure


class Card(BaseModel):
    number: str


class Gold(Card):
    since: int = 2000


@pytest.mark.parametrize(
    "value",
    [
        Box(CARD),
        [Box(CARD)],
        Gold(number=CARD),
        {"number": CARD, "shape": (1, 2)},
        {"number": CARD, 5: "no text"},
    ],
    ids=["dataclass", "list", "subclass", "dict", "keys"],
)
def test_a_field_is_masked_however_its_value_is_recorded(db: Any, sql: Any, value: Any) -> None:
    given: list[Any] = []

    def take(box: Any) -> None:
        given.append(box)

    declared = {list: list[Box], Gold: Card}.get(type(value), type(value))
    take.__annotations__["box"] = declared
    taken = agentrun.step(effect="idempotent", masked=("box.number",))(take)

    @agentrun.agent
    def run() -> None:
        taken(value)

    run.run()
    assert given == [value]
    assert CARD not in stored(sql)


@pytest.mark.parametrize(
    "card", [CARD, json.dumps({"number": CARD}), [CARD], int(CARD.replace(" ", ""))]
)
def test_what_stands_where_an_object_belongs_is_masked_whole(
    db: Any, sql: Any, provider: Provider, card: Any
) -> None:
    @agentrun.tool(effect="idempotent", masked=("card.number",))
    def take_from(card: Card) -> str:
        return "charged"

    @agentrun.agent
    def pay() -> list[Any]:
        return agentrun.call_tools(_chat(provider.base_url, False, [take_from]), [take_from])

    provider.say([Reply(tool_calls=[Call("take_from", {"card": card})])])
    assert "not valid" in str(pay.run())
    found = stored(sql)
    assert CARD not in found
    assert CARD.replace(" ", "") not in found


def test_a_stream_that_gives_all_calls_one_index_is_masked() -> None:
    @agentrun.tool(masked=("secret",))
    def charge(secret: str) -> None: ...

    def event(arguments: str, **named: str) -> bytes:
        call = {"index": 0, "function": {**named, "arguments": arguments}}
        return (
            b"data: %s\n\n" % json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode()
        )

    pieces = event('{"secret": "98', name="charge"), event('765"}'), event("{}", name="other")
    masked = mask_reply("text/event-stream", b"".join(pieces))
    assert b"765" not in masked
    assert b"98" not in masked.split(b"masked: arguments")[0]
