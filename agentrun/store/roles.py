"""Group roles for the logins of a database, and the privileges that a login lacks for a role.

=========  ==================================================================================
reader     reads views, journal and every other table, but the exact values of masked columns
auditor    a reader; with ``exact`` also those values
approver   a reader who approves and rejects
worker     executes runs: appends to journals, beats, sends letters; edits and deletes nothing
operator   a worker who also sets limits, prunes, and removes what is old
tools      the connection of `transaction` tools: appends their checkpoint, and reads nothing
=========  ==================================================================================

Each is a role without login; logins are made members of it. The tables in this module define the
roles completely: granting and checking read the same tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row, tuple_row

from agentrun.core.errors import ConfigError
from agentrun.store.sql import QUERIES, SCHEMA_LOCK

__all__ = [
    "ROLES",
    "RoleMembers",
    "create",
    "grant",
    "grant_again",
    "missing_privileges",
    "reader_dsn",
    "require",
    "require_entry",
    "role_names",
    "use_reader",
]

# The tables that readers may not read. Auditors may be granted the exact values.
HIDDEN = ("exact_values", "mask_key", "gateway_answers", "gateway_secret")
_NOTE = """
INSERT INTO agentrun.roles (role, name) VALUES (%(role)s, %(name)s)
ON CONFLICT (role) DO UPDATE SET name = excluded.name
"""
READER = "agentrun_sql"  # the login of `agentrun sql` in the embedded server

_PROJECTED = "UPDATE (status, owner, epoch, wake_at, parked_for, parked_step, reason, changed_at)"
_KEPT = ("INSERT", "UPDATE", "DELETE")

_Privileges = dict[str, tuple[str, ...]]

_WORKER: _Privileges = {
    "journal": ("INSERT",),
    "runs": ("INSERT", _PROJECTED),
    "summaries": ("INSERT", "UPDATE"),
    "payloads": ("INSERT",),
    "exact_values": ("SELECT", "INSERT"),
    "mask_key": ("SELECT",),
    "workers": ("INSERT", "UPDATE"),
    "late_results": ("INSERT",),
    "budgets": ("INSERT", "UPDATE"),
    "reservations": ("INSERT", "UPDATE"),
    "counted_calls": ("INSERT",),
    "partials": _KEPT,
    "permits": _KEPT,
    "holds": _KEPT,
    "limits": ("UPDATE",),
    "gateway_calls": _KEPT,
    "gateway_secret": ("SELECT",),
    "gateway_answers": ("SELECT", *_KEPT),
}
# An approver sends letters, and stores the exact value of a masked one.
_APPROVER: _Privileges = {
    "exact_values": ("SELECT (run_id, part, name)", "INSERT"),
    "mask_key": ("SELECT",),
}
_OPERATOR: _Privileges = {"limits": _KEPT, "tombstones": ("DELETE",), "workers": ("DELETE",)}
# What the append of a checkpoint reads and writes. `_CONFINED` restricts the rows.
_TOOLS: _Privileges = {
    "journal": ("SELECT (run_id, seq, epoch, worker, batch, at)", "INSERT"),
    "runs": ("SELECT (run_id)", _PROJECTED),
    "summaries": ("SELECT", "INSERT", "UPDATE"),
    "payloads": ("SELECT (run_id, digest)", "INSERT"),
    "exact_values": ("SELECT (run_id, part, name)", "INSERT"),
}

ROLES: dict[str, tuple[_Privileges, tuple[str, ...], str | None]] = {
    # privileges by table, functions, the role that it is a member of
    "reader": ({}, (), None),
    "auditor": ({}, (), "reader"),
    "approver": (_APPROVER, ("send",), "reader"),
    "worker": (_WORKER, ("send",), "reader"),
    "operator": (_OPERATOR, ("prune",), "worker"),
    "tools": (_TOOLS, (), None),
}


def create(
    conn: psycopg.Connection[Any], *, prefix: str = "agentrun", exact: bool = False
) -> dict[str, str]:
    """Create the roles, or update their privileges; return their names.

    Args:
        conn: a connection of the schema's owner, who may create roles, in autocommit.
        prefix: the prefix of the names. Databases of one server need different prefixes.
        exact: whether auditors may read the exact values of masked columns.

    Raises ConfigError if the login may not create roles.
    """
    try:
        with conn.transaction():
            conn.execute(QUERIES["lock_roles"], {"lock": SCHEMA_LOCK})
            for role in ROLES:
                name = f"{prefix}_{role}"
                if not conn.execute(QUERIES["role"], {"name": name}).fetchone():
                    conn.execute(_sql("CREATE ROLE {} NOLOGIN", name))
                conn.execute(_NOTE, {"role": role, "name": name})
            names = role_names(conn)
            for role in ROLES:
                _grant(conn, role, names)
            verb = "GRANT SELECT ON {} TO {}" if exact else "REVOKE ALL ON {} FROM {}"
            conn.execute(_sql(verb, _relation("exact_values"), names["auditor"]))
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            "roles are created by the owner of the schema agentrun, who needs CREATEROLE: "
            f"{_error_text(error)}"
        ) from error
    return names


def grant_again(conn: psycopg.Connection[Any]) -> None:
    """Grant the roles of this database their privileges again, after a migration added tables."""
    names = role_names(conn) if _present(conn, ["roles"]) else {}
    for role in ROLES:
        if role in names:
            _grant(conn, role, names)


def role_names(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """The names of this database's roles, by role."""
    found = conn.cursor(row_factory=tuple_row).execute(QUERIES["known_roles"])
    return dict(found.fetchall())


