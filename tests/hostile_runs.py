"""Runs in which one text stands in every field that a model, a tool, a person or a caller fills.

For each text there is a run of each status, and what a person can decide is decided with it:

    waits      for an approval                     decided    by a person, and not taken up yet
    done       after an edited approval            in doubt   for an attempt without an outcome
    resolved   from such a doubt, and done         failed     by a step, below a branch and a child
    cancelled  by a person                         redone     set aside by a person, and queued
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest
from hostile import TEXTS, UNKEYED
from invariants import assert_invariants
from openai import OpenAI

import agentrun
from agentrun.core.codec import plain
from agentrun.testing import Provider, Reply

__all__ = ["EVERY", "TAME", "Records", "key_of"]

EVERY = TEXTS | UNKEYED
KINDS = ("waits", "decided", "done", "in doubt", "resolved", "failed", "cancelled", "redone")

# Harmless text that uses whatever Markdown may become.
TAME = """# heading

**bold** *slanted* ~~gone~~ `code` [web](https://example.com) [other](file:x) ![far](http://x/y.png)
![near](data:image/png;base64,iVBORw0KGgo=)

> quoted

- item

7. first

| a | b |
|---|:--|
| 1 | 2 |

```python
def f(x): return 1  # why
```

---
"""


def key_of(kind: str, name: str, text: str) -> str:
    """The key of a run; a key cannot hold every text."""
    return f"{kind} {name}: {'' if name in UNKEYED else text}"


class Records:
    """Makes the runs of a text in the database that is connected."""

    def __init__(self, client: OpenAI, provider: Provider) -> None:
        self._client, self._provider = client, provider

    def make(self, name: str, text: str) -> None:
        """Record a run of each kind."""
        self._ask_for_approval(name, text)
        self._leave_in_doubt(name, text)
        self._fail(name, text)

    # -- a conversation ----------------------------------------------------------------------------

    def _ask_for_approval(self, name: str, text: str) -> None:
        client, sent = self._client, _as_sent(text)

        @agentrun.tool(name=f"act {text}", approve=True)
        def act(what: str, more: dict[str, Any]) -> Any:
            return {text: [what, more]}

        schema = {"type": "object", "description": sent, "properties": {sent: {"title": sent}}}
        told = {"name": f"act {sent}", "description": sent, "parameters": schema}

        @agentrun.agent(name=f"talk {name} {plain(text)}")
        def talk(said: str, more: dict[str, Any]) -> Any:
            messages: list[Any] = [
                {"role": "system", "content": sent},
                {"role": "user", "content": sent, "name": sent},
            ]
            while True:
                reply = client.chat.completions.create(
                    model=sent, messages=messages, tools=[{"type": "function", "function": told}],
                    user=sent, metadata={"what": sent},
                )  # fmt: skip
                message = reply.choices[0].message
                if not message.tool_calls:
                    return {text: message.content}
                messages.append(_spoken(sent))
                content = _as_sent(str(act(said, {text: [text]})))
                messages.append({"role": "tool", "tool_call_id": sent, "content": content})

        self._provider.say([_reply(text, calls=True), _reply(text)])
        given = {text: {text: [text]}}
        for kind in ("waits", "decided", "done", "cancelled", "redone"):
            run = talk.with_options(key=key_of(kind, name, text))
            with pytest.raises(agentrun.RunHeld):
                run.run(text, given)
        ((decided,),) = (agentrun.inbox(key_of("decided", name, text)),)
        by = {"by": _as_sent(text), "reason": text}
        agentrun.reject(decided.key, decided.step or 0, **by)
        for kind in ("done", "redone"):
            (asked,) = agentrun.inbox(key_of(kind, name, text))
            edited = {"what": text, "more": {text: text}}
            agentrun.approve(asked.key, asked.step or 0, arguments=edited, **by)
            talk.with_options(key=asked.key).run(text, given)
        agentrun.redo(key_of("redone", name, text), 1, once=True, **by)
        agentrun.cancel(key_of("cancelled", name, text), **by)

    # -- an attempt without an outcome -------------------------------------------------------------

    def _leave_in_doubt(self, name: str, text: str) -> None:
        @agentrun.tool(name=f"ship {text}")
        def ship(what: str, more: dict[str, Any]) -> None:
            raise KeyboardInterrupt

        @agentrun.agent(name=f"shipper {name} {plain(text)}")
        def shipper(said: str) -> Any:
            return {text: ship(said, {text: text})}

        for kind in ("in doubt", "resolved"):
            run = shipper.with_options(key=key_of(kind, name, text))
            with pytest.raises(KeyboardInterrupt):
                run.run(text)
            with pytest.raises(agentrun.RunHeld):
                run.run(text)
        (asked,) = agentrun.inbox(key_of("resolved", name, text))
        outcome = agentrun.Happened({text: [text]})
        agentrun.resolve(asked.key, asked.step or 0, outcome, by=_as_sent(text), reason=text)
        shipper.with_options(key=asked.key).run(text)

    # -- steps, a child, mail and an error ---------------------------------------------------------

    def _fail(self, name: str, text: str) -> None:
        kind = type(_as_name(text), (ValueError,), {})

        @agentrun.step(name=f"look {text}", effect="read")
        def look(what: str) -> Any:
            return {text: [what]}

        @agentrun.step(name=f"fail {text}", effect="read")
        def fail(what: str) -> None:
            error = kind(text)
            error.add_note(_as_sent(text))
            raise error

        @agentrun.agent(name=f"child {name} {plain(text)}")
        def child(said: str) -> str:
            return said

        @agentrun.agent(name=f"failing {name} {plain(text)}")
        def failing(said: str) -> None:
            agentrun.receive(f"mail {plain(text)}")
            with agentrun.branch(text):
                look(said)
            child.run(said)
            with suppress(kind):
                fail(said)
            fail(said)

        run = failing.with_options(key=key_of("failed", name, text))
        run.submit(text)
        agentrun.send(key_of("failed", name, text), f"mail {plain(text)}", {text: text})
        with pytest.raises(agentrun.RunFailed):
            run.run(text)


def _reply(text: str, *, calls: bool = False) -> Reply:
    """A reply with the text wherever a model may put one."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": text}
    message |= {"reasoning_content": text, "annotations": [{"type": text, "url": text}]}
    if calls:
        function = {"name": text, "arguments": text}
        message["tool_calls"] = [{"id": text, "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
    body = {"id": text, "object": "chat.completion", "created": 1, "model": text, "usage": usage}
    return Reply(raw={**body, "choices": [choice], "system_fingerprint": text})


def _spoken(text: str) -> dict[str, Any]:
    """The message of a reply, as the next request repeats it."""
    call = {"id": text, "type": "function", "function": {"name": text, "arguments": text}}
    return {"role": "assistant", "content": text, "tool_calls": [call]}


def _as_sent(text: str) -> str:
    """The text as UTF-8 can hold it, which clients send."""
    return text.encode("utf-8", "backslashreplace").decode()


def _as_name(text: str) -> str:
    """The text as the name of a class, which holds no NUL."""
    return _as_sent(text).replace("\0", "?")


@pytest.fixture(scope="session")
def hostile_database(databases: Any) -> Iterator[str]:
    """A database with the runs of every hostile text."""
    with databases() as dsn:
        _fill(dsn, EVERY)
        yield dsn


@pytest.fixture(scope="session")
def tame_database(databases: Any) -> Iterator[str]:
    """The same with a harmless text: what its pages consist of is what all pages may consist of."""
    with databases() as dsn:
        _fill(dsn, {"tame": TAME})
        yield dsn


def _fill(dsn: str, texts: Mapping[str, str]) -> None:
    opened: AbstractContextManager[Provider] = Provider()
    with opened as provider, agentrun.connect(dsn):
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
        records = Records(client, provider)
        for name, text in texts.items():
            records.make(name, text)
    assert_invariants(dsn)
