"""Any value comes back exactly, whichever way it goes through a run; and every view answers on it.

A case draws values and sends each along every path at once: arguments, results, exceptions,
signals, edited arguments of an approval, a child, a branch, the request and the reply of a model,
the names of tools, of agents and of the run itself. The run is interrupted and resumed, and must
see the very same again, without another effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hostile import JSON, LARGEST, SCALAR, TEXT, exactly
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from openai import OpenAI
from sayings import Saying, Server, completion

import agentrun
from agentrun.core.codec import LIMIT, MAX_DEPTH
from agentrun.core.events import Event
from agentrun.store.runs import find_run

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]

EXAMPLES = 20  # values of a case
WHOLE = 40  # cases of each matrix
VIEWS = ("steps", "turns", "tool_calls", "model_calls", "attempts", "transcript", "in_doubt",
         "inbox", "resumes", "spend")  # fmt: skip


def nested(levels: int) -> Any:
    return json.loads('[{"a":' * (levels // 2) + "null" + "}]" * (levels // 2))


# At and around the size over which a value leaves its row, with what is spelt in one to six bytes.
EDGES = [
    *("x" * (LIMIT + by) for by in (-40, -14, -13, -12, -3, -2, -1, 0, 1)),
    *(unit * (LIMIT // len(json.dumps(unit))) for unit in ("\0", "\ud800", "😀", "\\", "␛0000")),
    [LARGEST, -LARGEST, 1e2, -0.0],
    nested(MAX_DEPTH - 4),
    {"": {"": ""}, "\ud800": "\0", "\0": "\udfff"},
]  # fmt: skip
VALUES = st.sampled_from(EDGES) | JSON
# What a key may be: no NUL and no lone surrogates, and no more than 2,000 bytes.
KEYS = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40
)


def drawn(case: Any, check: Callable[..., None], **strategies: Any) -> None:
    """Check values that the case's own seed draws, and count them."""
    counted = 0

    @seed(case.random.getrandbits(64))
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(**strategies)
    def every(**values: Any) -> None:
        nonlocal counted
        check(**values)
        counted += 1

    every()
    case.count(values=counted)


