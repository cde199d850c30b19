"""Decisions by a signed link."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

import agentrun

SECRET = "a secret of the desk, long enough"
PAGE = "https://desk.example/decide?lang=de"


@pytest.fixture
def asked(db: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An agent that waits for a decision about step 1, and the payments that it made."""
    monkeypatch.setenv("AGENTRUN_APPROVAL_SECRET", SECRET)
    paid: list[int] = []

    @agentrun.tool(approve=True)
    def pay(cents: int) -> str:
        paid.append(cents)
        return "paid"

    @agentrun.agent
    def desk() -> str:
        try:
            return pay(7)
        except agentrun.ToolFailed as error:
            return str(error)

    run = desk.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        run.run()
    return run, paid


def link(**options: Any) -> str:
    return agentrun.approval_link("k", 1, base_url=PAGE, signer="ana@desk.example", **options)


@pytest.mark.parametrize("whole", [True, False])
def test_a_link_decides_once_for_whom_it_was_made(asked: Any, sql: Any, whole: bool) -> None:
    run, paid = asked
    made = link()
    assert made.startswith(PAGE)
    given = made if whole else dict(parse_qsl(urlsplit(made).query))
    agentrun.decide_by_link(given, reason="fine")
    with pytest.raises(agentrun.AlreadyDecided, match="ana@desk"):
        agentrun.decide_by_link(given)
    assert run.run() == "paid"
    assert paid == [7]
    with pytest.raises(agentrun.AlreadyDecided):
        agentrun.decide_by_link(given)
    assert sql("SELECT signed_by FROM agentrun.mail WHERE kind = 'approve'") == [
        ("ana@desk.example",)
    ]


def test_a_link_may_reject(asked: Any) -> None:
    run, paid = asked
    agentrun.decide_by_link(link(decision="reject"), reason="too much")
    assert "too much" in run.run()
    assert paid == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("decision=reject", "decision=approve"),
        ("step=1", "step=2"),
        ("signer=ana", "signer=bob"),
        ("key=k", "key=other"),
        ("expires=", "expires=9"),
        ("fingerprint=", "fingerprint=0"),
        ("signature=", "signature=0"),
        ("signature=", "nothing="),
    ],
)
def test_a_link_that_was_changed_decides_nothing(asked: Any, sql: Any, old: str, new: str) -> None:
    made = link(decision="reject")
    assert old in made
    with pytest.raises(agentrun.RunError, match="signature"):
        agentrun.decide_by_link(made.replace(old, new))
    assert sql("SELECT count(*) FROM agentrun.mail") == [(0,)]


def test_a_link_of_another_secret_or_time_decides_nothing(asked: Any, sql: Any) -> None:
    with pytest.raises(agentrun.RunError, match="signature"):
        agentrun.decide_by_link(link(secret="of somebody else, just as long"))
    with pytest.raises(agentrun.RunError, match="expired at"):
        agentrun.decide_by_link(link(expires=timedelta(seconds=-1)))
    assert sql("SELECT count(*) FROM agentrun.mail") == [(0,)]


def test_no_link_without_a_secret_a_request_or_a_known_decision(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(agentrun.RunError, match="step 2"):
        agentrun.approval_link("k", 2, base_url=PAGE, signer="ana")
    with pytest.raises(agentrun.ConfigError, match="'approve' or 'reject'"):
        link(decision="maybe")
    monkeypatch.setenv("AGENTRUN_APPROVAL_SECRET", "short")
    with pytest.raises(agentrun.ConfigError, match="AGENTRUN_APPROVAL_SECRET"):
        link()
