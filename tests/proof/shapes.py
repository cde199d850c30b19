"""The shapes of agents that are struck: small ones of each kind people build, sync and async.

Each `Shape` says what comes of it, however often it is struck: its result, and how many different
effects there are of each kind. Its tools act on the world outside, `here`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from crashing import until
from outside import Outside

import agentrun
from agentrun import Happened, NotHappened
from agentrun.lifecycle import event_loop
from agentrun.testing import Call, Fault, Reply, Rule

LEASE = 2.0  # seconds
# Of a reply, what the API takes back; `.stream` adds fields of its own.
SAID: Any = {
    "role": True,
    "content": True,
    "tool_calls": {
        "__all__": {"id": True, "type": True, "function": {"name": True, "arguments": True}}
    },
}
SAID_ITEM: Any = {"type", "call_id", "name", "arguments"}


def calls(*asked: tuple[str, str]) -> Reply:
    """A reply that asks for these tools, each about an item."""
    return Reply(tool_calls=[Call(name, {"item": item}) for name, item in asked])


SCRIPTS: dict[str, list[Reply | str]] = {
    "chain": [calls(("look_up", "hat")), calls(("mail", "hat")), calls(("book", "hat")), "done"],
    "parallel": [calls(("mail", "a"), ("book", "b"), ("mail", "c")), "done"],
    "side": [calls(("mail", "hat")), "done"],
    "part": [calls(("mail", "hat")), "done"],
    "stream": [
        Reply("One moment.", tool_calls=[Call("book", {"item": "hat"})], chunks=2),
        Reply("all done", chunks=2),
    ],
    "background": [calls(("mail", "hat")), Reply("all done", chunks=2)],
    "retry": [calls(("stutter", "hat")), "done"],
    "pay": [calls(("pay", "hat")), "done"],
    "count": [calls(("count", "a")), calls(("count", "b"), ("mail", "c")), "done"],
    "doubt": [calls(("ship", "hat")), "shipped"],
}
RULES = [
    Rule({"mentions": "Shape doubt,", "contains": "unknown"}, "not sure"),
    *(Rule({"mentions": f"Shape {name},"}, script) for name, script in SCRIPTS.items()),
]
here = Outside(RULES)


# -- tools -----------------------------------------------------------------------------------------


@agentrun.tool(effect="read")
def look_up(item: str) -> str:
    here.done(item)
    return f"{item} found"


@agentrun.tool(effect="idempotent")
def mail(item: str, idempotency_key: str = "") -> str:
    here.act(idempotency_key, f"mail {item}")
    return f"{item} mailed"


def find(key: str, item: str) -> Happened | NotHappened:
    return Happened(f"{item} booked") if here.done(key) else NotHappened()


@agentrun.tool(reconcile=find)
def book(item: str, idempotency_key: str = "") -> str:
    here.act(idempotency_key, f"book {item}")
    return f"{item} booked"


@agentrun.tool(approve=True, reconcile=find)
def pay(item: str, idempotency_key: str = "") -> str:
    here.act(idempotency_key, f"pay {item}")
    return f"{item} booked"


@agentrun.tool(on_doubt="tell_model")
def ship(item: str, idempotency_key: str = "") -> str:
    here.act(idempotency_key, f"ship {item}")
    return f"{item} shipped"


@agentrun.tool(effect="idempotent", retries=2)
def stutter(item: str, idempotency_key: str = "") -> str:
    here.act(idempotency_key, f"stutter {item}")
    if agentrun.current_step().attempt == 1:
        raise OSError("the line is bad")
    return f"{item} said"


@agentrun.tool(effect="transaction")
def count(item: str) -> str:
    row = (agentrun.current_run().key, item)  # type: ignore[union-attr]
    agentrun.current_step().connection.execute("INSERT INTO public.counted VALUES (%s, %s)", row)
    return f"{item} counted"


@agentrun.tool(name="look_up", effect="read")
async def alook_up(item: str) -> str:
    await here.adone(item)
    return f"{item} found"


@agentrun.tool(name="mail", effect="idempotent")
async def amail(item: str, idempotency_key: str = "") -> str:
    await here.aact(idempotency_key, f"mail {item}")
    return f"{item} mailed"


async def afind(key: str, item: str) -> Happened | NotHappened:
    return Happened(f"{item} booked") if await here.adone(key) else NotHappened()


@agentrun.tool(name="book", reconcile=afind)
async def abook(item: str, idempotency_key: str = "") -> str:
    await here.aact(idempotency_key, f"book {item}")
    return f"{item} booked"


@agentrun.tool(name="pay", approve=True, reconcile=afind)
async def apay(item: str, idempotency_key: str = "") -> str:
    await here.aact(idempotency_key, f"pay {item}")
    return f"{item} booked"


@agentrun.tool(name="ship", on_doubt="tell_model")
async def aship(item: str, idempotency_key: str = "") -> str:
    await here.aact(idempotency_key, f"ship {item}")
    return f"{item} shipped"


@agentrun.tool(name="stutter", effect="idempotent", retries=2)
async def astutter(item: str, idempotency_key: str = "") -> str:
    await here.aact(idempotency_key, f"stutter {item}")
    if agentrun.current_step().attempt == 1:
        raise OSError("the line is bad")
    return f"{item} said"


@agentrun.tool(name="count", effect="transaction")
async def acount(item: str) -> str:
    row = (agentrun.current_run().key, item)  # type: ignore[union-attr]
    connection = agentrun.current_step().connection
    await connection.execute("INSERT INTO public.counted VALUES (%s, %s)", row)
    return f"{item} counted"


# -- loops -----------------------------------------------------------------------------------------

Messages = list[Any]


def begun(shape: str, run: str, tools: tuple[Any, ...]) -> dict[str, Any]:
    said: Messages = [{"role": "user", "content": f"Shape {shape}, run {run}."}]
    return {"model": "gpt-5-mini", "tools": agentrun.schemas(*tools), "messages": said}


def begun_held(shape: str, run: str, *tools: Any) -> dict[str, Any]:
    """`begun`, for the Responses API."""
    chat = begun(shape, run, tools)
    schemas = agentrun.schemas(*tools, api="responses")
    return {"model": chat["model"], "tools": schemas, "input": chat["messages"]}


def pooled(reply: Any, tools: tuple[Any, ...]) -> Messages:
    """Plain calls in threads, all at once."""
    named = {tool.name: tool for tool in tools}

    def call(asked: Any) -> dict[str, Any]:
        content = named[asked.function.name](**json.loads(asked.function.arguments))
        return {"role": "tool", "tool_call_id": asked.id, "content": content}

    with ThreadPoolExecutor(len(reply.tool_calls)) as pool:
        return list(pool.map(call, reply.tool_calls))


def talk(
    shape: str,
    run: str,
    *tools: Any,
    stream: bool = False,
    perform: Callable[..., Messages] = agentrun.call_tools,
) -> str:
    """The loop that everybody writes; what the tools and then the model said."""
    ask, chat, answers = begun(shape, run, tools), here.client.chat.completions, []
    while True:
        if stream:
            with chat.stream(**ask) as chunks:
                message: Any = chunks.get_final_completion().choices[0].message
        else:
            message = chat.create(**ask).choices[0].message
        if not message.tool_calls:
            return "; ".join([*answers, message.content])
        done = perform(message, tools)
        ask["messages"] += [message.model_dump(include=SAID, exclude_none=True), *done]
        answers += [answer["content"] for answer in done]


async def atalk(shape: str, run: str, *tools: Any, stream: bool = False) -> str:
    """`talk`, awaited."""
    ask, chat, answers = begun(shape, run, tools), here.aclient.chat.completions, []
    while True:
        if stream:
            async with chat.stream(**ask) as chunks:
                completion: Any = await chunks.get_final_completion()
        else:
            completion = await chat.create(**ask)
        message = completion.choices[0].message
        if not message.tool_calls:
            return "; ".join([*answers, message.content])
        done = await agentrun.acall_tools(message, tools)
        ask["messages"] += [message.model_dump(include=SAID, exclude_none=True), *done]
        answers += [str(answer["content"]) for answer in done]


# -- agents ----------------------------------------------------------------------------------------

SIDES = ("north", "south")


@agentrun.agent
def chain(run: str) -> str:
    return talk("chain", run, look_up, mail, book)


@agentrun.agent
async def achain(run: str) -> str:
    return await atalk("chain", run, alook_up, amail, abook)


@agentrun.agent
def parallel(run: str) -> str:
    return talk("parallel", run, mail, book, perform=pooled)


@agentrun.agent
async def aparallel(run: str) -> str:
    return await atalk("parallel", run, amail, abook)


@agentrun.agent
def branches(run: str) -> str:
    def side(name: str) -> str:
        with agentrun.branch(name):
            return talk("side", run, mail)

    with ThreadPoolExecutor(len(SIDES)) as pool:
        return " | ".join(pool.map(side, SIDES))


@agentrun.agent
async def abranches(run: str) -> str:
    async def side(name: str) -> str:
        with agentrun.branch(name):
            return await atalk("side", run, amail)

    return " | ".join(await asyncio.gather(*map(side, SIDES)))


@agentrun.agent
def mails(run: str) -> str:
    return talk("part", run, mail)


@agentrun.agent
async def amails(run: str) -> str:
    return await atalk("part", run, amail)


@agentrun.agent
def part(run: str, number: int) -> str:
    return f"{number}: {talk('part', run, mail)}"


@agentrun.agent
def parent(run: str) -> str:
    return " | ".join([part(run, number) for number in (1, 2)])


@agentrun.agent
async def apart(run: str, number: int) -> str:
    return f"{number}: {await atalk('part', run, amail)}"


@agentrun.agent
async def aparent(run: str) -> str:
    return " | ".join(await asyncio.gather(*(apart(run, number) for number in (1, 2))))


@agentrun.agent
def stream(run: str) -> str:
    return talk("stream", run, book, stream=True)


@agentrun.agent
async def astream(run: str) -> str:
    return await atalk("stream", run, abook, stream=True)


def answered(response: Any) -> Messages:
    """What a response said, as the next request takes it back."""
    return [item.model_dump(include=SAID_ITEM, warnings=False) for item in response.output]


@agentrun.agent
def background(run: str) -> str:
    """Of Responses calls that its provider finishes by itself: a plain one, then a stream."""
    asked: Any = begun_held("background", run, mail)
    response: Any = here.held.responses.create(**asked)
    (done,) = agentrun.call_tools(response, [mail])
    asked["input"] += [*answered(response), done]
    with here.held.responses.stream(**asked) as events:
        return f"{done['output']}; {events.get_final_response().output_text}"


@agentrun.agent
async def abackground(run: str) -> str:
    asked: Any = begun_held("background", run, amail)
    response: Any = await here.aheld.responses.create(**asked)
    (done,) = await agentrun.acall_tools(response, [amail])
    asked["input"] += [*answered(response), done]
    async with here.aheld.responses.stream(**asked) as events:
        return f"{done['output']}; {(await events.get_final_response()).output_text}"


@agentrun.agent
def retry(run: str) -> str:
    return talk("retry", run, stutter)


@agentrun.agent
async def aretry(run: str) -> str:
    return await atalk("retry", run, astutter)


@agentrun.agent
def waits(run: str) -> str:
    agentrun.sleep(0.02)
    paid = agentrun.receive("paid")
    return f"{paid}; {talk('pay', run, pay)}"


@agentrun.agent
async def awaits(run: str) -> str:
    await agentrun.asleep(0.02)
    paid = await agentrun.areceive("paid")
    return f"{paid}; {await atalk('pay', run, apay)}"


@agentrun.agent
def counts(run: str) -> str:
    return talk("count", run, count, mail)


@agentrun.agent
async def acounts(run: str) -> str:
    return await atalk("count", run, acount, amail)


@agentrun.agent
def doubts(run: str) -> str:
    return talk("doubt", run, ship).rpartition("; ")[2]


@agentrun.agent
async def adoubts(run: str) -> str:
    return (await atalk("doubt", run, aship)).rpartition("; ")[2]


# -- how a process sees one through ----------------------------------------------------------------


def in_place(agent: Any, run: str) -> str:
    """Execute or resume the run here."""
    return str(agent.with_options(key=run).run(run))


def by_a_person(agent: Any, run: str) -> str:
    """Execute the run here, send what it waits for, and approve what it asks for."""
    agent.with_options(key=run).submit(run)
    agentrun.send(run, "paid", 3)
    while True:
        try:
            return in_place(agent, run)
        except agentrun.RunHeld as held:
            approve(run, held)


def by_a_treasurer(agent: Any, run: str) -> str:
    """Execute the run here, and raise its budget when it asks for that."""
    while True:
        try:
            return in_place(agent, run)
        except agentrun.RunHeld as held:
            approve(run, held, budget=agentrun.Budget(model_calls=9))


def by_a_worker(agent: Any, run: str) -> str:
    """Have a worker execute the run, which parks; send and approve as above."""
    handle = agent.with_options(key=run).submit(run)
    with agentrun.Worker([agent], concurrency=2):
        until(lambda: handle.status() in ("waiting", "held", "done"))
        agentrun.send(run, "paid", 3)
        while True:
            try:
                return str(handle.result(timeout=60))
            except agentrun.RunHeld as held:
                approve(run, held)
                until(lambda: handle.status() != "held")


def approve(run: str, held: agentrun.RunHeld, **more: Any) -> None:
    assert held.step is not None
    with suppress(agentrun.RunError):  # somebody else has done it
        agentrun.approve(run, held.step, by="ada", **more)


@dataclass(frozen=True)
class Shape:
    """A kind of agent, and what comes of it."""

    name: str
    agent: Any
    result: str
    asks: int  # model steps
    acts: int  # different effects outside
    counts: int = 0  # rows of `transaction` tools
    width: int = 1  # lines of control, each of which has an effect in flight
    drive: Callable[[Any, str], str] = in_place
    unsure: str = ""  # the result if the model was told that an outcome is unknown

    def prepare(self, run: str) -> None:
        """What the world does to this run, before it begins."""
        if self.agent in (retry, aretry):
            soon = {"retry-after-ms": "1"}
            here.provider.arm(Fault.error(429, headers=soon, when={"mentions": f", run {run}."}))

    def see_through(self, dsn: str, run: str, lease: float = LEASE) -> None:
        """What a process does that executes the run, or resumes it."""
        with agentrun.connect(dsn, lease=lease):
            assert self.drive(self.agent, run) in (self.result, self.unsure)


HAT = "hat mailed; done"
ONE = agentrun.Budget(model_calls=1)
SHAPES = [
    *(
        Shape(name, agent, "hat found; hat mailed; hat booked; done", asks=4, acts=2)
        for name, agent in (("chain", chain), ("chain, async", achain))
    ),
    *(
        Shape(name, agent, "a mailed; b booked; c mailed; done", asks=2, acts=3, width=3)
        for name, agent in (("parallel", parallel), ("parallel, async", aparallel))
    ),
    *(
        Shape(name, agent, f"{HAT} | {HAT}", asks=4, acts=2, width=2)
        for name, agent in (("branches", branches), ("branches, async", abranches))
    ),
    Shape("children", parent, f"1: {HAT} | 2: {HAT}", asks=4, acts=2),
    Shape("children, async", aparent, f"1: {HAT} | 2: {HAT}", asks=4, acts=2, width=2),
    *(
        Shape(name, agent, "hat booked; all done", asks=2, acts=1)
        for name, agent in (("stream", stream), ("stream, async", astream))
    ),
    *(
        Shape(name, agent, "hat mailed; all done", asks=2, acts=1)
        for name, agent in (("background", background), ("background, async", abackground))
    ),
    *(
        Shape(name, agent, "hat said; done", asks=2, acts=1)
        for name, agent in (("retry", retry), ("retry, async", aretry))
    ),
    *(
        Shape(name, agent, "3; hat booked; done", asks=2, acts=1, drive=drive)
        for name, agent, drive in (
            ("waits", waits, by_a_person),
            ("waits, async", awaits, by_a_person),
            ("worker", waits, by_a_worker),
            ("worker, async", awaits, by_a_worker),
        )
    ),
    *(
        Shape(name, agent, "a counted; b counted; c mailed; done", asks=3, acts=1, counts=2)
        for name, agent in (("transaction", counts), ("transaction, async", acounts))
    ),
    *(
        Shape(name, agent, "shipped", asks=2, acts=1, unsure="not sure")
        for name, agent in (("doubt", doubts), ("doubt, async", adoubts))
    ),
    *(
        Shape(name, agent.with_options(budget=ONE), HAT, asks=2, acts=1, drive=by_a_treasurer)
        for name, agent in (("budget", mails), ("budget, async", amails))
    ),
]

BY_NAME = {shape.name: shape for shape in SHAPES}

# A case of a matrix: every 8th point of a shape, until a run has no such point.
# Its runs have names that no other matrix uses: an idempotency key comes of a run's key alone, and
# all matrices of a session act on one carrier, which would answer for another's booking.
STRIDE = 8
CASES = {
    f"{shape.name}: points {first} + {STRIDE}k": (shape, first)
    for shape in SHAPES
    for first in range(STRIDE)
}


@contextmanager
def ground(databases: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """A fresh database, with the table that `count` writes to."""
    with databases() as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE TABLE public.counted (run text, item text)")
        yield dsn


def warm(dsn: str) -> None:
    """Make, in this process, what is made at first use; leave no thread and no connection."""

    def see_all_through() -> None:
        for number, shape in enumerate(SHAPES):
            shape.prepare(f"warm {number}")
            shape.see_through(dsn, f"warm {number}")

    agentrun.connect(dsn).close()  # the first one starts a thread that waits for the process's end
    before = set(threading.enumerate())
    see_all_through()
    event_loop.close()
    until(lambda: set(threading.enumerate()) <= before)