class Paths:
    """A run that sends a value along every path, twice: interrupted, and resumed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.runs = 0

    def send(self, value: Any, text: str, key: str) -> None:
        self.runs += 1
        key = f"{self.runs} {key}"
        seen: list[list[Any]] = [[], []]
        acted: list[Any] = []
        crash = True

        @agentrun.tool(approve=lambda given, fail: isinstance(given, dict) and "edit" in given)
        def act(given: Any, fail: bool) -> Any:
            acted.append(given)
            if fail:
                raise ValueError(given, text)
            return given

        @agentrun.agent(name=f"child {self.runs}")
        def child(given: Any) -> Any:
            return given

        @agentrun.agent(name="passing")
        def passing(given: Any, said: str) -> Any:
            see = seen[not crash].append
            see([given, said, act(given, False), child(given), agentrun.receive("news")])
            with pytest.raises(ValueError) as raised:  # noqa: PT011  its text is the value
                act(given, True)
            see(raised.value.args)
            with agentrun.branch(text or "-"):
                see(act({"edit": None}, False))
            see(self.ask(text))
            if crash:
                raise SystemExit
            return given

        keyed = passing.with_options(key=key)
        keyed.submit(value, text)
        agentrun.send(key, "news", value)
        self.server.say(*[Saying.json(completion(text, id=text, unknown=value, model=text))])
        with pytest.raises(agentrun.RunHeld) as held:
            keyed.run(value, text)
        edited = {"given": value, "fail": False}
        agentrun.approve(key, held.value.step or 0, by=text, reason=text, arguments=edited)
        seen[0].clear()
        with pytest.raises(SystemExit):
            keyed.run(value, text)
        crash = False
        assert exactly(keyed.run(value, text)) == exactly(value)
        assert exactly(seen[0]) == exactly(seen[1])
        whole, raised, approved, _ = seen[0]
        assert exactly(whole) == exactly([value, text, value, value, value])
        assert exactly(raised) == exactly((value, text))
        assert exactly(approved) == exactly(value)
        assert exactly(acted) == exactly([value] * 3)
        assert self.server.sayings == []

    def ask(self, text: str) -> Any:
        """What comes back of a model call, whose request can hold no lone surrogates."""
        sent = text.encode("utf-8", "replace").decode()
        with agentrun.wrap(OpenAI(base_url=self.server.url, api_key="k")) as client:
            reply = client.chat.completions.create(
                model=sent or "m", messages=[{"role": "user", "content": sent}]
            )
        heard = json.loads(json.dumps(text))  # the wire joins two surrogates that make a character
        assert reply.choices[0].message.content == heard
        call = {"id": text, "type": "function", "function": {"name": text, "arguments": text}}
        with suppress(agentrun.LimitExceeded):
            return [agentrun.call_tools({"role": "assistant", "tool_calls": [call]}, []),
                    reply.model_dump()]  # fmt: skip


@pytest.fixture
def database(dsn: str) -> Iterator[Any]:
    with agentrun.connect(dsn) as database:
        yield database


@pytest.fixture
def paths(database: Any) -> Iterator[Paths]:
    with Server() as server:
        yield Paths(server)


def test_any_value_comes_back_whichever_way_it_goes(paths: Paths, proof: Any) -> None:
    for case in proof.cases("payloads", [f"{n:02}" for n in range(WHOLE)], share=1):
        with case:
            drawn(case, paths.send, value=VALUES, text=TEXT, key=KEYS)


# -- views ---------------------------------------------------------------------------------------

NAMES = [
    "args", "body", "choices", "message", "messages", "content", "tool_calls", "function", "name",
    "arguments", "id", "type", "text", "usage", "error", "status", "input", "output", "role",
    "result", "approved", "finish_reason", "ending", "model", "stop_reason", "payload", "preview",
    "$ref", "$prefix", "then", "call_id", "tool_call_id", "summary", "system", "api",
]  # fmt: skip
SHAPES = st.recursive(
    SCALAR | TEXT | st.sampled_from(["text", "tool_use", "function_call", "assistant", "happened"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(NAMES) | TEXT, inner, max_size=5),
    max_leaves=20,
)  # fmt: skip
KINDS = ["model", "tool", "function", "wait", "child", None]
EVENTS = ["attempt_started", "attempt_failed", "step_finished", "in_doubt", "resolved", "received",
          "approval_requested", "parked", "run_failed", "diverged", "unknown to us"]  # fmt: skip
ROWS = st.lists(
    st.fixed_dictionaries({
        "event": st.sampled_from(EVENTS),
        "step": st.none() | st.integers(0, 3),
        "turn": st.none() | st.integers(0, 2),
        "kind": st.sampled_from(KINDS),
        "effect": st.sampled_from(["read", "once", "idempotent", "odd", None]),
        "attempt": st.none() | st.integers(0, 3),
        "parked_for": st.sampled_from(["doubt", "divergence", "odd", None]),
        "status": st.sampled_from(["ok", "error", "abandoned", "approved", "held", "odd", None]),
        "input": st.none() | SHAPES,
        "output": st.none() | SHAPES,
    }),
    max_size=8,
)  # fmt: skip
STATUS = st.sampled_from(["queued", "running", "waiting", "held", "done", "failed", "cancelled"])


@pytest.mark.tampers
def test_every_view_answers_on_any_journal(database: Any, proof: Any) -> None:
    """Also on one that the CHECKs of the tables would refuse."""
    written = 0
    with database.connection() as conn:
        for table in ("journal", "runs"):
            checks = f"conrelid = 'agentrun.{table}'::regclass AND contype = 'c'"
            for row in conn.execute(f"SELECT conname FROM pg_constraint WHERE {checks}").fetchall():  # noqa: S608
                conn.execute(f"ALTER TABLE agentrun.{table} DROP CONSTRAINT {row['conname']}")

    def write(rows: list[dict[str, Any]], status: str) -> None:
        nonlocal written
        written += 1
        key, given = f"run {written}", {"has_input": True, "has_output": True}
        database.create(key, "agent", {}, "")
        tail, _ = database.claim(find_run(database, key), "test")
        database.writer.wait(database.writer.append(tail, [Event(**row, **given) for row in rows]))
        owner = tail.worker if status == "running" else None
        with database.connection() as conn:
            conn.execute(
                "UPDATE agentrun.runs SET status = %s, owner = %s, parked_step = 1 WHERE key = %s",
                [status, owner, key],
            )
            for view in VIEWS:
                conn.execute(f"SELECT v::text FROM agentrun.{view} v")  # noqa: S608

    for case in proof.cases("views", [f"{n:02}" for n in range(WHOLE)], share=1):
        with case:
            drawn(case, write, rows=ROWS, status=STATUS)
