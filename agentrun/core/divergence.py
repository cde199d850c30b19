"""What a divergence is, which steps it sets aside, and the ways on with their prices.

The problem. After a change of the code, a resumed run asks for a step that differs from the step
recorded at its place. Serving the recorded result would give the code the result of another
call. Performing the new call would pay and act without anyone having decided so.

The rule. There are three answers, and none of them sends anything by itself:

* *refuse* it (the default): the run stops before the effect and waits for a decision;
* *keep* the recorded reply although its request differs (model calls only);
* *accept* a new path from this step on.

An accepted divergence sets recorded steps aside: a resume does not serve them any more. It is
`find_set_aside` alone that decides which ones, and the event `diverged` lists their numbers.
Histories, transcripts and SQL (`agentrun.set_aside`) read that list, so they cannot disagree. If
the new path asks for one of these steps again, the event `step_reused` moves the step to its new
place, with its number, its idempotency key and its outcome, and lists the numbers of the steps that
move with it. So an effect that has taken place is not repeated on the new path.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from agentrun.core.apis import CHAT, MESSAGES, RESPONSES
from agentrun.core.codec import fingerprint as fingerprint_of
from agentrun.core.differences import (
    are_equal,
    compare_arguments,
    compare_requests,
    join_changes,
    json_diff,
    same_conversation,
    shorten,
)
from agentrun.core.events import Effect, Event, Json, Kind
from agentrun.core.history import History, RecordedStep, scope_of
from agentrun.core.secrets import mask
from agentrun.core.shell import write_command

__all__ = [
    "Divergence",
    "Price",
    "RequestedStep",
    "describe_call",
    "different_arguments",
    "diverge",
    "explain",
    "find_set_aside",
    "keep",
    "price_of",
    "ranges",
    "reuse",
    "without_added",
]

_EFFECTS = 6  # effects that a message lists
_NO_MODEL = (
    "This run has recorded no model call. If a model asked for this tool call, its answers are not "
    "recorded either: it was asked again, and answered something else. Call agentrun.install() "
    "when the program starts, or wrap the model's client, and begin a new run.\n"
)
# The first words of the APIs whose replies can be kept.
_CONVERSATIONS = frozenset(api.partition(".")[0] for api in (CHAT, RESPONSES, MESSAGES))


@dataclass(frozen=True, kw_only=True)
class RequestedStep:
    """One step that the code asks for."""

    kind: Kind
    name: str
    effect: Effect
    input: Json  # recorded as the step's input
    compared: Json = None  # the value that is fingerprinted; None: `input`
    # Computes `compared` from a recorded input. None: the whole input is compared.
    read: Callable[[Json], Json] | None = None
    aliases: tuple[str, ...] = ()  # further names under which the step may be recorded
    defaults: Mapping[str, Json] = field(default_factory=dict)  # default values of the parameters
    secret: bytes = field(default=b"", repr=False)  # the database's key for fingerprints

    @property
    def fingerprint(self) -> str:
        return self._fingerprint(self.kind, self.name, self._compared)

    @property
    def _compared(self) -> Json:
        return self.input if self.compared is None else self.compared

    def matches(self, known: RecordedStep, fingerprint: str) -> bool:
        """Whether the request is for the recorded step. ``fingerprint`` is that of the request.

        Two changes of the code do not matter: a new parameter that has its default value, and
        a new name for which the recorded name is an alias.
        """
        if known.kind != self.kind:
            return False
        if known.name == self.name and fingerprint in (known.fingerprint, *known.kept_fingerprints):
            return True
        if known.name != self.name and known.name not in self.aliases:
            return fingerprint in known.kept_fingerprints
        recorded = self._fingerprint(known.kind, known.name, self._without_added(known))
        return recorded == known.fingerprint

    def _fingerprint(self, kind: Kind, name: str, compared: Json) -> str:
        """The fingerprint of a step with this kind, name and compared value."""
        return fingerprint_of([kind, name, compared], self.secret)

    def _without_added(self, known: RecordedStep) -> Json:
        """The compared value without parameters that were added since and have their default."""
        before, now, compared = _args(known.input), _args(self.input), _args(self._compared)
        if before is None or now is None or compared is None:
            return self._compared
        return {**self._compared, "args": without_added(compared, before, now, self.defaults)}


def without_added(
    compared: Mapping[str, Json],
    recorded: Mapping[str, Json],
    arguments: Mapping[str, Json],
    defaults: Mapping[str, Json],
) -> dict[str, Json]:
    """The compared arguments without those of parameters that were added since.

    A parameter counts as added if the recorded call lacks it and the new call has its default.
    """
    return {
        name: value
        for name, value in compared.items()
        if name in recorded
        or name not in defaults
        or not are_equal(arguments.get(name), defaults[name])
    }


def different_arguments(
    recorded: Mapping[str, Json], arguments: Mapping[str, Json], defaults: Mapping[str, Json]
) -> list[str]:
    """The differences between the arguments of two calls, one phrase each.

    Arguments that have their default value are not compared.
    """
    before, now = (
        {k: v for k, v in one.items() if k not in defaults or not are_equal(v, defaults[k])}
        for one in (recorded, arguments)
    )
    return compare_arguments(before, now)


# -- which steps stand, and where ------------------------------------------------------------------


def find_set_aside(history: History, first: RecordedStep) -> list[RecordedStep]:
    """The recorded steps that a divergence at the step ``first`` sets aside.

    They are ``first``, and the steps of its scope and of the scopes inside it that were recorded
    after it. Those that the code has asked for since it began are part of the new path and stay,
    for example the steps of a parallel task.
    """
    scope = scope_of(first.ident)
    return [
        known
        for known in history.steps.values()
        if known is first
        or (known.ident.startswith(scope) and known.order > first.order and not known.on_path)
    ]


def diverge(
    known: RecordedStep,
    aside: Iterable[RecordedStep],
    *,
    by: str,
    reason: str,
    redo: Collection[int] = (),
) -> Event:
    """The event of a new path that begins at ``known`` and sets the steps in ``aside`` aside.

    ``redo`` are the numbers of steps in ``aside`` that must not be reused: they are performed
    anew even if the code asks for the same.
    """
    output: dict[str, Json] = {"set_aside": ranges(one.step for one in aside)}
    if redo:
        output["redo"] = ranges(redo)
    return Event(
        event="diverged",
        step=known.step,
        ident=known.ident,
        by=by,
        reason=reason,
        output=output,
        has_output=True,
    )


def reuse(history: History, request: RequestedStep, fingerprint: str, ident: str) -> Event | None:
    """The event that moves a step which was set aside to ``ident``; None if no step matches.

    Of several matching steps, the one that was at this place before is taken, or else the first.
    A `read` step is reused only at its own place: to read again does no harm, and at another
    place its old result may be out of date.
    """
    equals = [known for known in history.aside if request.matches(known, fingerprint)]
    here = [known for known in equals if known.ident == ident]
    movable = [known for known in equals if known.effect != "read"]
    found = min(here or movable, key=lambda known: known.order, default=None)
    if found is None:
        return None
    return Event(
        event="step_reused",
        step=found.step,
        turn=found.turn,
        kind=found.kind,
        name=found.name,
        ident=ident,
        effect=found.effect,
        key=found.key,
        output={"steps": ranges(one.step for one in [found, *history.steps_inside(found)])},
        has_output=True,
    )


def keep(known: RecordedStep, fingerprint: str, divergence: Divergence, *, by: str) -> Event:
    """The event that keeps a recorded reply although its request differs."""
    return Event(
        event="request_changed",
        step=known.step,
        turn=known.turn,
        kind=known.kind,
        name=known.name,
        ident=known.ident,
        fingerprint=fingerprint,
        by=by,
        reason=f"{divergence.headline}\n{divergence.diff}",
    )


def ranges(numbers: Iterable[int]) -> list[Json]:
    """Step numbers as an event stores them: ``[first, last]`` pairs of consecutive numbers."""
    pairs: list[Json] = []
    for number in sorted(numbers):
        if pairs and pairs[-1][1] == number - 1:
            pairs[-1][1] = number
        else:
            pairs.append([number, number])
    return pairs


# -- the ways on -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    """What a set of recorded steps has cost, and which effects it had."""

    calls: int  # the number of model calls
    cost: Decimal | None  # US dollars for these calls; None: one of them has no known price
    effects: tuple[str, ...]  # calls of tools, functions and child runs that are not `read`

    def __str__(self) -> str:
        paid = (
            f"Paid again where the request differs: at most {self.paid}."
            if self.calls
            else "No recorded model call is paid again."
        )
        if not self.effects:
            return f"{paid} No recorded effect is at stake."
        listed = ", ".join(self.effects[:_EFFECTS])
        more = len(self.effects) - _EFFECTS
        listed += f" and {more} more" if more > 0 else ""
        return (
            f"{paid} Reused with their keys, and not performed again, where name and arguments "
            f"are equal: {listed}. A call that differs is a new effect and is performed."
        )

    @property
    def paid(self) -> str:
        calls = f"{self.calls} model call{'' if self.calls == 1 else 's'}"
        return f"{calls} (of unknown price)" if self.cost is None else f"{calls} (${self.cost:f})"


@dataclass(frozen=True)
class Divergence:
    """A request that differs from the step recorded at its place, and the ways on."""

    step: int
    ident: str
    headline: str
    diff: str
    not_kept: str | None  # why the recorded reply cannot be kept; None: it can
    price: Price  # of the recorded steps from here on
    no_model: bool = False  # a tool call differs, and the run has recorded no model call

    def text(self, key: str) -> str:
        """The message for people: what differs, and each way on with its price."""
        ways = "\n".join(f"  {name:<8} {text}" for name, text in self.ways(key).items())
        return (
            f"diverged at step {self.step}: {self.headline}\n{self.diff}\n"
            f"{_NO_MODEL if self.no_model else ''}Nothing was sent. Ways on:\n{ways}"
        )

    def ways(self, key: str) -> dict[str, str]:
        """Each way on and its price."""

        def resume(options: str = "") -> str:
            return write_command("resume", key, "FILE", options=options)

        keep = (
            f"does not apply: {self.not_kept}."
            if self.not_kept is not None
            else "the recorded replies are kept; nothing is paid or performed again. "
            f"`{resume('--keep')}`, or with_options(on_divergence='keep')"
        )
        lost = f"; {self.price.paid} were paid for nothing" if self.price.calls else ""
        return {
            "keep": keep,
            "accept": f"a new path from step {self.step} on. {self.price} "
            f"`{resume('--accept')}`, or with_options(on_divergence='accept')",
            "restore": "restore the old code; nothing is paid or performed again. Workers that "
            f"start with it continue the run by themselves, or `{resume()}`",
            "cancel": f"`{write_command('cancel', key)}`; effects that took place stay{lost}",
        }


def explain(
    history: History, known: RecordedStep, request: RequestedStep
) -> tuple[Divergence, list[RecordedStep]]:
    """Describe a divergence. Returns it with the steps that accepting it would set aside."""
    aside = find_set_aside(history, known)
    headline, diff = _compare(history, known, request)
    not_kept = _why_not_keep(known, request)
    no_model = request.kind == known.kind == "tool" and not history.has_model_call()
    price = price_of(aside)
    return Divergence(known.step, known.ident, headline, diff, not_kept, price, no_model), aside


def price_of(steps: Iterable[RecordedStep]) -> Price:
    """What these recorded steps have cost, and which effects they had."""
    ordered = sorted(steps, key=lambda one: one.step)
    calls = [one.outcome for one in ordered if one.kind == "model" and (one.outcome or one.open)]
    costs = [outcome.usage.cost if outcome and outcome.usage else None for outcome in calls]
    priced = [cost for cost in costs if cost is not None]
    effects = [
        describe_call(one)
        for one in ordered
        if one.kind in ("tool", "function", "child") and one.effect != "read"
    ]
    total = sum(priced, Decimal(0)) if len(priced) == len(costs) else None
    return Price(len(calls), total, tuple(effects))


def describe_call(known: RecordedStep) -> str:
    """A recorded call as text: ``refund(order_id="7") [once, not done]``."""
    args = _args(mask(known.input)[0]) or {}
    shown = ", ".join(f"{name}={shorten(value)}" for name, value in args.items())
    ended = "" if known.outcome else ", outcome unknown" if known.open else ", not done"
    return f"{known.name}({shown}) [{known.effect}{ended}]"


def _why_not_keep(known: RecordedStep, request: RequestedStep) -> str | None:
    """Why the recorded reply cannot be kept for this request. None if it can."""
    before, now = known.input, request.input
    if known.kind != "model" or request.kind != "model" or not isinstance(before, dict):
        return "more than the request of a model call differs"
    if before.get("api") != now.get("api"):
        return f"a reply of {before.get('api')} cannot be read as one of {now.get('api')}"
    if str(now.get("api")).partition(".")[0] not in _CONVERSATIONS:
        return f"the recorded answer of {now.get('api')} belongs to another input"
    if _streams(before) != _streams(now) and known.outcome is not None:
        switched = "on" if _streams(now) else "off"
        return f"streaming was switched {switched}, and a recorded reply keeps its form"
    if not same_conversation(_body(before, request), _body(now, request)):
        return "the request belongs to another conversation"
    return None


def _streams(asked: Mapping[str, Json]) -> bool:
    body = asked.get("body")
    return isinstance(body, dict) and body.get("stream") is True


def _compare(history: History, known: RecordedStep, request: RequestedStep) -> tuple[str, str]:
    """The headline of a divergence, and a short diff of the parts that differ."""
    asked, recorded = mask(request.input)[0], mask(known.input)[0]
    if known.kind != request.kind or (known.name != request.name and request.kind != "model"):
        before = {"kind": known.kind, "name": known.name, "asks": recorded}
        now = {"kind": request.kind, "name": request.name, "asks": asked}
        return _describe_other_step(history, known, request), json_diff(before, now)
    if request.kind != "model":
        before, now = _args(recorded) or recorded, _args(asked) or asked
        both = isinstance(before, dict) and isinstance(now, dict)
        changes = compare_arguments(before, now) if both else []
        headline = join_changes(changes) or "what it asks for differs"
        return f"{request.kind} {request.name!r}: {headline}", json_diff(before, now)
    changes, parts = compare_requests(_body(recorded, request), _body(asked, request))
    apis = [one.get("api") for one in (known.input, request.input) if isinstance(one, dict)]
    if len(set(apis)) > 1:
        changes.insert(0, f"the call goes to {apis[1]} instead of {apis[0]}")
    return join_changes(changes), json_diff(*parts)


def _describe_other_step(history: History, known: RecordedStep, request: RequestedStep) -> str:
    headline = (
        f"the code asks for {request.kind} {request.name!r}, "
        f"where {known.kind} {known.name!r} is recorded"
    )
    fingerprint = request.fingerprint
    later = [
        one.step
        for one in history.steps.values()
        if not one.on_path and request.matches(one, fingerprint)
    ]
    if later:
        return f"{headline}; it is recorded as step {min(later)}, so the order of steps changed"
    if known.kind == request.kind == "tool":
        return f"{headline}; if it was renamed, name={known.name!r} gives it its old name"
    return headline


def _args(asked: Json) -> dict[str, Json] | None:
    args = asked.get("args") if isinstance(asked, dict) else None
    return args if isinstance(args, dict) else None


def _body(asked: Json, request: RequestedStep) -> dict[str, Json]:
    """The body of a model request, in the form that is compared."""
    compared = asked if request.read is None else request.read(asked)
    body = compared[-1] if isinstance(compared, list) else compared
    return body if isinstance(body, dict) else {"body": body}
