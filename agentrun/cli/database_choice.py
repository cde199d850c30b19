"""The database that the command line and the environment select."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import agentrun

if TYPE_CHECKING:
    from agentrun.store.database import OpenDatabase

__all__ = ["BLOBS", "DATABASE", "DatabaseChoice"]

DATABASE = "AGENTRUN_DATABASE_URL"
BLOBS = "AGENTRUN_BLOBS"


@dataclass(frozen=True)
class DatabaseChoice:
    """The selected database; ``dsn`` is None for the embedded one."""

    dsn: str | None
    blobs: str | None

    def connect(self) -> OpenDatabase:
        from agentrun.store.opening import internals

        return internals(agentrun.connect(self.dsn, blobs=self.blobs))

    def owner(self) -> str:
        """The DSN for changes of the schema. The schema's version is not checked.

        Raises ConfigError for a malformed DSN.
        """
        from agentrun.store.connection import describe

        if self.dsn is not None:
            describe(self.dsn)
            return self.dsn
        with self.connect() as database:
            return database.dsn

    def reader(self) -> str:
        """The DSN for queries, of a read-only login where there is one."""
        from agentrun.store.opening import choose_reader

        return choose_reader(self.dsn, self.owner)
