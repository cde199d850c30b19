"""Decisions by a signed link. The holder of a link can make one decision about one request.

A link names the run, the step, the decision, the signer, the time when it expires, and the
fingerprint of the request as it was when the link was made. An HMAC over all of these signs the
link, so that no part of it can be changed. Only the first decision about a request counts: a link
that is followed twice decides once.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

from agentrun.api.inbox import decide, inbox, refuse_mere_approval
from agentrun.core.errors import ConfigError, RunError
from agentrun.store.opening import default

__all__ = ["approval_link", "decide_by_link"]

Decision = Literal["approve", "reject"]

SECRET = "AGENTRUN_APPROVAL_SECRET"
_SHORTEST = 16  # characters of a secret
_FIELDS = ("key", "step", "decision", "signer", "expires", "fingerprint")  # all are signed


def approval_link(
    key: str,
    step: int,
    *,
    base_url: str,
    signer: str,
    decision: Decision = "approve",
    expires: timedelta = timedelta(days=1),
    secret: str | None = None,
) -> str:
    """Make a link with which ``signer`` approves or rejects a call that waits for an approval.

    Send the link to that person only: to hold it is the permission. Your page behind the link
    passes its query parameters to `decide_by_link`.

    Args:
        key: the run's key.
        step: the number that `agentrun inbox` prints.
        base_url: the address of your page or webhook; its own query is kept.
        signer: the person who decides, as recorded; for example an e-mail address.
        decision: ``approve`` or ``reject``; make one link for each.
        expires: how long the link works. Default: one day.
        secret: at least 16 characters, known to your services only. Default: the environment
            variable AGENTRUN_APPROVAL_SECRET.

    Returns:
        The link, as a text.

    Raises:
        RunError: the run does not wait for a decision about this step, or waits for a larger
            budget, which no link raises.
        ConfigError: there is no secret, the secret is too short, or ``decision`` is another word.

    Example:
        >>> link = agentrun.approval_link(
        ...     "ticket-42", 3, base_url="https://desk.example/decide", signer="ana@desk.example")
    """
    if decision not in get_args(Decision):
        raise ConfigError(f"decision={decision!r}: give 'approve' or 'reject'")
    waiting = [one for one in inbox(key) if one.step == step and one.waits_for == "decision"]
    if not waiting or waiting[0].fingerprint is None:
        raise RunError(
            f"run {key!r} does not wait for a decision about step {step}; "
            "`agentrun inbox` lists what waits",
            key=key,
        )
    if decision == "approve":
        refuse_mere_approval(key, step, waiting[0].suggested_budget)
    fields = {
        "key": key,
        "step": str(step),
        "decision": decision,
        "signer": signer,
        "expires": str(int((default().now() + expires).timestamp())),
        "fingerprint": waiting[0].fingerprint,
    }
    parts = urlsplit(base_url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode([*given, *fields.items(), ("signature", _sign(fields, secret))])
    return urlunsplit(parts._replace(query=query))


def decide_by_link(
    link: str | Mapping[str, str], *, reason: str | None = None, secret: str | None = None
) -> UUID:
    """Make the decision of a link that `approval_link` made; return the id of its letter.

    Call it on a POST, after a page that asks for confirmation: mail programs follow links by
    themselves.

    Args:
        link: the whole address, or its parameters, as ``dict(request.query_params)``.
        reason: why, for the record.
        secret: as in `approval_link`.

    Raises:
        RunError: the link was changed, was signed with another secret, or has expired; or the run
            now asks for something else at this step.
        AlreadyDecided: the request is decided already, by this link or otherwise.
        RunNotFound: no run has this key.
        ConfigError: there is no secret.

    Example:
        >>> agentrun.decide_by_link(dict(request.query_params))
    """
    given = dict(parse_qsl(urlsplit(link).query)) if isinstance(link, str) else dict(link)
    fields = {name: given.get(name, "") for name in _FIELDS}
    signature = given.get("signature", "")
    if not hmac.compare_digest(_sign(fields, secret).encode(), signature.encode()):
        raise RunError("this link is not valid: its signature does not fit its parameters")
    key, expires = fields["key"], int(fields["expires"])
    if default().now().timestamp() > expires:
        when = datetime.fromtimestamp(expires, UTC)
        raise RunError(f"this link expired at {when:%F %T} UTC; make another one", key=key)
    kind: Decision = "approve" if fields["decision"] == "approve" else "reject"
    return decide(
        key,
        kind,
        int(fields["step"]),
        {},
        by=None,
        reason=reason,
        fingerprint=fields["fingerprint"],
        signed_by=fields["signer"],
    )


def _sign(fields: Mapping[str, str], secret: str | None) -> str:
    """The signature of these fields. They are signed as JSON, so that no two sets look alike."""
    known = secret if secret is not None else os.environ.get(SECRET, "")
    if len(known) < _SHORTEST:
        raise ConfigError(
            f"links are signed with a secret of {_SHORTEST} characters or more: give secret=, or "
            f"set {SECRET}"
        )
    text = json.dumps([fields[name] for name in _FIELDS])
    return hmac.new(known.encode(), text.encode(), sha256).hexdigest()
