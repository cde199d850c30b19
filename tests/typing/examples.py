"""The public face as a type checker sees it: checked by `tests/test_typing.py`, never executed.

What must be an error carries an ignore comment, and an ignore that is not needed is an error too.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal, assert_type
from uuid import UUID

from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

import agentrun

# -- agents --------------------------------------------------------------------------------------


@agentrun.agent
def answer(question: str, tries: int = 1) -> str:
    return question * tries


@agentrun.agent
async def aanswer(question: str) -> list[int]:
    return [len(question)]


@agentrun.agent(name="named")
def named(n: int) -> dict[str, int]:
    return {"n": n}


@agentrun.agent(name="anamed")
async def anamed() -> bool:
    return True


@agentrun.agent
def pieces(question: str) -> Iterator[str]:
    yield question


@agentrun.agent(name="apieces")
async def apieces(question: str) -> AsyncIterator[int]:
    yield len(question)


for piece in pieces.with_options(key="k").stream("why"):
    assert_type(piece, str)
assert_type(pieces.run("why"), list[str])
assert_type(apieces.with_options(key="a").submit("why").result(), list[int])
pieces.run(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

assert_type(answer.run("why"), str)
assert_type(answer.run("why", tries=2), str)
assert_type(aanswer.run("why"), list[int])
assert_type(named.run(1), dict[str, int])
assert_type(anamed.run(), bool)
answer.run(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
answer.run()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
aanswer.run("why", tries=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

keyed = answer.with_options(key="k", on_busy="raise", on_held="wait", on_divergence="accept")
assert_type(keyed.run("why"), str)
assert_type(answer.with_options(key=UUID(int=7)).run("why"), str)
answer.with_options(key=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
queued = keyed.with_options(queue="slow", priority=5, delay=60.0, deadline=3600.0)
assert_type(queued.submit("why", tries=2), agentrun.Handle[str])
a_tool: agentrun.ToolFunction[[str], Any] = agentrun.tool(effect="read")(str)
streaming: agentrun.StreamingAgent[[str], str] = pieces
any_agent: agentrun.DurableAgent[..., str] = answer
written: list[agentrun.Piece] = list(agentrun.get("k").stream())
assert_type(agentrun.current_step(), agentrun.StepInfo)


@agentrun.agent(budget=agentrun.Budget(usd=1, turns=50, on_exhausted="fail"))
def thrifty(question: str) -> str:
    return question


assert_type(thrifty.run("why"), str)
assert_type(answer.with_options(budget=agentrun.Budget(tokens=100_000)).run("why"), str)
agentrun.Budget(
    usd="one",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
)
answer.with_options(
    on_busy="later",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
)

limit = agentrun.Budget(
    usd=2, tokens=100_000, turns=9, tool_calls=40, wall=3600.0, on_exhausted="fail"
)
assert_type(answer.with_options(budget=limit).run("why"), str)
agentrun.Budget(euros=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@agentrun.agent(budget=limit)
def frugal(n: int) -> int:
    return n


assert_type(frugal.run(1), int)


async def from_async_code() -> None:
    assert_type(await apieces.arun("why"), list[int])
    async for length in apieces.with_options(key="k").astream("why"):
        assert_type(length, int)
    assert_type(await answer.arun("why", tries=2), str)
    assert_type(await aanswer.with_options(key="k").arun("why"), list[int])
    assert_type(await anamed.arun(), bool)
    assert_type(await answer.asubmit("why"), agentrun.Handle[str])
    await aanswer.arun(2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- tools and steps -----------------------------------------------------------------------------


@agentrun.tool
def look(order: str) -> dict[str, int]:
    return {order: 1}


@agentrun.tool(effect="idempotent", retries=2, timeout=3.0)
def refund(order: str, cents: int, idempotency_key: str = "") -> int:
    return cents


@agentrun.tool(effect="read")
async def fetch(url: str) -> bytes:
    return url.encode()


def find(key: str, order: str) -> agentrun.Happened | agentrun.NotHappened | agentrun.Unknown:
    return agentrun.Happened({"key": key}) if order else agentrun.NotHappened()


@agentrun.tool(on_doubt="tell_model", reconcile=find)
def post(order: str) -> dict[str, str]:
    return {"order": order}


def large(order: str, cents: int) -> bool:
    return cents > 5000


@agentrun.tool(effect="once", approve=large)
def pay(order: str, cents: int) -> int:
    return cents


@agentrun.tool(name="looked", effect="read", approve=True, on_doubt="fail")
def named_tool() -> None: ...


@agentrun.step(effect="transaction")
def move(cents: int) -> None:
    agentrun.current_step().connection.execute("SELECT 1")


def plain(n: int) -> float:
    return n / 2


async def aplain(n: int) -> float:
    return n / 2


class Shop:
    @agentrun.tool(effect="read")
    def price(self, order: str) -> int:
        return len(order)

    @agentrun.step
    async def close(self, order: str) -> bool:
        return bool(order)


shop = Shop()
assert_type(shop.price("7"), int)
assert_type(shop.price.effect, Literal["read", "idempotent", "transaction", "once"])
agentrun.schemas(shop.price, look)
agentrun.call_tools({}, [shop.price])
shop.price(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


assert_type(look("7"), dict[str, int])
assert_type(refund("7", cents=5), int)
assert_type(post("7"), dict[str, str])
assert_type(agentrun.step(plain)(3), float)
assert_type(look.name, str)
refund("7", "5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
agentrun.tool(effect="twice")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def awaited() -> None:
    assert_type(await fetch("u"), bytes)
    assert_type(await shop.close("7"), bool)
    assert_type(await agentrun.step(aplain)(3), float)
    assert_type(await agentrun.acall_tools({}, [fetch, look]), list[Any])


assert_type(agentrun.call_tools({}, [look, refund]), list[Any])
assert_type(agentrun.schemas(look, refund, fetch), list[Any])
agentrun.schemas(look, api="soap")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
agentrun.schemas(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(agentrun.current_step().key, str)
assert_type(agentrun.current_step().attempt, int)

# -- clients -------------------------------------------------------------------------------------

assert_type(agentrun.wrap(OpenAI()), OpenAI)
assert_type(agentrun.wrap(AsyncOpenAI(), strict=True, retries=3), AsyncOpenAI)
assert_type(agentrun.wrap(AzureOpenAI(), inflight="background"), AzureOpenAI)
agentrun.wrap(OpenAI(), inflight="later")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(agentrun.wrap(Anthropic()), Anthropic)
assert_type(agentrun.wrap(AsyncAnthropic()), AsyncAnthropic)
OpenAI(http_client=agentrun.http_client(strict=True, retries=3, timeout=30.0))
AsyncOpenAI(http_client=agentrun.async_http_client(module="httpx2"))
agentrun.install(strict=True, retries=None)


def ready_made(client: OpenAI) -> None:
    agent = agentrun.Agent(
        name="clerk",
        client=client,
        model="m",
        prompt=Path("clerk.md"),
        tools=[look, refund],
        api="responses",
        max_turns=9,
        budget=limit,
        inflight="background",
        temperature=0,
    )
    assert_type(agent.run("why"), str)
    assert_type(agent.with_options(key="k").submit("why"), agentrun.Handle[str])
    agent.run(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def loops(openai: OpenAI, anthropic: Anthropic) -> None:
    """Descriptions and answers of tools are what each API takes, in whatever it is given."""
    completion = agentrun.wrap(openai).chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "why"}, *agentrun.call_tools({}, [look])],
        tools=agentrun.schemas(look),
    )
    assert_type(completion.id, str)
    openai.responses.create(
        model="m",
        input=agentrun.call_tools({}, [look]),
        tools=agentrun.schemas(look, api="responses"),
    )
    anthropic.messages.create(
        model="m",
        max_tokens=9,
        messages=agentrun.call_tools({}, [look]),
        tools=agentrun.schemas(look, api="anthropic"),
    )


# -- runs from outside ---------------------------------------------------------------------------

handle = agentrun.get("k")
assert_type(handle, agentrun.Handle[Any])
assert_type(answer.submit("why"), agentrun.Handle[str])
assert_type(aanswer.submit("why").result(timeout=1.0), list[int])
answer.submit(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(handle.transcript(), agentrun.Transcript)
assert_type(agentrun.transcript("k"), agentrun.Transcript)
for entry in handle.transcript().entries:
    if isinstance(entry, agentrun.Step):
        assert_type(entry.attempts, tuple[agentrun.Attempt, ...])
        assert_type(entry.doubts, tuple[agentrun.Doubt, ...])
        assert_type(entry.approvals, tuple[agentrun.Decision, ...])
        assert_type(entry.usage, agentrun.Usage | None)
    elif isinstance(entry, agentrun.NewMessage):
        assert_type(entry.message, agentrun.Message)
        assert_type(entry.message.calls, tuple[agentrun.ToolRequest, ...])
    else:
        assert_type(entry, agentrun.Resume | agentrun.Note)
assert_type(handle.transcript().error, agentrun.Failure | None)
assert_type(handle.transcript().totals, agentrun.Totals)
assert_type(agentrun.redo("k", 3, by="ada", reason="no JSON", dry_run=True), agentrun.Redo)
assert_type(agentrun.resume_diverged("answer", on_divergence="keep"), list[str])
assert_type(agentrun.response_ended("resp_68a1"), bool)
link = agentrun.approval_link("k", 3, base_url="https://desk.example", signer="ada")
assert_type(link, str)
assert_type(agentrun.decide_by_link(link), UUID)
agentrun.mask(names=["iban"], off=["jwt"])
assert_type(agentrun.__version__, str)
assert_type(agentrun.as_text(handle.transcript()), str)
assert_type(agentrun.as_html(handle.transcript()), str)
if handle.status() == "done":
    print("done")
agentrun.resolve("k", 3, agentrun.Happened({"id": 1}), by="ada", reason="seen in the ledger")
agentrun.resolve("k", 3, agentrun.NotHappened())
assert_type(agentrun.approve("k", 3, budget=agentrun.Budget(usd=2)), UUID)
agentrun.resolve("k", 3, agentrun.Unknown())
agentrun.resolve(
    "k",
    "3",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "happened",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
)

agentrun.approve("k", 3, by="ada", reason="a good customer")
agentrun.approve("k", 3, arguments={"cents": 5}, expires=dt.datetime.now(dt.UTC))
agentrun.approve("k", 3, budget=agentrun.Budget(usd=5))
agentrun.reject("k", 3, by="ada", reason="too much")
agentrun.cancel("k", by="ada", reason="no longer wanted")
assert_type(agentrun.prune(dt.timedelta(days=30), status=["done"]), agentrun.Pruned)
agentrun.prune(forget_keys=dt.timedelta(days=365), agent="support", dry_run=True)
agentrun.prune(30)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(agentrun.resume("k", by="ada", reason="the bug is fixed"), Any)
assert_type(agentrun.inbox(), agentrun.Inbox)
for waiting in agentrun.inbox("k"):
    assert_type(waiting, agentrun.Waiting)
    assert_type(waiting.step, int | None)
    assert_type(waiting.since, dt.datetime)


compared = agentrun.compare("k", agentrun.transcript("l"))
assert_type(compared, agentrun.Comparison)
assert_type(compared.first_difference, agentrun.ComparedStep | None)
table = agentrun.sql("SELECT key FROM runs WHERE agent = %s", "support", timeout=5)
assert_type(table, agentrun.Table)
assert_type(table.columns, tuple[str, ...])
agentrun.sql(["SELECT 1"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def authorize(request: Any) -> agentrun.Person | None:
    return agentrun.Person("ana") if request.headers else None


pages = agentrun.ui(authorize=authorize, allow_decisions=True)
image = agentrun.Image("data:image/png;base64,")
assert_type(image.address, str)
assert_type(agentrun.runs(status=["done", "failed"], min_cost=0.5), agentrun.RunList)
for listed in agentrun.runs(since=dt.datetime.now(dt.UTC), roots=True):
    assert_type(listed, agentrun.RunSummary)
    assert_type(listed.failed_step, int | None)
agentrun.runs(status="finished")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def from_async_code_outside() -> None:
    assert_type(await handle.astatus() == "held", bool)
    assert_type(await answer.submit("why").aresult(timeout=1.0), str)
    assert_type(await handle.atranscript(), agentrun.Transcript)
    assert_type(await agentrun.atranscript("k"), agentrun.Transcript)
    assert_type(await agentrun.aresume("k"), Any)
    assert_type(await agentrun.aredo("k", 3), agentrun.Redo)
    assert_type(await agentrun.aresponse_ended("resp_68a1"), bool)
    assert_type(await agentrun.asend("k", "paid", {"cents": 5}), UUID)
    async with agentrun.Worker([answer, aanswer], queues=["slow"]) as worker:
        assert_type(worker, agentrun.Worker)


with agentrun.connect("postgresql:///shop", lease=30.0, allow_unsafe=True) as database:
    assert_type(database, agentrun.Database)
    with agentrun.Worker([answer, aanswer], concurrency=50, database=database) as worker:
        assert_type(worker, agentrun.Worker)
agentrun.Worker([plain])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]

# -- inside a run --------------------------------------------------------------------------------

assert_type(agentrun.now(), dt.datetime)
assert_type(agentrun.uuid(), UUID)
assert_type(agentrun.rng(), random.Random)
assert_type(agentrun.send("k", "paid", {"cents": 5}), UUID)
assert_type(agentrun.receive("paid", timeout=60.0), Any)
run_info = agentrun.current_run()
assert_type(run_info, agentrun.RunInfo | None)
if run_info is not None:
    assert_type(run_info.key, str)
    assert_type(run_info.run_id, UUID)
    assert_type(run_info.parent, str | None)
    assert_type(run_info.deadline, dt.datetime | None)
    run_info.key = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
assert_type(agentrun.trim_messages([], max_tokens=9), list[Any])
agentrun.sleep(3600)
with agentrun.branch("lawyer"), agentrun.turn():
    look("7")


assert_type(agentrun.call("look", {"order": "7"}, look, call_id="c1", effect="read"), Any)


async def waits() -> None:
    assert_type(await agentrun.acall("fetch", {"url": "u"}, fetch, effect="read"), Any)
    assert_type(await agentrun.areceive("paid", timeout=None), Any)
    await agentrun.asleep(0.5)


# -- errors --------------------------------------------------------------------------------------

try:
    answer.run("why")
except agentrun.RunFailed as failed:
    assert_type(failed.key, str | None)
except agentrun.RunHeld as held:
    assert_type(held.step, int | None)
except agentrun.Diverged as diverged:
    assert_type(diverged.diff, str)

errors: list[type[agentrun.AgentrunError]] = [
    agentrun.ConfigError,
    agentrun.NoRun,
    agentrun.Unserialisable,
]
run_errors: list[type[agentrun.RunError]] = [
    agentrun.RunNotFound,
    agentrun.RunPruned,
    agentrun.RunConflict,
    agentrun.LimitExceeded,
]
store_errors: list[type[agentrun.StoreError]] = [
    agentrun.StoreUnavailable,
    agentrun.OutcomeUnknown,
    agentrun.SchemaMismatch,
]
tool_errors: list[type[agentrun.ToolError]] = [agentrun.ToolFailed, agentrun.ToolTimeout]
errors += [*run_errors, *store_errors, *tool_errors]

late_errors: list[type[agentrun.AgentrunError]] = [
    agentrun.AlreadyDecided,
    agentrun.ApprovalExpired,
]
warnings: list[type[UserWarning]] = [agentrun.NoModelWarning, agentrun.NoWorkerWarning]
adapted: agentrun.Tool | None = None  # what adapters of frameworks hold

# `except Exception` of the agent's own code must not stop an interrupt.
interrupts: list[type[agentrun.Interrupt]] = [
    agentrun.LeaseLost,
    agentrun.RunCancelled,
    agentrun.RunExpired,
    agentrun.Diverging,
    agentrun.Parking,
]
exceptions: list[type[Exception]] = [
    agentrun.Interrupt,  # type: ignore[list-item]  # pyright: ignore[reportAssignmentType]
]
