"""A rich console that writes to a pager. It loads rich: import it only where something is printed.

`output.paged` starts the pager.
"""

from __future__ import annotations

import subprocess
from typing import NoReturn

from rich.console import Console

__all__ = ["PagedConsole", "ReaderGone"]


class ReaderGone(Exception):
    """The reader has left the pager, so nobody reads what is still to be printed."""


class PagedConsole(Console):
    """A console with the width and the colours of another one, whose text goes to a pager."""

    def __init__(self, pager: subprocess.Popen[str], *, like: Console) -> None:
        colours = {"standard": "standard", "256": "256", "truecolor": "truecolor"}
        super().__init__(
            file=pager.stdin,
            force_terminal=True,
            width=like.width,
            color_system=colours.get(like.color_system or ""),  # type: ignore[arg-type]
            highlight=False,
            markup=False,
            emoji=False,
        )

    def on_broken_pipe(self) -> NoReturn:
        raise ReaderGone
