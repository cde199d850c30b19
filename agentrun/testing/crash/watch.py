"""Effects as Python itself sees them: audit events, and bytes on their way out.

Everything is noted with the step it belongs to and the line of the agent's code that caused it.
What agentrun does, what a model call does, and what belongs to no run is left out; so is what
logging and imports write, and a process's own temporary files.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import agentrun
from agentrun.core import recorder
from agentrun.testing.crash.diary import Diary
from agentrun.testing.crash.places import Places

__all__ = ["Watch"]

_QUIET = frozenset({"logging", "importlib", "tempfile", "warnings", "coverage"})
_SDKS = frozenset({"openai", "anthropic"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What does harm when it is sent again, unless it carries a key.
_VERB = re.compile(rb"(?:(POST|PATCH) (\S+) HTTP/1|(?i:mail from:))")
# Also as it stands in a `psycopg.sql` object that is shown.
_WRITING_SQL = re.compile(
    r"(?i)\W*(?:\w+\(\W*)*(insert|update|delete|merge|copy|truncate|create|drop|alter|call)\b"
)
_CONNECTS = "connects to "


def _path(path: Any) -> str:
    return str(Path(os.fsdecode(path)).absolute())


def _opened(path: Any, mode: Any, flags: Any) -> str:
    if isinstance(path, int) or not flags & _WRITING or _path(path).startswith(("/dev/", "/proc/")):
        return ""
    return f"writes {_path(path)}"


def _on_path(verb: str) -> Callable[..., str]:
    return lambda path, *_: "" if isinstance(path, int) else f"{verb} {_path(path)}"


def _started(program: Any, arguments: Any, *_: Any) -> str:
    given = arguments if isinstance(arguments, list | tuple) else [arguments or program]
    return "starts " + " ".join(str(part) for part in given)[:200]


# By audit event: what is done, from the event's arguments; "" for what is no effect.
_EFFECTS: dict[str, Callable[..., str]] = {
    "open": _opened,
    "os.remove": _on_path("removes"),
    "os.rmdir": _on_path("removes"),
    "os.mkdir": _on_path("makes"),
    "os.rename": _on_path("renames"),
    "os.link": _on_path("links"),
    "os.symlink": _on_path("links"),
    "os.truncate": _on_path("truncates"),
    "sqlite3.connect": lambda path: "" if path == ":memory:" else f"opens {_path(path)}",
    "subprocess.Popen": _started,
    "os.posix_spawn": _started,
    "os.system": lambda command: f"starts {os.fsdecode(command)}",
    "socket.connect": lambda _, address: f"{_CONNECTS}{_name(address)}",
    "socket.sendto": lambda _, address: f"sends to {_name(address)}",
}


def _name(address: Any) -> str:
    if isinstance(address, tuple):
        return ":".join(str(part) for part in address[:2])
    return os.fsdecode(address) if isinstance(address, bytes) else str(address)


def _elsewhere(address: Any) -> bool:
    """Whether an address is on another machine."""
    if not isinstance(address, tuple) or address[0] == "localhost":
        return False
    try:
        host = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return True  # a name that Python would look up
    return not (host.is_loopback or host.is_unspecified)


class Watch:
    """Notes in the diary what this process does outside; for good, as it cannot be undone."""

    def __init__(self, diary: Diary, places: Places, *, network: bool) -> None:
        self._diary, self._places, self._network = diary, places, network
        self._temporary: set[str] = set()

    def begin(self) -> None:
        """Watch from now on."""
        sys.addaudithook(self._audited)
        for kind, names in (
            (socket.socket, ("send", "sendall", "sendmsg")),
            (ssl.SSLSocket, ("send",)),
            (ssl.SSLObject, ("write",)),
        ):
            for name in names:
                setattr(kind, name, self._sending(getattr(kind, name)))
        if psycopg := sys.modules.get("psycopg"):  # libpq raises no audit events
            for kind in (psycopg.Cursor, psycopg.AsyncCursor):
                kind.execute = self._querying(kind.execute)

    def _audited(self, event: str, args: tuple[Any, ...]) -> None:
        if event in ("tempfile.mkstemp", "tempfile.mkdtemp"):
            self._temporary.add(_path(args[0]))
        elif event == "socket.connect" and not self._network and _elsewhere(args[1]):
            self._refuse(args[1], sys._getframe(1))
        elif event in _EFFECTS and recorder.current.get() is not None:
            self._touched(_EFFECTS[event](*args), sys._getframe(1))

    def _refuse(self, address: Any, frame: FrameType) -> None:
        place, _ = self._places.caller(frame)
        if place or recorder.current.get() is not None:  # else some library's telemetry
            self._diary.note("refused", to=_name(address), place=place)
        raise OSError(
            errno.ENETUNREACH, f"a crash test lets nobody reach other machines: {_name(address)}"
        )

    def _touched(self, what: str, frame: FrameType) -> None:
        place, through = self._places.caller(frame) if what else (None, set())
        if place is None or through & _QUIET or self._is_temporary(what):
            return
        by_sdk = bool(through & _SDKS)
        if by_sdk and not what.startswith(_CONNECTS):
            return  # an SDK looks at its machine; what it asks a model is another matter
        key = agentrun.current_step().key
        if not (key or place or _in_task()):
            return  # the thread of a library, which was started during the run
        self._diary.note("touch", what=what, place=place, key=key, model=by_sdk)

    def _is_temporary(self, what: str) -> bool:
        path = what.partition(" ")[2]
        return any(path == own or path.startswith(own + os.sep) for own in self._temporary)

    def _querying(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        def noted(cursor: Any, query: Any, *args: Any, **more: Any) -> Any:
            text = query.decode() if isinstance(query, bytes) else str(query)
            if recorder.current.get() is not None and _WRITING_SQL.match(text):
                self._touched(f"runs {' '.join(text.split())[:80]}", sys._getframe(1))
            return execute(cursor, query, *args, **more)

        return noted

    def _sending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def noted(sender: Any, data: Any, *args: Any) -> Any:
            key = agentrun.current_step().key
            if key and recorder.current.get() is not None:
                parts = [data] if isinstance(data, bytes | bytearray | memoryview) else list(data)
                data = data if data is parts[0] else parts  # an iterator can be read once
                self._sent(key, b"".join(parts))
            return send(sender, data, *args)

        return noted

    def _sent(self, key: str, data: bytes) -> None:
        found = _VERB.match(data)
        verb = "" if found is None else b" ".join(part or b"" for part in found.groups()).decode()
        self._diary.note(
            "sent",
            key=key,
            verb=verb.strip() or ("mail" if found else ""),
            keyed=key.encode() in data,
            digest=hashlib.sha256(data).hexdigest()[:16],
            place=self._places.caller(sys._getframe(2))[0] if found else "",
        )


def _in_task() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
