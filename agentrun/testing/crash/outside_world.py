"""Reads the outside of an agent, and compares the changes that two runs made there.

Only the parts on which undisturbed runs agree are compared. The order of a list is ignored, because
parallel steps may finish in any order. If the contents of a list differ in each run (ids, times),
its length is still compared.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast

import agentrun
from agentrun.store.session import Session

__all__ = ["VARIES", "Outside", "changes_left", "common_part", "describe_differences"]

_LARGEST = 1 << 20  # bytes; of a larger file only the size is compared
_ROWS = 1000  # of a table with more rows only their number is compared
_TABLES = """
    SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
    WHERE schemaname NOT IN ('agentrun', 'pg_catalog', 'information_schema')
"""


class Outside:
    """The outside of an agent: the state that ``world`` returns, files, tables."""

    def __init__(self, world: Callable[[], Any] | None, session: Session) -> None:
        self._world, self._session = world, session
        self._read_world: Callable[[], Any] = lambda: None
        self.files: set[str] = set()  # written by steps

    def prepare(self) -> dict[str, Any]:
        """Set the outside up for a run, and return its state before the run.

        ``world`` returns either that state, or a function that reads it.
        """
        answer = self._call_world(self._world) if self._world else None
        self._read_world = answer if callable(answer) else self._world or self._read_world
        return self.state() if callable(answer) else self._state(answer)

    def state(self) -> dict[str, Any]:
        """The state of the outside now."""
        return self._state(self._call_world(self._read_world))

    def _state(self, world_state: Any) -> dict[str, Any]:
        world = {} if self._world is None else {"world": world_state}
        return {
            **world,
            **{file: _file_contents(Path(file)) for file in self.files},
            **self._read_tables(),
        }

    def _call_world(self, ask: Callable[[], Any]) -> Any:
        try:
            answer = ask()
            return answer if callable(answer) else json.loads(json.dumps(answer))
        except (TypeError, ValueError) as error:
            raise agentrun.ConfigError(f"the state of the world is not JSON: {error}") from error
        except Exception as error:
            raise agentrun.ConfigError(
                f"the state of the world cannot be read: {type(error).__name__}: {error}"
            ) from error

    def _read_tables(self) -> dict[str, Any]:
        with self._session.connection() as conn:
            names = [row["name"] for row in conn.execute(_TABLES)]
            found: dict[str, Any] = {}
            for found_name in names:
                # Quoted by the statement before; a LiteralString for psycopg.
                name = cast(LiteralString, found_name)
                (size,) = conn.execute(f"SELECT count(*) AS n FROM {name}").fetchall()  # noqa: S608
                found[f"table {name}"] = size["n"]
                if size["n"] <= _ROWS:
                    rows = conn.execute(f"SELECT to_jsonb(t) AS row FROM {name} t")  # noqa: S608
                    found[f"table {name}"] = [row["row"] for row in rows]
        return found


def _file_contents(file: Path) -> Any:
    """The contents of a file: JSON by its ending, SQL of an SQLite database, else its lines."""
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


# -- comparing: pure functions ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Bag:
    """A list of exactly these things, in any order."""

    things: Counter[str]


@dataclass(frozen=True)
class _Many:
    """A list or object of this length, with any contents."""

    number: int


VARIES = object()  # stands for a part in which undisturbed runs differ


def changes_left(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """For each part of the outside: the change that a run made, and the state after it."""
    return {
        name: {"change": difference_between(before.get(name), now), "now": now}
        for name, now in after.items()
    }


def difference_between(before: Any, after: Any) -> Any:
    """The change from ``before`` to ``after``.

    Of numbers it is their difference, of lists the new elements, of objects the changed fields.
    """
    if before is None:
        before = type(after)() if isinstance(after, list | dict | int | float) else None
    if isinstance(after, list) and isinstance(before, list):
        return [json.loads(new) for new in (_bag(after) - _bag(before)).elements()]
    if isinstance(after, dict) and isinstance(before, dict):
        new = {name: difference_between(before.get(name), now) for name, now in after.items()}
        return {name: new[name] for name, now in after.items() if now != before.get(name)}
    numbers = all(
        isinstance(it, int | float) and not isinstance(it, bool) for it in (before, after)
    )
    return after - before if numbers else after


def common_part(one: Any, other: Any) -> Any:
    """The pattern that two undisturbed runs have in common, with VARIES where they differ."""
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        return {name: common_part(one[name], other[name]) for name in one}
    if isinstance(one, list) and isinstance(other, list) and _bag(one) == _bag(other):
        return _Bag(_bag(one))
    if isinstance(one, list | dict) and type(one) is type(other) and len(one) == len(other):
        return _Many(len(one))
    return one if one == other else VARIES


def describe_differences(common: Any, seen: Any, name: str = "") -> Iterator[str]:
    """Describe each place where ``seen`` does not match the pattern of undisturbed runs."""
    if common is VARIES:
        return
    if isinstance(common, dict):
        if not isinstance(seen, dict) or set(seen) != set(common):
            yield f"{name}: {_short(seen)}, not {_short(common)}"
            return
        for inner in common:
            yield from describe_differences(
                common[inner], seen[inner], f"{name}.{inner}" if name else inner
            )
    elif isinstance(common, _Many):
        if not isinstance(seen, list | dict) or len(seen) != common.number:
            found = len(seen) if isinstance(seen, list | dict) else _short(seen)
            yield f"{name}: {found} more, not {common.number}"
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
