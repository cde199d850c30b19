"""What a crash test found, for people, for pytest and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Doubt", "Finding", "Report"]


@dataclass(frozen=True)
class Finding:
    """One fault of the agent, however many kills showed it."""

    kind: str  # as listed in `agentrun.testing.crash`
    what: str  # a sentence
    way_out: str
    step: int | None = None  # the integer that `show` prints, in the run that showed it first
    name: str = ""  # the step's: tool, function or model
    place: str = ""  # file:line
    points: tuple[str, ...] = ()  # where the processes that showed it had been killed
    kills: int = 0  # how many kills showed it; 0 if it shows without one
    detail: str = ""  # several lines: a diff, the end of what the process printed

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        step = f" [step {self.step}, {self.name}]" if self.name else ""
        seen = f" ({_counted(self.kills, 'kill')}: {', '.join(self.points)})" if self.kills else ""
        detail = "".join(f"\n    {line}" for line in self.detail.splitlines())
        return f"{self.kind}{step}{where}: {self.what}{seen}{detail}\n    → {self.way_out}"


@dataclass(frozen=True)
class Doubt:
    """A `once` step that a crash left in doubt, with no `reconcile` to tell; that is no fault."""

    name: str
    decided: str  # "held" for a person, or what its on_doubt= decided
    points: tuple[str, ...]
    kills: int

    def __str__(self) -> str:
        seen = f"{self.decided}; {_counted(self.kills, 'kill')}: {', '.join(self.points)}"
        return f"in doubt: {self.name} ({seen}); a reconcile= could tell"


@dataclass(frozen=True)
class Report:
    """What a crash test of one agent found."""

    agent: str
    points: int  # that an undisturbed run passes
    killed: tuple[str, ...]  # the point of each kill
    processes: int
    seconds: float
    findings: tuple[Finding, ...]
    doubts: tuple[Doubt, ...]
    notes: tuple[str, ...]  # what the test could not see or compare

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def summary(self) -> str:
        """The whole in a line."""
        found = _counted(len(self.findings), "finding") if self.findings else "nothing found"
        doubts = sum(doubt.kills for doubt in self.doubts)
        in_doubt = f", {_counted(doubts, 'kill')} in doubt" if doubts else ""
        return (
            f"{self.agent}: {found}{in_doubt}; {_counted(len(self.killed), 'kill')}, "
            f"{self.processes} processes, {self.seconds:.1f} s"
        )

    def check(self) -> None:
        """Raise AssertionError with everything that was found, if anything was."""
        if not self.clean:
            raise AssertionError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """As `agentrun crashtest --json` prints it."""
        return {
            "agent": self.agent,
            "clean": self.clean,
            "points": self.points,
            "kills": len(self.killed),
            "killed_at": dict(Counter(self.killed)),
            "processes": self.processes,
            "seconds": round(self.seconds, 3),
            "findings": [asdict(finding) for finding in self.findings],
            "doubts": [asdict(doubt) for doubt in self.doubts],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        parts = [self.summary, *map(str, self.findings), *map(str, self.doubts), *self.notes]
        return "\n".join(parts)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
