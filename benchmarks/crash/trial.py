"""One trial: a program is killed at a message and started again, as a supervisor would.

What happened is read from the world: the ledger of the model and the books of the shop.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import agentrun
from agentrun.testing import Call, Provider, Reply
from benchmarks.crash.contestants import Contestant
from benchmarks.crash.proxy import Killer, Proxy
from benchmarks.crash.shop import Shop
from benchmarks.dsn import database, parts

__all__ = ["Trial", "try_contestant"]

ANSWER = "The order is refunded, and the customer knows."
SCRIPT: list[Reply | str] = [
    Reply(tool_calls=[Call("find_order", {"order_id": "7"})]),
    Reply(tool_calls=[Call("refund", {"order_id": "7", "cents": 1200})]),
    Reply(tool_calls=[Call("send_mail", {"order_id": "7", "text": "Your money is on its way."})]),
    ANSWER,
]
CALLS = len(SCRIPT)  # of the model, in an undisturbed run
# smolagents ends with a tool call.
FINAL_CALL = Reply(tool_calls=[Call("final_answer", {"answer": ANSWER})])
RESTARTS = 3
LIMIT_S = 60.0  # that a process may take, on a busy machine
_answering = threading.Lock()  # a process has one default database at a time


@dataclass(frozen=True)
class Trial:
    """What one killed program did."""

    messages: int  # that the first process exchanged
    killed: bool
    billed: int
    refunds: int
    mails: int
    asked: int  # questions to a person
    ended: bool  # by itself, or after the answers
    answered: bool  # with the answer of an undisturbed run
    output: str

    @property
    def paid_again(self) -> int:
        """Model calls that were paid beyond those of an undisturbed run."""
        return max(0, self.billed - CALLS)

    @property
    def done_again(self) -> int:
        """Refunds and mails beyond the first."""
        return max(0, self.refunds - 1) + max(0, self.mails - 1)

    @property
    def lost(self) -> int:
        """What a program that ended did not do: the refund, the mail, the answer."""
        if not self.ended:
            return 0
        return (self.refunds == 0) + (self.mails == 0) + (not self.answered)


def try_contestant(contestant: Contestant, server: str, kill_at: int | None) -> Trial:
    """Run the program in a database of its own, and kill it before message ``kill_at``."""
    killer = Killer(kill_at)
    with (
        database(server, contestant.program) as dsn,
        tempfile.TemporaryDirectory() as folder,
        _world(contestant, dsn, killer, folder) as (provider, shop, environment),
    ):
        _prepare(contestant, dsn)
        command = [str(contestant.environment.python), str(contestant.path)]
        asked, starts = 0, 0
        while True:
            code, output = _start(command, environment, folder, killer if not starts else None)
            starts += 1
            if code == 0 or starts > RESTARTS + asked:
                break
            if contestant.durability == "agentrun":
                asked += _answer_questions(dsn, shop)
        return Trial(
            messages=killer.messages,
            killed=killer.killed,
            billed=provider.billed(),
            refunds=len(shop.refunds),
            mails=len(shop.mails),
            asked=asked,
            ended=code == 0,
            answered=ANSWER in output,
            output=output[-600:],
        )


@contextlib.contextmanager
def _world(
    contestant: Contestant, dsn: str, killer: Killer, folder: str
) -> Iterator[tuple[Provider, Shop, dict[str, str]]]:
    """The model, the shop and the proxies; and the environment that leads a program to them."""
    script = [*SCRIPT[:-1], FINAL_CALL] if contestant.framework == "smolagents" else SCRIPT
    host, port, user, name = parts(dsn)
    shop = Shop()
    with Provider(script=script) as provider:
        target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else port
        doors = [
            Proxy(killer, int(provider.url.rpartition(":")[2]), is_model=True),
            Proxy(killer, shop.port),
            Proxy(killer, target),
        ]
        model, orders, postgres = (door.port for door in doors)
        dsn = f"postgresql://{user}@127.0.0.1:{postgres}/{name}?sslmode=disable"
        try:
            yield (
                provider,
                shop,
                os.environ
                | {
                    "OPENAI_BASE_URL": f"http://127.0.0.1:{model}/v1",
                    "OPENAI_API_KEY": "double",
                    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model}",
                    "ANTHROPIC_API_KEY": "double",
                    "GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{model}",
                    "GEMINI_API_KEY": "double",
                    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                    "OPENAI_AGENTS_DISABLE_TRACING": "1",
                    "SHOP_URL": f"http://127.0.0.1:{orders}",
                    "DATABASE_URL": dsn,
                    "AGENTRUN_DATABASE_URL": dsn,
                    "no_proxy": "127.0.0.1",
                },
            )
        finally:
            for door in doors:
                door.close()
            shop.close()


def _prepare(contestant: Contestant, dsn: str) -> None:
    """Make the schema that a program does not make itself."""
    if contestant.durability == "Absurd":
        control = contestant.environment.python.with_name("absurdctl")
        for command in (["init"], ["create-queue", "support"]):
            subprocess.run([control, *command, "--database", dsn], check=True, capture_output=True)


def _start(
    command: list[str], environment: dict[str, str], folder: str, killer: Killer | None
) -> tuple[int, str]:
    """Start the program and wait for its end; its exit code and what it printed."""
    output = Path(folder, "output.txt")
    with output.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        if killer is not None:
            killer.pid = process.pid
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    return code, output.read_text()


def _answer_questions(dsn: str, shop: Shop) -> int:
    """Answer what the run asks as a person would, who looks into the shop's books."""
    with _answering, agentrun.connect(dsn):
        waiting = agentrun.inbox()
        for request in waiting:
            assert request.step is not None
            happened = bool(shop.mails if request.name == "send_mail" else shop.refunds)
            outcome = agentrun.Happened("sent") if happened else agentrun.NotHappened()
            agentrun.resolve(request.key, request.step, outcome, by="the benchmark")
    return len(waiting)
