"""Divergence policy (`on_divergence`): the code asks for another step than the recorded one."""

from __future__ import annotations

from typing import Literal

from agentrun.core.divergence import Divergence, RequestedStep, diverge, explain, keep, reuse
from agentrun.core.errors import ConfigError, Diverging, Interrupt
from agentrun.core.events import Event, first_name
from agentrun.core.flow import Flow
from agentrun.core.history import RecordedStep
from agentrun.core.log import logger
from agentrun.steps.run_context import RunContext

OnDivergence = Literal["refuse", "keep", "accept"]
ON_DIVERGENCE: tuple[OnDivergence, ...] = ("refuse", "keep", "accept")


def check_on_divergence(way: str | None) -> None:
    """Raise ConfigError if `on_divergence=` has no such value."""
    if way is not None and way not in ON_DIVERGENCE:
        raise ConfigError(f"on_divergence={way!r}; choose one of {', '.join(ON_DIVERGENCE)}")


def apply_policy(
    run: RunContext, request: RequestedStep, fingerprint: str, known: RecordedStep
) -> RecordedStep | None:
    """Apply the run's policy to a divergence. The caller holds the run's lock.

    Returns the recorded step if its reply stands, and None if a new path begins.

    Raises:
        Diverging: the policy is "refuse", or it is "keep" and more differs than the request of
            a model call.
    """
    divergence, aside = explain(run.history, known, request)
    reason = f"{divergence.headline}\n{divergence.diff}"
    if run.on_divergence == "accept":
        logger.warning(
            "run %r takes a new path from step %d on: %s. %s",
            run.key,
            known.step,
            divergence.headline,
            divergence.price,
        )
        run.append(diverge(known, aside, by=run.diverged_by, reason=reason))
        return None
    if run.on_divergence != "keep" or divergence.not_kept is not None:
        raise refuse(run, divergence)
    if known.outcome is None:  # there is no reply to keep: the call is made anew, under another key
        run.append(diverge(known, [known], by=run.diverged_by, reason=reason))
        return None
    run.append(keep(known, fingerprint, divergence, by=run.diverged_by))
    return known


def refuse(run: RunContext, divergence: Divergence) -> Interrupt:
    """The interrupt that stops the run in this process. Its message lists the ways on."""
    detail = {"step": divergence.step, "ident": divergence.ident}
    return run.stop(Diverging(divergence.text(run.key), diff=divergence.diff, detail=detail))


def resumed_event(by: str | None, reason: str | None, on_divergence: OnDivergence | None) -> Event:
    """The `resumed` event: a person continues the run, perhaps with another divergence policy."""
    event = Event(event="resumed", by=by, reason=reason)
    if on_divergence is not None:
        event.output, event.has_output = {"on_divergence": on_divergence}, True
    return event


def read_decisions(run: RunContext) -> Flow[None]:
    """Apply what people have decided about a run that is parked for a divergence."""
    for letter in (yield from run.letters("")):
        if letter.kind != "resume":
            continue
        run.consumed.add(letter.mail_id)
        by = letter.claimed_by or letter.by
        reason, way = letter.reason, letter.payload.get("on_divergence")
        way = way if way in ON_DIVERGENCE else None
        received = Event(event="received", key=letter.mail_id, by=by, reason=reason)
        run.append(received, resumed_event(by, reason, way))
        if way is not None:
            run.on_divergence, run.diverged_by = way, first_name(by)
    run.seen_letters.pop("", None)


def reuse_step(
    run: RunContext, request: RequestedStep, fingerprint: str, ident: str
) -> RecordedStep | None:
    """The equal step that a divergence set aside, moved to this place; None if there is none."""
    if not run.history.aside:
        return None
    event = reuse(run.history, request, fingerprint, ident)
    if event is None:
        return None
    run.append(event)
    return run.history.steps[ident]
