"""Describes callables: their function, their name, and whether a run can record their calls.

A tool, a step or an agent may be a function, a method, a `functools.partial` or an object with
`__call__`. `function_of` makes a plain function of each, and all other code uses that function.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import inspect
import re
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, get_args, get_origin

from agentrun.core.errors import ConfigError
from agentrun.values.annotations import hints_of
from agentrun.values.arguments import KEY_PARAMETER

RECEIVERS = frozenset({"self", "cls"})

# Classes of parameters that a framework fills in with an object of the running process. A class is
# recognised by its name and by the package that defines it.
_CONTEXT_NAMES = frozenset(
    {"Context", "InjectedToolArg", "RunContext", "RunContextWrapper", "RunnableConfig"}
    | {"ToolContext", "ToolRuntime"}
)
_CONTEXT_PACKAGES = frozenset(
    {"agents", "agno", "crewai", "fastmcp", "google", "langchain", "langchain_core", "langgraph"}
    | {"llama_index", "mcp", "pydantic_ai", "workflows"}  # workflows: the contexts of llama_index
)
_CONTEXT_TEXT = re.compile(rf"(?:\w+\.)*({'|'.join(sorted(_CONTEXT_NAMES - {'Context'}))})\b")

# A plain function may not return these: their work has not been done when the function returns.
_UNFINISHED_TYPES = (
    collections.abc.Awaitable,
    collections.abc.Iterator,
    collections.abc.AsyncIterator,
    contextlib._GeneratorContextManager,
    contextlib._AsyncGeneratorContextManager,
)


def _sample() -> Iterator[None]:
    yield


async def _asample() -> AsyncIterator[None]:
    yield


# The code objects of all functions made by `@contextmanager` and `@asynccontextmanager`.
_MANAGERS = frozenset(
    {
        contextlib.contextmanager(_sample).__code__,
        contextlib.asynccontextmanager(_asample).__code__,
    }
)


# -- names and functions ---------------------------------------------------------------------------


def name_of(target: Callable[..., Any]) -> str:
    """The name of a function; for a partial its function's, for an object its class's."""
    while isinstance(target, functools.partial):
        target = target.func
    return getattr(target, "__name__", None) or type(target).__name__


def code_of(target: Callable[..., Any]) -> types.CodeType | None:
    """The code that a callable executes; None if it is not written in Python."""
    while isinstance(target, functools.partial):
        target = target.func
    inner = inspect.unwrap(target)
    found = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    return found if isinstance(found, types.CodeType) else None


def is_async(target: Callable[..., Any]) -> bool:
    """Whether a call of ``target`` has to be awaited."""
    while isinstance(target, functools.partial):
        target = target.func
    return inspect.iscoroutinefunction(target) or (
        not inspect.isroutine(target) and inspect.iscoroutinefunction(type(target).__call__)
    )


def function_of(target: Callable[..., Any], what: str) -> Callable[..., Any]:
    """A function that calls ``target``, or ``target`` itself if it is a function.

    Raises ConfigError if ``target`` cannot be called, and if it is a class.
    """
    if inspect.isclass(target):
        raise ConfigError(f"{what} {target.__name__} is a class: give a function that makes one")
    if not callable(target):
        raise ConfigError(f"{what} {target!r} cannot be called: decorate a function")
    if inspect.isroutine(target):
        return target
    return (
        _function_calling_partial(target)
        if isinstance(target, functools.partial)
        else _function_calling_object(target)
    )


def _function_calling_object(target: Any) -> Callable[..., Any]:
    """A function that calls an object."""
    method: Any = target.__call__
    made: types.FunctionType = _make_caller(method, is_async(target))
    made.__name__ = made.__qualname__ = name_of(target)
    made.__doc__ = method.__doc__ or inspect.getdoc(type(target))
    made.__module__ = type(target).__module__
    _set_signature(made, _signature(method, name_of(target)), hints_of(method))
    return made


def _function_calling_partial(target: functools.partial[Any]) -> Callable[..., Any]:
    """A function that calls a partial. Its parameters are those that the partial leaves open."""
    inner: Any = target
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inner if inspect.isroutine(inner) else inner.__call__
    made: types.FunctionType = _make_caller(target, is_async(target))
    made.__name__ = made.__qualname__ = name_of(target)
    made.__doc__ = inspect.getdoc(inner)
    made.__module__ = getattr(inner, "__module__", None) or __name__
    signature = _signature(target, name_of(target))
    bound = set(target.keywords)
    kept = [one for name, one in signature.parameters.items() if name not in bound]
    _set_signature(made, signature.replace(parameters=kept), hints_of(inner))
    return made


def _make_caller(target: Callable[..., Any], awaited: bool) -> Any:
    if awaited:

        async def acall(*args: Any, **kwargs: Any) -> Any:
            return await target(*args, **kwargs)

        return acall

    def call(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    return call


def _set_signature(made: Any, signature: inspect.Signature, hints: dict[str, Any]) -> None:
    """Set the signature of a function, and the annotations of its parameters."""
    made.__signature__ = signature
    names = [*signature.parameters, "return"]
    made.__annotations__ = {name: hints[name] for name in names if name in hints}


def _signature(target: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(target)
    except ValueError:
        raise ConfigError(
            f"{name} has no signature that Python can read, so its arguments have no names to be "
            "recorded by: decorate a `def` of named parameters, or a lambda, that calls it"
        ) from None


def imitate_function(made: Any, function: Callable[..., Any], name: str) -> None:
    """Make ``made`` look like ``function`` to frameworks, without ``idempotency_key``."""
    functools.update_wrapper(made, function)
    made.__name__ = name
    signature = _signature(function, name)
    hints = {**getattr(function, "__annotations__", {}), **hints_of(function)}
    parameters = [
        one.replace(annotation=hints.get(key, one.annotation))
        for key, one in signature.parameters.items()
        if key != KEY_PARAMETER
    ]
    returns = hints.get("return", signature.return_annotation)
    signature = signature.replace(parameters=parameters, return_annotation=returns)
    _set_signature(made, signature, hints)


# -- parameters that are no arguments --------------------------------------------------------------


def receiver_of(function: Callable[..., Any]) -> str | None:
    """The name of the parameter for the object (``self``) of a function defined in a class."""
    if inspect.ismethod(function):
        return None
    first = next(iter(_signature(function, name_of(function)).parameters), None)
    return first if first in RECEIVERS else None


def contexts_of(function: Callable[..., Any]) -> list[str]:
    """The parameters that a framework fills in. They are passed on, and are not recorded."""
    written = getattr(function, "__annotations__", {})
    hints = {**written, **hints_of(function)}
    return [name for name, hint in hints.items() if name != "return" and _is_context(hint)]


def _is_context(hint: Any) -> bool:
    if isinstance(hint, str):  # a name imported only for type checkers
        return _CONTEXT_TEXT.match(hint) is not None
    if (origin := get_origin(hint)) is not None:
        return any(map(_is_context, [origin, *get_args(hint)]))
    kind = hint if isinstance(hint, type) else type(hint)
    return any(
        base.__name__ in _CONTEXT_NAMES and base.__module__.partition(".")[0] in _CONTEXT_PACKAGES
        for base in getattr(kind, "__mro__", ())
    )


# -- what cannot be recorded -----------------------------------------------------------------------


def refuse_unrecordable(target: Callable[..., Any], what: str, *, streams: bool = False) -> None:
    """Refuse a function whose call does no work, but returns an object that does it later.

    ``streams``: generator functions are allowed, because the caller can execute them.

    Raises ConfigError with a text that says what to do instead.
    """
    name = name_of(target)
    function = target if inspect.isroutine(target) else type(target).__call__
    while isinstance(target, functools.partial):
        target = function = target.func
    if getattr(function, "__code__", None) in _MANAGERS:
        raise ConfigError(
            f"{what} {name} is a context manager: what happens inside it could not be recorded. "
            f"Enter it inside a function, and make that function the {_last_word(what)}"
        )
    if _yields(function) and not streams:
        raise ConfigError(
            f"{what} {name} is a generator function: what it yields could not be recorded. "
            "Return a list"
        )
    inner = inspect.unwrap(function)
    if inner is not function and not _yields(function) and not is_async(target):
        if inspect.iscoroutinefunction(inner):
            raise ConfigError(
                f"{what} {name} is a plain function around an `async def`: a call would return "
                f"before anything happened. Make the wrapper `async def` too, or put the "
                f"agentrun decorator beneath it"
            )
        if _yields(inner) and _returns_unfinished(function):
            raise ConfigError(
                f"{what} {name} is a plain function around a generator function: what it yields "
                "could not be recorded. Return a list"
            )
    if not _yields(function) and not is_async(target) and _returns_unfinished(function):
        raise ConfigError(
            f"{what} {name} returns something that does its work later (its return type says so): "
            "nothing of that could be recorded. Make it `async def`, or return a list"
        )


def _last_word(what: str) -> str:
    return what.rpartition(" ")[2]


def _yields(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _returns_unfinished(function: Any) -> bool:
    returned = hints_of(function).get("return")
    kind = get_origin(returned) or returned
    return isinstance(kind, type) and issubclass(kind, _UNFINISHED_TYPES)


def unfinished_kind(value: Any) -> str | None:
    """The type's name of a coroutine, generator or the like, which has yet to do its work.

    None for any other value. A coroutine or generator is closed, so that Python does not warn that
    it was never awaited.
    """
    if not isinstance(value, _UNFINISHED_TYPES):
        return None
    if inspect.iscoroutine(value) or inspect.isgenerator(value):
        with contextlib.suppress(Exception):
            value.close()
    return type(value).__name__.lstrip("_")
