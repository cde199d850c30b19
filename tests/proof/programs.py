"""Random programs: agents whose outcome is known before they run.

A program is a tree in JSON, drawn from a seed: ``["once", 7, "hold"]`` is tool call number 7 of a
`once` tool that leaves doubts to a person; ``["gather", [...]]`` plays its parts at once. Numbers
are unique in a program. `Kit` plays one inside a run, by sync and by async agents; `agrees` says
whether a result is one that the program may have.

What the tools do is written down outside the worker (see `Ledger`), and `unlike` compares that with
what the program must have done, however often its workers were killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from crashing import World
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun.core.flow import Flow, Op, pause, run_async, run_sync
from agentrun.store.liveness import Heart
from agentrun.testing import Call, Reply

Node = list[Any]

POLICIES = ("reconcile", "hold", "retry", "fail", "tell_model")
RETRIES = 2
SCRIPT = [
    Reply("One moment.", tool_calls=[Call("charge", {"n": -1}), Call("note", {"n": -2})]),
    Reply("And now.", tool_calls=[Call("look", {"n": -3}), Call("pay", {"n": -4})]),
    "done",
]


class Flaky(Exception):
    """What a tool raises that will do better next time."""


# -- making one ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """One agent's orders, and what somebody else does to it meanwhile."""

    body: Node
    is_async: bool
    fails: bool  # in the end it raises
    cancelled: float | None  # seconds after its beginning, at the earliest
    signals: dict[int, float]  # which are sent to it, after so many seconds


class _Author:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.numbers = 0
        self.in_child = False  # whose key nobody outside knows beforehand
        self.signals: dict[int, float] = {}

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def nodes(self, most: int, depth: int, waits: bool) -> list[Node]:
        return [self.node(depth, waits) for _ in range(self.chance.randint(1, most))]

    def node(self, depth: int, waits: bool = True) -> Node:
        """A leaf, or a structure no deeper than ``depth``; ``waits``: it may hold up its run."""
        kinds = ["read", "idempotent", "transaction", "once", "once", "refuse", "moment"] * 2
        kinds += ["slow", "twins"]
        kinds += ["sleep", "timeout", "tell", "approve"] if waits else []
        kinds += ["receive", "receive"] if waits and not self.in_child else []
        kinds += ["seq", "gather", "branches", "inside", "child", "failing"] if depth else []
        match self.chance.choice(kinds):
            case "idempotent" | "transaction" as kind:
                return [kind, self.number(), self.chance.choice([0, 0, 0, 1, RETRIES])]
            case "twins":
                call = self.chance.choice(["idempotent", "transaction", "once"])
                return ["twins", self.number(), call, self.chance.randint(2, 3)]
            case "once":
                return ["once", self.number(), self.chance.choice(POLICIES)]
            case "sleep" | "timeout" as kind:
                return [kind, self.number(), self.chance.choice([0, 20, 100, 500])]
            case "receive":
                number = self.number()
                self.signals[number] = self.chance.choice([0.0, 0.0, 0.3, 2.0])
                return ["receive", number]
            case "child" | "failing" as kind:
                before, self.in_child = self.in_child, True
                inner = self.node(depth - 1, waits)
                self.in_child = before
                return [kind, self.chance.random() < 0.5, inner]
            case "inside":
                return ["inside", self.number(), self.nodes(2, depth - 1, False)]
            case "seq" | "gather" | "branches" as kind:
                return [kind, self.nodes(3, depth - 1, waits)]
            case kind:
                return [kind, self.number()]


def program(seed: str) -> Program:
    """The program of this seed."""
    chance = random.Random(seed)
    author = _Author(chance)
    nodes = author.nodes(5, 3, True)
    if chance.random() < 0.15:
        nodes.insert(chance.randint(0, len(nodes)), ["model", chance.random() < 0.5])
    return Program(
        body=["seq", nodes],
        is_async=chance.random() < 0.5,
        fails=chance.random() < 0.03,
        cancelled=chance.uniform(0.0, 2.0) if chance.random() < 0.03 else None,
        signals=author.signals,
    )


# -- what becomes of it ----------------------------------------------------------------------------


