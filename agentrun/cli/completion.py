"""Completes the keys of runs in a shell: `agentrun --install-completion` sets it up."""

from __future__ import annotations

import typer

__all__ = ["complete_keys"]

_MOST = 50  # keys that are offered


def complete_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys that begin with what is typed, the newest first, and `@last`.

    A key with a control character is left out: the shell would print it as it is.
    """
    if incomplete.startswith("@"):
        return ["@last"]
    dsn = ctx.params.get("dsn") or ctx.find_root().params.get("dsn") or _embedded_dsn()
    if dsn is None:
        return []
    from agentrun.store.key_lookup import look_up_keys
    from agentrun.view.safe import visible

    return [key for key in look_up_keys(dsn, incomplete, _MOST) if visible(key) == key]


def _embedded_dsn() -> str | None:
    """The embedded server's DSN if it runs. A completion starts no server."""
    from agentrun.store.embedded import where

    files = where()
    return files.dsn() if files.socket.exists() else None
