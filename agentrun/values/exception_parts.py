"""Records the objects that exceptions hold: responses, requests, other exceptions.

An exception may hold any object. Handlers record the objects that error handling reads: responses
and requests of HTTP clients (without credentials), and objects that steer frameworks. For any other
object that cannot be recorded, a stand-in keeps the name of its type and its texts.

A row in the database must not be able to run code. So a class is found only in modules that are
loaded, and only if this file has a handler for it, lists it, or if it is an enum. Nothing is
imported.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from http.client import HTTPMessage
from typing import Any

from agentrun.core.codec import dumps, loads
from agentrun.core.events import Json
from agentrun.core.naming import SECRET_HEADERS
from agentrun.core.secrets import mask
from agentrun.values.equality import difference
from agentrun.values.tagged_json import (
    PREFIX,
    Coder,
    Unrecordable,
    find_type,
    name_of,
    with_subclasses,
)

__all__ = ["ErrorCoder", "StandIn", "loaded_class"]

_TEXT = 20_000  # characters of a stand-in's texts that are kept
_LARGEST = 10**4000  # Python refuses to print integers of more than 4,300 digits
_USER_INFO = re.compile(r"(?<=://)[^/@]*@")  # user and password in an address

# Classes by which frameworks steer their control flow, and which their error handling reads:
# interrupts, commands, messages, and the code of an MCP error.
_DATA = (
    "langgraph.types.Interrupt",
    "langgraph.types.Command",
    "langgraph.types.Send",
    "langchain_core.messages.base.BaseMessage",
    "mcp_types.jsonrpc.ErrorData",
)


class StandIn:
    """Stands for an object that could not be recorded: the name of its type, and its texts."""

    _kind: str
    _repr: str
    _text: str

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}: an exception of a recorded "
            "step held it, and of such an object only the text is kept. Put what the code needs "
            "into the exception as plain data"
        )

    def __repr__(self) -> str:
        return self._repr

    def __str__(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StandIn):
            return NotImplemented
        return (type(self).__name__, self._repr) == (type(other).__name__, other._repr)

    def __hash__(self) -> int:
        return hash(self._repr)


class ErrorCoder(Coder):
    """Writes and reads the objects that an exception holds. It refuses none."""

    def __init__(
        self,
        levels: int,
        describe: Callable[[BaseException], Json] | None,
        rebuild: Callable[[Json], Any],
    ) -> None:
        super().__init__()
        self._levels, self._describe, self._rebuild = levels, describe, rebuild

    def write(self, value: Any, at: str = "value", depth: int | None = None) -> Json:
        if depth is None:
            depth = self._levels
            if type(value) in (dict, list) and (copied := _copy_plain(value)) is not None:
                return copied
        if type(value) is float and not math.isfinite(value):
            return {PREFIX + "float": repr(value)}
        if type(value) is int and not -_LARGEST < value < _LARGEST:
            return _write_stand_in(value)
        try:
            return super().write(value, at, depth)
        except (Unrecordable, RecursionError):
            return _write_stand_in(value)

    def write_object(self, value: Any, at: str, depth: int) -> Json:
        if isinstance(value, BaseException) and self._describe is not None:
            return {PREFIX + "error": self._describe(value)}
        for kind in type(value).__mro__:
            if (handler := _HANDLERS.get(name_of(kind))) is not None:
                try:
                    return {PREFIX + "kept": name_of(kind), **handler[0](self, value, depth)}
                except Exception:  # a half-made object, or one of an unknown version
                    return _write_stand_in(value)
        return super().write_object(value, at, depth)

    def declares(self, kind: type) -> bool:
        return issubclass(kind, (Enum, *_data_classes()))

    def find(self, name: str) -> type | None:
        return find_type(name, with_subclasses((*_data_classes(), Enum)))

    def read_object(self, tag: str, stored: dict[str, Json]) -> Any:
        if tag == "float":
            return float(stored[PREFIX + tag])
        if tag == "error":
            return self._rebuild(stored[PREFIX + tag])
        if tag == "stand-in":
            return _read_stand_in(stored)
        if tag == "kept":
            name = stored[PREFIX + tag]
            if name not in _HANDLERS or (kind := loaded_class(name)) is None:
                return _read_stand_in({PREFIX + "stand-in": name})
            return _HANDLERS[name][1](self, kind, stored)
        try:
            return super().read_object(tag, stored)
        except ValueError:  # its class is not loaded, or has changed
            return _read_stand_in(stored)


def _copy_plain(value: Any) -> Json:
    """A copy of ``value`` if it is plain JSON, at any depth, without our tags; else None.

    JSON writes a tuple like a list, and the key 1 like "1". So ``value`` counts as plain only if
    the copy read from the JSON is equal to it.
    """
    try:
        text, escaped = dumps(value)
        copied = loads(text, escaped)
        return copied if PREFIX not in text and difference(copied, value) is None else None
    except (TypeError, ValueError, RecursionError):
        return None


def loaded_class(name: str) -> type | None:
    """The class of this full name, if its module is loaded."""
    module, found = name, None
    while found is None and "." in module:
        module = module.rpartition(".")[0]
        found = sys.modules.get(module)
    for part in name.removeprefix(f"{module}.").split("."):
        # Not by `getattr`, which may run code of the module or class.
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) else None


def _data_classes() -> tuple[type, ...]:
    return tuple(filter(None, map(loaded_class, _DATA)))


# -- stand-ins -------------------------------------------------------------------------------------


def _write_stand_in(value: Any) -> Json:
    printed, text = _text_of(repr, value), _text_of(str, value)
    kind = value._kind if isinstance(value, StandIn) else name_of(type(value))
    stored: dict[str, Json] = {PREFIX + "stand-in": kind, "repr": printed}
    return stored if text == printed else {**stored, "str": text}


def _text_of(way: Callable[[Any], str], value: Any) -> str:
    try:
        text = mask.text(way(value))
    except Exception:
        return f"({type(value).__name__} that cannot be shown)"
    return text if len(text) <= _TEXT else text[:_TEXT] + "…"


def _read_stand_in(stored: dict[str, Json]) -> StandIn:
    name = str(next(iter(stored.values())))
    made: StandIn = type(name.rpartition(".")[2], (StandIn,), {"__module__": __name__})()
    made._kind = name
    made._repr = str(stored.get("repr", f"({name} that is not loaded)"))
    made._text = str(stored.get("str", made._repr))
    return made


# -- HTTP ------------------------------------------------------------------------------------------


def _headers(pairs: Iterable[tuple[Any, Any]]) -> Json:
    """Headers as text, without credentials and cookies."""
    texts = [[_as_text(name), _as_text(value)] for name, value in pairs]
    return [pair for pair in texts if pair[0].lower() not in SECRET_HEADERS]


def _as_text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _address(url: Any) -> str:
    return _USER_INFO.sub("", str(url))


def _write_httpx_request(coder: ErrorCoder, request: Any, depth: int) -> dict[str, Json]:
    return {
        "method": request.method,
        "url": _address(request.url),
        "headers": _headers(request.headers.multi_items()),
        "content": coder.write(getattr(request, "_content", None), "content", depth),
    }


def _read_httpx_request(coder: ErrorCoder, kind: Any, stored: dict[str, Json]) -> Any:
    module = sys.modules[kind.__module__.partition(".")[0]]
    content = coder.read(stored["content"])
    stream = module.ByteStream(content or b"")
    pairs = list(map(tuple, stored["headers"]))
    made = kind(stored["method"], stored["url"], headers=pairs, stream=stream)
    made.headers = module.Headers(pairs)
    if content is not None:
        made._content = content
    return made


def _write_httpx_response(coder: ErrorCoder, response: Any, depth: int) -> dict[str, Json]:
    return {
        "status": response.status_code,
        "headers": _headers(response.headers.multi_items()),
        "content": coder.write(getattr(response, "_content", None), "content", depth),
        "request": coder.write(getattr(response, "_request", None), "request", depth),
        "elapsed": coder.write(getattr(response, "_elapsed", None), "elapsed", depth),
        "extensions": {
            name: coder.write(response.extensions[name], name, depth)
            for name in ("http_version", "reason_phrase")
            if name in response.extensions
        },
    }


def _read_httpx_response(coder: ErrorCoder, kind: Any, stored: dict[str, Json]) -> Any:
    module = sys.modules[kind.__module__.partition(".")[0]]
    content = coder.read(stored["content"])
    made = kind(
        stored["status"],
        headers=list(map(tuple, stored["headers"])),
        stream=module.ByteStream(content or b""),
        request=coder.read(stored["request"]),
        extensions=coder.read(stored["extensions"]),
    )
    made.is_closed = made.is_stream_consumed = True
    if content is not None:
        made._content = content
    if (elapsed := coder.read(stored["elapsed"])) is not None:
        made.elapsed = elapsed
    return made


_PREPARED_FIELDS = ("method", "url", "body")
_RESPONSE_FIELDS = ("status_code", "url", "reason", "encoding", "elapsed")


def _write_prepared(coder: ErrorCoder, request: Any, depth: int) -> dict[str, Json]:
    parts = {
        name: coder.write(getattr(request, name, None), name, depth) for name in _PREPARED_FIELDS
    }
    return {
        **parts,
        "url": _address(request.url),
        "headers": _headers((request.headers or {}).items()),
    }


def _read_prepared(coder: ErrorCoder, kind: Any, stored: dict[str, Json]) -> Any:
    made = kind()
    for name in _PREPARED_FIELDS:
        setattr(made, name, coder.read(stored[name]))
    made.headers = sys.modules["requests"].structures.CaseInsensitiveDict(stored["headers"])
    return made


def _write_response(coder: ErrorCoder, response: Any, depth: int) -> dict[str, Json]:
    parts = {
        name: coder.write(getattr(response, name, None), name, depth) for name in _RESPONSE_FIELDS
    }
    return {
        **parts,
        "url": _address(response.url),
        "headers": _headers((response.headers or {}).items()),
        "content": coder.write(response._content, "content", depth),
        "request": coder.write(getattr(response, "request", None), "request", depth),
    }


def _read_response(coder: ErrorCoder, kind: Any, stored: dict[str, Json]) -> Any:
    made = kind()
    for name in (*_RESPONSE_FIELDS, "request"):
        setattr(made, name, coder.read(stored[name]))
    made.headers = sys.modules["requests"].structures.CaseInsensitiveDict(stored["headers"])
    made._content = coder.read(stored["content"])
    made._content_consumed = True
    return made


def _write_message(_coder: ErrorCoder, message: Any, _depth: int) -> dict[str, Json]:
    return {"headers": _headers(message.items())}


def _read_message(_coder: ErrorCoder, _kind: Any, stored: dict[str, Json]) -> Any:
    made = HTTPMessage()
    for name, value in stored["headers"]:
        made.add_header(name, value)
    return made


def _write_file(coder: ErrorCoder, file: Any, depth: int) -> dict[str, Json]:
    """Record the body of a response, which can be read only once, here.

    The agent's code gets the rebuilt exception, whose body can be read.
    """
    content = file.getvalue() if isinstance(file, io.BytesIO) else file.read()
    return {"content": coder.write(content, "content", depth)}


def _read_file(coder: ErrorCoder, _kind: Any, stored: dict[str, Json]) -> Any:
    return io.BytesIO(coder.read(stored["content"]))


_Handler = tuple[Callable[..., dict[str, Json]], Callable[..., Any]]
_HANDLERS: dict[str, _Handler] = {
    **{
        f"{module}.Request": (_write_httpx_request, _read_httpx_request)
        for module in ("httpx", "httpx2")
    },
    **{
        f"{module}.Response": (_write_httpx_response, _read_httpx_response)
        for module in ("httpx", "httpx2")
    },
    "requests.models.PreparedRequest": (_write_prepared, _read_prepared),
    "requests.models.Response": (_write_response, _read_response),
    "email.message.Message": (_write_message, _read_message),
    "http.client.HTTPResponse": (_write_file, _read_file),
    "_io.BytesIO": (_write_file, _read_file),
}


def hidden_state(error: BaseException) -> Iterator[tuple[str, Any]]:
    """The state that psycopg's errors keep in C memory, by the names of their attributes."""
    psycopg = loaded_class("psycopg.Error")
    if psycopg is not None and isinstance(error, psycopg):
        # psycopg's own pickling copies the server's answer out of the C memory.
        state: Any = error.__reduce__()[2]
        fields = state.get("_info")
        kept = {int(field): text for field, text in fields.items()} if fields else fields
        yield from {"_info": kept, "_pgconn": None}.items()