def agrees(node: Node, value: Any) -> bool:
    """Whether the node may have this value."""
    match node:
        case ["seq" | "gather" | "branches", nodes] | ["inside", _, nodes]:
            return len(value) == len(nodes) and all(map(agrees, nodes, value))
        case ["child", _, inner]:
            return agrees(inner, value)
        case ["failing", _, _]:
            return bool(value == "it failed as planned")
        case ["model", _]:
            return bool(value == "done")
        case ["once", number, "fail" | "tell_model"]:
            return value in (number, -number)
        case ["refuse", number]:
            return bool(value == -number)
        case ["approve", number]:
            return bool(value == (number if approved(number) else -number))
        case ["twins", number, _, times]:
            return bool(value == [number] * times)
        case ["sleep" | "timeout", *_]:
            return value is None
        case [_, number, *_]:
            return bool(value == number)
    raise AssertionError(f"no such node: {node}")


def approved(number: int) -> bool:
    """What the person decides who is asked about this call."""
    return number % 3 > 0


class Deed(NamedTuple):
    """What a program does outside: so many times, ``least`` to ``most``; None: once an attempt.

    ``steps`` are those that ask for it, each under a key of its own.
    """

    what: str
    number: int
    least: int
    most: int | None
    steps: int = 1


def deeds(node: Node) -> Iterator[Deed]:
    """What a program that comes to its end has done outside."""
    match node:
        case ["seq" | "gather" | "branches", nodes]:
            for inner in nodes:
                yield from deeds(inner)
        case ["inside", number, nodes]:
            yield Deed("inside", number, 1, None)
            for inner in nodes:
                yield from deeds(inner)
        case ["child" | "failing", _, inner]:
            yield from deeds(inner)
        case ["model", _]:
            yield Deed("once", -1, 1, 1)
            yield Deed("idempotent", -2, 1, None)
            yield Deed("transaction", -4, 1, 1)
        case ["once", number, policy]:
            yield Deed("once", number, int(policy not in ("fail", "tell_model")),
                       None if policy == "retry" else 1)  # fmt: skip
        case ["approve", number]:
            times = int(approved(number))
            yield Deed("once", number, times, times)
        case ["idempotent" | "moment" | "slow", number, *_]:
            yield Deed("idempotent", number, 1, None)
        case ["transaction", number, _]:
            yield Deed("transaction", number, 1, 1)
        case ["twins", number, what, times]:
            yield Deed(what, number, times, None if what == "idempotent" else times, times)
        case ["read" | "refuse" | "sleep" | "receive" | "timeout" | "tell", *_]:
            pass
        case _:
            raise AssertionError(f"no such node: {node}")


def unlike(
    program: Program,
    status: str,
    effects: Sequence[Effect],
    rows: Sequence[int],
    attempts: Mapping[str, int],
    margin: float,
) -> Iterator[str]:
    """Where the outside differs from what a run of the program, so ended, must have done.

    ``rows`` are the numbers of its `transaction` calls in their own table, ``attempts`` counts the
    recorded intents by idempotency key. An effect later than ``margin`` seconds after the check of
    its lease was paused in between: that one the key has to cover.
    """
    seen: dict[tuple[str, int], list[Effect]] = {}
    for effect in effects:
        if effect.what != "tried":
            seen.setdefault((effect.what, effect.number), []).append(effect)
    for deed in deeds(program.body):
        least = 0 if status == "cancelled" else deed.least
        if deed.what == "transaction":
            if not least <= rows.count(deed.number) <= deed.steps:
                yield f"{deed}: {rows.count(deed.number)} rows"
            continue
        found = seen.pop((deed.what, deed.number), [])
        keys = {effect.key for effect in found}
        if deed.most is None:
            counted, most = found, sum(attempts.get(key, 0) for key in keys)
        else:
            counted, most = [one for one in found if one.paused <= margin], deed.most
        if len(found) < least or len(counted) > most:
            yield f"{deed}, of which {most} are recorded: {found}"
        if len(keys) > deed.steps or (keys and status != "cancelled" and len(keys) < deed.steps):
            yield f"{deed} under {len(keys)} keys: {found}"
        if "-" in keys or len({(one.key, one.detail) for one in found}) > len(keys):
            yield f"{deed} without a key, or with several arguments: {found}"
    yield from (f"nobody asked for {found}" for found in seen.values())


