"""`Agent`: a ready-made agent with the usual loop.

The loop asks the model, executes the tool calls of its reply, appends their results to the
conversation, and repeats this until a reply holds no tool call: that reply is the answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from agentrun.api.agent import DurableAgent
from agentrun.api.context_window import BYTES_PER_TOKEN, as_text, cut, tokens
from agentrun.api.deterministic import branch
from agentrun.api.reply_formats import Api, jsonable, read_reply, sendable
from agentrun.api.tool import ToolFunction
from agentrun.api.tool_calls import MALFORMED_IN_A_ROW, acall_tools, call_tools, check_cap
from agentrun.api.tool_schemas import by_name, schemas
from agentrun.core.budget import Budget
from agentrun.core.errors import ConfigError, LimitExceeded
from agentrun.core.events import Json
from agentrun.core.flow import Flow, Op, run_async, run_sync
from agentrun.core.json_types import is_array, is_object
from agentrun.core.messages import text_of
from agentrun.lifecycle.options import Options
from agentrun.lifecycle.registry import defined_in, register
from agentrun.models import wrap
from agentrun.models.usage import token_counts

MAX_TURNS = 50
_TEXTS = ("text", "output_text")
MAX_TOKENS = 4096  # of a reply: Anthropic's API requires a limit

_COMPACT = (
    "Sum up this part of a conversation for the assistant that goes on with it: what was asked, "
    "found out, decided and done, with every name, number and identifier that may still be needed. "
    "Answer with the summary alone."
)
_SUMMARY = "A summary of the earlier part of this conversation, which was left out here:"

Items = list[dict[str, Json]]  # items of a conversation


class Agent(DurableAgent[[str], str]):
    """A ready-made durable agent: ``run(question)`` returns the model's answer as a text.

    It has all methods of `DurableAgent`: ``run``, ``arun``, ``submit``, ``with_options``, ….

    Args:
        name: the agent's identity, in code and in the journal.
        client: an OpenAI or Anthropic client, sync or async. It is wrapped, as `wrap` does.
        model: the name of the model.
        prompt: the system prompt: a text, or the `Path` of a file that holds it.
        tools: the tools that the model may call.
        api: "chat" (OpenAI's chat completions), "responses" or "anthropic". Default: "anthropic"
            for an Anthropic client, else "chat".
        max_turns: how often the model is asked at most. Then the run fails with LimitExceeded.
        max_calls: how many tool calls of one reply are executed at most, as in `call_tools`.
            Default: no cap.
        budget: limits on what each run and its children may spend.
        context_tokens: the size of a request, in tokens, from which on its oldest turns are left
            out, as `trim_messages` does. Leave room for the reply. Default: no limit.
        when_full: "trim" leaves the oldest turns out; "compact" has the model sum them up first.
        inflight: "background" picks up a Responses call that was in flight at a crash, so that it
            is paid once, as in `wrap`.
        settings: further fields of each request, such as ``temperature=0``.

    Raises:
        ConfigError: ``client`` is no OpenAI or Anthropic client, or does not speak ``api``; the
            prompt cannot be read; a member of ``tools`` is no tool, or is async while the client
            is sync; or ``max_calls``, ``context_tokens`` or ``when_full`` has no valid value.

    Example:
        >>> desk = agentrun.Agent(
        ...     name="desk", client=OpenAI(), model="gpt-5-mini",
        ...     prompt="You help customers with their orders.", tools=[search, refund])
        >>> desk.with_options(key="ticket-42").run("Where is order 7?")
    """

    def __init__(
        self,
        *,
        name: str,
        client: Any,
        model: str,
        prompt: str | Path = "",
        tools: Sequence[ToolFunction[..., Any]] = (),
        api: Api | None = None,
        max_turns: int = MAX_TURNS,
        max_calls: int | None = None,
        budget: Budget | None = None,
        context_tokens: int | None = None,
        when_full: Literal["trim", "compact"] = "trim",
        inflight: Literal["background"] | None = None,
        **settings: Any,
    ) -> None:
        self.client = wrap(client, inflight=inflight)
        self.model = model
        self.prompt = _text(prompt)
        self.tools = tuple(tools)
        self.max_turns = max_turns
        check_cap(max_calls)
        self.max_calls = max_calls
        _check_window(context_tokens, when_full)
        self.context_tokens = context_tokens
        self.when_full = when_full
        self._api: Api = _api_of(client, api)
        self._settings = settings
        is_async = hasattr(client, "__aenter__")
        _check_tools(name, self.tools, is_async)
        called = self._aanswer if is_async else self._answer
        super().__init__(called, name, Options(budget=budget))
        # Documented and public, in spite of its name.
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        self.place = defined_in(caller.f_code)
        register(self)

    def _answer(self, question: str) -> str:
        return run_sync(self._loop(question))

    async def _aanswer(self, question: str) -> str:
        return await run_async(self._loop(question))

    def _loop(self, question: str) -> Flow[str]:
        dialect = _DIALECTS[self._api]
        conversation: list[Json] = [{"role": "user", "content": question}]
        tools = {"tools": schemas(*self.tools, api=self._api)} if self.tools else {}
        unreadable = 0  # replies in a row
        bytes_per_token = BYTES_PER_TOKEN
        for _ in range(self.max_turns):
            if self.context_tokens is not None:
                room = self.context_tokens - tokens([self.prompt, tools], bytes_per_token)
                conversation = yield from self._fit_conversation(
                    conversation, room, bytes_per_token
                )
            fields = {**dialect.fields(self.prompt, conversation), **tools}
            ask = partial(dialect.create(self.client), model=self.model, **fields, **self._settings)
            reply = yield Op(ask, ask)
            body = _body(reply)
            bytes_per_token = _measure_bytes_per_token(body, fields) or bytes_per_token
            items = dialect.items(body)
            if items is None:
                unreadable += 1
                conversation.append(self._correction(unreadable))
                continue
            unreadable = 0
            conversation += sendable(items)
            if not read_reply(reply).requests:
                return dialect.text(items)
            conversation += yield Op(
                partial(call_tools, reply, self.tools, max_calls=self.max_calls),
                partial(acall_tools, reply, self.tools, max_calls=self.max_calls),
            )
        raise LimitExceeded(
            f"agent {self.name!r} asked its model {self.max_turns} times and got no answer; "
            "give it a larger max_turns="
        )

    def _fit_conversation(
        self, conversation: list[Json], room: float, bytes_per_token: float
    ) -> Flow[list[Json]]:
        """Cut the conversation to fit; with "compact", a summary replaces what is left out."""
        parts = cut(conversation, room, bytes_per_token)
        summary: list[Json] = []
        if parts.middle and self.when_full == "compact":
            dialect = _DIALECTS[self._api]
            text = as_text(parts.middle)[-max(1_000, int(room * bytes_per_token)) :]
            fields = dialect.fields(_COMPACT, [{"role": "user", "content": text}])
            ask = partial(dialect.create(self.client), model=self.model, **fields)
            with branch("compact"):
                reply = yield Op(ask, ask)
            items = dialect.items(_body(reply))
            if text := dialect.text(items) if items else "":
                summary = [{"role": "user", "content": f"{_SUMMARY}\n\n{sendable(text)}"}]
        return [*parts.head, *summary, *parts.tail]

    def _correction(self, unreadable: int) -> Json:
        """The message that asks again after a reply without content.

        Raises LimitExceeded after `MALFORMED_IN_A_ROW` such replies, because each is paid for.
        """
        if unreadable > MALFORMED_IN_A_ROW:
            raise LimitExceeded(
                f"agent {self.name!r}: {unreadable} replies in a row held no message; "
                f"is model {self.model!r} there, and does it speak this API?"
            )
        return {"role": "user", "content": "Your reply held no message. Please answer again."}


def _body(reply: Any) -> dict[str, Json]:
    """A reply as JSON. Empty if the provider sent no JSON: an SDK then returns plain text."""
    body = jsonable(reply)
    return body if is_object(body) else {}


def _measure_bytes_per_token(body: dict[str, Json], fields: dict[str, Json]) -> float | None:
    """How many bytes a token of this request has, by the provider's count of its tokens."""
    used = (token_counts(body) or {}).get("input_tokens")
    return max(1.0, min(8.0, tokens(fields, 1.0) / used)) if used else None


def _check_window(context_tokens: int | None, when_full: str) -> None:
    if context_tokens is not None and context_tokens <= 0:
        raise ConfigError(f"context_tokens={context_tokens}: must be above zero")
    if when_full not in ("trim", "compact"):
        raise ConfigError(f"when_full={when_full!r}: must be 'trim' or 'compact'")


def _text(prompt: str | Path) -> str:
    try:
        return prompt.read_text("utf-8").strip() if isinstance(prompt, Path) else prompt
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt={str(prompt)!r} cannot be read: {error}") from None


def _check_tools(name: str, tools: Sequence[ToolFunction[..., Any]], is_async: bool) -> None:
    for tool in by_name(tools).values():
        if tool.is_async and not is_async:
            raise ConfigError(
                f"agent {name!r} has a sync client, which cannot await tool {tool.name!r}: "
                "give it the async client"
            )


# -- the three APIs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dialect:
    """How requests of an API are made, and how its replies are read."""

    create: Callable[[Any], Callable[..., Any]]  # the method of a client
    fields: Callable[[str, list[Json]], dict[str, Json]]  # a request: from prompt, conversation
    items: Callable[[dict[str, Json]], Items | None]  # a reply as items of the conversation
    text: Callable[[Items], str]  # the text of these items


def _chat_fields(prompt: str, conversation: list[Json]) -> dict[str, Json]:
    system = [{"role": "system", "content": prompt}] if prompt else []
    return {"messages": [*system, *conversation]}


def _chat_items(body: dict[str, Json]) -> Items | None:
    first = body.get("choices") or [None]
    message = first[0].get("message") if is_array(first) and is_object(first[0]) else None
    return [message] if is_object(message) else None


def _chat_text(items: Items) -> str:
    return text_of(items[0].get("content")) or text_of(items[0].get("refusal"))


def _responses_fields(prompt: str, conversation: list[Json]) -> dict[str, Json]:
    return {"input": conversation, **({"instructions": prompt} if prompt else {})}


def _anthropic_fields(prompt: str, conversation: list[Json]) -> dict[str, Json]:
    system: dict[str, Json] = {"system": prompt} if prompt else {}
    return {"messages": conversation, **system}


def _responses_items(body: dict[str, Json]) -> Items | None:
    return _items(body.get("output"))


def _responses_text(items: Items) -> str:
    return "".join(_texts(part) for item in items for part in [item.get("content")])


def _anthropic_items(body: dict[str, Json]) -> Items | None:
    blocks = _items(body.get("content"))
    return None if blocks is None else [{"role": "assistant", "content": blocks}]


def _anthropic_text(items: Items) -> str:
    return _texts(items[0]["content"])


def _items(value: Json) -> Items | None:
    """The objects in a list; other members are dropped. None if ``value`` is no list."""
    return [item for item in value if is_object(item)] if is_array(value) else None


def _texts(parts: Json) -> str:
    """The text of all text parts, joined."""
    items = (part.get("text") for part in _items(parts) or () if part.get("type") in _TEXTS)
    return "".join(text for text in items if isinstance(text, str))


_DIALECTS: dict[Api, _Dialect] = {
    "chat": _Dialect(
        create=lambda client: client.chat.completions.create,
        fields=_chat_fields,
        items=_chat_items,
        text=_chat_text,
    ),
    "responses": _Dialect(
        create=lambda client: client.responses.create,
        fields=_responses_fields,
        items=_responses_items,
        text=_responses_text,
    ),
    "anthropic": _Dialect(
        create=lambda client: partial(client.messages.create, max_tokens=MAX_TOKENS),
        fields=_anthropic_fields,
        items=_anthropic_items,
        text=_anthropic_text,
    ),
}


def _api_of(client: Any, asked: Api | None) -> Api:
    speaks: tuple[Api, ...] = ("chat", "responses") if hasattr(client, "chat") else ("anthropic",)
    if asked is not None and asked not in speaks:
        known = ", ".join(get_args(Api))
        raise ConfigError(
            f"api={asked!r}: {type(client).__name__} speaks {' and '.join(speaks)} (of {known})"
        )
    return asked or speaks[0]
