"""What people do by forms: decide, raise a budget, cancel, resume, redo.

Each needs a `Person` who may decide, which `Guard` has checked. The journal records the name. A
form carries the fingerprint of the request that its person has seen; if the run asks for something
else by now, or somebody was first, the decision is refused and the answer says why.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from agentrun.api.inbox import approve, reject, resolve
from agentrun.api.operations import cancel
from agentrun.api.queued_resume import queue_resume
from agentrun.api.redo import redo
from agentrun.core.budget import Budget
from agentrun.core.codec import digest
from agentrun.core.events import Json
from agentrun.core.redo import Redo
from agentrun.core.waiting import Waiting
from agentrun.steps.doubt import Happened, NotHappened, Outcome, Unknown
from agentrun.store.inbox import list_waiting
from agentrun.store.opening import default
from agentrun.view.safe import visible
from agentrun.web.page import Page, Refused, json_response, path_in, person_of, read_form, see_other
from agentrun.web.site import Action, PageRoute, Site, key_in, number_in

__all__ = ["ACTIONS", "PAGES", "RedoData", "editable_json"]

_LONGEST_REASON = 4_000  # characters


def editable_json(value: Json) -> str:
    """A JSON value as text that a person edits: what cannot be seen is written as an escape.

    Reading the text gives the same value, so text that is sent back unchanged edits nothing.

    Example:
        >>> editable_json({"note": "caf\\u00e9 \\u202e"})
        '{\\n  "note": "caf\\u00e9 \\\\u202e"\\n}'
    """
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(
        letter if letter == "\n" or visible(letter) == letter else json.dumps(letter)[1:-1]
        for letter in text
    )


async def _decide(
    site: Site, request: Request, function: Callable[..., Any], form: dict[str, str], **given: Any
) -> Response:
    """Call the function with the run's key and the person, and lead back to where they were."""
    key = key_in(request)
    made = await site.read(
        function, key, by=person_of(request).name, reason=_reason_in(form), **given
    )
    if path_in(request).endswith(".json"):
        return json_response({"key": key, "letter": str(made) if made is not None else None})
    if form.get("next") == "inbox":
        return see_other(request, "inbox", decided=key)
    return see_other(request, "run", key=key)


def _reason_in(form: dict[str, str]) -> str | None:
    return form.get("reason", "").strip()[:_LONGEST_REASON] or None


def _fingerprint_in(request: Request) -> str | None:
    return request.query_params.get("fingerprint") or None


async def _approve(site: Site, request: Request) -> Response:
    form = await read_form(request)
    step = number_in(request.query_params, "step")
    given: dict[str, Any] = {"step": step, "fingerprint": _fingerprint_in(request)}
    waiting = await site.read(_waiting_at, key_in(request), step)
    if waiting is not None and waiting.suggested_budget is not None:
        raise Refused(409, "budget", "the run waits for a larger budget: raise it")
    if text := form.get("arguments", "").strip():
        edited = _json_in(text, "the arguments")
        if waiting is None or not _is_unchanged(text, edited, waiting):
            if waiting is not None and waiting.masked:
                raise Refused(409, "masked", "arguments that hold a masked value cannot be edited")
            if not isinstance(edited, dict):
                raise Refused(400, "arguments", "the arguments are a JSON object")
            given["arguments"] = edited
    return await _decide(site, request, approve, form, **given)


def _is_unchanged(text: str, edited: Any, waiting: Waiting) -> bool:
    """Whether the form came back as it was shown, or with equal arguments in other words."""
    # As text, since 1, 1.0 and true are equal in Python, and no tool takes them for the same.
    equal = json.dumps(edited, sort_keys=True) == json.dumps(waiting.args, sort_keys=True)
    return equal or text.replace("\r\n", "\n") == editable_json(waiting.args)


def _waiting_at(key: str, step: int) -> Waiting | None:
    return next((one for one in list_waiting(default(), key) if one.step == step), None)


def _json_in(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "bad_json", f"{what} are no JSON: {error}") from None


async def _reject(site: Site, request: Request) -> Response:
    step = number_in(request.query_params, "step")
    form = await read_form(request)
    return await _decide(
        site, request, reject, form, step=step, fingerprint=_fingerprint_in(request)
    )


async def _resolve(site: Site, request: Request) -> Response:
    form = await read_form(request)
    return await _decide(
        site,
        request,
        resolve,
        form,
        step=number_in(request.query_params, "step"),
        outcome=_outcome_in(form),
        fingerprint=_fingerprint_in(request),
    )


