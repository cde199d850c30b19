"""The numbers of a demo: those of the outside world, beside those that agentrun recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import agentrun
from agentrun.demo.world import World

__all__ = ["KILLS", "DemoNumbers", "read_numbers"]

KILLS = 3


@dataclass(frozen=True)
class DemoNumbers:
    """The numbers of one demo.

    Only ``model_steps`` and ``possibly_billed`` come from agentrun's journal. The others come from
    the outside world.
    """

    kills: int
    model_steps: int  # answers that agentrun recorded
    billed: int  # answers that the double billed; for a real provider, a copy of `model_steps`
    possibly_billed: int  # calls in flight at a kill, by agentrun's journal
    emails: int  # by Message-ID
    refunds: int
    pickups: int
    seconds: float
    key: str
    scripted: bool  # the double plays the model: it reaches every moment and calls every tool

    def problems(self) -> Iterator[str]:
        """Sentences about numbers that break a promise of agentrun."""
        if self.billed > self.model_steps + self.possibly_billed:
            yield f"{self.billed} answers billed for {self.model_steps} recorded"
        if self.possibly_billed > 1:
            yield f"{self.possibly_billed} answers possibly billed, at most 1 was in flight"
        acts = {"e-mails": self.emails, "refunds": self.refunds, "pick-ups": self.pickups}
        for what, count in acts.items():
            if count > 1 or (count < 1 and self.scripted):
                yield f"{count} {what}, not 1"
        if self.scripted and self.kills != KILLS:
            yield f"{self.kills} kills, not {KILLS}"

    def numbers(self) -> dict[str, float | str]:
        """The numbers that `agentrun demo --json` prints."""
        names = ("kills", "model_steps", "billed", "possibly_billed", "emails", "refunds")
        return {name: getattr(self, name) for name in (*names, "pickups", "seconds", "key")}


def read_numbers(world: World, key: str, kills: int, seconds: float) -> DemoNumbers:
    """Read the numbers from the doubles, the shop and the journal."""
    transcript = agentrun.transcript(key)
    steps = sum(step.kind == "model" and step.status == "ok" for step in transcript.steps)
    return DemoNumbers(
        kills=kills,
        model_steps=steps,
        billed=world.provider.billed() if world.provider else steps,
        possibly_billed=transcript.totals.possibly_billed,
        emails=world.smtp.distinct(),
        refunds=len(world.refunds()),
        pickups=len(world.carrier.pickups()),
        seconds=round(seconds, 1),
        key=key,
        scripted=world.provider is not None,
    )
