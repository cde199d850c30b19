"""A clock that is a day ahead, for the agent's own modules.

In production a resume may come days after the crash. In a crash test it follows the kill within
milliseconds and would see the same date, so a prompt that holds the date would go unnoticed. The
resumed process therefore runs with a shifted clock. Libraries and agentrun still see the true time.
"""

from __future__ import annotations

import builtins
import datetime as real_datetime
import sys
import time as real_time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from agentrun.testing.crash.code_owners import CodeOwners

__all__ = ["shift_clock"]

AHEAD = real_datetime.timedelta(days=1, hours=1, minutes=1, seconds=1)


class _StandsFor(type):
    """Metaclass of a stand-in for a class; ``isinstance`` accepts instances of the real class."""

    _real: type

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls._real)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls._real)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real(*args, **kwargs)


class _Datetime(real_datetime.datetime, metaclass=_StandsFor):
    _real = real_datetime.datetime

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return real_datetime.datetime.now(tz) + AHEAD

    @classmethod
    def utcnow(cls) -> Any:
        return real_datetime.datetime.now(real_datetime.UTC).replace(tzinfo=None) + AHEAD

    @classmethod
    def today(cls) -> Any:
        return cls.now()


class _Date(real_datetime.date, metaclass=_StandsFor):
    _real = real_datetime.date

    @classmethod
    def today(cls) -> Any:
        return (real_datetime.datetime.now() + AHEAD).date()


def _time() -> float:
    return real_time.time() + AHEAD.total_seconds()


def _time_ns() -> int:
    return real_time.time_ns() + int(AHEAD.total_seconds()) * 1_000_000_000


def _defaulting_to_now(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """Wrap a function of seconds since 1970, so that its default is the shifted time."""
    return lambda seconds=None: function(_time() if seconds is None else seconds)


def _strftime(form: str, moment: Any = None) -> str:
    return real_time.strftime(form, real_time.localtime(_time()) if moment is None else moment)


def _copy_module(module: ModuleType, **ours: Any) -> ModuleType:
    copy = ModuleType(module.__name__, module.__doc__)
    vars(copy).update(vars(module), **ours)
    return copy


def _replacements() -> list[tuple[Any, Any]]:
    """Pairs: a function, class or module of the real clock, and its shifted stand-in."""
    named = {
        "time": _time,
        "time_ns": _time_ns,
        "strftime": _strftime,
        **{
            name: _defaulting_to_now(getattr(real_time, name))
            for name in ("localtime", "gmtime", "ctime")
        },
    }
    return [
        (real_datetime.datetime, _Datetime),
        (real_datetime.date, _Date),
        (real_datetime, _copy_module(real_datetime, datetime=_Datetime, date=_Date)),
        *((getattr(real_time, name), ours) for name, ours in named.items()),
        (real_time, _copy_module(real_time, **named)),
    ]


def shift_clock(owners: CodeOwners) -> None:
    """Give the agent's own modules the shifted clock, those that are imported later too."""
    table = _replacements()
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        if _belongs_to_agent(names, owners):
            for name, value in list(names.items()):
                names[name] = next((ours for real, ours in table if value is real), value)
    importing = builtins.__import__
    modules: dict[str, ModuleType] = {"datetime": table[2][1], "time": table[-1][1]}

    def imported(name: str, names: Any = None, *rest: Any, **more: Any) -> ModuleType:
        if name in modules and names is not None and _belongs_to_agent(names, owners):
            return modules[name]
        found: ModuleType = importing(name, names, *rest, **more)
        return found

    builtins.__dict__["__import__"] = imported


def _belongs_to_agent(names: Any, owners: CodeOwners) -> bool:
    file = names.get("__file__")
    return isinstance(file, str) and owners.owner(file) == "agent"