def _outcome_in(form: dict[str, str]) -> Outcome:
    match form.get("outcome"):
        case "happened":
            text = form.get("result", "").strip()
            return Happened(_json_in(text, "the result") if text else None)
        case "not_happened":
            return NotHappened()
        case "unknown":
            return Unknown()
    raise Refused(400, "outcome", "the outcome is happened, not_happened or unknown")


_LIMITS = ("usd", "tokens", "turns", "model_calls", "tool_calls", "wall")


async def _raise(site: Site, request: Request) -> Response:
    form = await read_form(request)
    try:
        limits: dict[str, Any] = {
            name: Decimal(text) if name == "usd" else float(text) if name == "wall" else int(text)
            for name in _LIMITS
            if (text := form.get(name, "").strip())
        }
    except (ValueError, InvalidOperation):
        raise Refused(400, "budget", "a limit is a number") from None
    step = number_in(request.query_params, "step")
    fingerprint = _fingerprint_in(request)
    waiting = await site.read(_waiting_at, key_in(request), step)
    if waiting is not None and waiting.suggested_budget is None:
        raise Refused(409, "no_budget", "the run waits for no larger budget: approve or reject it")
    return await _decide(
        site, request, approve, form, step=step, budget=Budget(**limits), fingerprint=fingerprint
    )


async def _cancel(site: Site, request: Request) -> Response:
    return await _decide(site, request, cancel, await read_form(request))


async def _resume(site: Site, request: Request) -> Response:
    return await _decide(site, request, queue_resume, await read_form(request))


@dataclass(frozen=True)
class RedoData:
    """What a redo of a step would do: ``plan`` in words, and what it would perform again.

    ``seen`` is sent with the redo. It is refused if the plan is another one by then.
    """

    key: str
    step: int
    plan: str
    once: tuple[str, ...]
    seen: str


async def _plan_redo(site: Site, request: Request) -> Page:
    key, step = key_in(request), number_in(request.query_params, "step")
    plan: Redo = await site.read(redo, key, step, dry_run=True)
    text = visible(plan.describe())
    return Page("redo.html", RedoData(key, step, text, tuple(plan.once), _name_of(plan)))


def _name_of(plan: Redo) -> str:
    return digest(f"{plan.describe()} {plan.once}".encode("utf-8", "surrogatepass"))


async def _redo(site: Site, request: Request) -> Response:
    form = await read_form(request)
    step = number_in(request.query_params, "step")

    def set_aside(key: str, **given: Any) -> None:
        if form.get("seen") != _name_of(redo(key, step, dry_run=True)):
            raise Refused(409, "stale", "the run has gone on: look again at what a redo would do")
        redo(key, step, once=form.get("once") == "yes", **given)

    return await _decide(site, request, set_aside, form)


_KEY = {"key": "the run's key"}
_STEP = {
    **_KEY,
    "step": "the number of the step",
    "fingerprint": "of the request that you have seen; another one is refused",
}
_REASON = {"reason": "why, for the record", "next": "inbox: lead back there"}

PAGES = (
    PageRoute(
        "redo", _plan_redo, "What a redo of a step would pay and do again", RedoData,
        {**_KEY, "step": "the number of the step"},
    ),
)  # fmt: skip
ACTIONS = (
    Action(
        "approve", _approve, "Approve a tool call", None, _STEP,
        {"arguments": "edited arguments, as JSON; without: as they were asked for", **_REASON},
    ),
    Action("reject", _reject, "Reject a tool call", None, _STEP, _REASON),
    Action(
        "resolve", _resolve, "Say what became of an effect in doubt", None, _STEP,
        {
            "outcome": "happened, not_happened or unknown",
            "result": "with happened: the result, as JSON",
            **_REASON,
        },
    ),
    Action(
        "raise", _raise, "Raise the budget that a run waits for", None, _STEP,
        {**dict.fromkeys(_LIMITS, "a new limit, in total"), **_REASON},
    ),
    Action("cancel", _cancel, "Cancel a run and its children, for good", None, _KEY, _REASON),
    Action("resume", _resume, "Queue a failed or diverged run again", None, _KEY, _REASON),
    Action(
        "redo", _redo, "Set a step aside, so that the run does it anew", None,
        {**_KEY, "step": "the number of the step"},
        {
            "seen": "of the plan that you have seen, as GET redo.json has it",
            "once": "yes: perform what acts once again",
            **_REASON,
        },
    ),
)  # fmt: skip
