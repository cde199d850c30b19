"""What the evidence of a crash test says; all of it has been run and read before."""

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
from agentrun.testing.crash.outside import VARIES, differences, steady
from agentrun.testing.crash.report import Doubt, Finding
from agentrun.testing.ledger import Entry

__all__ = ["Case", "Evidence", "Step", "doubts", "findings", "notes", "steps_of"]

_WAY_OUT = {
    "divergence": "take time, randomness and what changes by itself from agentrun.now(), rng(), "
    "uuid(), or from a @agentrun.step",
    "repeated": "hand its idempotency_key on to what it calls, and have that act once a key; or "
    'declare effect="once" with reconcile=',
    "repeated read": "a `read` step changes nothing; declare what it does",
    "repeated transaction": "a `transaction` body does SQL on current_step().connection and "
    "nothing else",
    "no key": "send current_step().key along (Idempotency-Key, a reference, a Message-ID); or "
    'declare effect="once" with reconcile=; or show by --world that sending it again is harmless',
    "outside": "do it in a tool or a @agentrun.step: only a step is recorded and not done again",
    "paid twice": "client = agentrun.wrap(client): only what a wrapped client asks is recorded",
    "wrong reconcile": "look in reconcile(key, …) for this very key, where the body puts it first",
    "result": "let the result follow from recorded steps and from the arguments alone",
    "outside differs": "do everything that acts in a tool or a @agentrun.step",
    "no end": "see what it printed; --timeout gives it longer",
}
_REPEATED = frozenset({"idempotent", "transaction"})


@dataclass
class Step:
    """One step of one run, as the journal has it."""

    run: str
    number: int
    kind: str
    name: str
    effect: str
    ident: str
    key: str
    attempts: int = 1
    recorded: int | None = None  # the claim (epoch) that recorded its outcome
    decisions: list[tuple[str, str]] = field(default_factory=list)  # what, and by whom


@dataclass(frozen=True)
class Case:
    """One run: its first process and, if that was killed, the one that resumed it."""

    key: str
    first: Trace
    second: Trace | None
    seen: dict[str, Any]  # what it left outside: `outside.observed`
    point: str = ""  # where the first process was killed

    @property
    def last(self) -> Trace:
        """The process in which the run came to its end."""
        return self.second or self.first

    def outcome(self) -> dict[str, Any]:
        """How the run ended, as it is compared with others."""
        end = self.last.end
        told = {"held": None, "done": end.get("result")}
        return {"how": end["how"], "result": told.get(end["how"], end.get("message"))}

    @property
    def tells(self) -> bool:
        """Whether something may be concluded: its first process met its kill, or came to grief."""
        return self.first.killed or self.first.end["how"] not in ("done", "held")

    def traces(self) -> list[Trace]:
        """Of its one or two processes."""
        return [self.first] if self.second is None else [self.first, self.second]


@dataclass(frozen=True)
class Evidence:
    """All that was seen."""

    calm: tuple[Case, Case]  # undisturbed; the clock of the second is ahead
    cases: Sequence[Case]  # killed
    steps: dict[str, Step]  # by key
    claims: dict[str, int]  # of each run: how often it was claimed
    bills: Sequence[Entry]
    entry: str  # where the agent begins
    has_world: bool

    def step(self, key: str) -> Step:
        """The step of a key; also one that was never recorded."""
        return self.steps.get(key) or Step("", 0, "", "a step", "", "", key)


def steps_of(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Step], dict[str, int]]:
    """Steps by key and claims by run, from the rows of the journal in order."""
    steps: dict[str, Step] = {}
    numbered: dict[tuple[str, int], Step] = {}
    claims: dict[str, int] = {}
    for row in rows:
        claims[row["run"]] = row["epoch"]
        at = (row["run"], row["step"])
        if row["event"] in ("attempt_started", "step_finished") and at not in numbered:
            about = {name: row[name] for name in ("kind", "name", "effect", "ident", "key")}
            numbered[at] = steps[row["key"]] = Step(row["run"], row["step"], **about)
        if (step := numbered.get(at)) is None:
            continue
        step.attempts = max(step.attempts, row["attempt"] or 1)
        if row["event"] == "step_finished":
            step.recorded = row["epoch"]
        elif row["event"] == "resolved":
            step.decisions.append((row["status"], row["by"] or ""))
    return steps, claims


# -- findings --------------------------------------------------------------------------------------


def findings(evidence: Evidence) -> list[Finding]:
    """Every fault, those first that explain others."""
    found = [*_model_calls(evidence), *_touches(evidence)]
    for case in evidence.cases:
        found += _of_case(evidence, case)
    order = list(_WAY_OUT)
    merged: dict[tuple[Any, ...], Finding] = {}
    for one in found:
        alike = (one.kind, one.name, one.place, one.what if not one.place else "")
        merged[alike] = _merged(merged.get(alike), one)
    return sorted(merged.values(), key=lambda finding: order.index(finding.kind))


