"""Which steps a resume serves: the history, the transcript, SQL and real resumes agree.

A run executes a random plan in a process that is killed, again and again, and between the kills
the plan changes. The run accepts each divergence. So it reuses steps, and sets steps aside, in
tasks, threads, branches, child runs, bodies of tools and calls of replies.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import httpx2
import pytest
from crashing import World, die, die_recorded, killed
from openai import AsyncOpenAI

import agentrun
from agentrun.core import witness
from agentrun.core.entries import Resume
from agentrun.core.history import History
from agentrun.core.pauses import Backoff
from agentrun.core.transcript import fold
from agentrun.steps import function_step
from agentrun.store.runs import find_run
from agentrun.store.values import read_events

SEEDS = range(int(os.environ.get("AGENTRUN_PATHS", "8")))
KINDS = ["call"] * 6 + ["model"] * 2 + ["body", "retry", "child", "tasks", "threads", "branch"]
Plan = list[Any]  # of [kind, number, plans]


def draw_plan(draw: random.Random, depth: int = 2, longest: int = 4) -> Plan:
    return [_draw_operation(draw, depth) for _ in range(draw.randint(1, longest))]


def _draw_operation(draw: random.Random, depth: int) -> list[Any]:
    kind = draw.choice(KINDS if depth else KINDS[:8])
    plans = {"call": 0, "model": 0, "tasks": 2, "threads": 2, "retry": 2}.get(kind, 1)
    inner = [draw_plan(draw, depth - 1, 3) for _ in range(plans)]
    return [kind, draw.randint(0, 3), inner]


def change_plan(draw: random.Random, plan: Plan) -> Plan:
    """The plan of the next deploy: one operation is changed, added, removed or moved."""
    plan = json.loads(json.dumps(plan))
    place = draw.randrange(len(plan))
    kind, number, inner = plan[place]
    match draw.choice(["inside", "inside", "number", "add", "remove", "move"]):
        case "inside" if inner:
            chosen = draw.randrange(len(inner))
            inner[chosen] = change_plan(draw, inner[chosen])
        case "remove" if len(plan) > 1:
            del plan[place]
        case "move":
            plan.insert(draw.randrange(len(plan)), plan.pop(place))
        case "add":
            plan.insert(place, _draw_operation(draw, 1))
        case _:
            plan[place] = [kind, (number + 1) % 4, inner]
    return plan


class Program:
    """The agents and tools that execute a plan, and the place where the process is killed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plan: Plan = []
        self.kill_at: int | None = None  # the number of the effect at which the process dies
        self.kill_at_end = False
        self.effects = 0
        self.delays = random.Random(0)

        def tool(effect: Any, default: int) -> Any:
            def perform(n: int, more: int = default) -> str:
                return self.act(f"{effect} {n}")

            on_doubt: Any = {"on_doubt": "retry"} if effect == "once" else {}
            return agentrun.tool(effect=effect, name=effect, **on_doubt)(perform)

        effects = ["read", "idempotent", "once", "transaction"]
        # Twice the same tools, but for the default of a parameter that the model leaves out.
        self.tools, self.others = ([tool(name, more) for name in effects] for more in (0, 1))

        @agentrun.tool(effect="idempotent")
        async def body(plan: Plan) -> str:
            await self.execute(plan)
            return self.act("body")

        @agentrun.tool(effect="idempotent", retries=2)
        async def retry(plans: list[Plan]) -> str:
            step = agentrun.current_step()
            assert step is not None
            attempt = step.attempt
            await self.execute(plans[attempt % 2])
            if attempt < 3:
                raise ValueError("again")
            return self.act("retry")

        @agentrun.agent
        async def child(number: int) -> str:
            await self.execute(self.children[number])
            return self.act("child")

        @agentrun.agent
        async def runs_plan() -> str:
            await self.execute(self.plan)
            if self.kill_at_end:
                die_recorded()
            return "done"

        self.body, self.retry, self.child = body, retry, child
        self.children: dict[int, Plan] = {}
        self.agent = runs_plan.with_options(key="k", on_divergence="accept")
        transport = httpx2.MockTransport(self.reply)
        client = AsyncOpenAI(
            api_key="k",
            base_url="http://double",
            http_client=httpx2.AsyncClient(transport=transport),
        )
        self.client = agentrun.wrap(client)

    def act(self, what: str) -> str:
        """An effect, which never has the same result again."""
        self.effects += 1
        if self.effects == self.kill_at:
            die()
        result = f"{what} {os.urandom(6).hex()}"
        self.world.act(result)
        return result

    def reply(self, request: Any) -> Any:
        """The model asks for one or two calls, which depend on the question."""
        number = int(json.loads(request.content)["messages"][0]["content"])
        calls = [
            {"id": "c", "type": "function", "function": {"name": name, "arguments": '{"n": 1}'}}
            for name in ["once", "read", "idempotent"][number % 2 : number % 2 + 2]
        ]
        message = {"role": "assistant", "content": self.act(f"model {number}"), "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        body = {"id": "r", "object": "chat.completion", "created": 1, "model": "gpt-5-mini"}
        return httpx2.Response(200, json={**body, "choices": [choice], "usage": usage})

    async def execute(self, plan: Plan) -> None:
        for kind, number, plans in plan:
            match kind:
                case "call":
                    self.tools[number](number)
                case "model":
                    await self.converse(number)
                case "body":
                    await self.body(plans[0])
                case "retry":
                    await self.retry(plans)
                case "child":
                    self.children[number] = plans[0]
                    await self.child(number)
                case "tasks":
                    await asyncio.gather(*(self.later(inner) for inner in plans))
                case "threads":
                    threads = (asyncio.to_thread(self.in_thread, inner) for inner in plans)
                    await asyncio.gather(*threads)
                case "branch":
                    with agentrun.branch(str(number)):
                        await self.execute(plans[0])

    async def later(self, plan: Plan) -> None:
        for operation in plan:
            await asyncio.sleep(self.delays.random() / 200)
            await self.execute([operation])

    def in_thread(self, plan: Plan) -> None:
        for _, number, _ in plan:
            self.tools[number](number)

    async def converse(self, number: int) -> None:
        """Ask the model, and make the calls that it asks for."""
        question: Any = [{"role": "user", "content": str(number // 2)}]
        reply = await self.client.chat.completions.create(model="gpt-5-mini", messages=question)
        await agentrun.acall_tools(reply, self.others if number % 2 else self.tools)


class Case:
    """One random run."""

    def __init__(self, folder: Path, dsn: str, db: agentrun.Database, sql: Any, seed: int) -> None:
        self.dsn, self.db, self.sql = dsn, db, sql
        self.draw = random.Random(seed)
        self.program = Program(World(folder / "effects"))
        self.seen = folder / "seen"

    def process(self, kill_at: int | None = None) -> None:
        """Execute the run in a process that is killed. What its code sees goes to `seen`."""
        self.seen.write_text("")

        def note(key: str, kind: str, value: Any) -> None:
            with self.seen.open("a") as file:
                file.write(f"{key} {kind} {value}\n")

        def action() -> None:
            agentrun.connect(self.dsn)
            witness.arm(note)
            self.program.kill_at, self.program.kill_at_end = kill_at, True
            self.program.delays.seed(self.draw.random())
            self.program.agent.run()

        killed(action)

    def saw(self) -> dict[str, str]:
        lines = [line.partition(" ") for line in self.seen.read_text().splitlines()]
        return {key: value for key, _, value in lines}

    def check(self) -> None:
        """History, transcript and SQL say the same of each run, as its code has seen it."""
        saw = self.saw()
        for (run_id,) in self.sql("SELECT run_id FROM agentrun.runs"):
            events, _ = read_events(self.db, run_id)
            history = History(events)
            served = {known.step for known in history.steps.values()}
            # Steps in the body of a tool may be those of a failed attempt.
            outside = [one for one in history.by_number.values() if ">" not in one.ident]
            assert {one.step for one in outside if one.key in saw} <= served
            transcript = fold(events)
            shown = {step.step for step in transcript.steps if not step.set_aside}
            assert shown == served
            aside = self.sql("SELECT step FROM agentrun.set_aside(%s, %s)", run_id, len(events) + 1)
            assert {step.step for step in transcript.steps} - {step for (step,) in aside} == served
            bands = [entry for entry in transcript.entries if isinstance(entry, Resume)]
            resumes = self.sql(
                "SELECT replayed, rerun, saved, saved_unpriced, in_doubt"
                " FROM agentrun.resumes WHERE run_id = %s ORDER BY seq",
                run_id,
            )
            assert resumes == [
                (band.replayed, band.rerun, band.saved, band.saved_unpriced, band.in_doubt)
                for band in bands
            ]


@pytest.mark.parametrize("seed", SEEDS)
def test_histories_transcripts_and_sql_agree_about_what_a_resume_serves(
    seed: int,
    tmp_path: Path,
    dsn: str,
    db: agentrun.Database,
    sql: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(function_step, "_BACKOFF", Backoff(0.01, 0.01))
    case = Case(tmp_path, dsn, db, sql, seed)
    program, draw = case.program, case.draw
    program.plan = draw_plan(draw)
    for _ in range(draw.randint(2, 4)):
        case.process(draw.randint(4, 30))
        case.check()
        for _ in range(draw.randint(1, 3)):
            program.plan = change_plan(draw, program.plan)
    # A process executes the last plan to its end. The next one is served all of it, and no more.
    case.process()
    case.check()
    saw, done = case.saw(), program.world.effects
    events = read_events(db, find_run(db, "k").run_id)[0]
    served = {one.key for one in History(events).steps.values() if ">" not in one.ident}
    case.process()
    case.check()
    resumed = read_events(db, find_run(db, "k").run_id)[0][len(events) :]
    assert [event.event for event in resumed] == ["claimed"]
    assert case.saw() == {key: value for key, value in saw.items() if key in served}
    assert program.world.effects == done
    program.kill_at_end = False
    assert program.agent.run() == "done"
    assert program.world.effects == done
    ev = [e for (r,) in sql("SELECT run_id FROM agentrun.runs") for e in read_events(db, r)[0]]
    import collections

    c = collections.Counter(e.event for e in ev)
    print(
        seed,
        c["claimed"],
        c["diverged"],
        c["step_reused"],
        c["step_finished"],
        len(saw),
        sum(e.event == "diverged" and "#" in e.ident for e in ev),
        sum(e.event == "diverged" and ">" in e.ident for e in ev),
    )
