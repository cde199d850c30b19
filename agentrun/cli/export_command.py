"""`agentrun export`: write a run to a file, in a format that others read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import typer

import agentrun
from agentrun.cli import output
from agentrun.cli.keys import Connect, full_key
from agentrun.cli.loaded_run import LoadedRun, load_run
from agentrun.core.errors import ConfigError
from agentrun.core.transcript import fold

__all__ = ["EXPORTS", "export"]

_TREE = 1_000  # runs of one tree that are written
_NAME = 150  # characters of a file's name, without its ending


def _html(found: LoadedRun) -> str:
    from agentrun.view.page import as_page

    def address(key: str) -> str | None:
        return f"./{quote(found.files[key])}" if key in found.files else None

    transcript = fold(found.events, owner_lost=found.owner_lost)
    return as_page(transcript, found.events, found.relatives, address)


def _markdown(found: LoadedRun) -> str:
    from agentrun.view.markdown import as_markdown

    return as_markdown(fold(found.events, owner_lost=found.owner_lost))


def _jsonl(found: LoadedRun) -> str:
    from agentrun.view.jsonl import write_jsonl

    return "".join(f"{line}\n" for line in write_jsonl(found.events))


def _openai(found: LoadedRun) -> str:
    from agentrun.view.chat import as_openai

    return json.dumps(as_openai(found.events), indent=2) + "\n"


def _json(found: LoadedRun) -> str:
    return fold(found.events, owner_lost=found.owner_lost).to_json() + "\n"


# The key is the name of the option, and also the ending of a file, except for --openai.
EXPORTS: dict[str, Callable[[LoadedRun], str]] = {
    "html": _html,
    "md": _markdown,
    "jsonl": _jsonl,
    "openai": _openai,
    "json": _json,
}


def export(
    connect: Connect, key: str, formats: list[str], file: Path | None, *, tree: bool
) -> None:
    """Write a run in one format to a file, or to stdout; with ``tree``, a file for each run."""
    if not formats and file is not None and not tree:
        formats = [ending for ending in (file.suffix.removeprefix("."),) if ending in EXPORTS]
    if len(formats) != 1:
        options = ", ".join(f"--{name}" for name in EXPORTS)
        raise ConfigError(f"say one of {options}, or give -o a file that ends in .html, .md, …")
    render = EXPORTS[formats[0]]
    if tree:
        _export_tree(connect, key, formats[0], file)
    elif file is None:
        # As bytes: UTF-8 whatever the terminal is set to.
        typer.echo(render(load_run(connect, key)).encode(), nl=False)
    else:
        _write_file(file, render(load_run(connect, key)))


def _export_tree(connect: Connect, key: str, format_: str, folder: Path | None) -> None:
    """Write a run and its child runs into a folder. The files are named for the keys."""
    if folder is None:
        raise ConfigError("--tree writes a file for each run: name a folder with -o")
    with connect() as database:
        key = full_key(database, key)
        found = [run.key for run in agentrun.runs(root=key, limit=_TREE)]
    if len(found) == _TREE:
        output.note(f"only the newest {_TREE:,} runs of the tree are written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error}") from None
    ending = "json" if format_ == "openai" else format_
    files = {one: f"{_name_file(one)}.{ending}" for one in found}
    for one, file in files.items():
        run = replace(load_run(connect, one), files=files)
        _write_file(folder / file, EXPORTS[format_](run))


def _name_file(key: str) -> str:
    """The name of the file of a run, without its ending: the key, as far as it can be a name."""
    name = quote(key, safe=" @")[:_NAME]
    # Two long keys may begin alike, and a key may be `.` or `..`.
    if name != key or not key.strip("."):
        name = f"{name}-{sha256(key.encode()).hexdigest()[:8]}"
    return name


def _write_file(file: Path, text: str) -> None:
    data = text.encode()
    try:
        file.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error}") from None
    output.note(f"wrote {file} ({len(data):,} bytes)")
