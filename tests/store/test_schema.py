"""The schema's file names what the schema has, and each fixed vocabulary is that of the code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, LiteralString, get_args, get_type_hints

import psycopg
import pytest

from agentrun.core.budget import Budget
from agentrun.core.entries import Ended
from agentrun.core.events import (
    Effect,
    EventName,
    FailureStatus,
    HeldFor,
    Kind,
    LetterKind,
    LetterStatus,
    ParkStatus,
    Resolution,
    RunStatus,
    WaitingFor,
)
from agentrun.core.state import ENDED, park_event
from agentrun.store import answers, roles
from agentrun.store.exact_values import Part
from agentrun.store.liveness import Cause
from agentrun.store.migrate import known_migrations

HEADER = known_migrations()[0].sql.partition("\n\n")[0]
OBJECTS: dict[str, LiteralString] = {
    "Tables": "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND"
    " relnamespace = 'agentrun'::regnamespace",
    "Views": "SELECT relname FROM pg_class WHERE relkind IN ('v', 'm') AND"
    " relnamespace = 'agentrun'::regnamespace",
    "Functions": "SELECT proname FROM pg_proc WHERE pronamespace = 'agentrun'::regnamespace",
    "Triggers": "SELECT c.relname || ': ' || t.tgname FROM pg_trigger t"
    " JOIN pg_class c ON c.oid = t.tgrelid"
    " WHERE c.relnamespace = 'agentrun'::regnamespace AND NOT t.tgisinternal"
    " AND t.tgname <> 'fault_at_commit'",  # of --serializable
}
# What the SQL function `billing` returns; the two words before them are those of a reservation
# without an outcome.
BILLING = {"confirmed", "unpriced", "possibly billed", "not billed"}
PARKED_FOR = {*get_args(WaitingFor), *get_args(HeldFor)}
VOCABULARIES: dict[str, Iterable[str]] = {
    "runs.status": get_args(RunStatus),
    "runs.parked_for": PARKED_FOR,
    "journal.parked_for": PARKED_FOR,
    "journal.event": get_args(EventName),
    "journal.kind": get_args(Kind),
    "journal.effect": get_args(Effect),
    "exact_values.part": get_args(Part),
    "mail.kind": get_args(LetterKind),
    "late_results.status": get_args(Ended),
    "tombstones.status": ENDED,
    "workers.cause": get_args(Cause),
    "budgets.on_exhausted": get_args(get_type_hints(Budget)["on_exhausted"]),
    "reservations.billing": {"reserved", "goes on"} | BILLING,
    "gateway_calls.status": get_args(answers.Status),
    "roles.role": roles.ROLES,
}
OF_EVENTS: dict[str, Iterable[str]] = {
    "step_finished": get_args(Ended),
    "attempt_failed": get_args(FailureStatus),
    "resolved": get_args(Resolution),
    "parked": get_args(ParkStatus),
    "received": get_args(LetterStatus),
}
# The other columns of text, by table: names and texts of people, programs and providers.
FREE_TEXT = {
    "runs": "key agent owner reason queue",
    "journal": "worker name ident key fingerprint model priced_by by reason",
    "summaries": "error_type error last_message",
    "payloads": "digest blob",
    "exact_values": "name",
    "mail": "fingerprint by claimed_by signed_by reason",
    "late_results": "worker model priced_by",
    "tombstones": "key agent",
    "workers": "worker host process agents queues",
    "counted_calls": "key",
    "limits": "model",
    "permits": "key model worker",
    "holds": "model worker reason",
    "gateway_calls": "key fingerprint upstream path reason gateway",
    "gateway_answers": "key digest",
    "roles": "name",
    "migrations": "name checksum",
}


def asked(dsn: str, query: LiteralString, *values: Any) -> list[Any]:
    with psycopg.connect(dsn) as conn:
        return [value for (value,) in conn.execute(query, values)]


def listed(kind: str) -> list[str]:
    """The names in the header's lists of one kind; of a trigger its table, too."""
    lists = re.findall(rf"^-- {kind}\b.*\n((?:--   .*\n)+)", HEADER, re.MULTILINE)
    lines = re.findall(r"^--   (\w+) +((\w+:)?.*)$", "".join(lists), re.MULTILINE)
    return [f"{table} {name}" if kind == "Triggers" else name for name, _, table in lines]


@pytest.mark.parametrize("kind", OBJECTS)
def test_the_header_names_exactly_what_the_schema_has(dsn: str, kind: str) -> None:
    assert sorted(listed(kind)) == sorted(asked(dsn, OBJECTS[kind]))


def test_the_header_names_what_is_withheld_from_public(dsn: str) -> None:
    (tables,) = re.findall(r"Hidden from PUBLIC: (.*)\.", HEADER)
    (functions,) = re.findall(r"Not executable by PUBLIC: ([\w, ]*)\.", HEADER)
    assert set(tables.split(", ")) == set(roles.HIDDEN)
    withheld = asked(
        dsn,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'agentrun'::regnamespace"
        " AND NOT has_function_privilege('public', oid, 'EXECUTE')",
    )
    assert sorted(functions.split(", ")) == sorted(withheld)


