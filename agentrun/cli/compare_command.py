"""`agentrun compare`: two runs, step by step, from the database or from files of `export`."""

from __future__ import annotations

import typer

from agentrun.cli import output
from agentrun.cli.options import AsJson, Written

__all__ = ["compare"]


def compare(ctx: typer.Context, a: Written, b: Written, as_json: AsJson = False) -> None:
    """Compare two runs step by step; exits with 1 if they differ."""
    from agentrun.cli.loaded_run import load_transcript
    from agentrun.core.comparison import compare_transcripts

    first, second = (load_transcript(ctx.obj.connect, key) for key in (a, b))
    found = compare_transcripts(first, second)
    if as_json:
        output.emit_json(found.to_dict())
    else:
        from agentrun.view.comparison import comparison_lines
        from agentrun.view.terminal import print_lines

        console = output.terminal()
        print_lines(comparison_lines(found, width=console.width), console)
    if not found.same:
        raise typer.Exit(1)
