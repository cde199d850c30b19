"""`@agent` turns a function into an agent: each call of `run` is a durable run of the function.

The decorator makes a `DurableAgent`, or a `StreamingAgent` of a generator function. The sync
methods and their async twins share one flow (`agentrun.core.flow`), so they cannot differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import secrets
from collections.abc import (
    Callable,
    Collection,
    Sequence,
)
from dataclasses import fields, replace
from functools import partial
from typing import Any, Generic, Literal, ParamSpec, Self, TypeVar, cast
from uuid import UUID

from pydantic import ValidationError

from agentrun.api.handle import Handle
from agentrun.core.budget import Budget
from agentrun.core.errors import ConfigError
from agentrun.core.flow import Flow, Op, run_async, run_sync
from agentrun.lifecycle import child_runs, context_propagation, execute
from agentrun.lifecycle.agent_body import call_body
from agentrun.lifecycle.event_loop import run_in_loop
from agentrun.lifecycle.generator_agents import AsyncItems, Items, collect_items, is_generator
from agentrun.lifecycle.options import Options
from agentrun.lifecycle.registry import defined_in, refuse_while_importing
from agentrun.steps.blocking import blocking
from agentrun.steps.divergence_policy import OnDivergence, check_on_divergence
from agentrun.steps.execution_point import ExecutionPoint, current_point
from agentrun.steps.masking import Covered, refuse_credential
from agentrun.steps.refusals import refusal
from agentrun.store.opening import default
from agentrun.store.serving import wake_workers
from agentrun.values.annotations import hints_of
from agentrun.values.arguments import Arguments, RecordedArguments
from agentrun.values.callables import (
    code_of,
    function_of,
    is_async,
    receiver_of,
    refuse_unrecordable,
)
from agentrun.values.model_arguments import describe_problems

P = ParamSpec("P")
R = TypeVar("R")


class DurableAgent(Generic[P, R]):
    """An agent, as `@agent` makes it. `run` and `arun` take exactly the function's own arguments.

    Inside another run, a call of the agent is a child run, and one step of the parent run.
    Outside, a direct call (``support("…")``) calls the plain function and records nothing.

    Example:
        >>> ticket = support.with_options(key="ticket-42")
        >>> ticket.run("refund order 7")   # executes here; the same line resumes after a crash
        >>> handle = ticket.submit("refund order 7")   # or: a worker executes the run
    """

    def __init__(
        self,
        function: Callable[P, Any],
        name: str,
        options: Options | None = None,
        aliases: Collection[str] = (),
        on_divergence: OnDivergence = "refuse",
        masked: Sequence[str] = (),
    ):
        refuse_unrecordable(function, "the agent", streams=is_generator(function))
        self.function = function_of(function, "the agent")
        if is_generator(self.function):
            self.function = collect_items(self.function)
        _refuse_method(self.function, name)
        functools.update_wrapper(cast(Any, self), self.function)
        self.name = name
        self.aliases = tuple(aliases)
        self.on_divergence: OnDivergence = on_divergence  # the default of its runs
        self.options = options or Options()
        self.is_async = is_async(self.function)
        self.arguments = Arguments(self.function, what="the agent")
        self.covered = Covered(masked, self.arguments, name)
        self.covered.check_texts(hints_of(self.function), name)
        self.place = defined_in(code_of(function))

    def __repr__(self) -> str:
        return f"<agentrun agent {self.name!r}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The agent's name and its aliases: its runs may be recorded under any of them."""
        return (self.name, *self.aliases)

    def with_options(
        self,
        *,
        key: str | UUID | None = None,
        on_busy: Literal["wait", "raise"] | None = None,
        on_held: Literal["raise", "wait"] | None = None,
        on_divergence: OnDivergence | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: float | None = None,
        deadline: float | None = None,
        budget: Budget | None = None,
    ) -> Self:
        """Return a copy of the agent with these options. The agent itself does not change.

        Args:
            key: names the run: a non-empty string or a UUID. The same key with the same arguments
                is the same run: it resumes after a crash, and returns its recorded answer once it
                is done. Without a key each call starts a fresh run.
            on_busy: when another live worker executes the run, ``wait`` for its result or
                ``raise`` RunConflict. Default: ``wait``.
            on_held: when the run waits for a person, ``raise`` RunHeld or ``wait`` in place.
                Default: ``raise``.
            on_divergence: when the code asks for something other than what is recorded:
                ``refuse`` stops before any effect; ``keep`` uses the recorded replies where only
                the requests of model calls differ; ``accept`` takes the new path, which reuses
                recorded effects of equal name and arguments and performs all others. The choice
                is recorded when the run is created, and holds for its child runs. Default: the
                choice in `@agent`.
            queue: only workers that serve this queue take a submitted run. Default: ``"default"``.
            priority: workers take the submitted run with the highest number first. Default: 0.
            delay: seconds until a submitted run is due.
            deadline: seconds that the run may take in all, waiting included, counted from its
                submission. Then the run fails with LimitExceeded; `resume` grants the same time
                again.
            budget: limits on what the run and its children may spend; recorded when the run is
                created.

        Raises:
            ConfigError: an option has an unknown value, or the key is empty, is neither a string
                nor a UUID, or holds a credential.

        Example:
            >>> ticket = support.with_options(key="ticket-42", budget=agentrun.Budget(usd=1))
        """
        given = {
            "key": _as_key(key),
            "on_busy": on_busy,
            "on_held": on_held,
            "on_divergence": on_divergence,
            "queue": queue,
            "priority": priority,
            "delay": delay,
            "deadline": deadline,
            "budget": budget,
        }
        chosen: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        options = replace(self.options, **chosen)
        _check(options)
        changed = copy.copy(self)
        changed.options = options
        return changed

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Inside a run: execute a child run. Outside a run: call the plain function.

        The key of a child run derives from the key of its parent. An async agent is awaited.

        Example:
            >>> answer = support("refund order 7")
        """
        if current_point() is None:
            return self.function(*args, **kwargs)
        return self._arun(args, kwargs) if self.is_async else self.run(*args, **kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Execute the run here and return its result. After a crash the same line resumes the run.

        A run that is done already returns its recorded result. Inside another run, this is a
        child run, and a step of the parent.

        Raises:
            RunFailed: the agent raised, now or in an earlier process; ``__cause__`` is that
                exception.
            RunHeld: the run waits for a person; `agentrun inbox` lists for what.
            RunConflict: the run of this key has other arguments or another agent, or another
                process executes it (with ``on_busy="raise"``).
            Diverged: the code asked for something other than what is recorded.
            RunError: the run was cancelled.
            ConfigError: an argument is not valid or cannot be recorded; the agent is async and
                an event loop is running here; or a file is being imported.

        Example:
            >>> support.with_options(key="ticket-42").run("refund order 7")
            'Order 7 is refunded.'
        """
        refuse_while_importing(f"agent {self.name!r}")
        if not self.is_async:
            return cast(R, run_sync(self._flow(args, kwargs)))
        self._refuse_in_a_loop()
        return run_in_loop(self._arun(args, kwargs))

    async def arun(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Like `run`, without blocking the event loop: a sync agent executes in a thread.

        An async agent executes in the running loop. Cancelling the awaiting task hands the run
        back; the same line resumes it.

        Example:
            >>> await support.with_options(key="ticket-42").arun("refund order 7")
        """
        refuse_while_importing(f"agent {self.name!r}")
        return await self._arun(args, kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Queue the run for a worker and return its handle, without waiting for the run.

        A worker is `agentrun worker FILE` or a `Worker`. The run is durable when this returns. A
        second submit with the same key and arguments finds the same run.

        Raises:
            RunConflict: the run of this key has other arguments or another agent.
            ConfigError: an argument is not valid or cannot be recorded, or a file is being
                imported.

        Example:
            >>> handle = support.with_options(key="ticket-42").submit("refund order 7")
            >>> handle.result(timeout=60)
        """
        refuse_while_importing(f"agent {self.name!r}")
        return cast("Handle[R]", run_sync(self._submission(args, kwargs)))

    async def asubmit(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Like `submit`, without blocking the event loop while the run is written.

        Example:
            >>> handle = await support.with_options(key="ticket-42").asubmit("refund order 7")
            >>> await handle.aresult()
        """
        refuse_while_importing(f"agent {self.name!r}")
        return cast("Handle[R]", await run_async(self._submission(args, kwargs)))

    def _refuse_in_a_loop(self) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise refusal(
                f"{self.name} is async and an event loop is running here: "
                f"use `await {self.name}.arun(…)`"
            )

    # -- flows -------------------------------------------------------------------------------------

    async def _arun(self, args: Any, kwargs: Any) -> R:
        if current_point() is not None:  # also if the child's result is recorded already
            context_propagation.install_on(asyncio.get_running_loop())
        return cast(R, await run_async(self._flow(args, kwargs)))

    def _flow(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[Any]:
        arguments = self.record_arguments(args, kwargs)
        line = current_point()
        if line is not None:
            return child_runs.call(self, line, arguments)
        return execute.start(self, default(), self._key(), self.options, arguments)

    def _submission(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[Any]:
        database, key = default(), self._key()
        arguments = self.record_arguments(args, kwargs)
        yield from execute.create(self, database, key, self.options, arguments)
        yield blocking(partial(wake_workers, database))
        handle: Handle[Any] = Handle(key, database, self.arguments.result)
        return handle

    def _key(self) -> str:
        return self.options.key or f"{self.name}-{secrets.token_hex(6)}"

    def record_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RecordedArguments:
        """The arguments as the journal records them, as JSON.

        Raises ConfigError for arguments that are not valid or cannot be recorded.
        """
        bound = self.arguments.bind(args, kwargs)
        try:
            asked = self.arguments.record(self.arguments.validate(bound), bound)
            return RecordedArguments(self.covered.cover(asked.args), asked.compared)
        except ValidationError as error:
            # pydantic's own text shows values as they look in this process, such as the order of
            # a set or an address in memory. On a resume the message would differ.
            problem = (
                f"the arguments are not valid: {describe_problems(error.errors(include_url=False))}"
            )
        except (ValueError, TypeError, AttributeError) as error:
            problem = f"an argument cannot be recorded: {error}"
        raise ConfigError(f"{self.name}: {problem}")

    def body(self, line: ExecutionPoint, values: dict[str, Any]) -> Op[Any]:
        """Execute the function as the run that ``line`` belongs to."""
        args, kwargs = self.arguments.call_with(values, line.run.key)
        return call_body(line, self.function, self.is_async, args, kwargs)


class StreamingAgent(DurableAgent[P, list[R]]):
    """An agent that `@agent` made of a generator function, plain or async.

    The result of its run is the list of all items. `run` and `arun` wait for the whole list.
    `stream` and `astream` yield each item as soon as it is durable. After a crash the same line
    yields the recorded items again, then goes on.

    Example:
        >>> for piece in writer.with_options(key="draft-7").stream("a poem"):
        ...     print(piece)
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Inside a run: a child run, whose items are iterated. Outside: the plain generator."""
        if current_point() is None:
            return inspect.unwrap(self.function)(*args, **kwargs)
        return (self.astream if self.is_async else self.stream)(*args, **kwargs)

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Items[R]:
        """Execute or resume the run in a thread, and yield its items one at a time.

        The generator goes on only when the reader asks for the next item. The run exists when
        this returns. A reader that stops early hands the run back to the queue; the same line
        resumes it.

        Raises:
            ConfigError, RunConflict: as `run` does, at the call. All other errors of `run` are
                raised where the items are iterated.

        Example:
            >>> for piece in writer.with_options(key="draft-7").stream("a poem"):
            ...     print(piece)
        """
        refuse_while_importing(f"agent {self.name!r}")
        if self.is_async:
            self._refuse_in_a_loop()
        ready = self._create_run(args, kwargs)
        return Items(lambda: ready.run(*args, **kwargs))

    def astream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncItems[R]:
        """Like `stream`, for ``async for``. The call itself is not awaited.

        Unlike with `stream`, the run is created when the first item is asked for. So RunConflict
        is raised there; only ConfigError, for arguments that are not valid, is raised at the call.

        Example:
            >>> async for piece in writer.with_options(key="draft-7").astream("a poem"):
            ...     print(piece)
        """
        refuse_while_importing(f"agent {self.name!r}")
        self.record_arguments(args, kwargs)
        run = super().arun
        return AsyncItems(lambda: run(*args, **kwargs))

    def arun(self, *args: P.args, **kwargs: P.kwargs) -> AsyncItems[R]:  # type: ignore[override]
        """Awaited, this is the list of all items. With ``async for`` it yields each as it comes.

        Example:
            >>> pieces = await writer.arun("a poem")
        """
        return self.astream(*args, **kwargs)

    def _create_run(self, args: Any, kwargs: Any) -> StreamingAgent[P, R]:
        """Create the run, and return a copy of this agent with the run's key.

        Inside a run, the parent's step creates the child run instead.
        """
        arguments = self.record_arguments(args, kwargs)
        if current_point() is not None:
            return self
        ready = copy.copy(self)
        ready.options = replace(self.options, key=self._key())
        database = default()
        if not database.executes:
            database.check_privileges()
        run_sync(execute.create(self, database, ready._key(), self.options, arguments))
        return ready


def _as_key(key: object) -> str | None:
    """The run key as text. Raises ConfigError for an empty key, and for other types than these.

    Another type could be converted to text, but its text may differ in another process, as that
    of an object with its address does. Then each process would start a run of its own.
    """
    if isinstance(key, UUID):
        return str(key)
    if key is not None and not isinstance(key, str):
        raise ConfigError(
            f"key={key!r} is of type {type(key).__name__}: a run key is a string or a UUID; "
            "use str(…) if that names the run"
        )
    if key == "":
        raise ConfigError(
            "key='' names no run: give a non-empty string, or no key for a fresh run each time"
        )
    return key


def _refuse_method(function: Callable[..., Any], name: str) -> None:
    if receiver_of(function):
        raise ConfigError(
            f"agent {name!r} is a method: another process that resumes its runs does not have its "
            "object. Make it a function, and create the object inside it or from its arguments"
        )


def _check(options: Options) -> None:
    if options.deadline is not None and not 0 < options.deadline < float("inf"):
        raise ConfigError(f"deadline={options.deadline!r}: give a finite number of seconds above 0")
    check_on_divergence(options.on_divergence)
    allowed = {
        "on_busy": ("wait", "raise"),
        "on_held": ("raise", "wait"),
    }
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name in allowed and value not in allowed[option.name]:
            raise ConfigError(
                f"{option.name}={value!r}; choose one of {', '.join(allowed[option.name])}"
            )
    refuse_credential("the run key", options.key or "")