# -- the world outside -----------------------------------------------------------------------------

# When the lease was last found to be good, in seconds since boot, by the line that looks.
_checked: ContextVar[float] = ContextVar("checked", default=0.0)


def _since_boot() -> float:
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def note_checks() -> None:
    """Have this process note each check of its lease that lets an effect pass.

    A process that is paused between that check and the send may send after its run has a new
    owner; no harness can prevent it, so effects say how long ago their check was.
    """
    found_stale = Heart.stale.fget
    assert found_stale is not None

    def stale(self: Heart) -> bool:
        now = _since_boot()
        found = bool(found_stale(self))
        if not found:
            _checked.set(now)
        return found

    Heart.stale = property(stale)  # type: ignore[assignment]


class Effect(NamedTuple):
    """One effect as it was seen outside."""

    what: str
    number: int
    key: str
    paused: float  # seconds between the check of the lease and the effect
    detail: str


class Ledger:
    """What each run did outside, synced at each effect; a file a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def act(self, what: str, number: int, key: str = "", detail: str = "-") -> None:
        """An effect of the run that executes here, or of its root."""
        world = self._of(_root())
        world.act(f"{what} {number} {key or '-'} {_since_boot() - _checked.get():.3f} {detail}")

    def effects(self, key: str) -> list[Effect]:
        """What this run and its children did."""
        lines = (line.split(" ", 4) for line in self._of(key).effects)
        return [Effect(what, int(n), key, float(at), more) for what, n, key, at, more in lines]

    def done(self, run: str, key: str) -> bool:
        """Whether the effect of the `once` step with this idempotency key was seen."""
        return ("once", key) in ((effect.what, effect.key) for effect in self.effects(run))

    def _of(self, key: str) -> World:
        return World(self.folder / key)


# -- playing it ------------------------------------------------------------------------------------


class Kit:
    """Tools and agents that play programs, in both colours, against one world."""

    def __init__(self, ledger: Ledger, base_url: str) -> None:
        self.ledger = ledger
        self.tools, self.atools = _tools(self)
        self.base_url = base_url
        self.client = agentrun.wrap(OpenAI(base_url=base_url, api_key="k"))

        @agentrun.agent(name="soak")
        def soak(body: Node, fails: bool) -> Any:
            return _ended(run_sync(self.play(body)), fails)

        @agentrun.agent(name="asoak")
        async def asoak(body: Node, fails: bool) -> Any:
            return _ended(await run_async(self.play(body)), fails)

        self.agents = (soak, asoak)

    def agent(self, is_async: bool) -> Any:
        """The agent of this colour."""
        return self.agents[is_async]

    def warm(self) -> None:
        """Have the SDK build here what it builds at first use; a forked child inherits that."""
        asked = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "warm"}]}
        for stream in (False, True):
            with OpenAI(base_url=self.base_url, api_key="k") as client:
                _ask(client, stream, asked)
            asyncio.run(_aask(self.base_url, stream, asked))

    def play(self, node: Node) -> Flow[Any]:
        """The node's value."""
        match node:
            case ["seq", nodes]:
                values = []
                for inner in nodes:
                    values.append((yield from self.play(inner)))
                return values
            case ["gather", nodes]:
                return (yield _together([partial(self.play, inner) for inner in nodes]))
            case ["branches", nodes]:
                parts = [partial(self._branch, f"b{n}", inner) for n, inner in enumerate(nodes)]
                return (yield _together(parts))
            case ["inside", number, nodes]:
                return (yield self._call("inside", number, nodes))
            case ["child", is_async, inner]:
                agent = self.agent(is_async)
                return (yield Op(lambda: agent.run(inner, False), lambda: agent.arun(inner, False)))
            case ["failing", is_async, inner]:
                agent = self.agent(is_async)
                try:
                    yield Op(lambda: agent.run(inner, True), lambda: agent.arun(inner, True))
                except Flaky as error:
                    return str(error)
            case ["model", stream]:
                return (yield from self._converse(stream))
            case _:
                return (yield from self._leaf(node))

    def _branch(self, name: str, node: Node) -> Flow[Any]:
        with agentrun.branch(name):
            return (yield from self.play(node))

    def _leaf(self, node: Node) -> Flow[Any]:
        match node:
            case ["sleep", _, milliseconds]:
                seconds = milliseconds / 1000
                yield Op(lambda: agentrun.sleep(seconds), lambda: agentrun.asleep(seconds))
            case ["timeout", number, milliseconds]:
                with contextlib.suppress(TimeoutError):
                    yield _receive(f"never {number}", milliseconds / 1000)
            case ["receive", number]:
                return (yield _receive(f"go {number}", None))
            case ["tell", number]:
                me, name = agentrun.current_run().key, f"self {number}"  # type: ignore[union-attr]
                yield Op(lambda: agentrun.send(me, name, number),
                         lambda: agentrun.asend(me, name, number))  # fmt: skip
                return (yield _receive(name, None))
            case ["twins", number, kind, times]:
                tool = "once_reconcile" if kind == "once" else kind
                return (yield _together([partial(self._ask_for, tool, number)] * times))
            case ["moment", number]:
                stamp = f"{agentrun.now()} {agentrun.uuid()} {agentrun.rng().random()}"
                return (yield self._call("moment", number, stamp))
            case ["once", number, policy]:
                try:
                    return (yield self._call(f"once_{policy}", number))
                except agentrun.ToolFailed:
                    return -number
            case ["refuse" | "approve" as kind, number]:
                try:
                    return (yield self._call(kind, number))
                except (ValueError, agentrun.ToolFailed):
                    return -number
            case [kind, *arguments]:
                return (yield self._call(kind, *arguments))

    def _ask_for(self, tool: str, *arguments: Any) -> Flow[Any]:
        return (yield self._call(tool, *arguments))

    def _call(self, tool: str, *arguments: Any) -> Op[Any]:
        return Op(partial(self.tools[tool], *arguments), partial(self.atools[tool], *arguments))

    def _converse(self, stream: bool) -> Flow[Any]:
        """The plain loop of an agent, over the chat API."""
        messages: list[Any] = [{"role": "user", "content": "please"}]
        names = ("charge", "note", "look", "pay")
        tools, atools = ([kit[name] for name in names] for kit in (self.tools, self.atools))
        asked = {"model": "gpt-5-mini", "messages": messages, "tools": agentrun.schemas(*tools)}
        while True:
            reply = yield Op(
                partial(_ask, self.client, stream, asked),
                partial(_aask, self.base_url, stream, asked),
            )
            messages.append(reply)
            if not reply.get("tool_calls"):
                return reply["content"]
            messages += yield Op(
                partial(agentrun.call_tools, reply, tools),
                partial(agentrun.acall_tools, reply, atools),
            )


