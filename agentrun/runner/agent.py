"""`@agent`: a function whose execution is a durable run."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from pydantic import ValidationError

from agentrun.core.budget import Budget
from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.core.flow import Flow, Op, run_async, run_sync
from agentrun.core.secrets import Redactor
from agentrun.runner import children, execute, propagate
from agentrun.runner.context import Line, blocking, current_line
from agentrun.runner.eventloop import run_in_loop
from agentrun.runner.execute import Options
from agentrun.runner.handle import Handle
from agentrun.runner.loading import importing
from agentrun.runner.values import Arguments
from agentrun.store.opening import default

P = ParamSpec("P")
R = TypeVar("R")

# Not what is secret in this environment alone: a key is the same in every process.
_CREDENTIALS = Redactor()

_agents: dict[str, DurableAgent[..., Any]] = {}


class DurableAgent(Generic[P, R]):
    """What `@agent` makes: `run` and `arun` take exactly the function's own arguments."""

    def __init__(self, function: Callable[P, Any], name: str, options: Options | None = None):
        functools.update_wrapper(cast(Any, self), function)
        self.function = function
        self.name = name
        self.options = options or Options()
        self.is_async = inspect.iscoroutinefunction(function)
        self.arguments = Arguments(function, what="the agent")
        self.place = defined_in(inspect.unwrap(function).__code__)

    def __repr__(self) -> str:
        return f"<agentrun agent {self.name!r}>"

    def with_options(
        self,
        *,
        key: str | None = None,
        on_busy: Literal["wait", "raise"] | None = None,
        on_held: Literal["raise", "wait"] | None = None,
        on_divergence: Literal["refuse", "accept"] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: float | None = None,
        deadline: float | None = None,
        budget: Budget | None = None,
    ) -> DurableAgent[P, R]:
        """A copy of the agent with these options.

        Args:
            key: names the run. The same key and arguments are the same run, resumed after a
                crash and answered from the journal once done. Without a key each call is a
                fresh run.
            on_busy: when another live worker executes the run, ``wait`` for its result or
                ``raise`` RunConflict.
            on_held: when the run waits for a person, ``raise`` RunHeld or ``wait`` in place.
            on_divergence: when the code asks for something other than what is recorded,
                ``refuse`` before any effect, or ``accept`` and go on from there.
            queue: of a submitted run, which workers may take it; default ``"default"``.
            priority: of a submitted run; the highest is taken first, default 0.
            delay: seconds before a submitted run is due.
            deadline: seconds that the run may take in all, waiting included, counted from its
                submission. Then it fails with LimitExceeded; `resume` gives it as long again.
            budget: what the run may spend, its children included; recorded when it is created.

        Raises:
            ConfigError: an option has a value it does not know, or the key holds a credential.
        """
        given = {
            "key": key,
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
        """Inside a run a child run, whose key derives from the parent's; outside the function."""
        if current_line() is None:
            return self.function(*args, **kwargs)
        return self._arun(args, kwargs) if self.is_async else self.run(*args, **kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Execute the run here and return its result; after a crash the same line resumes it.

        Raises:
            RunFailed: the agent raised, now or when it ran; ``__cause__`` is that exception.
            RunHeld: the run waits for a person: `agentrun inbox`.
            RunConflict: the key belongs to other arguments or another agent, or the run is busy.
            Diverged: the code changed its path against what is recorded.
            ConfigError: called in a running event loop, or while a file is imported.

        Inside a run it is a child run, and the parent's step for it.
        """
        refuse_while_importing(f"agent {self.name!r}")
        if not self.is_async:
            return cast(R, run_sync(self._flow(args, kwargs)))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return run_in_loop(self._arun(args, kwargs))
        raise ConfigError(
            f"{self.name} is async and an event loop is running here: "
            f"use `await {self.name}.arun(…)`"
        )

    async def arun(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """`run`, awaited. A sync agent executes in a thread."""
        refuse_while_importing(f"agent {self.name!r}")
        return await self._arun(args, kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Queue the run for a worker (`agentrun worker FILE`, or a `Worker`); return its handle."""
        refuse_while_importing(f"agent {self.name!r}")
        return cast("Handle[R]", run_sync(self._submission(args, kwargs)))

    async def asubmit(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """`submit`, awaited."""
        refuse_while_importing(f"agent {self.name!r}")
        return cast("Handle[R]", await run_async(self._submission(args, kwargs)))

    # -- flows -------------------------------------------------------------------------------------

    async def _arun(self, args: Any, kwargs: Any) -> R:
        if current_line() is not None:  # whether the child executes in this loop or is recorded
            propagate.install_on(asyncio.get_running_loop())
        return cast(R, await run_async(self._flow(args, kwargs)))

    def _flow(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[Any]:
        arguments = self._recorded(args, kwargs)
        line = current_line()
        if line is not None:
            return children.call(self, line, arguments)
        return execute.start(self, default(), self._key(), self.options, arguments)

    def _submission(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[Any]:
        database, key = default(), self._key()
        arguments = self._recorded(args, kwargs)
        yield from execute.create(self, database, key, self.options, arguments)
        yield blocking(partial(database.query, "notify"))
        return Handle(key, database, self.arguments.result.decode)

    def _key(self) -> str:
        return self.options.key or f"{self.name}-{secrets.token_hex(6)}"

    def _recorded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Json]:
        """The arguments as JSON. Raises ConfigError for what cannot be recorded."""
        bound = self.arguments.bind(args, kwargs)
        try:
            return self.arguments.dump(self.arguments.validate(bound))
        except ValidationError as error:
            raise ConfigError(f"{self.name}: the arguments are not valid: {error}") from None
        except ValueError as error:
            raise ConfigError(f"{self.name}: an argument cannot be recorded: {error}") from None

    def body(self, line: Line, values: dict[str, Any]) -> Op[Any]:
        """Execute the function as the run that ``line`` belongs to."""
        args, kwargs = self.arguments.call_with(values, line.run.key)
        return execute.call_body(line, self.function, self.is_async, args, kwargs)


def refuse_while_importing(what: str) -> None:
    """Refuse to start or resume ``what`` while a file is imported, which is done often."""
    if (file := importing.get()) is not None:
        raise ConfigError(
            f"{what} was run while {file} was being imported, which would start a run each time: "
            'put the call under `if __name__ == "__main__":`'
        )


def _check(options: Options) -> None:
    if options.deadline is not None and not 0 < options.deadline < float("inf"):
        raise ConfigError(f"deadline={options.deadline!r}: give a finite number of seconds above 0")
    allowed = {
        "on_busy": ("wait", "raise"),
        "on_held": ("raise", "wait"),
        "on_divergence": ("refuse", "accept"),
    }
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name in allowed and value not in allowed[option.name]:
            raise ConfigError(
                f"{option.name}={value!r}; choose one of {', '.join(allowed[option.name])}"
            )
    shown = _CREDENTIALS.text(options.key or "")
    if shown != (options.key or ""):
        raise ConfigError(
            f"the run key {shown!r} holds a credential, and keys are stored and shown as they are: "
            "choose another"
        )


class _Decorator:
    """`@agent`, bare or with options."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> DurableAgent[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> DurableAgent[P, R]: ...
    @overload
    def __call__(
        self, function: None = None, /, *, name: str | None = None, budget: Budget | None = None
    ) -> _Named: ...
    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        budget: Budget | None = None,
    ) -> Any:
        """Make a function's execution a durable run.

        ``name`` is the agent's identity, in code and journal (default: the function's name);
        running a notebook cell again replaces it. ``budget`` is what each of its runs may
        spend, its children included.

        Raises:
            ConfigError: an agent of this name was defined by another file.
        """
        named = _Named(name, Options(budget=budget))
        return named if function is None else named(function)


class _Named:
    def __init__(self, name: str | None, options: Options) -> None:
        self._name, self._options = name, options

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> DurableAgent[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> DurableAgent[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        name = self._name or function.__name__
        return register(DurableAgent(function, name, self._options))


agent = _Decorator()


def register(made: DurableAgent[..., Any]) -> DurableAgent[..., Any]:
    """Make an agent known by its name, in place of an earlier one of the same file."""
    other = _agents.get(made.name)
    if other is not None and other.place != made.place:
        raise ConfigError(
            f"two files define an agent named {made.name!r}: {other.place} and {made.place}; "
            "give one of them another name, as by @agentrun.agent(name=…)"
        )
    _agents[made.name] = made
    return made


def defined_in(code: CodeType) -> str:
    """The file that holds this code."""
    path = Path(code.co_filename)
    # Every notebook cell has a file name of its own; all of them are one place.
    return str(path.resolve()) if path.exists() else "(interactive)"


def registered(name: str) -> DurableAgent[..., Any]:
    """The agent of this name. Raises ConfigError when no imported file defines it."""
    if name not in _agents:
        known = ", ".join(sorted(_agents)) or "none"
        raise ConfigError(
            f"no agent named {name!r} is defined in this process (known: {known}); import the "
            "file that defines it"
        )
    return _agents[name]