def _grant(conn: psycopg.Connection[Any], role: str, names: dict[str, str]) -> None:
    name, (privileges, functions, above) = names[role], ROLES[role]
    conn.execute(_sql("GRANT USAGE ON SCHEMA agentrun TO {}", name))
    if above is not None:
        conn.execute(_sql("GRANT {} TO {}", names[above], name))
    if role == "reader":
        conn.execute(_sql("GRANT SELECT ON ALL TABLES IN SCHEMA agentrun TO {}", name))
        for table in _present(conn, HIDDEN):
            conn.execute(_sql("REVOKE ALL ON {} FROM {}", _relation(table), name))
    for table in _present(conn, privileges):
        what = f"GRANT {', '.join(privileges[table])} ON {{}} TO {{}}"
        conn.execute(_sql(what, _relation(table), name))
    for function in functions:
        place = sql.Identifier("agentrun", function)
        conn.execute(_sql("GRANT EXECUTE ON FUNCTION {} TO {}", place, name))
    if role in _CONFINED:
        _confine(conn, role, name)


# Row-level security for roles that may insert only some rows. A tool's connection may append the
# outcome of a `transaction` tool, and may not change a run. An approver may store the exact values
# of letters.
_CONFINED = {
    "tools": {
        "journal": "INSERT TO {} WITH CHECK (event = 'step_finished' AND effect = 'transaction')",
        # The append locks the run's row, which needs the privilege to update and see it.
        "runs": "UPDATE TO {} USING (true) WITH CHECK (false)",
        # The append names the table. A checkpoint does not change it, so no row of it is seen.
        "summaries": "ALL TO {} USING (false) WITH CHECK (false)",
        "exact_values": "INSERT TO {} WITH CHECK (part IN ('output', 'raw'))",
    },
    "approver": {"exact_values": "INSERT TO {} WITH CHECK (part = 'mail')"},
}


def _confine(conn: psycopg.Connection[Any], role: str, name: str) -> None:
    for table, rows in _CONFINED[role].items():
        place = _relation(table)
        conn.execute(_sql("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", place))
        conn.execute(_sql("DROP POLICY IF EXISTS everybody ON {}", place))
        conn.execute(_sql("CREATE POLICY everybody ON {} USING (true) WITH CHECK (true)", place))
        conn.execute(_sql(f"DROP POLICY IF EXISTS {role} ON {{}}", place))
        confined = f"CREATE POLICY {role} ON {{}} AS RESTRICTIVE FOR {rows}"
        conn.execute(_sql(confined, place, name))


# -- the privileges that a login lacks -------------------------------------------------------------


