"""Concludes the findings of a crash test from its evidence.

The functions here are pure: the runs have ended, and their traces, journals and bills have been
read (`runner`). One fault of the agent may explain several differences, so a rule that names a
cause comes before the rules that only compare outcomes. For example, the result of a run is not
compared if the run ended in doubt or its ``reconcile`` reported the wrong answer.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentrun.testing.crash.diary import Note, Trace
from agentrun.testing.crash.outside_world import VARIES, common_part, describe_differences
from agentrun.testing.crash.prefix import Prefixes, compare_prefixes
from agentrun.testing.crash.report import Finding, ReportedDoubt
from agentrun.testing.ledger import Entry

__all__ = [
    "Case",
    "Evidence",
    "JournaledStep",
    "find_doubts",
    "find_faults",
    "list_untested",
    "measure_prefixes",
    "read_steps",
]

_WAY_OUT = {
    "divergence": "take times, random numbers and other changing data from agentrun.now(), rng(), "
    "uuid(), or from a @agentrun.step",
    "repeated": "pass its idempotency_key to the service that it calls, and have the service act "
    'once for each key; or declare effect="once" with reconcile=',
    "repeated read": "a `read` step must change nothing; declare the effect class that it has",
    "repeated transaction": "the body of a `transaction` step must only do SQL on "
    "current_step().connection",
    "no key": "send current_step().key along (Idempotency-Key, a reference, a Message-ID); or "
    'declare effect="once" with reconcile=; or show by --world that sending it again is harmless',
    "outside": "do it in a tool or a @agentrun.step: only steps are recorded and not repeated",
    "paid twice": "client = agentrun.wrap(client): only calls of a wrapped client are recorded",
    "unrecorded": "client = agentrun.wrap(client); or agentrun.install() for code that makes its "
    "own httpx client; or make the call in a tool or a @agentrun.step",
    "cache": "put changing data (times, ids, process ids) at the end of the conversation, or take "
    "it from agentrun.now(), uuid(), rng(), so that a resumed run sends the same",
    "wrong reconcile": "in reconcile(key, …) look up this key, and have the body store it before "
    "it acts",
    "values": "return a value that its record restores unchanged: plain data, or dataclasses and "
    "models whose validators and defaults read no clock, random number or environment",
    "exceptions": "raise a class that is defined when the file is imported, keep its data in plain "
    "arguments or attributes, and compute nothing in its class from the process, clock or chance",
    "result": "compute the result from recorded steps and the arguments alone",
    "outside differs": "move every effect into a tool or a @agentrun.step",
    "no end": "read its output; --timeout allows more time",
}
_REPEATABLE = frozenset({"idempotent", "transaction"})


@dataclass
class JournaledStep:
    """One step of one run, read from the journal."""

    run: str
    number: int
    kind: str
    name: str
    effect: str
    ident: str
    key: str
    attempts: int = 1
    recorded: int | None = None  # the claim (epoch) that recorded its outcome
    decisions: list[tuple[str, str]] = field(default_factory=list)  # (outcome, decided by)


@dataclass(frozen=True)
class Case:
    """One run: its first process and, if that was killed, the process that resumed the run."""

    key: str
    first: Trace
    second: Trace | None
    outside: dict[str, Any]  # its changes outside: `outside_world.changes_left`
    point: str = ""  # where the first process was killed

    @property
    def last(self) -> Trace:
        """The process in which the run ended."""
        return self.second or self.first

    def outcome(self) -> dict[str, Any]:
        """The end of the run, in the form in which runs are compared."""
        end = self.last.end
        results = {"held": None, "done": end.get("result")}
        return {"how": end["how"], "result": results.get(end["how"], end.get("message"))}

    @property
    def is_conclusive(self) -> bool:
        """Whether findings may be concluded from the case.

        If the run was done or held before the point of its kill, the case shows nothing.
        """
        return self.first.killed or self.first.end["how"] not in ("done", "held")

    def traces(self) -> list[Trace]:
        """The traces of its one or two processes."""
        return [self.first] if self.second is None else [self.first, self.second]


@dataclass(frozen=True)
class Evidence:
    """The evidence of one crash test."""

    calm: tuple[Case, Case]  # undisturbed runs; the clock of the second is ahead
    cases: Sequence[Case]  # killed runs that are conclusive
    steps: dict[str, JournaledStep]  # by key
    claims: dict[str, int]  # for each run, how often it was claimed
    bills: Sequence[Entry]
    entry: str  # the first line of the agent
    has_world: bool
    traces: Sequence[Trace] = ()  # of every process, also of inconclusive cases
    requests: Sequence[Entry] | None = None  # all, with texts; None: prefixes are not compared

    def step(self, key: str) -> JournaledStep:
        """The step with this key; a nameless one if no journal has it."""
        return self.steps.get(key) or JournaledStep("", 0, "", "a step", "", "", key)


def read_steps(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, JournaledStep], dict[str, int]]:
    """Read the steps by key and the claims by run from the rows of the journal, in order."""
    steps: dict[str, JournaledStep] = {}
    numbered: dict[tuple[str, int], JournaledStep] = {}
    claims: dict[str, int] = {}
    for row in rows:
        claims[row["run"]] = row["epoch"]
        at = (row["run"], row["step"])
        if row["event"] in ("attempt_started", "step_finished") and at not in numbered:
            about = {name: row[name] for name in ("kind", "name", "effect", "ident", "key")}
            numbered[at] = steps[row["key"]] = JournaledStep(row["run"], row["step"], **about)
        if (step := numbered.get(at)) is None:
            continue
        step.attempts = max(step.attempts, row["attempt"] or 1)
        if row["event"] == "step_finished":
            step.recorded = row["epoch"]
        elif row["event"] == "resolved":
            step.decisions.append((row["status"], row["by"] or ""))
    return steps, claims


# -- findings --------------------------------------------------------------------------------------


def find_faults(evidence: Evidence) -> list[Finding]:
    """Every fault, in the order of `_WAY_OUT`; equal faults of several kills are merged."""
    found = [
        *_find_unexplained_bills(evidence),
        *_find_changed_prefixes(evidence),
        *_find_effects_outside_steps(evidence),
    ]
    for case in evidence.cases:
        found += _find_in_case(evidence, case)
    order = list(_WAY_OUT)
    merged: dict[tuple[Any, ...], Finding] = {}
    for one in found:
        alike = (one.kind, one.name, one.place, one.what if not one.place else "")
        merged[alike] = _merge(merged.get(alike), one)
    return sorted(merged.values(), key=lambda finding: order.index(finding.kind))


def _merge(known: Finding | None, new: Finding) -> Finding:
    if known is None:
        return new
    points = tuple(dict.fromkeys([*known.points, *new.points]))
    return Finding(**{**vars(known), "points": points, "kills": known.kills + new.kills})


def _finding(
    kind: str,
    what: str,
    case: Case | None = None,
    step: JournaledStep | None = None,
    *,
    place: str = "",
    detail: str = "",
    way_out: str = "",
) -> Finding:
    return Finding(
        kind=kind,
        what=what,
        way_out=_WAY_OUT[way_out or kind],
        step=step.number if step else None,
        name=step.name if step else "",
        place=_relative_place(place),
        points=(case.point,) if case else (),
        kills=1 if case else 0,
        detail=detail,
    )


def _relative_place(place: str) -> str:
    """A place, relative to the current folder where that is possible."""
    here = str(Path.cwd()) + os.sep
    return place.removeprefix(here)


def _find_in_case(evidence: Evidence, case: Case) -> Iterator[Finding]:
    end = case.last.end
    if end["how"] == "diverged":
        step = _diverged_step(evidence, case)
        place = end["place"] or evidence.entry
        what = end["message"].partition(":\n")[0]
        yield _finding("divergence", what, case, step, place=place, detail=end["diff"])
    elif end["how"] in ("", "error"):
        yield _finding("no end", _describe_death(case.last), case, detail=case.last.log)
    else:
        wrong = list(_find_wrong_reconciles(evidence, case))
        yield from wrong
        yield from _find_recorded_performed_again(evidence, case)
        yield from _find_changed_values(evidence, case)
        if not _doubt_of(evidence, case) and not wrong:
            yield from _find_changed_result(evidence, case)
            yield from _find_changed_outside(evidence, case)
            yield from _find_missing_keys(evidence, case)


def _diverged_step(evidence: Evidence, case: Case) -> JournaledStep | None:
    """The recorded step at which the code diverged."""
    named = re.search(r"step (\d+)", case.last.end["message"])
    own = (step for step in evidence.steps.values() if step.run == case.key)
    return next((step for step in own if named and step.number == int(named[1])), None)


def _describe_death(trace: Trace) -> str:
    if trace.end["how"] == "error":
        return f"the run's last process ended in {trace.end['message']}"
    if trace.code == -signal.SIGALRM:
        return "the run's last process did not end in time"
    return f"the run's last process ended with {trace.code}"


def _find_wrong_reconciles(evidence: Evidence, case: Case) -> Iterator[Finding]:
    began, ended = case.first.body_keys("before"), case.first.body_keys("after")
    if case.point == "body:before":
        del began[-1]
    for step in _steps_of_case(evidence, case):
        for status, by in step.decisions:
            if by.startswith("reconcile") and status == "not_happened" and step.key in ended:
                what = f"{by} said that {step.name} had not happened, though its body had ended"
                yield _finding("wrong reconcile", what, case, step)
            if by.startswith("reconcile") and status == "happened" and step.key not in began:
                what = f"{by} said that {step.name} had happened, though its body never began"
                yield _finding("wrong reconcile", what, case, step)


def _find_recorded_performed_again(evidence: Evidence, case: Case) -> Iterator[Finding]:
    for key in case.last.body_keys("before") if case.second else ():
        step = evidence.step(key)
        if step.recorded is not None and step.recorded < evidence.claims[step.run]:
            what = f"{step.name} was performed again though its outcome was recorded"
            yield _finding("repeated", what, case, step)


def _find_changed_values(evidence: Evidence, case: Case) -> Iterator[Finding]:
    """Find steps whose value or exception on resume differs from the one that the code saw live.

    A step whose body ran again on resume is left out: a new attempt may return something new.
    """
    if case.second is None:
        return
    again = set(case.second.body_keys("before"))
    live = {note["key"]: note for note in case.first.notes_of("seen") if note["key"] not in again}
    for now in case.second.notes_of("seen"):
        was = live.pop(now["key"], None)
        if was is None or (was["how"], was["mark"]) == (now["how"], now["mark"]):
            continue
        step = evidence.step(now["key"])
        kind = "exceptions" if "exception" in (was["how"], now["how"]) else "values"
        what = f"the {was['how']} of {step.name} on a resume differs from the one it gave live"
        detail = f"live:   {was['text']}\nresume: {now['text']}"
        yield _finding(kind, what, case, step, detail=detail)


def _find_changed_result(evidence: Evidence, case: Case) -> Iterator[Finding]:
    one, other = (calm.outcome() for calm in evidence.calm)
    common = common_part(one, other)
    for difference in describe_differences(common, case.outcome()):
        yield _finding("result", f"the run ended differently: {difference}", case)
        return


def _find_changed_outside(evidence: Evidence, case: Case) -> Iterator[Finding]:
    outside = "; ".join(_outside_differences(evidence, case))
    step = next(_steps_performed_twice(evidence, case), None)
    if outside and step is None:
        yield _finding("outside differs", outside, case)
    elif outside and step is not None:
        way_out = f"repeated {step.effect}" if step.effect in ("read", "transaction") else ""
        what = f"{step.name} ({step.effect}) was performed twice with one key. {outside}"
        place = _place_of_step(step.key, case)
        yield _finding("repeated", what, case, step, place=place, way_out=way_out)


def _outside_differences(evidence: Evidence, case: Case) -> Iterator[str]:
    """Differences between the changes of a run and those of undisturbed runs, a line for each."""
    one, other = (calm.outside for calm in evidence.calm)
    for name in sorted(set(one) & set(other)):
        common, seen = common_part(one[name], other[name]), case.outside.get(name, {})
        for part in ("change", "now"):
            found = list(describe_differences(common[part], seen.get(part), _relative_place(name)))
            if found:
                yield found[0]
                break


def _steps_performed_twice(evidence: Evidence, case: Case) -> Iterator[JournaledStep]:
    """Steps whose body ran in both processes; first those whose body had ended in the first."""
    if case.second is None:
        return
    again = set(case.second.body_keys("before"))
    for side in ("after", "before"):
        yield from (evidence.step(key) for key in case.first.body_keys(side) if key in again)


def _place_of_step(key: str, case: Case) -> str:
    noted = [note for trace in case.traces() for note in trace.notes]
    places = [note["place"] for note in noted if note.get("key") == key and note.get("place")]
    return places[0] if places else ""


def _find_missing_keys(evidence: Evidence, case: Case) -> Iterator[Finding]:
    """Find repeated steps whose request carries no key, so that its receiver sees two requests."""
    if evidence.has_world or case.second is None:
        return  # the world shows whether the second request acted, which is better evidence
    again = set(case.second.body_keys("before"))
    for key in dict.fromkeys(case.first.body_keys("after")):
        step = evidence.step(key)
        sent = [note for note in case.second.notes_of("sent") if note["key"] == key]
        harmful = [note for note in sent if note["verb"]]
        repeated = key in again and step.effect in _REPEATABLE and harmful
        keyed = any(note["keyed"] for note in sent) or _sends_derived_data(evidence, case, step)
        if repeated and not keyed:
            what = f"{step.name} sent {harmful[0]['verb']} again, without its key"
            yield _finding("no key", what, case, step, place=harmful[0]["place"] or "")


def _sends_derived_data(evidence: Evidence, case: Case, step: JournaledStep) -> bool:
    """Whether the data that a step sends is derived from its key and nothing else that changes.

    Such data holds no key in plain text, but identifies the step as well as a key does. It shows
    in this: both attempts send the same data, and the same step of another run sends other data.
    """
    first, second = (_sent_digests(trace.notes_of("sent"), step.key) for trace in case.traces())
    calm = evidence.calm[0]
    twin = [other for other in _steps_of_case(evidence, calm) if other.ident == step.ident]
    return (
        first == second
        and bool(twin)
        and first != _sent_digests(calm.first.notes_of("sent"), twin[0].key)
    )


def _sent_digests(sent: Iterable[Note], key: str) -> list[str]:
    return [note["digest"] for note in sent if note["key"] == key]


def _steps_of_case(evidence: Evidence, case: Case) -> list[JournaledStep]:
    """The steps of a run and of its child runs."""
    return [s for s in evidence.steps.values() if f"{s.run}/".startswith(f"{case.key}/")]


def _find_effects_outside_steps(evidence: Evidence) -> Iterator[Finding]:
    """Find effects of the agent's code that happened outside any step."""
    counts: dict[tuple[str, str], int] = {}
    for case in [*evidence.calm, *evidence.cases]:
        for trace in case.traces():
            outside = [
                note for note in trace.notes_of("touch") if not note["key"] and not note["model"]
            ]
            for at in dict.fromkeys((n["place"] or evidence.entry, n["what"]) for n in outside):
                counts[at] = counts.get(at, 0) + 1
    for (place, what), processes in counts.items():
        yield _finding("outside", f"{what}, in {processes} processes", place=place)


