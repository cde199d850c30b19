"""Notes the effects of a process: Python's audit events, and the bytes that sockets send.

Each note names the step during which the effect happened, and the line of the agent's code that
caused it. Effects of agentrun itself, of model calls and of code outside any run are left out; so
are the files that logging and imports write, lock files, and temporary files of the process.
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
from agentrun.testing.crash.code_owners import CodeOwners
from agentrun.testing.crash.diary import Diary

__all__ = ["Watch"]

_QUIET = frozenset({"logging", "importlib", "tempfile", "warnings", "coverage"})
_QUIET |= {"filelock", "portalocker"}  # a lock file is no effect
_SDKS = frozenset({"openai", "anthropic"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Requests that do harm when they are sent twice, unless they carry an idempotency key.
_VERB = re.compile(rb"(?:(POST|PATCH) (\S+) HTTP/1|(?i:mail from:))")
# Matches SQL text, and the repr of a `psycopg.sql` object.
_WRITING_SQL = re.compile(
    r"(?i)\W*(?:\w+\(\W*)*(insert|update|delete|merge|copy|truncate|create|drop|alter|call)\b"
)
_CONNECTS = "connects to "


def _path(path: Any) -> str:
    return str(Path(os.fsdecode(path)).absolute())


def _describe_open(path: Any, mode: Any, flags: Any) -> str:
    if isinstance(path, int) or not flags & _WRITING or _path(path).startswith(("/dev/", "/proc/")):
        return ""
    return f"writes {_path(path)}"


def _describe_path_change(verb: str) -> Callable[..., str]:
    return lambda path, *_: "" if isinstance(path, int) else f"{verb} {_path(path)}"


def _describe_making(path: Any, *_: Any) -> str:
    return "" if Path(os.fsdecode(path)).is_dir() else f"makes {_path(path)}"


def _describe_start(program: Any, arguments: Any, *_: Any) -> str:
    words = arguments if isinstance(arguments, list | tuple) else [arguments or program]
    return "starts " + " ".join(str(word) for word in words)[:200]


# For each audit event: a text that describes the effect, from the event's arguments. An empty text
# means that the event is no effect.
_EFFECTS: dict[str, Callable[..., str]] = {
    "open": _describe_open,
    "os.remove": _describe_path_change("removes"),
    "os.rmdir": _describe_path_change("removes"),
    "os.mkdir": _describe_making,
    "os.rename": _describe_path_change("renames"),
    "os.link": _describe_path_change("links"),
    "os.symlink": _describe_path_change("links"),
    "os.truncate": _describe_path_change("truncates"),
    "sqlite3.connect": lambda path: "" if path == ":memory:" else f"opens {_path(path)}",
    "subprocess.Popen": _describe_start,
    "os.posix_spawn": _describe_start,
    "os.system": lambda command: f"starts {os.fsdecode(command)}",
    "socket.connect": lambda _, address: f"{_CONNECTS}{_address_text(address)}",
    "socket.sendto": lambda _, address: f"sends to {_address_text(address)}",
}
# For each audit event: the address that it reaches, or the host name that it asks to be resolved.
_REACHING: dict[str, Callable[..., Any]] = {
    "socket.connect": lambda _, address: address,
    "socket.sendto": lambda _, address: address,
    "socket.sendmsg": lambda _, address: address,
    "socket.getaddrinfo": lambda host, *_: None if _is_number(host) else (host,),
    "socket.gethostbyname": lambda host: None if _is_number(host) else (host,),
    "socket.gethostbyaddr": lambda address: (address,),
    "socket.getnameinfo": lambda address: address,
}
_HERE = ("localhost", "", None, socket.gethostname())


def _address_text(address: Any) -> str:
    if isinstance(address, tuple):
        return ":".join(_address_text(part) for part in address[:2])
    return os.fsdecode(address) if isinstance(address, bytes) else str(address)


def _is_number(host: Any) -> bool:
    """Whether a host is a numeric address, which needs no name server."""
    try:
        ipaddress.ip_address(_address_text(host).partition("%")[0])
    except ValueError:
        return False
    return True


def _is_elsewhere(address: Any) -> bool:
    """Whether an address is on another machine."""
    if not isinstance(address, tuple) or not address or address[0] in _HERE:
        return False
    if not _is_number(address[0]):
        return True  # a host name: Python would ask a name server, which is another machine
    host = ipaddress.ip_address(_address_text(address[0]).partition("%")[0])
    return not (host.is_loopback or host.is_unspecified)


class Watch:
    """Notes the effects of this process in its diary, until the process ends.

    It cannot be switched off: Python has no way to remove an audit hook.
    """

    def __init__(self, diary: Diary, owners: CodeOwners, *, network: bool) -> None:
        self._diary, self._owners, self._network = diary, owners, network
        self._temporary: set[str] = set()

    def begin(self) -> None:
        """Start watching."""
        sys.addaudithook(self._on_audit_event)
        for kind, names in (
            (socket.socket, ("send", "sendall", "sendmsg")),
            (ssl.SSLSocket, ("send",)),
            (ssl.SSLObject, ("write",)),
        ):
            for name in names:
                setattr(kind, name, self._watch_send(getattr(kind, name)))
        if psycopg := sys.modules.get("psycopg"):  # libpq raises no audit events
            for kind in (psycopg.Cursor, psycopg.AsyncCursor):
                kind.execute = self._watch_execute(kind.execute)

    def _on_audit_event(self, event: str, args: tuple[Any, ...]) -> None:
        if event in ("tempfile.mkstemp", "tempfile.mkdtemp"):
            self._temporary.add(_path(args[0]))
        elif event in _REACHING and not self._network and _is_elsewhere(_REACHING[event](*args)):
            self._refuse(_REACHING[event](*args), sys._getframe(1))
        elif event in _EFFECTS and recorder.current.get() is not None:
            frame = sys._getframe(1)
            # `subprocess` announces a start itself, and may then use `os.posix_spawn`.
            if event != "os.posix_spawn" or frame.f_globals.get("__name__") != "subprocess":
                self._note_effect(_EFFECTS[event](*args), frame)

    def _refuse(self, address: Any, frame: FrameType) -> None:
        place, _ = self._owners.find_caller(frame)
        # A refusal outside any run and any line of the agent is telemetry of a library.
        if place or recorder.current.get() is not None:
            self._diary.note("refused", to=_address_text(address), place=place)
        raise OSError(
            errno.ENETUNREACH,
            f"a crash test blocks connections to other machines: {_address_text(address)}",
        )

    def _note_effect(self, what: str, frame: FrameType) -> None:
        place, through = self._owners.find_caller(frame) if what else (None, set())
        if place is None or through & _QUIET or self._is_temporary(what):
            return
        by_sdk = bool(through & _SDKS)
        if by_sdk and not what.startswith(_CONNECTS):
            return  # an SDK reads facts of its machine; only its requests to a model matter
        key = agentrun.current_step().key
        if not (key or place or _is_in_task() or through <= sys.stdlib_module_names):
            return  # a background thread of a library that was started during the run
        self._diary.note("touch", what=what, place=place, key=key, model=by_sdk)

    def _is_temporary(self, what: str) -> bool:
        path = what.partition(" ")[2]
        return any(path == own or path.startswith(own + os.sep) for own in self._temporary)

    def _watch_execute(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        def watched(cursor: Any, query: Any, *args: Any, **more: Any) -> Any:
            text = query.decode() if isinstance(query, bytes) else str(query)
            if recorder.current.get() is not None and _WRITING_SQL.match(text):
                self._note_effect(f"runs {' '.join(text.split())[:80]}", sys._getframe(1))
            return execute(cursor, query, *args, **more)

        return watched

    def _watch_send(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def watched(sender: Any, data: Any, *args: Any) -> Any:
            key = agentrun.current_step().key
            if key and recorder.current.get() is not None:
                parts = [data] if isinstance(data, bytes | bytearray | memoryview) else list(data)
                data = data if data is parts[0] else parts  # `data` may be an iterator, now used up
                self._note_sent(key, b"".join(parts))
            return send(sender, data, *args)

        return watched

    def _note_sent(self, key: str, data: bytes) -> None:
        found = _VERB.match(data)
        verb = "" if found is None else b" ".join(part or b"" for part in found.groups()).decode()
        self._diary.note(
            "sent",
            key=key,
            verb=verb.strip() or ("mail" if found else ""),
            keyed=key.encode() in data,
            digest=hashlib.sha256(data).hexdigest()[:16],
            place=self._owners.find_caller(sys._getframe(2))[0] if found else "",
        )


def _is_in_task() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
