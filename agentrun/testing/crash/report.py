"""The result of a crash test: as text for people, as an AssertionError for pytest, and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from agentrun.testing.crash.prefix import Prefixes

__all__ = ["Finding", "Report", "ReportedDoubt"]


@dataclass(frozen=True)
class Finding:
    """One fault of the agent. Several kills may have shown the same fault."""

    kind: str  # as listed in `agentrun.testing.crash`
    what: str  # a sentence
    way_out: str  # how to change the agent
    step: int | None = None  # the integer that `show` prints, in the first run with this fault
    name: str = ""  # of the step: a tool, function or model
    place: str = ""  # file:line
    points: tuple[str, ...] = ()  # the points of the kills that showed the fault
    kills: int = 0  # how many kills showed it; 0 if it shows without a kill
    detail: str = ""  # several lines: a diff, or the end of the output of the process

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        step = f" [step {self.step}, {self.name}]" if self.name else ""
        seen = f" ({_count_of(self.kills, 'kill')}: {', '.join(self.points)})" if self.kills else ""
        detail = "".join(f"\n    {line}" for line in self.detail.splitlines())
        return f"{self.kind}{step}{where}: {self.what}{seen}{detail}\n    → {self.way_out}"


@dataclass(frozen=True)
class ReportedDoubt:
    """A `once` step without `reconcile` that kills left in doubt. A doubt is no fault."""

    name: str
    decided: str  # "held" for a person, or the decision of its on_doubt=
    points: tuple[str, ...]
    kills: int

    def __str__(self) -> str:
        kills = f"{_count_of(self.kills, 'kill')}: {', '.join(self.points)}"
        return f"in doubt: {self.name} ({self.decided}; {kills}); a reconcile= could decide"


@dataclass(frozen=True)
class Report:
    """The result of a crash test of one agent."""

    agent: str
    points: int  # how many points an undisturbed run passes
    killed: tuple[str, ...]  # the point of each kill
    processes: int
    seconds: float
    findings: tuple[Finding, ...]
    doubts: tuple[ReportedDoubt, ...]
    notes: tuple[str, ...]  # limits of this test: the parts that it could not see or compare
    prefixes: Prefixes | None = None  # the prefix comparison, with cache=True

    @property
    def clean(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    @property
    def summary(self) -> str:
        """The report in one line."""
        found = _count_of(len(self.findings), "finding") if self.findings else "nothing found"
        doubts = sum(doubt.kills for doubt in self.doubts)
        in_doubt = f", {_count_of(doubts, 'kill')} in doubt" if doubts else ""
        return (
            f"{self.agent}: {found}{in_doubt}; {_count_of(len(self.killed), 'kill')}, "
            f"{self.processes} processes, {self.seconds:.1f} s{self._prefix_summary}"
        )

    @property
    def _prefix_summary(self) -> str:
        if self.prefixes is None:
            return ""
        changed = f"; changed prefix bytes: {self.prefixes.changed_bytes:,}"
        return f"{changed} of {self.prefixes.bytes:,} in {self.prefixes.requests} requests"

    def check(self) -> None:
        """Raise AssertionError with the whole report if there are findings."""
        if not self.clean:
            raise AssertionError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The report as data, as `agentrun crashtest --json` prints it."""
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
            **self._prefix_counts(),
        }

    def _prefix_counts(self) -> dict[str, Any]:
        if (prefixes := self.prefixes) is None:
            return {}
        counts = {"requests": prefixes.requests, "bytes": prefixes.bytes}
        return {"prefixes": {**counts, "changed_bytes": prefixes.changed_bytes}}

    def __str__(self) -> str:
        parts = [self.summary, *map(str, self.findings), *map(str, self.doubts), *self.notes]
        return "\n".join(parts)


def _count_of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