def _find_unexplained_bills(evidence: Evidence) -> Iterator[Finding]:
    """Find model calls that were billed more often than attempted, or by a client without wrap."""
    billed = Counter(bill.idempotency_key for bill in evidence.bills)
    for key, step in evidence.steps.items():
        if billed[key] > step.attempts:
            what = f"{step.name} was billed {billed[key]} times for {step.attempts} attempts"
            yield _finding("paid twice", what, None, step)
    traces = [trace for case in [*evidence.calm, *evidence.cases] for trace in case.traces()]
    asked = [n for trace in traces for n in trace.notes_of("touch") if n["model"] and not n["key"]]
    if not asked:
        yield from _find_unrecorded_bills(evidence)
    unrecorded = sum(count for key, count in billed.items() if key not in evidence.steps)
    for place in dict.fromkeys(note["place"] or evidence.entry for note in asked):
        what = (
            "a client that does not record calls a model, so each resume calls it and pays "
            f"again: {unrecorded} answers in {len(traces)} processes"
        )
        yield _finding("paid twice", what, place=place)


def _find_unrecorded_bills(evidence: Evidence) -> Iterator[Finding]:
    """Find bills of requests that no journal records.

    A request that the body of a step sends with its own client counts as recorded: the step is.
    """
    paid = Counter(
        bill.path for bill in evidence.bills if bill.idempotency_key not in evidence.steps
    )
    sent = Counter(note["verb"] for trace in evidence.traces for note in trace.notes_of("sent"))
    for path, count in paid.items():
        if (lost := count - sent[f"POST {path}"]) > 0:
            what = (
                f"POST {path} was billed {lost} times and is in no journal, so each resume pays "
                f"for it again: {lost} answers in {len(evidence.traces)} processes"
            )
            yield _finding("unrecorded", what)


