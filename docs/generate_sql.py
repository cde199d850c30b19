"""Writes `docs/sql.md`, the SQL reference, from the comments in a database.

    python docs/generate_sql.py

It reads the catalog of a new database with the schema of this checkout, so a relation or a column
that a migration adds is on the page. `tests/examples/test_docs.py` compares the page with it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import psycopg

PAGE = Path(__file__).with_name("sql.md")
HEAD = """\
# SQL reference

Everything that agentrun knows is in the schema `agentrun` of your database. Ask with any client,
or with `agentrun sql "…"`.

Read the views first. They are made of the table `journal`, which is append-only and the only source
of truth. The table `runs` holds the current status of each run. The other tables are the working
memory of workers, limits and gateways.

This page is generated from the comments in the database: `\\d+ agentrun.steps` in `psql` shows the
same text.

"""
RELATIONS = """
SELECT c.oid, c.relname AS name, c.relkind = 'v' AS view, obj_description(c.oid, 'pg_class') AS text
FROM pg_class c
WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'v')
ORDER BY c.relname
"""
COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       col_description(a.attrelid, a.attnum) AS text
FROM pg_attribute a
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
FUNCTIONS = """
SELECT p.proname AS name, pg_get_function_arguments(p.oid) AS arguments,
       pg_get_function_result(p.oid) AS result, obj_description(p.oid, 'pg_proc') AS text
FROM pg_proc p
WHERE p.pronamespace = 'agentrun'::regnamespace
  AND p.prorettype <> 'trigger'::regtype AND obj_description(p.oid, 'pg_proc') IS NOT NULL
ORDER BY p.proname, arguments
"""
Row = dict[str, Any]


def page(conn: psycopg.Connection[Any]) -> str:
    """The whole page, of the schema in this database."""
    relations = _rows(conn, RELATIONS)
    parts = [HEAD]
    for title, views in ("Views", True), ("Tables", False):
        parts.append(f"## {title}\n\n")
        parts += [_relation(conn, row) for row in relations if row["view"] is views]
    parts.append("## Functions\n\n| function | returns | |\n|---|---|---|\n")
    parts += [
        f"| `{row['name']}({_cell(row['arguments'])})` | `{_cell(row['result'])}` "
        f"| {_cell(row['text'])} |\n"
        for row in _rows(conn, FUNCTIONS)
    ]
    return "".join(parts)


def _relation(conn: psycopg.Connection[Any], relation: Row) -> str:
    lines = [
        f"| `{row['name']}` | {row['type']} | {_cell(row['text'])} |\n"
        for row in _rows(conn, COLUMNS, relation["oid"])
    ]
    head = f"### {relation['name']}\n\n{relation['text']}\n\n| column | type | |\n|---|---|---|\n"
    return head + "".join(lines) + "\n"


def _rows(conn: psycopg.Connection[Any], query: str, *parameters: Any) -> list[Row]:
    cursor = conn.cursor(row_factory=psycopg.rows.dict_row)
    return cursor.execute(query, parameters or None).fetchall()


def _cell(text: str | None) -> str:
    return " ".join((text or "").replace("|", "\\|").replace("<", "&lt;").split())


def main() -> None:
    """Start a Postgres of its own, migrate it, and write the page."""
    from agentrun.store import embedded
    from agentrun.store.migrate import migrate

    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)  # as root, Postgres runs as somebody else, who must pass
        os.environ["AGENTRUN_HOME"] = str(Path(home, "home"))
        embedded.start()
        try:
            dsn = embedded.where().dsn()
            migrate(dsn)
            with psycopg.connect(dsn) as conn:
                PAGE.write_text(page(conn), "utf-8")
        finally:
            embedded.stop()


if __name__ == "__main__":
    main()
