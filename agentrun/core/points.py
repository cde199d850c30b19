"""Named points before and after every commit and every effect, for crash tests.

The consequences of a crash depend on where it happens. A test sets a hook that is called with the
name of each point that this process passes. The hook may kill, stop or delay the process there.
`agentrun crashtest` does this to the agents of users. Without a hook the points do nothing.

The point of a statement has the statement's name in `queries.sql`. For example, at `append:after`
the rows are committed, but this process has not yet noted that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Side = Literal["before", "after"]

# Statements that commit. Each is a transaction of its own.
COMMITS = frozenset(
    {
        "append",  # the journal: a group of events
        "claim",  # the journal: this process takes a run
        "claim_ready",  # a worker takes queued and due runs
        "commit",  # the work of a `transaction` tool together with its checkpoint
        "create",
        "declare_dead",
        "beat",
        "forget_keys",
        "gateway_begin",  # the intent of an upstream call, by a gateway
        "gateway_end",
        "gateway_forget",
        "gateway_lost",
        "hold",  # mark a model whose provider takes no calls for now
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
        "send_masked_mail",
        "serving",
        "set_limit",
        "stop_worker",
        "tell_partials",
        "try_alone",
        "unhold",
        "wake",
    }
)
# Effects outside the database.
EFFECTS = frozenset(
    {
        "body",  # the body of a tool or step
        "checkpoint",  # inside the transaction of a tool, before its COMMIT
        "chunk",  # a part of a streamed answer is handed to the agent
        "delete_blobs",  # one page of blobs that no row names
        "follow",  # a request about a background response
        "put",  # a large value is written to the object store
        "reconcile",  # a reconcile function asks for the outcome of a `once` effect
        "send",  # a request to a model, until its answer begins
    }
)
POINTS = frozenset(f"{name}:{side}" for name in COMMITS | EFFECTS for side in ("before", "after"))

_hook: Callable[[str], None] | None = None


def reach(name: str, side: Side) -> None:
    """Pass a point: call the hook, if there is one."""
    if _hook is not None:
        _hook(f"{name}:{side}")


def arm(hook: Callable[[str], None] | None) -> None:
    """Set the hook that all threads of this process call at each point. None removes it."""
    global _hook
    _hook = hook
