"""`agentrun roles`: create database roles, and grant them to logins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from agentrun.cli import output
from agentrun.cli.command_group import COMMANDS, CommandGroup, add
from agentrun.cli.options import AsJson
from agentrun.core.errors import ConfigError

if TYPE_CHECKING:
    from agentrun.store.connection import DeadlineConnection

__all__ = ["app"]

app = typer.Typer(
    cls=CommandGroup, help="Roles for the logins of a database.", no_args_is_help=True
)


def create(
    ctx: typer.Context,
    prefix: Annotated[
        str, typer.Option(help="Prefix of the role names; use another for another database.")
    ] = "agentrun",
    exact: Annotated[
        bool, typer.Option("--auditors-see-exact", help="Auditors see masked values unmasked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create the roles worker, operator, approver, auditor, reader and tools, or complete them."""
    from agentrun.store import roles

    with _owner_connection(ctx) as conn:
        names = roles.create(conn, prefix=prefix, exact=exact)
    output.emit_json(names) if as_json else output.note(
        f"created: {', '.join(names.values())}; `agentrun roles grant ROLE LOGIN` gives one"
    )


def grant(ctx: typer.Context, role: str, login: str, as_json: AsJson = False) -> None:
    """Give LOGIN the role."""
    from agentrun.store import roles

    if role not in roles.ROLES:
        raise ConfigError(f"{role!r} is no role; there are {', '.join(roles.ROLES)}")
    with _owner_connection(ctx) as conn:
        roles.grant(conn, role, login)
    output.emit_json({"role": role, "login": login}) if as_json else output.note(
        f"{login} is a member of {role}"
    )


def ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the roles of the database, and which logins have them."""
    from agentrun.store import roles

    with _owner_connection(ctx) as conn:
        found = roles.list_members(conn)
    if as_json:
        output.emit_rows(asdict(row) for row in found)
        return
    if not found:
        output.note("no roles: `agentrun roles create`")
        return
    lines = [[row.role, row.name, ", ".join(row.logins)] for row in found]
    output.emit_table(["role", "name", "logins"], lines)


add(app, create, COMMANDS, "agentrun roles create")
add(app, grant, COMMANDS, "agentrun roles grant auditor ana")
add(app, ls, COMMANDS, "agentrun roles ls")


@contextlib.contextmanager
def _owner_connection(ctx: typer.Context) -> Iterator[DeadlineConnection]:
    from agentrun.store.audit import open_connection

    with open_connection(ctx.obj.owner(), 15.0) as conn:
        yield conn
