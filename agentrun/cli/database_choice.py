"""The database that the command line and the environment select."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import agentrun

if TYPE_CHECKING:
    from agentrun.store.database import OpenDatabase

__all__ = ["BLOBS", "DATABASE", "READER", "DatabaseChoice"]

DATABASE = "AGENTRUN_DATABASE_URL"
BLOBS = "AGENTRUN_BLOBS"
READER = "AGENTRUN_READER_URL"


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
        """The DSN for queries, of a read-only login where there is one.

        The reader's login in the environment belongs to the database in the environment. It is not
        used if ``--dsn`` names another database.
        """
        from agentrun.store.roles import reader_dsn

        from_environment = self.dsn in (None, os.environ.get(DATABASE))
        if from_environment and (found := os.environ.get(READER)):
            return found
        return self.owner() if self.dsn is not None else reader_dsn(self.owner())
