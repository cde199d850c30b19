"""The world outside: a provider and a carrier, each a process that syncs a line for each effect.

Agents act through `Outside`; the proof reads what became of it from the ledgers of the doubles.
Nothing is counted inside a worker.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun.testing import Carrier, Provider, Rule


@dataclass
class Effects:
    """What one run and its children did outside, by idempotency key."""

    billed: Counter[str] = field(default_factory=Counter)  # answers of the provider
    acted: Counter[str] = field(default_factory=Counter)  # bookings at the carrier

    @property
    def all(self) -> Counter[str]:
        return self.billed + self.acted


class Outside:
    """The doubles, and the clients through which agents reach them.

    The clients, dear to make, are made before a child is forked; they bring no connection into it.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [*rules]

    @contextmanager
    def opened(self, folder: Path) -> Iterator[None]:
        """The doubles are there; they keep their ledgers in a folder."""
        with (
            Provider(rules=self._rules, ledger=folder / "provider.jsonl") as self.provider,
            Carrier(ledger=folder / "carrier.jsonl") as self.carrier,
        ):
            alone = {"connection": "close"}  # no connection outlives its request
            here: Any = {"base_url": self.provider.base_url, "api_key": "k"}
            self.client = agentrun.wrap(OpenAI(**here, default_headers=alone))
            self.aclient = agentrun.wrap(AsyncOpenAI(**here, default_headers=alone))
            self.held = agentrun.wrap(OpenAI(**here, default_headers=alone), inflight="background")
            self.aheld = agentrun.wrap(
                AsyncOpenAI(**here, default_headers=alone), inflight="background"
            )
            self._http = httpx.Client(base_url=self.carrier.url, headers=alone)
            self._ahttp = httpx.AsyncClient(base_url=self.carrier.url, headers=alone)
            yield

    # -- what tools do ---------------------------------------------------------------------------

    def act(self, key: str, what: str) -> None:
        """Do something that would be done again if asked again."""
        self._http.post("/pickups", json=_booking(key, what)).raise_for_status()

    async def aact(self, key: str, what: str) -> None:
        """`act`, awaited."""
        (await self._ahttp.post("/pickups", json=_booking(key, what))).raise_for_status()

    def done(self, key: str) -> bool:
        """Whether something was done under this key."""
        return bool(self._http.get("/pickups", params={"reference": key}).json()["pickups"])

    async def adone(self, key: str) -> bool:
        """`done`, awaited."""
        found = await self._ahttp.get("/pickups", params={"reference": key})
        return bool(found.json()["pickups"])

    # -- what the proof asks -----------------------------------------------------------------------

    def mark(self) -> tuple[int, int]:
        """The ends of the ledgers, to read from there."""
        return tuple(path.stat().st_size for path in self._ledgers())  # type: ignore[return-value]

    def effects(self, run: str, since: tuple[int, int]) -> Effects:
        """What was done outside by a run and its children since then."""
        provider, carrier = self._ledgers()
        return Effects(
            _effects(_lines(provider, since[0]), lambda line: _asker(line, run)),
            _effects(_lines(carrier, since[1]), lambda line: _booker(line, run)),
        )

    def _ledgers(self) -> tuple[Path, Path]:
        return self.provider.ledger_path, self.carrier.ledger_path


def _booking(key: str, what: str) -> dict[str, str]:
    run = agentrun.current_run()
    assert run is not None
    return {"reference": key, "what": what, "run": run.key.partition("/")[0]}


def _lines(ledger: Path, since: int) -> list[dict[str, Any]]:
    """The lines that begin there or later: the mark may be in one that was being written."""
    with ledger.open("rb") as file:
        file.seek(max(0, since - 1))
        text = file.read()
    if since:
        text = text.partition(b"\n")[2]
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def _effects(lines: list[dict[str, Any]], key_of: Callable[[Any], str | None]) -> Counter[str]:
    keys = {line["id"]: key_of(line) for line in lines if line["event"] == "received"}
    done = [keys.get(line["id"]) for line in lines if line["event"] == "effect"]
    return Counter(key for key in done if key is not None)


def _asker(line: dict[str, Any], run: str) -> str | None:
    """The idempotency key of a model call of this run."""
    body = line["body"] or {}  # what is asked about a response that is under way has none
    conversation = body.get("messages") or body.get("input") or [{"content": ""}]
    said = str(conversation[0]["content"])
    return str(line["headers"]["idempotency-key"]) if f", run {run}." in said else None


def _booker(line: dict[str, Any], run: str) -> str | None:
    """The idempotency key of a booking of this run."""
    body = line["body"]
    return str(body["reference"]) if isinstance(body, dict) and body["run"] == run else None
