"""Named points before and after every commit and every effect; inert unless a test arms them.

What a crash means is decided by where it strikes. A test arms a hook that is called with the name
of each point as this process passes it, and that may kill, stop or delay the process right there;
`agentrun crashtest` does so to the agents of our users.

A statement's point has its name in `queries.sql`, so that `append:after` is the instant in which
the rows are committed and nobody in this process knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Side = Literal["before", "after"]

# Statements that commit, each by itself.
COMMITS = frozenset(
    {
        "append",  # the journal: a group of events
        "claim",  # the journal: this process takes a run
        "claim_ready",  # a worker takes queued and due runs
        "commit",  # a `transaction` tool's own work together with its checkpoint
        "create",
        "declare_dead",
        "beat",
        "forget_keys",
        "gateway_begin",  # the intent of an upstream call, by a gateway
        "gateway_end",
        "gateway_forget",
        "gateway_lost",
        "hold",  # a model that takes no calls for now
        "keep_late",
        "overlooked",
        "permit",  # a model call, under a shared limit
        "prune",  # a batch of finished runs
        "prune_workers",
        "raise_budget",
        "register",
        "release",
        "remove_limit",
        "reserve",
        "response_ended",
        "send_mail",
        "serving",
        "set_limit",
        "stop_worker",
        "tell_partials",
        "try_alone",
        "unhold",
        "wake",
    }
)
# What happens outside the database.
EFFECTS = frozenset(
    {
        "body",  # of a tool or step
        "checkpoint",  # inside a tool's transaction, before its COMMIT
        "chunk",  # of a streamed answer, on its way to the agent
        "delete_blobs",  # a page of those that no row names
        "follow",  # a request about a response that is under way at its provider
        "put",  # a large value, into the blob store
        "reconcile",  # asking outside what became of a `once` effect
        "send",  # a request to a model, until its answer begins
    }
)
POINTS = frozenset(f"{name}:{side}" for name in COMMITS | EFFECTS for side in ("before", "after"))

_hook: Callable[[str], None] | None = None


def reach(name: str, side: Side) -> None:
    """Pass a point."""
    if _hook is not None:
        _hook(f"{name}:{side}")


def arm(hook: Callable[[str], None] | None) -> None:
    """Have ``hook`` called at each point of this process, in whichever thread; None disarms."""
    global _hook
    _hook = hook
