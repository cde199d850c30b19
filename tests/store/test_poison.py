"""Rows that can never be stored: an error for their run, and never a process that waits."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

import agentrun
from agentrun.core.codec import plain
from agentrun.core.events import Event, Usage
from agentrun.core.log import logger
from agentrun.steps.execution_point import current_context
from agentrun.store.mail import letters_of
from agentrun.store.runs import find_run


def test_a_key_too_long_for_the_database_is_refused(dsn: str) -> None:
    @agentrun.agent
    def any_agent() -> None: ...

    with agentrun.connect(dsn), pytest.raises(agentrun.ConfigError, match="too long"):
        any_agent.with_options(key=secrets.token_hex(3000)).run()


def test_an_end_that_cannot_be_stored_is_an_error_and_not_a_lost_lease(dsn: str) -> None:
    calls: list[int] = []

    @agentrun.agent
    def odd() -> None:
        calls.append(1)
        run: Any = current_context()
        too_much = Usage(input_tokens=1 << 40)
        run.append(Event(event="step_finished", step=1, kind="model", usage=too_much))

    with agentrun.connect(dsn), pytest.raises(agentrun.StoreError, match="cannot be stored"):
        odd.with_options(key="k").run()
    assert calls == [1]


def test_a_reason_holds_no_secret(dsn: str) -> None:
    secret = "sk-proj-" + "a1B2" * 12

    @agentrun.tool(effect="idempotent", retries=1)
    def leak() -> None:
        raise ValueError(f"refused: {secret}")

    @agentrun.agent
    def run() -> None:
        leak()

    with agentrun.connect(dsn) as database:
        with pytest.raises(agentrun.RunFailed, match="refused"):
            run.with_options(key="k").run()
        with database.connection() as conn:
            rows = conn.execute("SELECT j::text AS row FROM agentrun.journal j").fetchall()
            rows += conn.execute("SELECT r::text AS row FROM agentrun.runs r").fetchall()
    assert any("refused" in row["row"] for row in rows)
    assert not [row for row in rows if secret in row["row"]]


@pytest.mark.parametrize("text", ["nul \0", "lone \ud800", "sk-proj-" + "a1B2" * 12])
def test_who_sent_a_letter_and_why_may_be_any_text(dsn: str, text: str) -> None:
    @agentrun.agent
    def run() -> None:
        agentrun.receive("never")

    with agentrun.connect(dsn) as database:
        run.with_options(key="k").submit()
        agentrun.cancel("k", by=f"by {text}", reason=f"because {text}")
        (letter,) = letters_of(database, find_run(database, "k").run_id)
        assert agentrun.get("k").status() == "cancelled"
    assert letter.claimed_by == f"by {plain(text)}"
    assert letter.reason == f"because {plain(text)}"
    assert "a1B2a1B2" not in repr(letter)


def test_the_log_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    secret = "sk-proj-" + "a1B2" * 12
    logger.warning("waiting for %s", secret)
    try:
        raise ValueError(secret)
    except ValueError:
        logger.exception("an error")
    assert [record.name for record in caplog.records] == ["agentrun", "agentrun"]
    assert caplog.text.count("[masked: openai key, 56 chars") == 2
    assert "ValueError" in caplog.text
    assert "a1B2a1B2" not in caplog.text
    assert caplog.records[1].exc_info is None, "others would write it out again"
