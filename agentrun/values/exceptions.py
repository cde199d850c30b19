"""Records exceptions as JSON, and rebuilds them.

The rule: the agent's code catches an exception rebuilt from its record, live as well as on resume.
It has the same type, text, arguments, attributes, notes and causes both times. So the code takes
the same path, and the model gets the same text. Only the traceback belongs to one process.

A row in the database must not be able to run code. So a type is looked up only among the exception
classes that this process has loaded. Nothing is imported, and no constructor, property setter or
`__init_subclass__` of a user's class runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from traceback import StackSummary, TracebackException
from types import BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, NoReturn, cast, get_args
from weakref import WeakSet

from pydantic_core import PydanticCustomError, ValidationError
from pydantic_core.core_schema import ErrorType

from agentrun.core.codec import ENVELOPE, MAX_DEPTH, Unserialisable, check
from agentrun.core.errors import ToolFailed
from agentrun.core.events import Json
from agentrun.core.secrets import mask
from agentrun.values.exception_parts import ErrorCoder, hidden_state, loaded_class
from agentrun.values.tagged_json import PREFIX, find_type, name_of, set_attribute, with_subclasses

_TEXT = 4_000  # characters of a traceback that are kept
_NESTED = 10  # levels of exceptions in exceptions: members of groups, causes
# Not recorded as slots: the first two are recorded separately, and `obj` of an AttributeError may
# be any object.
_RECORDED_APART = frozenset({"args", "exceptions", "obj"})


def describe(error: BaseException, *, trace: bool = False) -> Json:
    """``error`` as JSON: type, message, arguments, attributes, causes."""
    described: dict[str, Json] = {}
    for coder in _CODERS:
        described = _describe(error, _NESTED, coder)
        with suppress(Unserialisable):  # nested too deeply: try the next, shallower coder
            check(described, "error", MAX_DEPTH + ENVELOPE - 2)
            break
    if trace:
        # Masked before it is cut, because half a secret would not be recognised.
        text = mask.text(_format_traceback(error))
        described["traceback"] = text if len(text) <= _TEXT else "…" + text[-_TEXT:]
    return described


def _describe(error: BaseException, nested: int, coder: ErrorCoder) -> dict[str, Json]:
    described: dict[str, Json] = {"type": name_of(type(error)), "message": text_of(error)}
    if isinstance(error, ValidationError):
        lines = error.errors(include_url=False)
        described |= {"title": error.title, "errors": coder.write(lines)}
    else:
        described["args"] = [coder.write(argument) for argument in error.args]
    if state := _write_state(error, coder):
        described["state"] = state
    slots = {name: coder.write(value) for name, value in _slots(error) if value is not None}
    if slots:
        described["slots"] = slots
    described |= _describe_class(error, described)
    if nested:
        if isinstance(error, BaseExceptionGroup):
            inside = [_describe(inner, nested - 1, coder) for inner in error.exceptions]
            described["exceptions"] = inside
        described |= _write_chain(error, nested - 1, coder)
    return described


def _describe_class(error: BaseException, described: dict[str, Json]) -> dict[str, Json]:
    """What a process needs that has not loaded the class, or in which sets have another order."""
    kind = type(error)
    known: dict[str, Json] = {}
    if kind.__module__ != "builtins":
        own = [base for base in kind.__mro__ if base not in _MADE_HERE]
        is_original = name_of(own[0]) == name_of(kind)
        known["bases"] = [name_of(base) for base in own[is_original:-2]]
        if "." in kind.__qualname__:
            known["module"] = kind.__module__
    # A user's __str__ or __repr__ may print any attribute; those of builtins print only arguments.
    own_text = kind.__str__ not in _BUILTIN_TEXTS or kind.__repr__ is not BaseException.__repr__
    if _holds_set(described.get("args")) or (own_text and _holds_set(described.get("state"))):
        known["said"] = True
    if "said" in known or kind.__repr__ is not BaseException.__repr__:
        with suppress(Exception):
            known["repr"] = repr(error)
    return known


_BUILTIN_TEXTS = (BaseException.__str__, KeyError.__str__, OSError.__str__)


def _holds_set(value: Json) -> bool:
    """Whether ``value`` holds a set, which prints in another order in each process."""
    if isinstance(value, dict):
        if any(len(value.get(PREFIX + kind, ())) > 1 for kind in ("set", "frozenset")):
            return True
        value = list(value.values())
    return isinstance(value, list) and any(_holds_set(item) for item in value)


def _write_state(error: BaseException, coder: ErrorCoder) -> dict[str, Json]:
    # By id, because a file that can be read only once may be stored under two names.
    written: dict[int, Json] = {}
    state = {**vars(error), **dict(hidden_state(error))}
    for value in state.values():
        if id(value) not in written:
            written[id(value)] = coder.write(value)
    return {name: written[id(value)] for name, value in state.items() if isinstance(name, str)}


def _write_chain(error: BaseException, nested: int, coder: ErrorCoder) -> dict[str, Json]:
    chain: dict[str, Json] = {}
    if error.__cause__ is not None:
        chain["cause"] = _describe(error.__cause__, nested, coder)
    if error.__context__ is not None and error.__context__ is not error.__cause__:
        chain["context"] = _describe(error.__context__, nested, coder)
    elif error.__context__ is not None:
        chain["context"] = "cause"
    if error.__suppress_context__:
        chain["suppress_context"] = True
    return chain


def _format_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, but without carets.

    To place the carets, Python parses each line. That is slow, and another thread that parses at
    the same time may get a SystemError (gh-106905).
    """
    printed = TracebackException.from_exception(error)
    chain = [printed]
    while chain:
        one = chain.pop()
        frames = [
            (frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in one.stack
        ]
        one.stack = StackSummary.from_list(frames)
        chain += filter(None, (one.__cause__, one.__context__, *(one.exceptions or ())))
    return "".join(printed.format())


def text_of(error: BaseException) -> str:
    """``str(error)``, or a placeholder if that raises."""
    try:
        return str(error)
    except Exception:
        return "(its text cannot be read)"


def summary(error: BaseException) -> str:
    """``error`` in one line, like the last line of a traceback."""
    return f"{type(error).__name__}: {text_of(error)}"


# -- back again ------------------------------------------------------------------------------------


def throw(described: Json, live: BaseException | None = None) -> NoReturn:
    """Raise the exception recorded in ``described``.

    A generator raises it. The statement `raise` would replace the recorded context by the
    exception that is being handled now.
    """
    _empty_generator().throw(rebuild(described, live))
    raise AssertionError("an exception was not raised")


def _empty_generator() -> Generator[None]:
    yield


def rebuild(described: Json, live: BaseException | None = None) -> BaseException:
    """The exception recorded in ``described``; ToolFailed if its type is not loaded.

    Of the classes that are no Exception only asyncio.CancelledError is rebuilt: a row in the
    database must not be able to end a process, as SystemExit does.

    ``live`` is the original exception, if this process has it; its traceback is copied for people
    to read.
    """
    error = _rebuild(described, live)
    if isinstance(error, Exception | asyncio.CancelledError):
        return error
    name, message = str(described.get("type")), str(described.get("message"))
    return ToolFailed(f"{name}: {message}")


def _rebuild(described: Json, live: BaseException | None = None) -> BaseException:
    if not isinstance(described, dict):
        return ToolFailed(str(described))
    name, message = str(described.get("type")), str(described.get("message"))
    kind = type(live) if live is not None and name_of(type(live)) == name else _find_class(name)
    kind = kind or _make_unloaded(name, described)
    error = None if kind is None else _make(kind, described, live)
    if kind is not None and error is None and not issubclass(kind, BaseExceptionGroup):
        kind = _derive(kind.__mro__[1], kind.__module__, kind.__qualname__, {})
        error = None if kind is None else _make(kind, described, live)
    if kind is not None and error is not None and not _has_recorded_text(error, described):
        fixed = _class_with_text(kind, message, described.get("repr"))
        texted = _make(fixed, described, live)
        error = error if texted is None else texted  # an exception may be false: it has `__len__`
    if error is None:
        error = ToolFailed(f"{name}: {message}")
    _link(error, described, live)
    _set(error, "__traceback__", None if live is None else live.__traceback__)
    return error


def _set(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute of BaseException, without running code of the exception's class."""
    vars(BaseException)[name].__set__(error, value)


def _link(error: BaseException, described: dict[str, Json], live: BaseException | None) -> None:
    cause, context = described.get("cause"), described.get("context")
    if cause is not None:
        _set(error, "__cause__", _rebuild(cause, None if live is None else live.__cause__))
    if context == "cause":
        _set(error, "__context__", error.__cause__)
    elif context is not None:
        _set(error, "__context__", _rebuild(context, None if live is None else live.__context__))
    _set(error, "__suppress_context__", bool(described.get("suppress_context")))


def _make(
    kind: type[BaseException], described: dict[str, Json], live: BaseException | None
) -> BaseException | None:
    """Make an exception of this class without its constructor; None if that is impossible."""
    slots = {name: _CODER.read(value) for name, value in (described.get("slots") or {}).items()}
    if issubclass(kind, ValidationError):
        error: BaseException | None = _make_validation_error(described)
        if error is not None:
            _set(error, "args", ())
    elif issubclass(kind, BaseExceptionGroup):
        members = live.exceptions if isinstance(live, BaseExceptionGroup) else ()
        inside = [
            _rebuild(inner, members[n] if n < len(members) else None)
            for n, inner in enumerate(described.get("exceptions") or ())
        ]
        base = ExceptionGroup if issubclass(kind, ExceptionGroup) else BaseExceptionGroup
        error = _new(base, kind, str(slots.get("message")), inside) if inside else None
    else:
        arguments = tuple(_CODER.read(argument) for argument in described.get("args") or ())
        made = _try_to_make(kind, arguments)
        error = next((one for one in made if one is not None), None)
        if error is not None:
            _set(error, "args", arguments)
    if error is None:
        return None
    for name, value in slots.items():
        _set_slot(error, name, value)
    for name, value in (described.get("state") or {}).items():
        set_attribute(error, name, _CODER.read(value))
    return error


def _try_to_make(
    kind: type[BaseException], arguments: tuple[Any, ...]
) -> Iterator[BaseException | None]:
    """The ways to make an exception of this class; None for one that fails.

    First a builtin base's `__new__` is called, because the class's own one may run any code of a
    user. Some classes written in C, such as pydantic's, can be made by their own one only.
    """
    yield from (_new(base, kind) for base in kind.__mro__ if base.__module__ == "builtins")
    own = (base for base in kind.__mro__ if type(vars(base).get("__new__")) is BuiltinFunctionType)
    if (base := next(own, None)) is not None:
        yield from (_new(base, kind, *given) for given in (arguments, ()))


def _new(base: Any, kind: type[BaseException], *args: Any) -> BaseException | None:
    try:
        made: BaseException = base.__new__(kind, *args)
    except Exception:  # a class written in C, or with another base, needs its own `__new__`
        return None
    return made


def _set_slot(error: BaseException, name: str, value: Any) -> None:
    """Set a slot, without running a property of the same name in a user's class."""
    for base in type(error).__mro__:
        member = vars(base).get(name)
        if isinstance(member, (GetSetDescriptorType, MemberDescriptorType)):
            try:
                member.__set__(error, value)
            except (AttributeError, TypeError):
                continue
            return


_PYDANTIC_TYPES = frozenset(get_args(ErrorType))


def _make_validation_error(described: dict[str, Json]) -> ValidationError | None:
    """A pydantic ValidationError made of the recorded lines only.

    Options that are not recorded (input mode, hidden input) are tried until the text is the same.
    """
    lines: list[Any] = _CODER.read(described.get("errors") or [])
    title, message = str(described.get("title")), described.get("message")
    made = None
    for known in True, False:
        for way in "python", "json":
            for hidden in False, True:
                try:
                    details: Any = [_make_line(line, known) for line in lines]
                    made = ValidationError.from_exception_data(title, details, way, hidden)
                except (TypeError, ValueError, KeyError):
                    continue
                if str(made) == message:
                    return made
    return made


def _make_line(line: dict[str, Any], known: bool) -> dict[str, Any]:
    kind, context = line["type"], line.get("ctx")
    if not (known and kind in _PYDANTIC_TYPES):
        kind = PydanticCustomError(kind, line["msg"], context)
        context = None
    details = {"type": kind, "loc": tuple(line["loc"]), "input": line.get("input")}
    return details if context is None else {**details, "ctx": context}


def _has_recorded_text(error: BaseException, described: dict[str, Json]) -> bool:
    """Whether a rebuilt exception prints the recorded texts, in this and every other process."""
    if described.get("said") or text_of(error) != str(described.get("message")):
        return False
    try:
        return "repr" not in described or repr(error) == described["repr"]
    except Exception:
        return False


def _class_with_text(kind: type[BaseException], message: str, printed: Json) -> type[BaseException]:
    """A subclass of ``kind`` that prints the recorded texts, for texts not made of arguments."""
    own: dict[str, Any] = {"__str__": lambda _self: message}
    if printed is not None:
        own["__repr__"] = lambda _self: str(printed)
    return _derive(kind, kind.__module__, kind.__qualname__, own) or kind


def _make_unloaded(name: str, described: dict[str, Json]) -> type[BaseException] | None:
    """For a class that is not loaded: a class of its name, derived from its nearest loaded base."""
    bases = described.get("bases") or ()
    nearest = next(filter(None, (_find_class(str(base)) for base in bases)), None)
    if nearest is None:
        return None
    module = str(described.get("module") or name.rpartition(".")[0])
    return _derive(nearest, module, name.removeprefix(f"{module}."), {})


_MADE_HERE: WeakSet[type[BaseException]] = WeakSet()  # made below; no record is read as one of them


def _derive(
    kind: type[BaseException], module: str, qualname: str, own: dict[str, Any]
) -> type[BaseException] | None:
    """A subclass of ``kind``, made without running code of ``kind``; None if that is impossible.

    Python calls `__init_subclass__` of a base when a subclass is made, but not when its bases are
    set later. So the bases are set later.
    """
    if type(kind) is not type:
        return None
    name = qualname.rpartition(".")[2]
    base = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    own = {"__module__": module, "__qualname__": qualname, **own}
    make_class = cast("Callable[..., type[BaseException]]", type)
    if base is kind:
        made = make_class(name, (kind,), own)
    else:
        inner = make_class(name, (base,), {})
        _MADE_HERE.add(inner)
        made = make_class(name, (inner,), own)
        try:
            made.__bases__ = (kind,)
        except TypeError:  # it has slots of its own
            return None
    _MADE_HERE.add(made)
    return made


def _find_class(name: str) -> type[BaseException] | None:
    """The exception class of this name, or the one that its old module has under this name now."""
    kinds = with_subclasses([BaseException])
    found = find_type(name, (kind for kind in kinds if kind not in _MADE_HERE))
    if found is not None and name_of(found) == name:
        return found
    moved = loaded_class(name)
    usable = moved is not None and issubclass(moved, BaseException) and moved not in _MADE_HERE
    return moved if usable else found


def _slots(error: BaseException) -> Iterator[tuple[str, Any]]:
    """The attributes that lie in slots and not in ``vars``, as an OSError's ``errno``."""
    for base in type(error).__mro__:
        for name, member in vars(base).items():
            fixed = isinstance(member, (GetSetDescriptorType, MemberDescriptorType))
            if fixed and not name.startswith("__") and name not in _RECORDED_APART:
                yield name, _value_of(member, error)


def _value_of(member: Any, error: BaseException) -> Any:
    try:
        return member.__get__(error)
    except AttributeError:  # it has never been set
        return None


def _coder(levels: int, inner: ErrorCoder | None) -> ErrorCoder:
    """A coder for values of up to ``levels`` levels, which writes exceptions with ``inner``."""
    describe = None if inner is None else (lambda error: _describe(error, 1, inner))
    return ErrorCoder(levels, describe, _rebuild)


_SHALLOW = _coder(2, None)
_CODERS = (_CODER := _coder(40, _coder(10, _SHALLOW)), _coder(10, _SHALLOW), _SHALLOW)
