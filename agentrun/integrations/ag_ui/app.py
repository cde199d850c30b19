"""The HTTP side of AG-UI: an ASGI application that serves the runs of one agent."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

from ag_ui.core import ResumeEntry, RunAgentInput, RunErrorEvent
from ag_ui.encoder import EventEncoder
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

import agentrun
from agentrun.core.log import logger
from agentrun.gateway.guard import Door
from agentrun.gateway.shared_answer import GatewayRefusal
from agentrun.integrations.ag_ui.inputs import check_parameters, read_arguments
from agentrun.integrations.ag_ui.interrupts import InterruptId, Refusal, answer_interrupts
from agentrun.integrations.ag_ui.positions import Position
from agentrun.integrations.ag_ui.translation import Translation
from agentrun.integrations.served_agents import submit_run, working
from agentrun.store.opening import default
from agentrun.store.partials import partials_of
from agentrun.store.runs import find_run
from agentrun.store.watching import EVERY, JournalFollower
from agentrun.values.model_arguments import describe_problems

__all__ = ["AgentApp", "make_app", "run_key"]

Agent = agentrun.DurableAgent[..., Any]
Authorize = Callable[[Request, RunAgentInput], "str | Awaitable[str | None] | None"]
ReadArguments = Callable[[RunAgentInput], Mapping[str, Any]]

MOST_BYTES = 64 << 20  # of a request's body
SILENCE = 15.0  # seconds without an event, after which a comment keeps the connection open


def run_key(thread_id: str, run_id: str) -> str:
    """The key of the durable run that an AG-UI run began.

    Example:
        >>> run_key("t-1", "r-1")
        'ag-ui/t-1/r-1'
    """
    return f"ag-ui/{quote(thread_id, safe='')}/{quote(run_id, safe='')}"


def make_app(
    agent: Agent,
    *,
    arguments: ReadArguments | None = None,
    authorize: Authorize | None = None,
    hosts: Iterable[str] = (),
    worker: bool = True,
    concurrency: int = 10,
) -> AgentApp:
    """Make an ASGI application that serves an agent to AG-UI clients.

    Args:
        agent: the agent. Parameters called messages, tools, state, context, forwarded_props,
            thread_id and run_id get these parts of the input; one more parameter gets the text of
            the last message of the user.
        arguments: makes the agent's arguments, by name, of the input instead.
        authorize: says who asks, from the request and the input: a name, or None to refuse. The
            name is recorded with the answers to interrupts. Without it, nobody may answer one.
        hosts: host names by which clients may ask, besides localhost and addresses. Web pages of
            these names may ask, too; pages of other names are refused.
        worker: execute the runs in this process, while it serves. False: workers elsewhere do.
        concurrency: how many runs execute at a time.

    Raises:
        ConfigError: the agent has two or more parameters that no part of the input fills.

    Example:
        >>> app = make_app(support)   # serve it: uvicorn app:app
    """
    if arguments is None:
        check_parameters(agent)
    remedy = "give make_app hosts="
    door = Door(frozenset(map(str.lower, hosts)), place="this agent", remedy=remedy)
    return AgentApp(agent, arguments, authorize, door, concurrency if worker else 0)


class AgentApp:
    """An ASGI application, as `make_app` makes it. It answers POST at any path.

    Served alone, it is a worker while it serves. Inside another application, that one needs its
    lifespan: ``FastAPI(lifespan=app.lifespan)``.
    """

    def __init__(
        self,
        agent: Agent,
        arguments: ReadArguments | None,
        authorize: Authorize | None,
        door: Door,
        concurrency: int,
    ) -> None:
        self._agent, self._arguments, self._authorize = agent, arguments, authorize
        self._door, self._concurrency = door, concurrency
        self._works = not concurrency  # whether a worker executes the runs

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Execute runs inside the block, unless workers elsewhere do."""
        async with AsyncExitStack() as stack:
            if self._concurrency:
                await stack.enter_async_context(working([self._agent], self._concurrency))
                stack.callback(setattr, self, "_works", False)
                self._works = True
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            response = await self._respond(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _live(self, receive: Receive, send: Send) -> None:
        phase = "startup"
        await receive()
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                await receive()
                phase = "shutdown"
        except Exception as error:
            logger.exception("the agent's application could not do its %s", phase)
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    # -- requests ----------------------------------------------------------------------------------

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._open(request)
        except (Refusal, GatewayRefusal) as refused:
            return _error(refused.status, refused.code, str(refused))
        except agentrun.RunNotFound as error:
            return _error(404, "no_run", str(error))
        except agentrun.RunError as error:  # the run's input is another one
            return _error(409, "conflict", str(error))

    async def _open(self, request: Request) -> Response:
        """Check the request, begin or answer the run, and return its stream."""
        self._door.check(request.headers)
        given = await _read_input(request)
        actor = None if self._authorize is None else self._authorize(request, given)
        if inspect.isawaitable(actor):
            actor = await actor
        if self._authorize is not None and not actor:
            raise Refusal(403, "not_allowed", "this request may not use this agent")
        if not self._works:
            raise Refusal(500, "no_worker", "no worker runs here: the application needs lifespan=")
        after = _position_in(request)
        answers = _answers_in(given.resume or [])
        first = answers[0][0].run_id if answers else given.run_id
        key = run_key(given.thread_id, first)
        if answers or after:
            await asyncio.to_thread(self._check_agent, key)
        else:
            await self._submit(given, key)
        if answers and (after is None or after.seq <= answers[0][0].seq):
            await asyncio.to_thread(answer_interrupts, key, answers, actor)
            after = after or Position(answers[0][0].seq)
        follower = await asyncio.to_thread(JournalFollower, default(), key)
        translation = Translation(
            follower.run_id,
            thread_id=given.thread_id,
            run_id=given.run_id,
            first_run_id=first,
            messages=given.messages,
            after=after,
        )
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        stream = _encode_events(follower, translation)
        return StreamingResponse(stream, headers=headers, media_type="text/event-stream")

    def _check_agent(self, key: str) -> None:
        """Raise RunNotFound unless the run is one of this agent."""
        if find_run(default(), key).agent not in self._agent.names:
            raise Refusal(404, "no_run", f"this agent has no run with the key {key!r}")

    async def _submit(self, given: RunAgentInput, key: str) -> None:
        try:
            arguments = self._arguments or (lambda given: read_arguments(self._agent, given))
            await submit_run(self._agent, arguments(given), key)
        except ValidationError as error:
            problems = describe_problems(error.errors(include_url=False))
            raise Refusal(
                400, "bad_arguments", f"the arguments are not valid: {problems}"
            ) from None
        except agentrun.ConfigError as error:
            raise Refusal(400, "bad_arguments", str(error)) from error


async def _encode_events(
    follower: JournalFollower, translation: Translation
) -> AsyncIterator[bytes]:
    """The stream of a run, until the AG-UI run or the run has ended."""
    encoder, silent = EventEncoder(), 0.0
    try:
        while not translation.ended:
            rows = await asyncio.to_thread(follower.read)
            expects_text = translation.expects_text
            partials = []
            if expects_text and not follower.ended:
                partials = await asyncio.to_thread(partials_of, default(), follower.run_id)
            for sent in translation.take(rows, partials):
                silent = 0.0
                yield f"id: {sent.id}\n{encoder.encode(sent.event)}".encode()
            if follower.ended:
                return
            if silent >= SILENCE:
                silent = 0.0
                yield b": nothing new\n\n"
            await asyncio.sleep(EVERY)
            silent += EVERY
    except agentrun.AgentrunError as error:  # such as: the run was pruned
        logger.warning("the stream of run %s ended: %s", follower.run_id, error)
        failure = RunErrorEvent(message=str(error), code=type(error).__name__)
        yield encoder.encode(failure).encode()


async def _read_input(request: Request) -> RunAgentInput:
    """The input in the body of a request. Raises Refusal."""
    if request.method != "POST":
        raise Refusal(405, "method", "an AG-UI run begins with a POST of its input")
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        raise Refusal(415, "content_type", "the input of a run is application/json")
    body = bytearray()
    with suppress(ClientDisconnect):
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BYTES:
                raise Refusal(413, "too_large", f"the input is larger than {MOST_BYTES} bytes")
    try:
        return RunAgentInput.model_validate_json(bytes(body))
    except ValidationError as error:
        problems = describe_problems(error.errors(include_url=False))
        raise Refusal(400, "bad_input", f"the input of the run is not valid: {problems}") from None


def _position_in(request: Request) -> Position | None:
    """How far the client has read, from ``Last-Event-ID`` or ``?from=``. Raises Refusal."""
    id_ = request.headers.get("last-event-id") or request.query_params.get("from")
    if not id_:
        return None
    try:
        return Position.parse(id_)
    except ValueError as error:
        raise Refusal(400, "bad_position", str(error)) from None


def _answers_in(entries: Sequence[ResumeEntry]) -> list[tuple[InterruptId, ResumeEntry]]:
    """The entries that answer one park of one run. Raises Refusal if there are entries and none.

    An entry that names no interrupt of ours is left out, as the protocol wants it.
    """
    found = [(id_, entry) for entry in entries if (id_ := InterruptId.parse(entry.interrupt_id))]
    if entries and not found:
        raise Refusal(404, "no_interrupt", "no run of this thread has such an interrupt")
    place = found[0][0] if found else None
    return [
        (id_, entry)
        for id_, entry in found
        if place is not None and (id_.run_id, id_.seq) == (place.run_id, place.seq)
    ]


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
