"""The output of the demo in a terminal, in 80 columns."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

import agentrun
from agentrun.demo import ledger
from agentrun.demo.play import DemoFailed, ProcessEnd, play
from agentrun.demo.world import Provided, World, open_world
from agentrun.view.safe import clip, visible
from agentrun.view.terminal import print_transcript

__all__ = ["perform"]

WIDTH = 80
DEFAULT_MODEL = "gpt-5-mini"


def perform(*, as_json: bool, base_url: str | None, model: str | None) -> int:
    """See `agentrun.demo.main`."""
    console = Console(stderr=as_json, highlight=False)
    console.width = min(console.width, WIDTH)
    key = f"demo-{secrets.token_hex(3)}"
    provided = _real_provider(base_url, model)
    _headline(console, provided)
    try:
        numbers = _run_demo(console, key, provided)
    except DemoFailed as error:
        console.print(Text(f"\n{error}", "red"))
        console.print(f"\nagentrun show {key}   shows how far it came")
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. No process of the demo is left.")
        return 130
    if as_json:
        sys.stdout.write(json.dumps(numbers.numbers()) + "\n")
        sys.stdout.flush()
    return 1 if any(numbers.problems()) else 0


def _real_provider(base_url: str | None, model: str | None) -> Provided | None:
    """The real provider to use; None for the double.

    Raises ConfigError for a model without a provider.
    """
    if base_url or os.environ.get("OPENAI_API_KEY"):
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        return Provided(base_url, model or DEFAULT_MODEL)
    if model:
        raise agentrun.ConfigError(
            f"--model {model} needs a provider: set OPENAI_API_KEY, or give --base-url; "
            "without either the demo runs against a double and needs no key"
        )
    return None


def _run_demo(console: Console, key: str, provided: Provided | None) -> ledger.DemoNumbers:
    started = time.monotonic()
    kills = 0

    def report(who: str, what: Text | str) -> None:
        line = Text(f"{time.monotonic() - started:5.1f} s  ", "dim")
        console.print(line.append(f"{who:<11}", "bold").append(what))

    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(console.status("starting Postgres"))
        database = stack.enter_context(agentrun.connect())
        report("database", "ready")
        waiting.update("starting the world")
        world = stack.enter_context(open_world(database.dsn, provided))
        report("world", "a model, a carrier, a mail server and a shop are ready")
        waiting.update("the agent is at work")
        for ended in play(world, key):
            kills += ended.moment is not None
            report(f"process {ended.number}", _outcome_text(ended))
            for line in _describe_end(ended):
                console.print(Padding(Text(line, "dim"), (0, 0, 0, 20)))
        waiting.stop()
        numbers = ledger.read_numbers(world, key, kills, time.monotonic() - started)
        _report(console, world, numbers)
    return numbers


def _headline(console: Console, provided: Provided | None) -> None:
    console.print(Text("agentrun demo", "bold").append(" · an agent is killed three times", ""))
    console.print(
        Text(
            "\nA mug arrived broken. A support agent looks up the order, refunds the mug, books\n"
            "a pick-up and writes to the customer. Its process gets SIGKILL three times, and\n"
            "each time a new process goes on.\n"
        )
    )
    model = "a double on this machine; no key, no network"
    if provided is not None:
        model = f"{provided.model} at {_host(provided.base_url)}, which bills as always"
    console.print(Text("model  ", "bold").append(f"{visible(model)}\n", "default"))


def _host(base_url: str | None) -> str:
    return str(urlsplit(base_url).hostname) if base_url else "OpenAI"


def _outcome_text(ended: ProcessEnd) -> Text:
    if ended.moment is None:
        return Text("done", "green")
    return Text("SIGKILL ", "bold red").append(ended.moment.name, "default")


def _describe_end(ended: ProcessEnd) -> Iterator[str]:
    words = clip(visible(ended.last_words), 300)
    if ended.moment is None:
        yield f"“{words}”"
    else:
        if ended.number == 1 and words:
            yield f"“{words} …"
        yield ended.moment.meaning


def _report(console: Console, world: World, numbers: ledger.DemoNumbers) -> None:
    _section(console, "what agentrun recorded")
    print_transcript(agentrun.transcript(numbers.key), console)
    _section(console, "what the outside world says")
    console.print(_table(world, numbers))
    console.print()
    problems = list(numbers.problems())
    for problem in problems:
        console.print(Text(f"Wrong: {problem}", "bold red"))
    if not problems:
        times = "once" if numbers.kills == 1 else f"{numbers.kills} times"
        text = f"Killed {times}. Nothing was done twice, no recorded answer was paid for twice."
        if numbers.kills < ledger.KILLS:
            text += " The agent was done before it reached every moment."
        console.print(Text(text, "bold green"))
    _section(console, "what to try next")
    _print_next_commands(console, numbers.key)


def _table(world: World, numbers: ledger.DemoNumbers) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for style in ("bold", "bold green", "default", "dim"):
        table.add_column(style=style)
    bills = f"for {numbers.model_steps} recorded, {numbers.possibly_billed} in flight at a kill"
    if world.provider is None:
        bills = "as agentrun recorded them; this provider shows no ledger"
    refunded = ", ".join(f"{cents / 100:.2f}" for cents in world.refunds())
    booked = ", ".join(str(pickup["id"]) for pickup in world.carrier.pickups())
    sent = ", ".join(clip(visible(str(mail["subject"])), 60) for mail in world.smtp.messages())
    table.add_row("answers billed", str(numbers.billed), Text("provider"), Text(bills))
    table.add_row("refunds", str(numbers.refunds), Text("shop's table"), Text(refunded))
    table.add_row("pick-ups", str(numbers.pickups), Text("carrier"), Text(booked))
    table.add_row("e-mails", str(numbers.emails), Text("mail server"), Text(sent))
    return table


def _print_next_commands(console: Console, key: str) -> None:
    commands = {
        f"agentrun show {key}": "this transcript again",
        'agentrun sql "select * from agentrun.spend"': "what was paid, and possibly paid",
        'agentrun sql "select * from agentrun.resumes"': "every time a run changed hands",
        "agentrun ls": "the runs in this database",
    }
    if not os.environ.get("AGENTRUN_DATABASE_URL"):
        commands["agentrun doctor --stop"] = "stop Postgres, which runs on"
    for command, why in commands.items():
        console.print(Text(f"{command:<47}", "bold").append(why, "dim"), soft_wrap=True)


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(Text(title, "bold"), align="left", style="dim"))
    console.print()
