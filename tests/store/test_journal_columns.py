"""The columns of the journal: `store/rows.py` lists them, and everything else agrees with it."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from agentrun.core.events import Event, Usage
from agentrun.store import rows
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run
from agentrun.store.sending import Batch
from agentrun.store.values import read_events

# What the database itself or the statement fills in, and so no row of ours has.
FILLED_IN = {"batch", "at"}
# Columns that are sent as text and cast by the statement.
CAST = {"cost": "numeric", "cache_lost": "numeric", "masked": "json", "input": "json"}
CAST["output"] = "json"


def test_the_list_has_the_columns_of_the_table_and_their_types(sql: Any, db: Any) -> None:
    catalog = dict(
        sql(
            "SELECT attname::text, atttypid::int FROM pg_attribute"
            " WHERE attrelid = 'agentrun.journal'::regclass AND attnum > 0 AND NOT attisdropped"
        )
    )
    oids = dict(sql("SELECT typname::text, oid::int FROM pg_type"))
    sent = {name: array.element for name, array in rows.JOURNAL_COLUMNS.items()}
    listed = {name: oids[CAST[name]] if name in CAST else oid for name, oid in sent.items()}
    assert listed == {name: oid for name, oid in catalog.items() if name not in FILLED_IN}
    assert catalog.keys() >= FILLED_IN


def test_an_event_and_its_usage_have_a_field_for_each_column() -> None:
    inside = {"usage", "has_input", "has_output", "raw", "raw_name", "attached"}  # no columns
    of_event = {field.name for field in fields(Event)} - inside
    of_usage = {field.name for field in fields(Usage)}
    assert of_event | of_usage | {"codec"} == rows.JOURNAL_COLUMNS.keys() | {"at"}


def test_late_answers_keep_all_that_a_usage_has(sql: Any, db: Any) -> None:
    taken = sql(
        "SELECT attname::text FROM pg_attribute"
        " WHERE attrelid = 'agentrun.late_results'::regclass AND attnum > 0"
    )
    assert {field.name for field in fields(Usage)} <= {name for (name,) in taken}


def full_event(seed: int) -> Event:
    """An event that has another value in each column, so that no two can be exchanged unseen."""
    number = iter(range(1_000 * seed, 1_000 * seed + 100))
    usage = {
        field.name: Decimal(next(number)) if "Decimal" in str(field.type) else next(number)
        for field in fields(Usage)
    }
    return Event(
        event="step_finished",
        step=next(number),
        turn=next(number),
        kind="tool",
        name=f"name {seed}",
        ident=f"ident {seed}",
        attempt=next(number),
        effect="once",
        key=f"key {seed}",
        status="ok",
        started_at=datetime(2026, 1, seed, tzinfo=UTC),
        fingerprint=f"fingerprint {seed}",
        overlapping=True,
        model=f"model {seed}",
        usage=Usage(**usage | {"priced_by": f"prices {seed}"}),  # type: ignore[arg-type]
        by=f"by {seed}",
        reason=f"reason {seed}",
        wake_at=datetime(2027, 1, seed, tzinfo=UTC),
        input={"input": seed},
        output={"output": seed},
        has_input=True,
        has_output=True,
    )


@pytest.mark.parametrize("plain", [True, False], ids=["append_plain", "append"])
@pytest.mark.tampers  # the journal of these events is no run that could have been
def test_each_column_comes_back_as_it_was_appended(
    dsn: str, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    if not plain:
        monkeypatch.setattr(Batch, "is_plain", lambda batch: False)
    sent = [full_event(1), full_event(2)]
    with OpenDatabase(dsn) as database:
        database.create("run", "agent", {}, "")
        claimed = database.claim(find_run(database, "run"), "test")
        assert claimed is not None
        pending = database.writer.append(claimed[0], list(sent))
        database.writer.wait(pending)
        stored, _ = read_events(database, find_run(database, "run").run_id, exact=True)
    place = {"run_id": None, "seq": 0, "epoch": 0, "worker": None, "at": None}
    assert [replace(event, **place) for event in stored[-2:]] == [
        replace(event, **place) for event in sent
    ]
