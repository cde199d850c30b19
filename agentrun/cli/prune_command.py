"""`agentrun prune`: remove runs that ended long ago, and print how much was removed."""

from __future__ import annotations

from dataclasses import asdict

import agentrun
from agentrun.cli import options, output
from agentrun.cli.keys import Connect

__all__ = ["prune"]


def prune(
    connect: Connect,
    older_than: str | None,
    forget_keys: str | None,
    status: str,
    agent: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove runs, or only count them."""
    ages = {
        "older_than": options.age_of(older_than, "--older-than"),
        "forget_keys": options.age_of(forget_keys, "--forget-keys"),
    }
    statuses = options.statuses_of(status)
    with connect():
        removed = agentrun.prune(**ages, status=statuses, agent=agent, dry_run=dry_run)
    if as_json:
        output.emit_json({**asdict(removed), "dry_run": dry_run})
        return
    output.emit(
        f"{'to remove' if dry_run else 'removed'}: {removed.runs:,} runs"
        f" ({removed.events:,} events, {removed.bytes:,} bytes of values),"
        f" {removed.workers:,} workers, {removed.keys:,} keys of pruned runs,"
        f" {removed.blobs:,} blobs of no run"
    )