def _merged(known: Finding | None, new: Finding) -> Finding:
    if known is None:
        return new
    points = tuple(dict.fromkeys([*known.points, *new.points]))
    return Finding(**{**vars(known), "points": points, "kills": known.kills + new.kills})


def _found(
    kind: str,
    what: str,
    case: Case | None = None,
    step: Step | None = None,
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
        place=_near(place),
        points=(case.point,) if case else (),
        kills=1 if case else 0,
        detail=detail,
    )


def _near(place: str) -> str:
    """A place as seen from here."""
    here = str(Path.cwd()) + os.sep
    return place.removeprefix(here)


def _of_case(evidence: Evidence, case: Case) -> Iterator[Finding]:
    end = case.last.end
    if end["how"] == "diverged":
        step = _asked_again(evidence, case)
        place = end["place"] or evidence.entry
        what = end["message"].partition(":\n")[0]
        yield _found("divergence", what, case, step, place=place, detail=end["diff"])
    elif end["how"] in ("", "error"):
        yield _found("no end", _death(case.last), case, detail=case.last.log)
    else:
        wrong = list(_reconciles(evidence, case))
        yield from wrong
        yield from _performed_again(evidence, case)
        if not _doubted(evidence, case) and not wrong:
            yield from _results(evidence, case)
            yield from _outside(evidence, case)
            yield from _keys(evidence, case)


def _asked_again(evidence: Evidence, case: Case) -> Step | None:
    """The recorded step that the code no longer asks for."""
    named = re.search(r"step (\d+)", case.last.end["message"])
    own = (step for step in evidence.steps.values() if step.run == case.key)
    return next((step for step in own if named and step.number == int(named[1])), None)


def _death(trace: Trace) -> str:
    if trace.end["how"] == "error":
        return f"the run's last process ended in {trace.end['message']}"
    if trace.code == -signal.SIGALRM:
        return "the run's last process was not done in time"
    return f"the run's last process ended with {trace.code}"


def _reconciles(evidence: Evidence, case: Case) -> Iterator[Finding]:
    began, ended = case.first.bodies("before"), case.first.bodies("after")
    if case.point == "body:before":
        del began[-1]
    for step in _own(evidence, case):
        for status, by in step.decisions:
            if by.startswith("reconcile") and status == "not_happened" and step.key in ended:
                what = f"{by} said that {step.name} had not happened, though its body had ended"
                yield _found("wrong reconcile", what, case, step)
            if by.startswith("reconcile") and status == "happened" and step.key not in began:
                what = f"{by} said that {step.name} had happened, though its body never began"
                yield _found("wrong reconcile", what, case, step)


def _performed_again(evidence: Evidence, case: Case) -> Iterator[Finding]:
    for key in case.last.bodies("before") if case.second else ():
        step = evidence.step(key)
        if step.recorded is not None and step.recorded < evidence.claims[step.run]:
            what = f"{step.name} was performed again though its outcome was recorded"
            yield _found("repeated", what, case, step)


def _results(evidence: Evidence, case: Case) -> Iterator[Finding]:
    one, other = (calm.outcome() for calm in evidence.calm)
    common = steady(one, other)
    for difference in differences(common, case.outcome()):
        yield _found("result", f"the run ended otherwise: {difference}", case)
        return


def _outside(evidence: Evidence, case: Case) -> Iterator[Finding]:
    told = "; ".join(_differences(evidence, case))
    step = next(_performed_twice(evidence, case), None)
    if told and step is None:
        yield _found("outside differs", told, case)
    elif told and step is not None:
        way_out = f"repeated {step.effect}" if step.effect in ("read", "transaction") else ""
        what = f"{step.name} ({step.effect}) was performed twice with one key. {told}"
        place = _place_of(step.key, case)
        yield _found("repeated", what, case, step, place=place, way_out=way_out)


def _differences(evidence: Evidence, case: Case) -> Iterator[str]:
    """What a run left outside that an undisturbed one does not, a line for each thing."""
    one, other = (calm.seen for calm in evidence.calm)
    for name in sorted(set(one) & set(other)):
        common, seen = steady(one[name], other[name]), case.seen.get(name, {})
        for part in ("change", "now"):
            found = list(differences(common[part], seen.get(part), _near(name)))
            if found:
                yield found[0]
                break


def _performed_twice(evidence: Evidence, case: Case) -> Iterator[Step]:
    """Steps whose bodies ran in both processes, those first whose body had ended."""
    if case.second is None:
        return
    again = set(case.second.bodies("before"))
    for side in ("after", "before"):
        yield from (evidence.step(key) for key in case.first.bodies(side) if key in again)


def _place_of(key: str, case: Case) -> str:
    noted = [note for trace in case.traces() for note in trace.notes]
    places = [note["place"] for note in noted if note.get("key") == key and note.get("place")]
    return places[0] if places else ""


