"""What the tables and views of the schema hold, in their own words: their comments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentrun.store.session import Session

__all__ = ["CommentedColumn", "list_columns"]


@dataclass(frozen=True, slots=True)
class CommentedColumn:
    """A column of a table or a view, and what both hold."""

    relation: str
    kind: Literal["table", "view"]
    about: str  # the comment of the table or the view
    name: str
    type: str
    holds: str  # the comment of the column


def list_columns(session: Session) -> list[CommentedColumn]:
    """Each column of the schema, views first."""
    return session.rows(CommentedColumn, "commented_columns")
