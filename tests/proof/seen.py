"""Random agents that write down everything their code sees, for `test_live_equals_resumed`.

An agent is drawn from a seed, and so are all values in it (see `sights`): what a tool returns, what
it is given, what it raises. Half of the agents are async, some of both yield. A process plays one
agent and may be killed at a point; the lines that it wrote down are left in a file.

``python seen.py DSN PROVIDER`` forks a process for each order that it reads. So processes of two
interpreters, with two hash seeds, can take turns at one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import anthropic
import openai
from sights import ERRORS, KINDS, SENDABLE, Animal, Order, anything, dog, show, text

import agentrun
from agentrun.core import points
from agentrun.core.flow import Flow, Op, run_async, run_sync

Node = list[Any]
EVERY = "every kind"  # in the seed of an agent that meets all there is; its last word is the style
STYLES = ["sync", "async", "yields", "ayields"]

# -- what is written down --------------------------------------------------------------------------


class Trace:
    """What this process saw, a line at a time."""

    def __init__(self) -> None:
        self.file = -1

    def open(self, path: str) -> None:
        self.file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write(self, who: str, value: Any) -> None:
        line = json.dumps([who, show(value)])
        os.write(self.file, line.encode() + b"\n")


trace = Trace()


# -- tools -----------------------------------------------------------------------------------------


def drawn(seed: str, number: int, kind: str) -> Any:
    """The value of this number in the program of this seed."""
    return KINDS[kind][1](random.Random(f"{seed} {number} {kind}"))


def _both(kind: str, name: str, body: Callable[..., Flow[Any]]) -> tuple[Any, Any]:
    """A sync and an async function of this body, annotated as a value of this kind is.

    An argument has to be what its annotation says, a result may be anything.
    """
    returned = KINDS[kind][0]
    declared = {"value": Any if kind == "undeclared" else returned, "return": returned}

    def function(seed: str, number: int, value: Any) -> Any:
        return run_sync(body(seed, number, value))

    async def coroutine(seed: str, number: int, value: Any) -> Any:
        return await run_async(body(seed, number, value))

    for made, called in (function, name), (coroutine, f"a{name}"):
        made.__name__ = called
        made.__annotations__ |= declared
    return function, coroutine


def _take(kind: str) -> Callable[..., Flow[Any]]:
    def take(seed: str, number: int, value: Any) -> Flow[Any]:
        trace.write(f"body {number}", value)
        return drawn(seed, -number, kind)
        yield

    return take


def _child(kind: str) -> Callable[..., Flow[Any]]:
    def child(seed: str, number: int, value: Any) -> Flow[Any]:
        trace.write(f"child {number}", value)
        before = yield call(tools[kind], seed, 1000 + number, value)
        trace.write(f"child {number}", before)
        return drawn(seed, -number, kind)

    return child


def call(pair: Any, *args: Any) -> Op[Any]:
    """Call the one of two tools that fits the code which calls it."""
    return Op(partial(pair[0], *args), partial(pair[1], *args))


Pair = tuple[Any, Any]
tools: dict[str, Pair] = {}
steps: dict[str, Pair] = {}
children: dict[str, Pair] = {}
for _kind in KINDS:
    _bodies = _both(_kind, f"take_{_kind}", _take(_kind))
    tools[_kind] = tuple(map(agentrun.tool(effect="idempotent"), _bodies))
    steps[_kind] = tuple(
        agentrun.step(effect="read", name=f"look_{_kind}")(body)
        for body in _both(_kind, f"look_{_kind}", _take(_kind))
    )
    children[_kind] = tuple(map(agentrun.agent, _both(_kind, f"child_{_kind}", _child(_kind))))
pays: Pair = tuple(
    map(agentrun.tool(effect="once", approve=True), _both("text", "pay", _take("text")))
)


@agentrun.tool(effect="idempotent")
def break_down(seed: str, number: int, kind: str) -> None:
    """Raise the exception of this number."""
    ERRORS[kind](random.Random(f"{seed} {number} {kind}"))


@agentrun.tool(effect="idempotent")
async def abreak_down(seed: str, number: int, kind: str) -> None:
    """Raise the exception of this number."""
    ERRORS[kind](random.Random(f"{seed} {number} {kind}"))


@agentrun.tool(effect="idempotent")
def place(order: Order) -> Order:
    """Its id is drawn when the arguments are read."""
    trace.write("~body", order)
    return order


@agentrun.tool(effect="idempotent")
async def aplace(order: Order) -> Order:
    """Its id is drawn when the arguments are read."""
    trace.write("~body", order)
    return order


# -- agents ----------------------------------------------------------------------------------------

APIS = [
    "chat", "chat", "stream", "responses", "messages", "embeddings", "moderations", "images",
    "completions", "speech", "nothing", "nothing of anthropic",
]  # fmt: skip


def program(seed: str) -> list[Node]:
    """The orders of an agent."""
    if EVERY in seed:
        return every_kind()
    chance = random.Random(seed)
    kinds, errors = list(KINDS), list(ERRORS)
    makers: list[Callable[[int], Node]] = [
        lambda n: ["tool", n, chance.choice(kinds)],
        lambda n: ["tool", n, chance.choice(kinds)],
        lambda n: ["step", n, chance.choice(kinds)],
        lambda n: ["sent", n, chance.choice(sorted(SENDABLE))],
        lambda n: ["gather", n, chance.choices(sorted(SENDABLE), k=3)],
        lambda n: ["together", n, chance.choices(kinds, k=2)],
        lambda n: ["child", n, chance.choice(kinds), chance.randrange(2)],
        lambda n: ["child", n, chance.choice(kinds), chance.randrange(2)],
        lambda n: ["error", n, chance.choice(errors)],
        lambda n: ["error", n, chance.choice(errors)],
        lambda n: ["error inside", n, chance.choice(errors)],
        lambda n: ["wrong", n],
        lambda n: ["pay", n],
        lambda n: ["signal", n],
        lambda n: ["late", n],
        lambda n: ["order", n, chance.choice(["sent", "dict", "model"])],
        lambda n: ["model", n, chance.choice(APIS)],
        lambda n: ["model", n, chance.choice(APIS)],
        lambda n: ["clock", n],
    ]
    return [chance.choice(makers)(n) for n in range(1, chance.randint(3, 7))]


def every_kind() -> list[Node]:
    """The orders of an agent that meets all there is."""
    nodes: list[Node] = []
    for kind in KINDS:
        nodes += [["tool", 0, kind], ["step", 0, kind], ["child", 0, kind, len(nodes) % 2]]
    nodes += [["sent", 0, kind] for kind in sorted(SENDABLE)]
    nodes += [["error", 0, kind] for kind in ERRORS]
    nodes += [["order", 0, way] for way in ("sent", "dict", "model")]
    nodes += [["model", 0, api] for api in dict.fromkeys(APIS)]
    nodes += [["gather", 0, sorted(SENDABLE)], ["together", 0, list(KINDS)]]
    nodes += [[kind, 0] for kind in ("wrong", "pay", "pay", "pay", "signal", "late", "clock")]
    return [[kind, number, *more] for number, (kind, _, *more) in enumerate(nodes, 1)]


def style(seed: str) -> str:
    """Of which colour the agent is, and whether it yields."""
    if EVERY in seed:
        return seed.rpartition(" ")[2]
    return random.Random(f"{seed} style").choice(STYLES)


def asked(number: int, *calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """What a model would have said to ask for these calls."""
    return {
        "role": "assistant",
        "tool_calls": [
            {
                "id": f"c{number}-{n}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for n, (name, arguments) in enumerate(calls)
        ],
    }


def sent(seed: str, number: int, kind: str) -> tuple[str, dict[str, Any]]:
    value = tools[kind][0].__agentrun_tool__.arguments.result.encode_for_display(
        drawn(seed, number, kind)
    )
    return f"take_{kind}", {"seed": seed, "number": number, "value": value}


def called(asking: dict[str, Any], used: list[Any]) -> Op[Any]:
    return Op(lambda: agentrun.call_tools(asking, used), lambda: agentrun.acall_tools(asking, used))


def play(seed: str, key: str, node: Node) -> Flow[None]:
    """Do what an order says, and write down what the code sees."""
    see = trace.write
    match node:
        case ["tool", n, kind]:
            see("saw", (yield call(tools[kind], seed, n, drawn(seed, n, kind))))
        case ["step", n, kind]:
            see("looked", (yield call(steps[kind], seed, n, drawn(seed, n, kind))))
        case ["sent", n, kind]:
            see("saw", (yield called(asked(n, sent(seed, n, kind)), [tools[kind][0]])))
        case ["gather", n, kinds]:
            calls = [sent(seed, 100 * n + at, kind) for at, kind in enumerate(kinds)]
            asking, used = asked(n, *calls), list({kind: tools[kind][0] for kind in kinds}.values())
            see("saw", (yield Op(
                lambda: asyncio.run(agentrun.acall_tools(asking, used)),
                lambda: agentrun.acall_tools(asking, used))))  # fmt: skip
        case ["together", n, kinds]:
            parts = [
                call(tools[kind], seed, 100 * n + at, drawn(seed, n, kind))
                for at, kind in enumerate(kinds)
            ]
            see("saw", (yield together(parts)))
        case ["child", n, kind, is_async]:
            child, args = children[kind][is_async], (seed, n, drawn(seed, n, kind))
            see("saw", (yield Op(lambda: child.run(*args), lambda: child.arun(*args))))
        case ["error inside", n, kind]:
            try:
                raise LookupError("handled meanwhile")
            except LookupError:
                yield from play(seed, key, ["error", n, kind])
        case ["order", n, "sent"]:
            asking = asked(n, ("place", {"order": {"name": "n"}}))
            see("~saw", (yield called(asking, [place])))
        case ["order", _, "dict"]:
            see("~saw", (yield call((place, aplace), {"name": "n"})))
        case ["order", _, _]:
            see("~saw", (yield call((place, aplace), Order(name="n"))))
        case ["model", n, api]:
            yield from converse(api, text(random.Random(f"{seed} {n}")))
        case ["clock", _]:
            see("~clock", (agentrun.now(), agentrun.uuid(), agentrun.rng().random()))
        case ["signal", n]:
            payload = {"n": n, "text": text(random.Random(f"{seed} {n}")), "list": [1, 1.5, None]}
            name = f"s{n}"
            yield Op(lambda: agentrun.send(key, name, payload),
                     lambda: agentrun.asend(key, name, payload))  # fmt: skip
            see("received", (yield Op(lambda: agentrun.receive(name),
                                      lambda: agentrun.areceive(name))))  # fmt: skip
        case _:
            try:
                yield from fails(seed, node)
            except Exception as error:
                # A call with invalid arguments is no step: what was seen before may not be durable.
                see("looked" if node[0] == "wrong" else "caught", error)


def fails(seed: str, node: Node) -> Flow[None]:
    """Orders that may end with an exception."""
    match node:
        case ["error", n, kind]:
            yield call((break_down, abreak_down), seed, n, kind)
        case ["wrong", n]:
            yield call(tools["money"], seed, n, "no amount")
        case ["late", n]:
            yield Op(lambda: agentrun.receive(f"never {n}", 0.01),
                     lambda: agentrun.areceive(f"never {n}", 0.01))  # fmt: skip
        case ["pay", n]:
            trace.write("saw", (yield call(pays, seed, n, drawn(seed, n, "text"))))
        case _:
            raise AssertionError(f"no such order: {node}")


def together(parts: list[Op[Any]]) -> Op[list[Any]]:
    """All at once, in threads or tasks."""

    def in_threads() -> list[Any]:
        with ThreadPoolExecutor(len(parts)) as pool:
            return [one.result() for one in [pool.submit(part.sync) for part in parts]]

    async def in_tasks() -> list[Any]:
        return await asyncio.gather(*(part.asyn() for part in parts))

    return Op(in_threads, in_tasks)


# -- models ----------------------------------------------------------------------------------------


class Clients:
    """One of each; made before a process is forked, since that takes its time."""

    def __init__(self, base_url: str) -> None:
        root = base_url.removesuffix("/v1")
        self.openai = agentrun.wrap(openai.OpenAI(base_url=base_url, api_key="k"))
        self.aopenai = agentrun.wrap(openai.AsyncOpenAI(base_url=base_url, api_key="k"))
        self.anthropic = agentrun.wrap(anthropic.Anthropic(base_url=root, api_key="k"))
        self.aanthropic = agentrun.wrap(anthropic.AsyncAnthropic(base_url=root, api_key="k"))


clients: Clients


def converse(api: str, said: str) -> Flow[None]:
    """Ask a model by one of the APIs; see what it says, and all else of the reply."""
    said = "say " + said.encode("utf-8", "replace").decode()
    try:
        reply = yield Op(
            lambda: ask(clients.openai, clients.anthropic, api, said),
            lambda: aask(clients.aopenai, clients.aanthropic, api, said),
        )
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        trace.write("caught", type(error))
        trace.write("~read", error)
        return
    trace.write("read", spoken(api, reply))
    trace.write("~read", reply if isinstance(reply, bytes) else dumped(reply))


async def aask(aopenai: Any, aanthropic: Any, api: str, said: str) -> Any:
    reply = await ask(aopenai, aanthropic, api, said)
    return [chunk async for chunk in reply] if api == "stream" else reply


def ask(gpt: Any, claude: Any, api: str, said: str) -> Any:
    """The reply, or of an async client what is awaited for it."""
    messages = [{"role": "user", "content": said}]
    match api:
        case "messages":
            return claude.messages.create(model="claude", max_tokens=99, messages=messages)
        case "responses":
            return gpt.responses.create(model="gpt-5-mini", input=said)
        case "embeddings":
            return gpt.embeddings.create(model="text-embedding-3-small", input=said)
        case "moderations":
            return gpt.moderations.create(input=said)
        case "images":
            return gpt.images.generate(model="gpt-image-1", prompt=said)
        case "completions":
            return gpt.completions.create(model="gpt-3.5-turbo-instruct", prompt=said)
        case "speech":
            return gpt.audio.speech.create(model="tts-1", voice="alloy", input=said)
        case "nothing":
            return gpt.post("/no/such/thing", body={"said": said}, cast_to=object)
        case "nothing of anthropic":
            return claude.post("/v1/no/such/thing", body={"said": said}, cast_to=object)
    reply = gpt.chat.completions.create(
        model="gpt-5-mini", messages=messages, stream=api == "stream"
    )
    return list(reply) if isinstance(reply, openai.Stream) else reply


def dumped(reply: Any) -> Any:
    if hasattr(reply, "content") and isinstance(reply.content, bytes):
        return reply.content
    return [chunk.model_dump() for chunk in (reply if isinstance(reply, list) else [reply])]


def spoken(api: str, reply: Any) -> Any:
    """What of a reply is the same whenever it is asked for."""
    match api:
        case "chat":
            return reply.choices[0].message.content
        case "stream":
            return [chunk.choices[0].delta.content for chunk in reply if chunk.choices]
        case "responses":
            return reply.output_text
        case "messages":
            return [block.model_dump() for block in reply.content]
    return type(reply)


# -- agents of each style --------------------------------------------------------------------------

Seen = tuple[Any, list[Animal]]


def begun(value: Any, animals: list[Animal]) -> str:
    run = agentrun.current_run()
    assert run is not None
    trace.write("given", (value, animals))
    return run.key


def item(seed: str, number: int, animals: list[Animal]) -> Seen:
    return anything(random.Random(f"{seed} item {number}")), animals


@agentrun.agent
def seer(seed: str, value: Any, animals: list[Animal]) -> Seen:
    """Sees what it is given, and what comes of its orders."""
    key = begun(value, animals)
    for node in program(seed):
        run_sync(play(seed, key, node))
    return value, animals


@agentrun.agent
async def aseer(seed: str, value: Any, animals: list[Animal]) -> Seen:
    key = begun(value, animals)
    for node in program(seed):
        await run_async(play(seed, key, node))
    return value, animals


@agentrun.agent
def yseer(seed: str, value: Any, animals: list[Animal]) -> Iterator[Seen]:
    key = begun(value, animals)
    for number, node in enumerate(program(seed)):
        run_sync(play(seed, key, node))
        yield item(seed, number, animals)


@agentrun.agent
async def ayseer(seed: str, value: Any, animals: list[Animal]) -> AsyncIterator[Seen]:
    key = begun(value, animals)
    for number, node in enumerate(program(seed)):
        await run_async(play(seed, key, node))
        yield item(seed, number, animals)


AGENTS: dict[str, Any] = dict(zip(STYLES, (seer, aseer, yseer, ayseer), strict=True))


# -- processes -------------------------------------------------------------------------------------

POINTS = frozenset({"append:after", "body:before", "body:after", "send:after"})
DONE, STRUCK = 0, -signal.SIGKILL


def live(dsn: str, order: dict[str, Any]) -> None:
    """Play an agent, as far as the order lets it."""
    left = [order["at"]]

    def strike(name: str) -> None:
        if name in POINTS and order["at"]:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    trace.open(order["trace"])
    points.arm(strike)
    seed, key = order["seed"], order["key"]
    chance = random.Random(f"{seed} input")
    agent = AGENTS[style(seed)].with_options(key=key)
    given = (seed, anything(chance), [dog(chance)])
    with agentrun.connect(dsn):
        while True:
            try:
                trace.write("returned", executed(seed, agent, given))
                return
            except agentrun.RunHeld:
                decide(seed, key)


def executed(seed: str, agent: Any, given: tuple[Any, ...]) -> Any:
    """What a run gives back; of one that yields perhaps item by item, as they come."""
    sync, whole = random.Random(f"{seed} caller").choices([True, False], k=2)
    items: list[Any] = []

    async def awaited() -> Any:
        return await agent.arun(*given)

    if whole or not style(seed).endswith("yields"):
        return agent.run(*given) if sync else asyncio.run(awaited())

    def take(one: Any) -> None:
        trace.write(f"item {len(items)}", one)
        items.append(one)

    async def read() -> None:
        async for one in agent.astream(*given):
            take(one)

    if sync:
        for one in agent.stream(*given):
            take(one)
    else:
        asyncio.run(read())
    return items


def decide(seed: str, key: str) -> None:
    """What a person does about all that waits: approve, approve with other arguments, reject.

    Of a payment in doubt he finds out what came of it.
    """
    for one in agentrun.inbox(key):
        number, step = one.args["number"], one.step or 0
        with contextlib.suppress(agentrun.AlreadyDecided):
            if one.waits_for == "doubt":
                agentrun.resolve(key, step, agentrun.Happened(drawn(seed, -number, "text")))
            elif number % 3 == 1:
                agentrun.reject(key, step, by="ada", reason="no")
            else:
                edited = {**one.args, "value": "edited"} if number % 3 == 0 else None
                agentrun.approve(key, step, by="ada", arguments=edited)


def warm(dsn: str) -> None:
    """Have what is built at first use built here; a forked child inherits that."""

    @agentrun.agent
    def warmed() -> None:
        for api in dict.fromkeys(APIS):
            run_sync(converse(api, "warm"))
        run_sync(play("warm", "warm", ["tool", 1, "parcel"]))

    trace.open(os.devnull)
    with agentrun.connect(dsn):
        warmed.run()
    agentrun.prune(timedelta(), agent="warmed")


def serve(dsn: str, url: str) -> None:
    """Fork a process for each order; tell how it ended."""
    global clients
    clients = Clients(url)
    warm(dsn)
    clients = Clients(url)  # without a connection
    gc.freeze()
    for line in sys.stdin:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 70
            try:
                live(dsn, json.loads(line))
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.modules["seen"] = sys.modules["__main__"]
    serve(*sys.argv[1:])
