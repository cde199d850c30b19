"""The journal of a run against what the world outside saw of it: who is right, and how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg
from invariants import assert_invariants
from outside import Effects
from psycopg.rows import dict_row
from shapes import Shape

JOURNAL = """
    SELECT j.*, r.key AS run FROM agentrun.journal j JOIN agentrun.runs r USING (run_id)
    WHERE r.key = %(run)s OR starts_with(r.key, %(run)s || '/') ORDER BY j.run_id, j.seq"""
BILLS = """
    SELECT s.run_id, s.step FROM agentrun.spend s JOIN agentrun.runs r USING (run_id)
    WHERE s.billing IN ('possibly billed', 'paid twice')
      AND (r.key = %(run)s OR starts_with(r.key, %(run)s || '/'))"""
COUNTED = "SELECT item, count(*) AS times FROM public.counted WHERE run = %(run)s GROUP BY item"


@dataclass
class Books:
    """What the database says of a run and its children, by idempotency key."""

    journal: list[dict[str, Any]]
    effect: dict[str, str] = field(default_factory=dict)  # class
    finished: set[str] = field(default_factory=set)  # steps whose outcome is recorded
    started: Counter[str] = field(default_factory=Counter)  # attempts whose intent is
    failed: Counter[str] = field(default_factory=Counter)  # attempts that may have taken effect
    decided: Counter[str] = field(default_factory=Counter)  # `once`: that another may follow
    possibly_billed: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)  # rows of `transaction` tools, by item
    unsure: bool = False  # the model was told that an outcome is unknown
    steps: dict[tuple[Any, int], str] = field(default_factory=dict)

    def take(self, row: dict[str, Any]) -> None:
        """Take in the next event."""
        place = row["run_id"], row["step"]
        match row["event"]:
            case "attempt_started":
                self.steps[place], self.effect[row["key"]] = row["key"], row["effect"]
                self.started[row["key"]] += 1
            case "attempt_failed":
                billed = row["output"]["error"].get("billed", True)
                self.failed[row["key"]] += bool(billed)
            case "step_finished":
                self.finished.add(row["key"])
            case "resolved" if row["status"] in ("not_happened", "retry"):
                self.decided[self.steps[place]] += 1
            case "resolved" if row["status"] == "unknown":
                self.unsure = True


def read(dsn: str, run: str) -> Books:
    """The books of a run as they are now."""
    of = {"run": run}
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        books = Books(conn.execute(JOURNAL, of).fetchall())
        for row in books.journal:
            books.take(row)
        for row in conn.execute(BILLS, of):
            books.possibly_billed[books.steps[row["run_id"], row["step"]]] += 1
        for row in conn.execute(COUNTED, of):
            books.counted[row["item"]] = row["times"]
    return books


def settle(
    shape: Shape, dsn: str, run: str, done: Effects, recorded: list[Counter[str]]
) -> dict[str, int]:
    """Compare, when the run has ended, the journal with the world; what was counted.

    ``recorded`` holds, for each crash, the effects whose outcome was recorded then, and how often
    they had taken place.
    """
    books, crashes = read(dsn, run), len(recorded)
    (end,) = [row for row in books.journal if row["run"] == run and row["event"] == "run_finished"]
    assert end["output"] == (shape.unsure if books.unsure else shape.result)

    # Nothing took place that was not announced, nor twice under two keys.
    assert set(done.all) <= set(books.started), "an effect without an intent"
    assert len(done.billed) == shape.asks
    assert len(done.acted) == shape.acts or (books.unsure and len(done.acted) < shape.acts)
    assert books.counted.total() == len(books.counted) == shape.counts, "not exactly once"

    again = sum(max(0, done.all[key] - times) for r in recorded for key, times in r.items())
    assert again == 0, "a recorded effect was repeated"
    once = [key for key, effect in books.effect.items() if effect == "once"]
    unasked = [k for k in once if max(done.all[k], books.started[k]) > 1 + books.decided[k]]
    assert unasked == [], "a `once` effect was started again without a decision"
    repeats = {key: max(0, n - 1 - books.failed[key]) for key, n in done.all.items()}
    assert max(repeats.values()) <= crashes, "more than one repeat of an effect a crash"
    assert sum(repeats.values()) <= crashes * shape.width, "a repeat of what was not in flight"
    dear = [key for key, n in done.billed.items() if n > 1 + books.possibly_billed[key]]
    assert dear == [], "a bill that agentrun.spend does not list"
    assert_invariants(dsn)
    return {
        "kills": crashes,
        "effects": len(done.all) + shape.counts,
        "recorded_repeated": again,
        "in_flight_repeated": sum(repeats.values()),
        "once_effects": len(once),
        "once_without_decision": len(unasked),
        "transactions": shape.counts,
        "model_steps": shape.asks,
        "billed_again": done.billed.total() - shape.asks,
        "possibly_billed": books.possibly_billed.total(),
    }