def test_guards_and_what_runs_as_the_owner_set_the_search_path(dsn: str) -> None:
    unset = asked(
        dsn,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'agentrun'::regnamespace"
        " AND (prosecdef OR prorettype = 'trigger'::regtype OR proname IN ('is_owner', 'plays'))"
        " AND 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(proconfig, '{}'))",
    )
    assert unset == []


# -- fixed vocabularies ----------------------------------------------------------------------------


def words(text: str) -> set[str]:
    return set(re.findall(r"'([^']*)'::text", text))


def test_each_vocabulary_is_that_of_the_code(dsn: str) -> None:
    checks = asked(
        dsn,
        "SELECT relname || '.' || pg_get_constraintdef(k.oid)"
        " FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
        " WHERE contype = 'c' AND connamespace = 'agentrun'::regnamespace",
    )
    matches = [re.match(r"(\w+)\.CHECK \(\((\w+) = ANY (.*)", check) for check in checks]
    found = {f"{match[1]}.{match[2]}": words(match[3]) for match in matches if match}
    assert found == {column: set(values) for column, values in VOCABULARIES.items()}


def test_each_column_of_text_has_a_vocabulary_or_is_free_text(dsn: str) -> None:
    """Whoever adds a column says which. `journal.status` has a list for each event."""
    columns = asked(
        dsn,
        "SELECT relname || '.' || attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND attnum > 0 AND NOT attisdropped AND atttypid IN ('text'::regtype, 'text[]'::regtype)",
    )
    free = {f"{table}.{name}" for table, names in FREE_TEXT.items() for name in names.split()}
    assert set(columns) == {*VOCABULARIES, "journal.status"} | free
    assert not free & {*VOCABULARIES}


def test_the_words_for_billing_are_those_of_the_function(dsn: str) -> None:
    (body,) = asked(dsn, "SELECT prosrc FROM pg_proc WHERE oid = 'agentrun.billing'::regproc")
    assert set(re.findall(r"(?:THEN|ELSE) '([^']*)'", body)) == BILLING


@pytest.mark.parametrize("parked_for", sorted(PARKED_FOR))
def test_a_run_is_held_for_a_person_and_waits_for_anything_else(parked_for: Any) -> None:
    event = park_event(parked_for, "why")
    assert event.status == ("held" if parked_for in get_args(HeldFor) else "waiting")


NOT_PARKED: list[tuple[LiteralString, LiteralString]] = [
    ("runs", "status = 'held', parked_for = NULL"),
    ("runs", "status = 'queued', parked_for = 'doubt'"),
    ("runs", "status = 'held', parked_for = 'patience'"),
    ("journal", "event = 'parked', status = 'held', parked_for = NULL"),
    ("journal", "event = 'claimed', status = NULL, parked_for = 'doubt'"),
]


def test_what_is_parked_says_for_what_and_nothing_else_does(db: Any, dsn: str) -> None:
    db.create("k", "agent", {"args": {}}, "")
    for table, change in NOT_PARKED:
        with psycopg.connect(dsn) as conn:
            conn.execute("SET LOCAL session_replication_role = replica")  # past append-only
            with pytest.raises(psycopg.errors.CheckViolation):
                conn.execute(f"UPDATE agentrun.{table} SET {change}")  # noqa: S608
            conn.rollback()


def test_the_status_of_each_event_is_that_of_the_code(dsn: str) -> None:
    (text,) = asked(
        dsn,
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conname = 'journal_status_of_event' AND conrelid = 'agentrun.journal'::regclass",
    )
    found = dict(re.findall(r"WHEN '(\w+)'::text THEN (.*)", text))
    assert {event: words(values) for event, values in found.items()} == {
        event: set(values) for event, values in OF_EVENTS.items()
    }


@pytest.mark.parametrize(
    ("event", "status", "fits"),
    [
        ("step_finished", "ok", True),
        ("step_finished", "okay", False),
        ("parked", "ok", False),
        ("attempt_failed", None, True),
        ("claimed", "ok", False),
        ("ended", None, False),
    ],
)
def test_an_event_with_another_word_is_refused(
    dsn: str, event: str, status: str | None, fits: bool
) -> None:
    with psycopg.connect(dsn) as conn:
        insert: LiteralString = (
            "INSERT INTO agentrun.journal (run_id, seq, epoch, worker, batch, event, status)"
            " VALUES (gen_random_uuid(), 1, 0, 'w', gen_random_uuid(), %s, %s)"
        )
        if fits:
            conn.execute(insert, [event, status])
        else:
            with pytest.raises(psycopg.errors.CheckViolation):
                conn.execute(insert, [event, status])
        conn.rollback()


def test_a_misspelt_letter_is_refused_to_its_sender(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "INSERT INTO agentrun.runs (run_id, key, agent, status)"
            " VALUES (gen_random_uuid(), 'k', 'agent', 'queued')"
        )
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute("SELECT agentrun.send('k', 'aprove', 3)")
        conn.rollback()