def measure_prefixes(evidence: Evidence) -> Prefixes | None:
    """Compare the prefixes of model requests; None if the test does not compare them."""
    if evidence.requests is None:
        return None
    calm, killed = ([c.key for c in cases] for cases in (evidence.calm, evidence.cases))
    return compare_prefixes(evidence.requests, evidence.steps, calm, killed)


def _find_changed_prefixes(evidence: Evidence) -> Iterator[Finding]:
    compared = measure_prefixes(evidence)
    cases = {case.key: case for case in evidence.cases}
    for change in compared.changes if compared is not None else ():
        step = evidence.step(change.key)
        what = f"{step.name} was called with another prefix than in an undisturbed run"
        detail = f"{change.bytes:,} bytes that the provider does not find in its cache"
        yield _finding("cache", what, cases[change.run], step, detail=detail)


# -- doubts and limits, which are no faults --------------------------------------------------------


def _doubt_of(evidence: Evidence, case: Case) -> tuple[str, str] | None:
    """The step that a kill left in doubt, and the decision about it; None if there is none."""
    end, own = case.last.end, _steps_of_case(evidence, case)
    for step in own:
        for status, by in step.decisions:
            if by == "on_doubt":
                return step.name, status
    if end["how"] == "held" and evidence.calm[0].last.end["how"] != "held":
        named = [step.name for step in own if step.number == end["step"]]
        return (named[0] if named else "a step"), "held"
    return None