# -- its tools -------------------------------------------------------------------------------------


def _tools(kit: Kit) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tools by name, sync and async. A body that waits is a flow."""
    ledger, made = kit.ledger, ({}, {})

    def add(name: str, body: Callable[..., Any], **options: Any) -> None:
        for tools, function in zip(made, _colours(body), strict=True):
            tools[name] = agentrun.tool(name=name, **options)(function)

    def find(key: str, n: int) -> agentrun.Happened | agentrun.NotHappened:
        return agentrun.Happened(n) if ledger.done(_root(), key) else agentrun.NotHappened()

    def look(n: int) -> int:
        return n

    def tried(n: int, times: int, key: str) -> bool:
        """Whether this is one of the first so many tries, which go wrong."""
        before = [effect.number for effect in ledger.effects(_root()) if effect.what == "tried"]
        if before.count(n) >= times:
            return False
        ledger.act("tried", n, key)
        return True

    def note(n: int, fails: int = 0, idempotency_key: str = "") -> int:
        if tried(n, fails, idempotency_key):
            raise Flaky(f"not yet: {n}")
        ledger.act("idempotent", n, idempotency_key)
        return n

    def slow(n: int, idempotency_key: str = "") -> Flow[int]:
        yield pause(0.3 if tried(n, 1, idempotency_key) else 0.0)
        ledger.act("idempotent", n, idempotency_key)
        return n

    def moment(n: int, stamp: str, idempotency_key: str = "") -> int:
        ledger.act("idempotent", n, idempotency_key, stamp)
        return n

    def inside(n: int, nodes: Node, idempotency_key: str = "") -> Flow[Any]:
        ledger.act("inside", n, idempotency_key)
        return (yield from kit.play(["seq", nodes]))

    def pay(n: int, fails: int = 0) -> Flow[int]:
        connection, row = agentrun.current_step().connection, [_root(), n]
        insert = partial(connection.execute, "INSERT INTO deeds VALUES (%s, %s)", row)
        yield Op(insert, insert)
        if tried(n, fails, ""):
            raise Flaky(f"not yet: {n}")
        return n

    def charge(n: int, idempotency_key: str = "") -> Flow[int]:
        ledger.act("once", n, idempotency_key)
        yield pause(0.003)
        return n

    def refuse(n: int) -> int:
        raise ValueError(f"refused: {n}")

    add("read", look, effect="read")
    add("look", look, effect="read")
    add("idempotent", note, effect="idempotent", retries=RETRIES)
    add("note", note, effect="idempotent")
    add("slow", slow, effect="idempotent", retries=6, timeout=0.2)  # a frozen one is late, too
    add("moment", moment, effect="idempotent")
    add("inside", inside, effect="idempotent")
    add("transaction", pay, effect="transaction", retries=RETRIES)
    add("pay", pay, effect="transaction")
    add("refuse", refuse, effect="idempotent")
    add("charge", charge, reconcile=find)
    add("approve", charge, reconcile=find, approve=True)
    add("once_reconcile", charge, reconcile=find)
    for policy in POLICIES[1:]:
        add(f"once_{policy}", charge, on_doubt=policy)
    return made


def _root() -> str:
    """The key of the run that executes here, or of its root."""
    run = agentrun.current_run()
    assert run is not None
    return run.key.partition("/")[0]


def _colours(body: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    @functools.wraps(body)
    def function(*args: Any, **kwargs: Any) -> Any:
        value = body(*args, **kwargs)
        return run_sync(value) if inspect.isgenerator(value) else value

    @functools.wraps(body)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        value = body(*args, **kwargs)
        return await run_async(value) if inspect.isgenerator(value) else value

    for made in (function, coroutine):
        made.__annotations__ = {k: v for k, v in made.__annotations__.items() if k != "return"}
    return function, coroutine


def _ended(value: Any, fails: bool) -> Any:
    if fails:
        raise Flaky("it failed as planned")
    return value


def _together(parts: list[Callable[[], Flow[Any]]]) -> Op[list[Any]]:
    def in_threads() -> list[Any]:
        with ThreadPoolExecutor(len(parts)) as pool:
            futures = [pool.submit(lambda part=part: run_sync(part())) for part in parts]
            return [future.result() for future in futures]

    async def in_tasks() -> list[Any]:
        return await asyncio.gather(*(run_async(part()) for part in parts))

    return Op(in_threads, in_tasks)


def _receive(name: str, timeout: float | None) -> Op[Any]:
    return Op(lambda: agentrun.receive(name, timeout), lambda: agentrun.areceive(name, timeout))


def _ask(client: Any, stream: bool, asked: dict[str, Any]) -> dict[str, Any]:
    if stream:
        with client.chat.completions.stream(**asked) as chunks:
            return _said(chunks.get_final_completion())
    return _said(client.chat.completions.create(**asked))


async def _aask(base_url: str, stream: bool, asked: dict[str, Any]) -> dict[str, Any]:
    async with AsyncOpenAI(base_url=base_url, api_key="k") as client:  # a client is of one loop
        agentrun.wrap(client)
        if stream:
            async with client.chat.completions.stream(**asked) as chunks:
                return _said(await chunks.get_final_completion())
        return _said(await client.chat.completions.create(**asked))


def _said(completion: Any) -> dict[str, Any]:
    """The reply's message as the API takes it back."""
    message = completion.choices[0].message
    calls = [
        {"id": call.id, "type": "function",
         "function": {"name": call.function.name, "arguments": call.function.arguments}}
        for call in message.tool_calls or ()
    ]  # fmt: skip
    return {"role": "assistant", "content": message.content} | (
        {"tool_calls": calls} if calls else {}
    )
