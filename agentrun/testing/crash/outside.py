"""The outside as a crash test can see it, and what two runs of the same agent must have in common.

What is compared is what undisturbed runs agree on. A list counts as a bag: what runs in parallel
may come in any order. Where its contents differ each time (ids, times) its length still counts.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agentrun

__all__ = ["VARIES", "Outside", "differences", "observed", "steady"]

_LARGEST = 1 << 20  # bytes of a file that are compared
_ROWS = 1000  # of a table that are compared; of a larger one only their number
_TABLES = """
    SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
    WHERE schemaname NOT IN ('agentrun', 'pg_catalog', 'information_schema')
"""


class Outside:
    """What is there outside the agent: ``world``, files that steps write, tables."""

    def __init__(self, world: Callable[[], Any] | None, database: agentrun.Database) -> None:
        self._world, self._database = world, database
        self._tell: Callable[[], Any] = lambda: None
        self.files: set[str] = set()  # written by steps

    def prepare(self) -> dict[str, Any]:
        """Set the outside up for a run; its state before it."""
        told = self._asked(self._world) if self._world else None
        self._tell = told if callable(told) else self._world or self._tell
        return self.state() if callable(told) else self._state(told)

    def state(self) -> dict[str, Any]:
        """Its state now."""
        return self._state(self._asked(self._tell))

    def _state(self, told: Any) -> dict[str, Any]:
        world = {} if self._world is None else {"world": told}
        return {**world, **{file: _contents(Path(file)) for file in self.files}, **self._tables()}

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            told = ask()
            return told if callable(told) else json.loads(json.dumps(told))
        except (TypeError, ValueError) as error:
            raise agentrun.ConfigError(f"the world's state is no JSON: {error}") from error
        except Exception as error:
            raise agentrun.ConfigError(
                f"the world cannot be told: {type(error).__name__}: {error}"
            ) from error

    def _tables(self) -> dict[str, Any]:
        with self._database.connection() as conn:
            names = [row["name"] for row in conn.execute(_TABLES)]
            found = {}
            for name in names:
                (size,) = conn.execute(f"SELECT count(*) AS n FROM {name}").fetchall()  # noqa: S608
                found[f"table {name}"] = size["n"]
                if size["n"] <= _ROWS:
                    rows = conn.execute(f"SELECT to_jsonb(t) AS row FROM {name} t")  # noqa: S608
                    found[f"table {name}"] = [row["row"] for row in rows]
        return found


def _contents(file: Path) -> Any:
    """A file as JSON if it is some, as SQL if it is a database, else as lines."""
    with contextlib.suppress(OSError):
        data = file.read_bytes()
        if len(data) > _LARGEST:
            return {"bytes": len(data)}
        if data.startswith(b"SQLite format 3\0"):
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                return list(database.iterdump())
        text = data.decode("utf-8", "replace")
        if file.suffix == ".json":
            with contextlib.suppress(ValueError):
                return json.loads(text)
        return text.splitlines()
    return None


# -- comparing, which is pure ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Bag:
    """The same things, in any order."""

    things: Counter[str]


@dataclass(frozen=True)
class _Many:
    """So many things, whatever they are."""

    number: int


VARIES = object()  # undisturbed runs differ here


def observed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What a run left behind, by name: what it changed, and how it is now."""
    return {
        name: {"change": change(before.get(name), now), "now": now} for name, now in after.items()
    }


def change(before: Any, after: Any) -> Any:
    """What came to ``before``: numbers as differences, of lists and objects what is new."""
    if before is None:
        before = type(after)() if isinstance(after, list | dict | int | float) else None
    if isinstance(after, list) and isinstance(before, list):
        return [json.loads(new) for new in (_bag(after) - _bag(before)).elements()]
    if isinstance(after, dict) and isinstance(before, dict):
        new = {name: change(before.get(name), now) for name, now in after.items()}
        return {name: new[name] for name, now in after.items() if now != before.get(name)}
    numbers = all(
        isinstance(it, int | float) and not isinstance(it, bool) for it in (before, after)
    )
    return after - before if numbers else after


def steady(one: Any, other: Any) -> Any:
    """What two undisturbed runs have in common."""
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        return {name: steady(one[name], other[name]) for name in one}
    if isinstance(one, list) and isinstance(other, list) and _bag(one) == _bag(other):
        return _Bag(_bag(one))
    if isinstance(one, list | dict) and type(one) is type(other) and len(one) == len(other):
        return _Many(len(one))
    return one if one == other else VARIES


def differences(common: Any, seen: Any, name: str = "") -> Iterator[str]:
    """Where ``seen`` is not what undisturbed runs have in common, in words."""
    if common is VARIES:
        return
    if isinstance(common, dict):
        if not isinstance(seen, dict) or set(seen) != set(common):
            yield f"{name}: {_short(seen)}, not {_short(common)}"
            return
        for inner in common:
            yield from differences(common[inner], seen[inner], f"{name}.{inner}" if name else inner)
    elif isinstance(common, _Many):
        if not isinstance(seen, list | dict) or len(seen) != common.number:
            told = len(seen) if isinstance(seen, list | dict) else _short(seen)
            yield f"{name}: {told} more, not {common.number}"
    elif isinstance(common, _Bag):
        if not isinstance(seen, list) or _bag(seen) != common.things:
            wanted = [json.loads(thing) for thing in common.things.elements()]
            yield f"{name}: {_short(seen)}, not {_short(wanted)}"
    elif seen != common:
        yield f"{name}: {_short(seen)}, not {_short(common)}"


def _bag(things: list[Any]) -> Counter[str]:
    return Counter(json.dumps(thing, sort_keys=True) for thing in things)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=lambda _: "…")
    return text if len(text) <= 120 else f"{text[:119]}…"