def find_doubts(evidence: Evidence) -> list[ReportedDoubt]:
    """The `once` steps that kills left in doubt."""
    met: dict[tuple[str, str], list[str]] = {}
    for case in evidence.cases:
        if case.last.end["how"] != "diverged" and (doubt := _doubt_of(evidence, case)):
            met.setdefault(doubt, []).append(case.point)
    return [
        ReportedDoubt(name, decided, tuple(dict.fromkeys(points)), len(points))
        for (name, decided), points in met.items()
    ]


def list_untested(evidence: Evidence) -> list[str]:
    """Sentences about the parts of the agent that this test could not see or compare."""
    limits = []
    calm = evidence.calm[0].first
    if calm.end["how"] == "held":
        limits.append(f"nothing was tested after this point: {calm.end['message']}")
    if not calm.body_keys("before"):
        limits.append("no tool was called: have the model call one (--script, --replies)")
    one, other = (calm.outcome() for calm in evidence.calm)
    common = common_part(one, other)
    if not isinstance(common, dict) or VARIES in common.values():
        limits.append("the result is not compared: undisturbed runs differ in it")
    one, other = (calm.outside for calm in evidence.calm)
    for name in sorted(set(one) & set(other)):
        parts = common_part(one[name], other[name])
        if all(parts[part] is VARIES for part in ("change", "now")):
            limits.append(f"{_relative_place(name)} is not compared: undisturbed runs differ in it")
    return limits
