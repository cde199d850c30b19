"""The figures: what each measures of us and of others, and what it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from benchmarks import bloat, ours, sizes

Values = Mapping[str, float]  # seconds (or bytes, or ratios) by what was measured, one repeat
Found = Mapping[str, list[float]]  # the same of all repeats
Target = Callable[[Found], tuple[float, bool]]


@dataclass(frozen=True)
class Figure:
    """One figure. ``measure`` gives values by name, `agentrun` among them; ``targets`` say what is
    aimed at, and from the values of all repeats whether it is met."""

    number: str
    name: str  # as the peers' scripts know it
    title: str
    measure: Callable[[str], Values]
    targets: Mapping[str, Target]
    unit: str = "ms"  # without one, each value's name says its own, and none is held against ours
    slow: bool = False  # measured once, not in every repeat
    # What a peer's script measured, brought to the unit of ours.
    of_peer: Callable[[Callable[[str], float], str], float] = lambda measure, dsn: measure(dsn)


def at_most(name: str, limit: float, per: str | None = None) -> Target:
    """``name`` is at most ``limit``, or at most so many times ``per`` in the same repeat."""

    def met(found: Found) -> tuple[float, bool]:
        value = median_of(found[name], found[per] if per else None)
        return value, value <= limit

    return met


def at_least(name: str, limit: float) -> Target:
    """``name`` is at least ``limit``."""

    def met(found: Found) -> tuple[float, bool]:
        value = median(found[name])
        return value, value >= limit

    return met


def rate(name: str, least: float) -> Target:
    """At least so many a second."""

    def met(found: Found) -> tuple[float, bool]:
        value = 1 / median(found[name])
        return value, value >= least

    return met


def times_faster(peer: str, least: float) -> Target:
    """The peer takes at least so many times as long in the same repeat."""

    def met(found: Found) -> tuple[float, bool]:
        value = median_of(found[peer], found["agentrun"])
        return value, value >= least

    return met


def median_of(values: list[float], per: list[float] | None = None) -> float:
    """The median, or that of the ratios within each repeat."""
    if per is None:
        return median(values)
    return median([value / other for value, other in zip(values, per, strict=False)])


def _sequential(dsn: str) -> Values:
    step, insert = ours.sequential(dsn)
    return {"agentrun": step, "plain insert": insert, "pgbench": ours.pgbench(dsn, 1)}


def _in_round_trips(measure: Callable[[str], float], dsn: str) -> float:
    with ours.far_away(dsn) as (far, trip):
        return measure(far) / trip


def _pruned(dsn: str) -> Values:
    beside, alone = ours.pruned(dsn)
    return {"agentrun": beside, "alone": alone}


def _starts(dsn: str) -> Values:
    waits = ours.starts(dsn)
    return {"agentrun": ours.percentile(waits, 0.5), "agentrun p99": max(waits)}


def _takeovers(dsn: str) -> Values:
    waits = ours.takeovers(dsn)
    return {"agentrun": ours.percentile(waits, 0.5), "agentrun worst": max(waits)}


def _wrapped(dsn: str) -> Values:
    plain, recorded = ours.wrapped(dsn)
    return {"plain call": plain, "recorded call": recorded, "agentrun": recorded - plain}


def _long(dsn: str) -> Values:
    whole, step, key = ours.resumed(dsn)
    return {"whole run": whole, "agentrun": step, "show": ours.shown(dsn, key)}


FIGURES = (
    Figure(
        "1", "sequential", "a `once` step, one run, sync",
        _sequential,
        {"x a plain insert, at most 1.3": at_most("agentrun", 1.3, "plain insert")},
    ),
    Figure(
        "2", "async", f"a `once` step, {sizes.RUNS} async runs, one process",
        lambda dsn: {"agentrun": ours.concurrent(dsn), "pgbench": ours.pgbench(dsn, sizes.RUNS)},
        {
            "steps/s, at least 10,000": rate("agentrun", 10_000),
            "x DBOS, at least 20": times_faster("dbos", 20),
            "x Absurd, at least 10": times_faster("absurd", 10),
        },
    ),
    Figure(
        "3", "threads", f"a `once` step, {sizes.RUNS} runs in threads, one process",
        lambda dsn: {"agentrun": ours.threads(dsn)},
        {"x DBOS, at least 10": times_faster("dbos", 10)},
    ),
    Figure(
        "4", "parallel", f"{sizes.PARALLEL} parallel tools of 50 ms in one run",
        lambda dsn: {"agentrun": ours.parallel(dsn)},
        {"s, at most 0.060": at_most("agentrun", 0.060)},
    ),
    Figure(
        "5", "start", "submit to first step, idle worker",
        _starts,
        {
            "s at the median, at most 0.005": at_most("agentrun", 0.005),
            "s at p99, at most 0.020": at_most("agentrun p99", 0.020),
        },
    ),
    Figure(
        "6", "submitted", "a submitted one-step run, two workers, end to end",
        lambda dsn: {"agentrun": ours.submitted(dsn)},
        {
            "runs/s, at least 3,000": rate("agentrun", 3_000),
            "x DBOS, at least 10": times_faster("dbos", 10),
        },
    ),
    Figure(
        "7", "takeover", "SIGKILL to the next step in another process",
        _takeovers,
        {
            "s at the median, at most 1": at_most("agentrun", 1.0),
            "s at worst, at most 3": at_most("agentrun worst", 3.0),
        },
        slow=True,
    ),
    Figure(
        "8, 14", "replay", f"a run of {sizes.LONG:,} steps: a replayed step, resumed whole, shown",
        _long,
        {
            "s a replayed step, at most 0.00003": at_most("agentrun", 0.00003),
            "s the whole run, at most 0.5": at_most("whole run", 0.5),
            "s to show, at most 0.5": at_most("show", 0.5),
            "x DBOS": times_faster("dbos", 1),
        },
        slow=True,
    ),
    Figure(
        "9", "storage", f"{sizes.TURNS} turns of 4 KB new text: bytes stored a byte of it",
        ours.storage,
        {
            "x the new text, at most 1.2": at_most("agentrun", 1.2),
            "where it is prose": at_most("agentrun, prose", 1.2),
        },
        unit="x", slow=True,
    ),
    Figure(
        "10", "claims",
        f"a claim beside {sizes.FINISHED:,} finished runs, {sizes.SLEEPING:,} asleep, "
        f"{sizes.WAITING:,} waiting",
        ours.claims,
        {
            "x an empty database, at most 1.5": at_most("agentrun", 1.5, "agentrun, empty"),
            "x, a look that finds nothing": at_most("look", 1.5, "look, empty"),
            "x, a whole one-step run": at_most("run", 1.5, "run, empty"),
        },
        slow=True,
    ),
    Figure(
        "11", "held",
        f"{sizes.PARKED:,} waiting and {sizes.ACTIVE:,} active runs in one process: the longest "
        "that an active one had no step, by the mean",
        ours.held,
        {"x the mean, at most 5": at_most("agentrun", 5)},
        unit="", slow=True,
    ),
    Figure(
        "12", "wrapped", "what `wrap` adds to a model call",
        _wrapped,
        {"s, at most 0.001": at_most("agentrun", 0.001)},
    ),
    Figure(
        "13", "distant", "round trips of a `once` step, 3 ms from the database",
        lambda dsn: {"agentrun": ours.distant(dsn)},
        {"round trips, at most 1.3": at_most("agentrun", 1.3)},
        unit="x", of_peer=_in_round_trips,
    ),
    Figure(
        "15", "pruned", "figure 2 while another process prunes what has ended",
        _pruned,
        {"x alone, at most 1.1": at_most("agentrun", 1.1, "alone")},
    ),
    Figure(
        "16", "bloat", "a worker's look that finds nothing, while a reader stays, by afterwards",
        bloat.with_a_reader,
        {
            "HOT heartbeats, at least 0.95": at_least("HOT beats", 0.95),
            "with the reader": at_least("HOT beats, reader", 0.95),
            "x the look after a vacuum": at_most("agentrun", 20),
        },
        unit="", slow=True,
    ),
)  # fmt: skip
