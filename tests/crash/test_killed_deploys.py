"""Killed, deployed, resumed: every ordinary change has a way on that repeats nothing silently.

The first version makes two calls by itself, has three model calls paid and their tools performed,
and is killed by SIGKILL. Then another process goes on with changed code.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die_recorded, killed
from openai import OpenAI

import agentrun
from agentrun.lifecycle import registry
from agentrun.testing import Call, Provider, Reply

SCRIPT = [
    Reply(tool_calls=[Call("pay", {"invoice": "7"}), Call("note", {"text": "a"})]),
    Reply(tool_calls=[Call("note", {"text": "b"})]),
    Reply(tool_calls=[Call("note", {"text": "c"})]),
    Reply("done"),
]
PAID = 3  # calls, before the crash


@dataclass(frozen=True)
class Code:
    """A version of the agent."""

    prompt: str = "You help."
    model: str = "gpt-5-mini"
    settings: tuple[tuple[str, Any], ...] = (("temperature", 0.2),)
    name: str = "clerk"
    aliases: tuple[str, ...] = ()
    pay_name: str = "pay"
    pay_doc: str = "Pay an invoice."
    pay_effect: Any = "once"
    optional: bool = False  # a further argument of `pay`
    search: bool = False  # a further tool
    stream: bool = False
    opening: tuple[str, ...] = ("greet", "open_ticket")  # calls of its own before the loop
    first_model: bool = False  # a model call before the loop
    last_model: bool = False  # and one after it
    backwards: bool = False  # the calls of a reply
    by_call_tools: bool = False
    language: bool = False  # a further parameter of the agent, with a default
    wordy: bool = False  # log lines and other names
    dict_result: bool = True  # the annotation of `pay`
    moved: bool = False  # to another file


@dataclass(frozen=True)
class Change:
    """What is deployed, and what becomes of a run that was under way."""

    code: Code
    way: str | None = None  # None: nobody notices
    says: str = ""  # the headline of the refusal
    billed: int = PAID + 1
    effects: tuple[str, ...] = ()  # further ones, but for the note of the last reply


BASE = Code()
CHANGES: dict[str, Change] = {
    "a log line": Change(replace(BASE, wordy=True)),
    "a renamed local": Change(replace(BASE, wordy=True)),
    "a model call at the end": Change(replace(BASE, last_model=True), billed=PAID + 2),
    "a tool's return type": Change(replace(BASE, dict_result=False)),
    "a function renamed with its name kept": Change(replace(BASE, pay_doc="Pay an invoice.")),
    "the file moved": Change(replace(BASE, moved=True)),
    "an effect class": Change(replace(BASE, pay_effect="idempotent")),
    "the agent renamed": Change(replace(BASE, name="cashier", aliases=("clerk",))),
    "a parameter with a default": Change(replace(BASE, language=True)),
    "a tool added": Change(
        replace(BASE, search=True), "keep", "tools: a tool was added: search"
    ),
    "the prompt": Change(
        replace(BASE, prompt="You help politely."), "keep", "the system prompt differs"
    ),
    "the model": Change(
        replace(BASE, model="gpt-5"), "keep", 'model "gpt-5-mini" → "gpt-5"'
    ),
    "the temperature": Change(
        replace(BASE, settings=(("temperature", 0.7),)), "keep", "temperature 0.2 → 0.7"
    ),
    "a setting removed": Change(
        replace(BASE, settings=()), "keep", "temperature was removed, it was 0.2"
    ),
    "a tool's docstring": Change(
        replace(BASE, pay_doc="Pay it."), "keep", "tools: pay: its description differs"
    ),
    "an optional tool argument": Change(
        replace(BASE, optional=True), "keep", "tools: pay: a parameter was added: memo"
    ),
    "tool calls in reverse": Change(
        replace(BASE, backwards=True), "keep",
        "message 3 of the conversation (tool) differs",
    ),
    "call_tools in place of the loop": Change(
        replace(BASE, by_call_tools=True), "keep",
        "message 3 of the conversation (tool) differs",
    ),
    "a tool renamed": Change(
        replace(BASE, pay_name="pay_invoice"), "restore",
        "tools: a tool was added: pay_invoice; tools: a tool was removed: pay",
    ),
    "streaming": Change(
        replace(BASE, stream=True), "accept", "streaming was switched on", billed=2 * PAID + 1
    ),
    "steps swapped": Change(
        replace(BASE, opening=("open_ticket", "greet")), "accept",
        "the code asks for function 'open_ticket', where function 'greet' is recorded; it is "
        "recorded as step 2, so the order of steps changed",
    ),
    "a step at the start": Change(
        replace(BASE, opening=("audit", "greet", "open_ticket")), "accept",
        "the code asks for function 'audit', where function 'greet' is recorded",
        effects=("audit",),
    ),
    "a step removed": Change(
        replace(BASE, opening=("open_ticket",)), "accept",
        "the code asks for function 'open_ticket', where function 'greet' is recorded; it is "
        "recorded as step 2, so the order of steps changed",
    ),
    "a model call at the start": Change(
        replace(BASE, first_model=True), "accept",
        "the system prompt differs; message 1 of the conversation (user) differs",
        billed=PAID + 2,
    ),
}  # fmt: skip


class Shop:
    """Where the effects of any version are seen, and the agent that a version is."""

    def __init__(self, world: World, provider: Provider) -> None:
        self.world, self.provider = world, provider
        self.crash = True

    def agent(self, code: Code) -> Any:
        tools = self.tools(code)
        client = agentrun.wrap(OpenAI(base_url=self.provider.base_url, api_key="k"))
        body: dict[str, Any] = {"model": code.model, **dict(code.settings)}

        def ask(messages: list[Any]) -> Any:
            given = {**body, "messages": messages, "tools": agentrun.schemas(*tools.values())}
            if not code.stream:
                return client.chat.completions.create(**given).choices[0].message
            with client.chat.completions.stream(**given) as stream:
                return stream.get_final_completion().choices[0].message

        def loop(question: str) -> str:
            for name in code.opening:
                self.step(name)()
            if code.first_model:
                ask([{"role": "user", "content": "Are you there?"}])
            system = {"role": "system", "content": code.prompt}
            messages: list[Any] = [system, {"role": "user", "content": question}]
            while True:
                reply = ask(messages)
                messages.append(reply.model_dump(exclude_none=True, include={
                    "role", "content", "tool_calls"}))  # fmt: skip
                if not reply.tool_calls:
                    break
                if self.crash and len(messages) > 7:
                    die_recorded()
                messages += self.answers(code, reply, tools)
            if code.last_model:
                ask([{"role": "user", "content": "Sum it up."}])
            if code.wordy:
                print("finished", len(messages))
            return str(reply.content)

        def clerk(question: str) -> str:
            return loop(question)

        def multilingual(question: str, language: str = "en") -> str:
            return loop(question) if language == "en" else ""

        for name in (code.name, *code.aliases):  # as if in a process of its own
            registry._agents.pop(name, None)
        made = agentrun.agent(name=code.name, aliases=code.aliases)(
            multilingual if code.language else clerk
        )
        if code.moved:
            made.place = "/elsewhere/clerk.py"
        return made

    def step(self, name: str) -> Any:
        """A call that the agent makes by itself."""
        return agentrun.step(name=name)(lambda: self.world.act(name))

    def tools(self, code: Code) -> dict[str, Any]:
        def pay(invoice: str) -> Any:
            self.world.act(f"pay {invoice}")
            return {"paid": invoice}

        def pay_with_memo(invoice: str, memo: str = "") -> Any:
            return pay(invoice)

        def note(text: str, idempotency_key: str = "") -> str:
            """Note a text."""
            self.world.act(f"note {text} {idempotency_key}")
            return text

        def search(query: str) -> str:
            """Search."""
            return query

        function = pay_with_memo if code.optional else pay
        function.__doc__ = code.pay_doc
        if code.dict_result:
            function.__annotations__["return"] = dict[str, str]
        tools = [
            agentrun.tool(effect=code.pay_effect, name=code.pay_name)(function),
            agentrun.tool(effect="idempotent")(note),
        ]
        if code.search:
            tools.append(agentrun.tool(effect="read")(search))
        return {tool.name: tool for tool in tools}

    def answers(self, code: Code, reply: Any, tools: dict[str, Any]) -> list[Any]:
        if code.by_call_tools:
            return agentrun.call_tools(reply, tools.values())
        messages = []
        for call in reversed(reply.tool_calls) if code.backwards else reply.tool_calls:
            result = tools[call.function.name](**json.loads(call.function.arguments))
            content = f"result: {result}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        return messages


@pytest.fixture
def shop(tmp_path: Path, provider: Provider) -> Shop:
    provider.say(SCRIPT)
    return Shop(World(tmp_path / "effects"), provider)


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_has_a_way_on_that_repeats_nothing(
    db: Any, dsn: str, shop: Shop, what: str
) -> None:
    change = CHANGES[what]

    def first() -> None:
        agentrun.connect(dsn)
        shop.agent(BASE).with_options(key="k").run("pay invoice 7")

    killed(first)
    done = list(shop.world.effects)
    assert (shop.provider.billed(), len(done)) == (PAID, 5)
    shop.crash = False
    changed = shop.agent(change.code).with_options(key="k")
    if change.way is not None:
        _refused(changed, change)
        assert (shop.provider.billed(), shop.world.effects) == (PAID, done)
    assert _go_on(shop, changed, change) == "done"
    assert shop.provider.billed() == change.billed
    further = [*change.effects, "note c"]
    assert [re.sub(r"(note \w+) .*", r"\1", line) for line in shop.world.effects[5:]] == further
    assert len({line for line in shop.world.effects if "note a" in line}) == 1  # one key
    assert agentrun.get("k").transcript().status == "done"
    assert shop.agent(change.code).with_options(key="k").run("pay invoice 7") == "done"


def _refused(changed: Any, change: Change) -> None:
    with pytest.raises(agentrun.Diverged) as refused:
        changed.run("pay invoice 7")
    text = str(refused.value)
    assert text.startswith("run 'k' diverged at step ")
    assert change.says in text.splitlines()[0]
    for way in ("keep", "accept", "restore", "cancel"):
        assert f"\n  {way} " in text
    assert ("does not apply" not in text) is (change.way == "keep" or change.code.pay_name != "pay")
    assert agentrun.get("k").status() == "held"


def _go_on(shop: Shop, changed: Any, change: Change) -> Any:
    if change.way is None:
        return changed.run("pay invoice 7")
    if change.way == "restore":
        return shop.agent(BASE).with_options(key="k").run("pay invoice 7")
    return changed.with_options(on_divergence=change.way).run("pay invoice 7")


def test_all_changes_are_there() -> None:
    assert len(CHANGES) >= 23
