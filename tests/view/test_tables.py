"""Tables of any rows: what fits, what becomes records, what is cut, and that all of it is inert."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from journals import HOSTILE
from test_view import ACTIVE, TAGS, Stripped

from agentrun.core.table import Table
from agentrun.view.layout import columns

AT = datetime(2026, 11, 22, 12, 0, 1, 500_000, tzinfo=UTC)


def test_numbers_stand_to_the_right_and_a_null_is_no_empty_text() -> None:
    table = Table(("key", "cost"), (("a", Decimal("0.5")), ("", None), ("long key", Decimal(10))))
    assert str(table).splitlines() == [
        "key        cost",
        "a           0.5",
        "           NULL",
        "long key     10",
        "3 rows",
    ]
    page = table._repr_html_() or ""
    assert '<td align="right" dir="auto">0.5</td>' in page
    assert "<em>NULL</em>" in page


def test_a_table_that_is_too_wide_becomes_records() -> None:
    table = Table(("key", "at", "reason"), (("a", AT, "x" * 90), ("b", AT, "short")))
    lines = str(table).splitlines()
    assert lines[0] == "── 1 ──"
    assert lines[1] == "key     a"
    assert lines[2] == "at      2026-11-22 12:00:01.500+00:00"
    assert lines[3].endswith("xx…")
    assert max(map(columns, lines)) <= 80


def test_rows_that_are_not_shown_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrun.view.tables._TEXT_ROWS", 2)
    monkeypatch.setattr("agentrun.view.tables._HTML_ROWS", 2)
    table = Table(("n",), tuple((n,) for n in range(5)))
    assert "… 3 more rows, which `.rows` has …" in str(table)
    assert "5 rows; 3 of them are not shown here" in (table._repr_html_() or "")


def test_hostile_rows_are_inert_as_text_and_as_html() -> None:
    for table in (
        Table((HOSTILE,), ((HOSTILE,), ([HOSTILE],), ({HOSTILE: HOSTILE},), (b"\x1b<",))),
        Table((HOSTILE, "n"), ((HOSTILE * 3, 1),)),
        Table(("n",), (("日本\u202e" * 40,),)),
    ):
        text, page = str(table), table._repr_html_() or ""
        assert not ACTIVE.search(text)
        assert not ACTIVE.search(page)
        assert max(map(columns, text.splitlines())) <= 80
        document = Stripped(page)
        assert document.tags <= TAGS
        assert not {name for name in document.attributes if name.startswith("on")}
