"""How commands are listed in the help, and what every command accepts.

`--dsn` is accepted after the command too, because people add it to the line that they have typed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from agentrun.cli import output

__all__ = [
    "COMMANDS",
    "DECIDE",
    "LOOK",
    "MAINTAIN",
    "RUN",
    "SERVE",
    "TEST",
    "CommandGroup",
    "RowsCommand",
    "add",
]

# The headings of the help, in their order.
RUN, LOOK, DECIDE = "Run agents", "Look at runs", "Decide"
SERVE, TEST, MAINTAIN = "Serve", "Try and test", "Look after the database"
_HEADINGS = (RUN, LOOK, DECIDE, SERVE, TEST, MAINTAIN)
COMMANDS = "Commands"  # of a group within the group

_Dsn = Annotated[
    str | None, typer.Option("--dsn", help="The database; may stand before the command, too.")
]


class CommandGroup(TyperGroup):
    """Commands that report errors in one way, listed under headings."""

    def invoke(self, ctx: Any) -> Any:
        with output.report_errors(debug=bool(ctx.find_root().params.get("debug"))):
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading that has commands."""
        sections: dict[str, list[tuple[str, Any]]] = {heading: [] for heading in _HEADINGS}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                heading = getattr(command, "rich_help_panel", None)
                known = heading if isinstance(heading, str) else COMMANDS
                sections.setdefault(known, []).append((name, command))
        longest = max((len(name) for rows in sections.values() for name, _ in rows), default=0)
        room = formatter.width - 6 - longest
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    lines = [
                        (name.ljust(longest), one.get_short_help_str(room)) for name, one in rows
                    ]
                    formatter.write_dl(lines)


class RowsCommand(TyperCommand):
    """A command of which `--json` takes names of fields, and which has no arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _split_fields(args))


def _split_fields(args: Sequence[str]) -> list[str]:
    """``--json key,status`` as ``--json --fields key,status``."""
    words: list[str] = []
    for place, word in enumerate(args):
        option, equals, fields = word.partition("=")
        if option == "--json" and equals:
            words += ["--json", "--fields", fields]
            continue
        if place and args[place - 1] == "--json" and not word.startswith("-"):
            words.append("--fields")
        words.append(word)
    return words


def add(
    app: typer.Typer,
    function: Callable[..., Any],
    heading: str,
    *lines: str,
    cls: type[TyperCommand] = TyperCommand,
    name: str | None = None,
) -> None:
    """Make a function a command under a heading of the help; ``lines`` are its examples.

    The command gets the option `--dsn` as well, which selects the database for it.
    """
    epilog = "Examples:\n\n\b\n" + "\n".join(f"  {line}" for line in lines) if lines else None
    make = app.command(name, cls=cls, rich_help_panel=heading, epilog=epilog)
    make(_with_database(function))


def _with_database(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with one more option, `--dsn`, for the database that it finds in `ctx.obj`."""

    @wraps(function)
    def command(*args: Any, dsn: str | None = None, **kwargs: Any) -> Any:
        ctx = kwargs["ctx"]
        if dsn:
            ctx.obj = replace(ctx.obj, dsn=dsn)
        return function(*args, **kwargs)

    types = get_type_hints(function, include_extras=True)
    of_function = signature(function).parameters.values()
    own = [one.replace(annotation=types[one.name]) for one in of_function]
    dsn = Parameter("dsn", Parameter.KEYWORD_ONLY, default=None, annotation=_Dsn)
    command.__signature__ = Signature([*own, dsn])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*own, dsn)}
    del command.__wrapped__  # its signature lacks the option
    return command
