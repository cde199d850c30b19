"""Hand-written journals of runs that were resumed with other code, and took new paths."""

from __future__ import annotations

import random
from typing import Any

from journals import Journal

from agentrun.core.divergence import RequestedStep, diverge, find_set_aside, reuse
from agentrun.core.events import Event
from agentrun.core.history import History


def call(name: str, **args: Any) -> RequestedStep:
    return RequestedStep(kind="tool", name=name, effect="once", input={"args": args})


def finishes(j: Journal, step: int, ident: str, request: RequestedStep, **more: Any) -> Journal:
    """A step with its intent and its outcome."""
    columns = {
        "step": step, "ident": ident, "kind": request.kind, "name": request.name, "attempt": 1,
        "effect": request.effect, "key": f"key-{step}", "fingerprint": request.fingerprint,
    }  # fmt: skip
    j.add("attempt_started", input=request.input, has_input=True, **columns)
    return j.add("step_finished", status="ok", output={"result": step}, **columns, **more)


def recorded(j: Journal, event: Event) -> Journal:
    """An event that the runner made, as the writer appends it."""
    names = ("step", "turn", "kind", "name", "ident", "effect", "key", "by", "reason", "output")
    given = {name: getattr(event, name) for name in names}
    return j.add(event.event, **{k: v for k, v in given.items() if v is not None})


def random_journal(seed: int) -> Journal:
    """A run that was resumed with other code several times, and reused what it could."""
    draw = random.Random(seed)
    j = Journal(key=f"random-{seed}").claimed("w-0")
    step = 0
    for claim in range(draw.randint(2, 5)):
        if claim:
            j.claimed(f"w-{claim}")
        history = History(j.events)
        for scope in draw.sample(["", "t1/", "t2/", "1#0>", "b:eu/"], draw.randint(1, 4)):
            for position in range(1, draw.randint(2, 5)):
                history = _asks(j, history, f"{scope}{position}", draw)
                step = history.last_step
    assert step
    return j.claimed("w-last")


def _asks(j: Journal, history: History, ident: str, draw: random.Random) -> History:
    request = call(draw.choice("ab"), n=draw.randint(0, 2))
    known = history.steps.get(ident)
    if known is not None and request.matches(known, request.fingerprint):
        known.on_path = True
        return history
    seen = {one.step for one in history.steps.values() if one.on_path}
    if known is not None:
        aside = find_set_aside(history, known)
        recorded(j, diverge(known, aside, by="accept", reason="other code"))
        history = History(j.events)
    found = reuse(history, request, request.fingerprint, ident)
    if found is not None:
        recorded(j, found)
    else:
        finishes(j, history.last_step + 1, ident, request)
    history = History(j.events)
    for one in history.steps.values():
        one.on_path = one.step in seen or one.ident == ident
    return history
