"""The docstrings of the public face: each is complete, and each example of theirs runs."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from crashing import die, in_child, killed, until
from docstrings import compile_text, described, doc, example, public, run_example
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun.testing import Provider

PUBLIC = dict(public())
WITH_EXAMPLE = {name: example(found) for name, found in PUBLIC.items() if example(found)}
ERRORS = {
    name
    for name, found in PUBLIC.items()
    if inspect.isclass(found) and issubclass(found, BaseException)
}
TWINS = {
    name: ".".join([*name.split(".")[:-1], name.split(".")[-1][1:]])
    for name in PUBLIC
    if name.split(".")[-1].startswith("a")
    and ".".join([*name.split(".")[:-1], name.split(".")[-1][1:]]) in PUBLIC
}
# These raise no error of their own.
RAISE_NOTHING = {
    "Comparison.to_dict", "Comparison.to_json", "Redo.describe", "Transcript.to_dict",
    "Transcript.to_json", "Worker.stop",
    "current_run", "current_step", "inbox", "now", "rng", "turn", "uuid", "as_html", "as_text",
    "response_ended",
}  # fmt: skip
UNITS = ("second", "token", "dollar", "bytes")


# -- what a docstring says -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - ERRORS))
def test_a_public_name_has_an_example(name: str) -> None:
    assert name in WITH_EXAMPLE


@pytest.mark.parametrize("name", sorted(n for n in PUBLIC if inspect.isfunction(PUBLIC[n])))
def test_a_function_describes_its_parameters_their_units_and_its_errors(name: str) -> None:
    """A function that says "Like `other`" has the parameters and the errors of that one."""
    found, text = PUBLIC[name], doc(PUBLIC[name])
    if text.startswith(("Like `", "Awaited, ")) or "The options are those of `" in text:
        return
    said = described(found, "Args")
    for parameter in inspect.signature(found).parameters.values():
        if parameter.name in ("self", "args", "kwargs", "function"):
            continue
        assert parameter.name in said, f"{name}: {parameter.name}"
        if "float" in str(parameter.annotation):
            assert any(unit in said[parameter.name] for unit in UNITS), parameter.name
    assert described(found, "Raises") or name in RAISE_NOTHING


@pytest.mark.parametrize("name", sorted(TWINS))
def test_an_async_twin_says_what_differs(name: str) -> None:
    """It names its twin and goes on, and has its parameters."""
    plain, twin = PUBLIC[TWINS[name]], PUBLIC[name]
    named = f"Like `{TWINS[name].split('.')[-1]}`, "
    assert doc(twin).startswith(named) or name == "StreamingAgent.arun"
    ours, theirs = (inspect.signature(one).parameters.values() for one in (twin, plain))
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


# -- examples ------------------------------------------------------------------------------------

QUESTION = "refund order 7"


class Desk:
    """The names that the examples use, and runs in the state that an example is about."""

    def __init__(self, dsn: str, folder: Path, provider: Provider) -> None:
        self.dsn, self.provider = dsn, provider
        os.chdir(folder)
        self.names: dict[str, Any] = {
            "agentrun": agentrun,
            "Budget": agentrun.Budget,
            "OpenAI": OpenAI,
            "AsyncOpenAI": AsyncOpenAI,
            "Path": Path,
            "timedelta": timedelta,
            "logging": logging,
            "client": agentrun.wrap(OpenAI()),
            "text": "a long text",
            "question": QUESTION,
            "order_id": "7",
            "messages": [{"role": "user", "content": "Where is order 7?"}],
            "reply": {"choices": [{"message": {"content": "It is on its way."}}]},
            "search": search,
            "refund": refund,
            "answer": lambda _question: "Order 7 is refunded.",
            "write": lambda _question: "a draft",
            "review": lambda _question: "a critique",
            "send_mail": lambda _to, _text: None,
            "payments": SimpleNamespace(refund=lambda _order, idempotency_key: idempotency_key),
            "support": self.agent(lambda: "Order 7 is refunded."),
            "writer": agentrun.agent(name="writer")(poem),
        }

    def agent(self, act: Callable[[], str]) -> Any:
        """The agent whose third step is in ``act``."""

        @agentrun.agent(name="support")
        def support(question: str) -> str:
            search("order 7")
            search("customer 8")
            return act()

        return support

    def run(self, act: Callable[[], str], *errors: type[BaseException]) -> None:
        """Run ticket-42, which ends with one of ``errors``, if there are any."""
        ticket = self.agent(act).with_options(key="ticket-42")
        if errors:
            with pytest.raises(errors):
                ticket.run(QUESTION)
        else:
            ticket.run(QUESTION)
            self.names["handle"] = agentrun.get("ticket-42")

    # -- the states of ticket-42 --

    def new(self) -> None:
        """There is no such run."""

    def done(self) -> None:
        client = self.names["client"]

        def act() -> str:
            client.responses.create(model="gpt-5-mini", input="hi")
            return "Order 7 is refunded."

        self.run(act)

    def compared(self) -> None:
        """There is another run of the same agent."""
        self.agent(lambda: "Order 8 is lost.").with_options(key="ticket-7").run("refund order 8")
        self.done()

    def held(self) -> None:
        self.run(lambda: pay(900), agentrun.RunHeld)
        link = agentrun.approval_link("ticket-42", 3, base_url="https://x.example", signer="ana")
        query = dict(parse_qsl(urlsplit(link).query))
        self.names["request"] = SimpleNamespace(query_params=query)

    def doubtful(self) -> None:
        def begin() -> None:
            with agentrun.connect(self.dsn):
                self.agent(lambda: lose()).with_options(key="ticket-42").run(QUESTION)

        killed(begin)
        self.run(lambda: lose(), agentrun.RunHeld)

    def failed(self) -> None:
        down = [True]

        def act() -> str:
            if down.pop() if down else False:
                raise OSError("the bank is down")
            return "Order 7 is refunded."

        self.run(act, agentrun.RunFailed)

    def listening(self) -> None:
        support = self.agent(lambda: str(agentrun.receive("customer replied")))
        support.with_options(key="ticket-42").submit(QUESTION)

    def diverged(self) -> None:
        """Its code has changed since it failed."""

        def before() -> str:
            search("an order")
            raise OSError("the bank is down")

        self.run(before, agentrun.RunFailed)
        self.agent(lambda: search("something else"))

    def answered(self) -> None:
        """A webhook has come."""
        event = SimpleNamespace(data=SimpleNamespace(id="resp_68a1"))
        unwrap = SimpleNamespace(unwrap=lambda _body, _headers: event)
        self.names |= {"client": SimpleNamespace(webhooks=unwrap), "body": b"", "headers": {}}


@agentrun.tool(effect="read")
def search(text: str) -> str:
    return text


@agentrun.tool(effect="idempotent")
def refund(order_id: str, cents: int, idempotency_key: str = "") -> str:
    return "refunded"


@agentrun.tool(approve=True)
def pay(cents: int) -> str:
    return "Order 7 is refunded."


@agentrun.tool
def lose() -> str:
    die()
    return ""


def poem(about: str) -> Any:
    yield f"{about}, "
    yield "in two pieces"


STATES = {
    "done": """Handle Handle.status Handle.astatus Handle.result Handle.aresult Handle.stream
        Handle.astream Handle.transcript Handle.atranscript Piece Transcript Transcript.to_dict
        Transcript.to_json as_html as_text atranscript get transcript redo aredo Redo
        Redo.describe Redo.later Redo.event Step Attempt Doubt Decision
        Resume Note NewMessage Message Failure Totals ToolRequest
        Image Usage sql Table Table.to_pandas Table.to_polars""",
    "compared": "Comparison Comparison.to_dict Comparison.to_json ComparedStep compare",
    "held": "Inbox Waiting approve reject approval_link decide_by_link RunHeld",
    "doubtful": "Happened NotHappened Unknown resolve",
    "failed": "resume aresume RunFailed",
    "listening": "cancel send asend",
    "diverged": "Diverged",
    "answered": "response_ended aresponse_ended",
}
STATE = {name: state for state, names in STATES.items() for name in names.split()}
IN_A_RUN = {"branch", "current_run", "now", "rng", "turn", "uuid", "RunInfo", "call_tools",
            "acall_tools", "trim_messages"}  # fmt: skip
IN_A_STEP = {"StepInfo"}
WORKED = {"DurableAgent", "DurableAgent.submit", "DurableAgent.asubmit"}  # a worker is there
PARKS = {"sleep", "asleep", "receive", "areceive"}  # they wait for longer than a test may
OF_THE_PROCESS = {"install", "mask"}  # they change the whole process


@pytest.fixture(scope="module")
def double() -> Any:
    with Provider() as provider:
        yield provider


@pytest.mark.parametrize("name", sorted(WITH_EXAMPLE))
def test_an_example_runs(
    name: str, dsn: str, double: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", double.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    # A secret stays known to this process, so no other test may hold its text.
    monkeypatch.setenv("AGENTRUN_APPROVAL_SECRET", "only-the-examples-of-docstrings")
    monkeypatch.chdir(tmp_path)
    text = WITH_EXAMPLE[name].replace("postgresql://localhost/agents", dsn)
    with agentrun.connect(dsn):
        desk = Desk(dsn, tmp_path, double)
        getattr(desk, STATE.get(name, "new"))()
        if name in OF_THE_PROCESS:
            assert in_child(lambda: run_example(text, desk.names)) == 0
        elif name in PARKS:
            parks(text, desk.names)
        elif name in IN_A_RUN | IN_A_STEP:
            in_run(text, desk.names, in_step=name in IN_A_STEP)
        elif name in WORKED:
            with agentrun.Worker([desk.names["support"]]):
                run_example(text, desk.names)
        else:
            run_example(text, desk.names)


def body(text: str, names: dict[str, Any], *, in_step: bool = False) -> Any:
    """An agent that does what an example shows; it is async if the example waits."""
    if "await " in text:

        @agentrun.agent(name="inside")
        async def inside() -> None:
            found = eval(compile_text("\n".join(code_of(text)), "exec"), names)
            await found
    else:

        @agentrun.agent(name="inside")
        def inside() -> None:
            call = agentrun.step(effect="read")(lambda: run_example(text, names))
            call() if in_step else run_example(text, names)

    return inside


def code_of(text: str) -> list[str]:
    """The code of an example, without its prompts and its output."""
    lines = text.splitlines()
    if ">>>" not in text:
        return lines
    return [line[4:] for line in lines if line.startswith((">>> ", "... "))]


def in_run(text: str, names: dict[str, Any], *, in_step: bool) -> None:
    agent = body(text, names, in_step=in_step)
    if agent.is_async:
        asyncio.run(agent.arun())
    else:
        agent.run()


def parks(text: str, names: dict[str, Any]) -> None:
    """The run waits; if it waits for a signal, it goes on with it."""
    agent = body(text, names)
    with agentrun.Worker([agent]):
        handle = agent.submit()
        until(lambda: handle.status() == "waiting")
        if "receive" in text:
            agentrun.send(handle.key, "customer replied", {"text": "yes, please"})
            handle.result(timeout=60)
        else:
            agentrun.cancel(handle.key)
