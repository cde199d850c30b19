"""Write and read the table `exact_values`, which holds the exact value of each masked one.

People read masked values in the journal. An agent that resumes has to see the exact ones. Only
workers may read the table: any other login gets a ConfigError that names the missing privilege,
before a run is executed with half of its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from agentrun.core.codec import SealedValue
from agentrun.store.arrays import BOOLS, BYTEAS, INT8S, TEXTS, UUIDS, Array
from agentrun.store.session import Session

__all__ = ["ExactValue", "Part", "exact_columns", "late_parts", "read_exact"]

Part = Literal["input", "output", "raw", "mail", "late"]


@dataclass(frozen=True, slots=True)
class ExactValue:
    """An exact value, the part of the run that it belongs to, and its name within that part."""

    part: Part
    name: str
    exact: SealedValue


def exact_columns(
    values: Sequence[ExactValue], runs: Sequence[UUID] | None = None
) -> dict[str, Array]:
    """The array parameters for exact values; with ``runs`` if they belong to several runs."""
    arrays: dict[str, Array] = {
        "exact_part": TEXTS([value.part for value in values]),
        "exact_name": TEXTS([value.name for value in values]),
        "exact_escaped": BOOLS([value.exact.escaped for value in values]),
        "exact_size": INT8S([value.exact.size for value in values]),
        "exact_zstd": BYTEAS([value.exact.zstd for value in values]),
    }
    return arrays if runs is None else {**arrays, "exact_run": UUIDS(runs)}


def late_parts(values: Sequence[ExactValue], name: str) -> list[ExactValue]:
    """The exact values of a refused row's output, renamed as those of a late result."""
    return [
        value if value.part == "raw" else replace(value, part="late", name=name)
        for value in values
        if value.part in ("output", "raw")
    ]


def read_exact(
    session: Session, run_id: UUID, *parts: Part, name: str | None = None
) -> Mapping[tuple[str, str], SealedValue]:
    """The exact values of these parts of a run, by part and name.

    Raises ConfigError if this login may not read them.
    """
    rows = session.query("exact_values", run_id=run_id, parts=list(parts), place=name)
    return {
        (row["part"], row["name"]): SealedValue(row["escaped"], row["size"], bytes(row["zstd"]))
        for row in rows
    }