def missing_privileges(conn: psycopg.Connection[Any], role: str) -> list[str]:
    """The privileges of a role that the session's user lacks, such as "INSERT on journal"."""
    needs: list[tuple[str, str, str]] = []
    functions: list[str] = []
    wanted: str | None = role
    while wanted is not None:
        tables, calls, wanted = ROLES[wanted]
        functions += calls
        for table, privileges in tables.items():
            for privilege in privileges:
                verb, _, columns = privilege.rstrip(")").partition(" (")
                needs.append((table, verb, columns))
    parameters: dict[str, Any] = {
        name: [need[place] for need in needs]
        for place, name in enumerate(("relations", "verbs", "columns"))
    }
    parameters |= {"functions": functions, "reads": role != "tools", "hidden": list(HIDDEN)}
    return [row["lacks"] for row in conn.execute(QUERIES["lacking"], parameters)]


def require(conn: psycopg.Connection[Any], role: str, what: str) -> None:
    """Raise ConfigError, with the command that helps, if the session's user lacks a privilege of
    the role."""
    if missing := missing_privileges(conn, role):
        raise _refusal(conn, role, what, f"it lacks {', '.join(missing)}")


def require_entry(conn: psycopg.Connection[Any]) -> None:
    """Raise ConfigError if the schema agentrun exists and the session's user may not use it."""
    for row in conn.execute(QUERIES["enters"]):
        if not row["enters"]:
            raise _refusal(conn, "reader", "read the schema agentrun", "it has no role")


def _refusal(conn: psycopg.Connection[Any], role: str, what: str, why: str) -> ConfigError:
    user = conn.info.user
    return ConfigError(
        f"the login {user!r} may not {what}: {why}. The owner of the database gives it the role "
        f"with `agentrun roles create` and `agentrun roles grant {role} {user}`"
    )


def grant(conn: psycopg.Connection[Any], role: str, login: str) -> None:
    """Make a login a member of a role of this database. Raises ConfigError."""
    names = role_names(conn)
    if role not in names:
        raise ConfigError(
            f"this database has no role {role!r}: {', '.join(ROLES)} are made by "
            "`agentrun roles create`"
        )
    try:
        conn.execute(_sql("GRANT {} TO {}", names[role], login))
    except psycopg.errors.UndefinedObject as error:
        raise ConfigError(
            f"the server has no login {login!r}: CREATE ROLE {login} LOGIN PASSWORD '…'"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"{login!r} cannot be given {names[role]!r}: {_error_text(error)}"
        ) from error


@dataclass(frozen=True, slots=True)
class RoleMembers:
    """A role of the database, and the logins that have it."""

    role: str
    name: str
    logins: list[str]


def list_members(conn: psycopg.Connection[Any]) -> list[RoleMembers]:
    """The roles of the database, with their members."""
    cursor = conn.cursor(row_factory=class_row(RoleMembers))
    return cursor.execute(QUERIES["members"]).fetchall()


# -- the reader of the embedded server -------------------------------------------------------------


def use_reader(conn: psycopg.Connection[Any]) -> None:
    """Create the login of `agentrun sql` in the embedded server, if it does not exist."""
    if conn.execute(QUERIES["role"], {"name": READER}).fetchone():
        return
    names = create(conn)
    with conn.transaction():
        conn.execute(QUERIES["lock_roles"], {"lock": SCHEMA_LOCK})
        if not conn.execute(QUERIES["role"], {"name": READER}).fetchone():
            conn.execute(_sql("CREATE ROLE {} LOGIN", READER))
        conn.execute(_sql("GRANT {} TO {}", names["reader"], READER))


def reader_dsn(dsn: str) -> str:
    """The DSN of the login that `use_reader` creates, on the server of this DSN."""
    return make_conninfo(dsn, user=READER)


def _present(conn: psycopg.Connection[Any], tables: Iterable[str]) -> list[str]:
    found = conn.execute(QUERIES["present"], {"relations": list(tables)}).fetchall()
    return [row["relation"] if isinstance(row, dict) else row[0] for row in found]


def _relation(table: str) -> sql.Identifier:
    return sql.Identifier("agentrun", table)


def _sql(text: str, *names: str | sql.Identifier) -> sql.Composed:
    # psycopg's type LiteralString forbids text built from input; here it is built from this file.
    return sql.SQL(cast(Any, text)).format(
        *(sql.Identifier(name) if isinstance(name, str) else name for name in names)
    )


def _error_text(error: psycopg.Error) -> str:
    return str(error).strip()
