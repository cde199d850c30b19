"""`agentrun ls`: one line a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import agentrun
from agentrun.cli import output
from agentrun.cli.keys import Connect, full_key
from agentrun.cli.options import time_of
from agentrun.core.summary import RunSummary

__all__ = ["list_them"]

_PIPED = ("status", "key", "agent", "created_at", "working_seconds", "turns", "cost", "note")
_ADDED = ("cursor", "depth", "note")  # fields of a row that no summary has
_TREE = 1_000  # runs of one tree that are listed


def list_them(
    connect: Connect,
    *,
    tree: bool,
    since: str | None,
    root: str | None,
    after: str | None,
    limit: int,
    as_json: bool,
    fields: str | None,
    **filters: Any,
) -> None:
    """Print the runs that the filters leave, the newest first, or as trees of child runs."""
    with connect() as database:
        root = None if root is None else full_key(database, root)
        moment = time_of(since, "--since")
        found = agentrun.runs(
            **filters, since=moment, root=root, roots=tree and root is None, limit=limit,
            after=after,
        )  # fmt: skip
        runs = list(_as_trees(found, root)) if tree else [(0, run) for run in found]
    rows = [_row(run, depth) for depth, run in runs]
    if as_json:
        names = [*RunSummary.__dataclass_fields__, *_ADDED]
        output.emit_rows(output.pick_fields(rows, names, fields))
    elif not rows:
        output.note("no runs")
    elif output.is_terminal():
        from agentrun.view.run_lines import run_lines
        from agentrun.view.terminal import print_lines

        console = output.terminal()
        print_lines(run_lines(rows, width=console.width, now=datetime.now(UTC)), console)
    else:
        output.emit_tsv(_PIPED, ([row[name] for name in _PIPED] for row in rows))
    if len(found) == limit:
        output.note(f"there may be more: --after {found[-1].cursor}")


def _as_trees(found: Sequence[RunSummary], root: str | None) -> Iterator[tuple[int, RunSummary]]:
    """Each run at the top, and below it the runs of its tree, with their depths."""
    for top in found:
        if root is not None and top.key != root:
            continue
        below: dict[str | None, list[RunSummary]] = {}
        tree = agentrun.runs(root=top.key, limit=_TREE)
        for run in reversed(tree):
            if run.key != top.key:
                below.setdefault(run.parent_key, []).append(run)
        yield from _walk(top, below, 0)
        if len(tree) == _TREE:
            output.note(f"of the runs below {top.key}, only the newest {_TREE:,} are listed")


def _walk(
    run: RunSummary, below: Mapping[str | None, Sequence[RunSummary]], depth: int
) -> Iterator[tuple[int, RunSummary]]:
    yield depth, run
    for child in below.get(run.key, ()):
        yield from _walk(child, below, depth + 1)


def _row(run: RunSummary, depth: int) -> dict[str, Any]:
    return asdict(run) | {"cursor": run.cursor, "depth": depth, "note": run.note}
