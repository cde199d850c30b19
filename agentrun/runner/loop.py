"""`Agent`: the loop that most agents are, ready-made.

Ask the model, perform the tools it asks for, tell it what came of them, until it answers in words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from agentrun.core.budget import Budget
from agentrun.core.errors import ConfigError, LimitExceeded
from agentrun.core.events import Json
from agentrun.core.flow import Flow, Op, run_async, run_sync
from agentrun.core.messages import text_of
from agentrun.models import wrap
from agentrun.models.usage import usage_of
from agentrun.runner.agent import DurableAgent, defined_in, register
from agentrun.runner.calls import MALFORMED_IN_A_ROW, acall_tools, call_tools
from agentrun.runner.clock import branch
from agentrun.runner.execute import Options
from agentrun.runner.replies import Api, read_reply, sendable
from agentrun.runner.schemas import by_name, schemas
from agentrun.runner.tool import Tool
from agentrun.runner.window import BYTES_PER_TOKEN, as_text, cut, tokens

MAX_TURNS = 50
_TEXTS = ("text", "output_text")
MAX_TOKENS = 4096  # of a reply: Anthropic's API wants to be told

_COMPACT = (
    "Sum up this part of a conversation for the assistant that goes on with it: what was asked, "
    "found out, decided and done, with every name, number and identifier that may still be needed. "
    "Answer with the summary alone."
)
_SUMMARY = "A summary of the earlier part of this conversation, which was left out here:"

Said = list[dict[str, Json]]  # items of a conversation


class Agent(DurableAgent[[str], str]):
    """A ready-made durable agent: ``run(question)`` returns the model's answer.

    Args:
        name: the agent's identity, in code and journal.
        client: an OpenAI or Anthropic client, sync or async; wrapped here if it is not yet.
        model: which model is asked.
        prompt: the system prompt: text, or the `Path` of a file that holds it.
        tools: what the model may ask for.
        api: "chat" (OpenAI's chat completions), "responses" or "anthropic"; default: chat, or
            what the client speaks.
        max_turns: how often the model is asked, at most; then the run fails with LimitExceeded.
        budget: what each run may spend, its children included.
        context_tokens: from about so many tokens of a request on, its oldest turns are left out
            (`trim_messages`); leave room for the reply. Default: the conversation grows.
        when_full: "trim" leaves them out; "compact" has the model sum them up first.
        inflight: "background": a Responses call that is in flight at a crash is picked up, and
            paid once, as with `wrap`.
        settings: further fields of each request, such as ``temperature=0``.

    Raises:
        ConfigError: the client is no such client or speaks another API, the prompt cannot be
            read, a tool is none or is async under a sync client, context_tokens or when_full is
            none of these.
    """

    def __init__(
        self,
        *,
        name: str,
        client: Any,
        model: str,
        prompt: str | Path = "",
        tools: Sequence[Tool[..., Any]] = (),
        api: Api | None = None,
        max_turns: int = MAX_TURNS,
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
        _check_window(context_tokens, when_full)
        self.context_tokens = context_tokens
        self.when_full = when_full
        self._api = _api_of(client, api)
        self._settings = settings
        awaited = hasattr(client, "__aenter__")
        _check_tools(name, self.tools, awaited)
        called = self._awaited if awaited else self._called
        super().__init__(called, name, Options(budget=budget))
        self.place = defined_in(sys._getframe(1).f_code)
        register(self)

    def _called(self, question: str) -> str:
        return run_sync(self._loop(question))

    async def _awaited(self, question: str) -> str:
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
                conversation = yield from self._fitted(conversation, room, bytes_per_token)
            fields = {**dialect.fields(self.prompt, conversation), **tools}
            ask = partial(dialect.create(self.client), model=self.model, **fields, **self._settings)
            reply = yield Op(ask, ask)
            body = _body(reply)
            bytes_per_token = _measured(body, fields) or bytes_per_token
            said = dialect.said(body)
            if said is None:
                unreadable += 1
                conversation.append(self._told(unreadable))
                continue
            unreadable = 0
            conversation += sendable(said)
            if not read_reply(reply).requests:
                return dialect.text(said)
            conversation += yield Op(
                partial(call_tools, reply, self.tools), partial(acall_tools, reply, self.tools)
            )
        raise LimitExceeded(
            f"agent {self.name!r} asked its model {self.max_turns} times and came to no answer; "
            "give it a larger max_turns="
        )

    def _fitted(
        self, conversation: list[Json], room: float, bytes_per_token: float
    ) -> Flow[list[Json]]:
        """The conversation as it fits; with a summary of what is left out, if that is wanted."""
        parts = cut(conversation, room, bytes_per_token)
        summary: list[Json] = []
        if parts.left_out and self.when_full == "compact":
            dialect = _DIALECTS[self._api]
            told = as_text(parts.left_out)[-max(1_000, int(room * bytes_per_token)) :]
            fields = dialect.fields(_COMPACT, [{"role": "user", "content": told}])
            ask = partial(dialect.create(self.client), model=self.model, **fields)
            with branch("compact"):
                reply = yield Op(ask, ask)
            said = dialect.said(_body(reply))
            if text := dialect.text(said) if said else "":
                summary = [{"role": "user", "content": f"{_SUMMARY}\n\n{sendable(text)}"}]
        return [*parts.head, *summary, *parts.kept]

    def _told(self, unreadable: int) -> Json:
        """The correction of a reply that says nothing; only so often, as each is paid for."""
        if unreadable > MALFORMED_IN_A_ROW:
            raise LimitExceeded(
                f"agent {self.name!r}: {unreadable} replies in a row held no message; "
                f"is model {self.model!r} there, and does it speak this API?"
            )
        return {"role": "user", "content": "Your reply held no message. Please answer again."}


def _body(reply: Any) -> dict[str, Json]:
    """A reply as JSON; what was sent as no JSON an SDK gives as plain text."""
    dump = getattr(reply, "model_dump", None)
    return dump(exclude_none=True, warnings=False) if callable(dump) else {}


def _measured(body: dict[str, Json], fields: dict[str, Json]) -> float | None:
    """Bytes that a token of this request had, by the provider's count."""
    used = usage_of("", "", None, body)
    if used is None or not used.input_tokens:
        return None
    return max(1.0, min(8.0, tokens(fields, 1.0) / used.input_tokens))


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


def _check_tools(name: str, tools: Sequence[Tool[..., Any]], awaited: bool) -> None:
    for tool in by_name(tools).values():
        if tool.is_async and not awaited:
            raise ConfigError(
                f"agent {name!r} has a sync client, which cannot await tool {tool.name!r}: "
                "give it the async client"
            )


# -- the three APIs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dialect:
    """How an API is asked, and what its replies say."""

    create: Callable[[Any], Callable[..., Any]]  # the method of a client
    fields: Callable[[str, list[Json]], dict[str, Json]]  # of a request: prompt, conversation
    said: Callable[[dict[str, Json]], Said | None]  # a reply as items of the conversation
    text: Callable[[Said], str]  # of these


def _chat_fields(prompt: str, conversation: list[Json]) -> dict[str, Json]:
    system = [{"role": "system", "content": prompt}] if prompt else []
    return {"messages": [*system, *conversation]}


def _chat_said(body: dict[str, Json]) -> Said | None:
    match body:
        case {"choices": [{"message": dict(message)}, *_]}:
            return [message]
    return None


def _chat_text(said: Said) -> str:
    return text_of(said[0].get("content")) or text_of(said[0].get("refusal"))


def _responses_fields(prompt: str, conversation: list[Json]) -> dict[str, Json]:
    return {"input": conversation, **({"instructions": prompt} if prompt else {})}


def _anthropic_fields(prompt: str, conversation: list[Json]) -> dict[str, Json]:
    system: dict[str, Json] = {"system": prompt} if prompt else {}
    return {"messages": conversation, **system}


def _responses_said(body: dict[str, Json]) -> Said | None:
    return _items(body.get("output"))


def _responses_text(said: Said) -> str:
    return "".join(_texts(part) for item in said for part in [item.get("content")])


def _anthropic_said(body: dict[str, Json]) -> Said | None:
    blocks = _items(body.get("content"))
    return None if blocks is None else [{"role": "assistant", "content": blocks}]


def _anthropic_text(said: Said) -> str:
    return _texts(said[0]["content"])


def _items(value: Json) -> Said | None:
    """The items of a list, less what cannot be one; None if it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else None


def _texts(parts: Json) -> str:
    """What the text parts say, one after another."""
    said = (part.get("text") for part in _items(parts) or () if part.get("type") in _TEXTS)
    return "".join(text for text in said if isinstance(text, str))


_DIALECTS: dict[Api, _Dialect] = {
    "chat": _Dialect(
        create=lambda client: client.chat.completions.create,
        fields=_chat_fields,
        said=_chat_said,
        text=_chat_text,
    ),
    "responses": _Dialect(
        create=lambda client: client.responses.create,
        fields=_responses_fields,
        said=_responses_said,
        text=_responses_text,
    ),
    "anthropic": _Dialect(
        create=lambda client: partial(client.messages.create, max_tokens=MAX_TOKENS),
        fields=_anthropic_fields,
        said=_anthropic_said,
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