def _keys(evidence: Evidence, case: Case) -> Iterator[Finding]:
    """Steps that sent something again which nobody can tell from another one like it."""
    if evidence.has_world or case.second is None:
        return  # the world tells, better than we can
    again = set(case.second.bodies("before"))
    for key in dict.fromkeys(case.first.bodies("after")):
        step = evidence.step(key)
        sent = [note for note in case.second.of("sent") if note["key"] == key]
        harmful = [note for note in sent if note["verb"]]
        repeated = key in again and step.effect in _REPEATED and harmful
        keyed = any(note["keyed"] for note in sent) or _derived(evidence, case, step)
        if repeated and not keyed:
            what = f"{step.name} sent {harmful[0]['verb']} again, and its key is nowhere in it"
            yield _found("no key", what, case, step, place=harmful[0]["place"] or "")


def _derived(evidence: Evidence, case: Case, step: Step) -> bool:
    """Whether what the step sends depends on its key and on nothing else that changes.

    Then its attempts send the same, and the same step of another run sends something else.
    """
    first, second = (_digests(trace.of("sent"), step.key) for trace in case.traces())
    calm = evidence.calm[0]
    twin = [other for other in _own(evidence, calm) if other.ident == step.ident]
    return first == second and bool(twin) and first != _digests(calm.first.of("sent"), twin[0].key)


def _digests(sent: Iterable[Note], key: str) -> list[str]:
    return [note["digest"] for note in sent if note["key"] == key]


def _own(evidence: Evidence, case: Case) -> list[Step]:
    """The steps of a run and of its child runs."""
    return [s for s in evidence.steps.values() if f"{s.run}/".startswith(f"{case.key}/")]


def _touches(evidence: Evidence) -> Iterator[Finding]:
    told: dict[tuple[str, str], int] = {}
    for case in [*evidence.calm, *evidence.cases]:
        for trace in case.traces():
            outside = [note for note in trace.of("touch") if not note["key"] and not note["model"]]
            for at in dict.fromkeys((n["place"] or evidence.entry, n["what"]) for n in outside):
                told[at] = told.get(at, 0) + 1
    for (place, what), processes in told.items():
        yield _found("outside", f"{what}, in {processes} processes", place=place)


def _model_calls(evidence: Evidence) -> Iterator[Finding]:
    """Bills that no crash explains, and those of clients that are not wrapped."""
    billed = Counter(bill.idempotency_key for bill in evidence.bills)
    for key, step in evidence.steps.items():
        if billed[key] > step.attempts:
            what = f"{step.name} was billed {billed[key]} times for {step.attempts} attempts"
            yield _found("paid twice", what, None, step)
    traces = [trace for case in [*evidence.calm, *evidence.cases] for trace in case.traces()]
    asked = [n for trace in traces for n in trace.of("touch") if n["model"] and not n["key"]]
    unrecorded = sum(count for key, count in billed.items() if key not in evidence.steps)
    for place in dict.fromkeys(note["place"] or evidence.entry for note in asked):
        what = (
            "a model is asked by a client that does not record, so each resume asks and pays "
            f"again: {unrecorded} answers in {len(traces)} processes"
        )
        yield _found("paid twice", what, place=place)


# -- what is no fault ------------------------------------------------------------------------------


def _doubted(evidence: Evidence, case: Case) -> tuple[str, str] | None:
    """The step of a run that was left in doubt, and what was decided; None if none was."""
    end, own = case.last.end, _own(evidence, case)
    for step in own:
        for status, by in step.decisions:
            if by == "on_doubt":
                return step.name, status
    if end["how"] == "held" and evidence.calm[0].last.end["how"] != "held":
        named = [step.name for step in own if step.number == end["step"]]
        return (named[0] if named else "a step"), "held"
    return None


def doubts(evidence: Evidence) -> list[Doubt]:
    """`once` steps that kills left in doubt."""
    met: dict[tuple[str, str], list[str]] = {}
    for case in evidence.cases:
        if case.last.end["how"] != "diverged" and (doubt := _doubted(evidence, case)):
            met.setdefault(doubt, []).append(case.point)
    return [
        Doubt(name, decided, tuple(dict.fromkeys(points)), len(points))
        for (name, decided), points in met.items()
    ]


def notes(evidence: Evidence) -> list[str]:
    """What this test could not see."""
    told = []
    calm = evidence.calm[0].first
    if calm.end["how"] == "held":
        told.append(f"what comes after this was not tested: {calm.end['message']}")
    if not calm.bodies("before"):
        told.append("no tool was called: give the model something to ask for (--script, --replies)")
    one, other = (calm.outcome() for calm in evidence.calm)
    common = steady(one, other)
    if not isinstance(common, dict) or VARIES in common.values():
        told.append("the result is not compared: undisturbed runs differ in it")
    one, other = (calm.seen for calm in evidence.calm)
    for name in sorted(set(one) & set(other)):
        parts = steady(one[name], other[name])
        if all(parts[part] is VARIES for part in ("change", "now")):
            told.append(f"{_near(name)} is not compared: undisturbed runs differ in it")
    return told
