"""`current_run()` tells the code of a run about its run, and gives no way into the internals."""

from __future__ import annotations

import contextvars
import dataclasses
import datetime as dt
import gc
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from crashing import die_recorded, killed

import agentrun


def of_run(key: str, sql: Any) -> tuple[UUID, str]:
    ((run_id, agent),) = sql("SELECT run_id, agent FROM agentrun.runs WHERE key = %s", key)
    return run_id, agent


def test_a_run_and_its_child_know_their_names(db: Any, sql: Any) -> None:
    seen: list[Any] = []

    @agentrun.agent
    def child() -> None:
        seen.append(agentrun.current_run())

    @agentrun.step
    def body() -> None:
        seen.append(agentrun.current_run())

    @agentrun.agent
    def parent() -> None:
        seen.append(agentrun.current_run())
        body()
        thread = threading.Thread(target=lambda: seen.append(agentrun.current_run()))
        thread.start()
        thread.join()
        child()

    assert agentrun.current_run() is None
    parent.with_options(key="k").run()
    here, in_body, in_thread, below = seen
    assert here == agentrun.RunInfo("k", *of_run("k", sql))
    assert in_body == in_thread == here
    assert below == agentrun.RunInfo(below.key, *of_run(below.key, sql), parent="k")
    assert below.key.startswith("k/")


def test_a_deadline_is_an_aware_time(db: Any) -> None:
    @agentrun.agent
    def timed() -> dt.datetime | None:
        run = agentrun.current_run()
        assert run is not None
        return run.deadline

    now = agentrun.now()
    deadline = timed.with_options(deadline=3600.0).run()
    assert deadline is not None
    assert deadline - now > dt.timedelta(minutes=30)
    assert timed.run() is None


def test_a_resume_sees_the_same(dsn: str) -> None:
    """Also one under another name of the agent."""

    @agentrun.step(effect="read")
    def look() -> str:
        return repr(agentrun.current_run())

    def begin() -> None:
        @agentrun.agent(name="old")
        def agent() -> None:
            look()
            die_recorded()

        with agentrun.connect(dsn):
            agent.with_options(key="k", deadline=3600.0).run()

    killed(begin)

    @agentrun.agent(name="new", aliases=("old",))
    def agent() -> tuple[str, str]:
        return look(), repr(agentrun.current_run())

    with agentrun.connect(dsn):
        recorded, now = agent.with_options(key="k").run()
    assert recorded == now
    assert "agent='old'" in now


def test_it_is_read_only_and_holds_only_values(db: Any) -> None:
    @agentrun.agent
    def look() -> None:
        run = agentrun.current_run()
        assert run is not None
        with pytest.raises(dataclasses.FrozenInstanceError):
            run.key = "other"  # type: ignore[misc]
        values = [getattr(run, name) for name in dir(run) if not name.startswith("__")]
        assert {type(value) for value in values} <= {str, bool, UUID, type(None), dt.datetime}

    look.with_options(deadline=3600.0).run()


def test_a_branch_of_the_run_serves_threads_that_do_not_know_it_in_any_order(
    db: Any, dsn: str, tmp_path: Path
) -> None:
    def save(name: str) -> str:
        with (tmp_path / name).open("a") as file:
            file.write("saved\n")
        return name

    def call_back(run: agentrun.RunInfo, name: str, saved: list[str]) -> None:
        assert agentrun.current_run() is None
        with agentrun.branch(f"save {name}", of=run):
            assert agentrun.current_run() == run
            saved.append(agentrun.step(effect="idempotent")(save)(name))

    @agentrun.agent
    def saver() -> list[str]:
        run = agentrun.current_run()
        assert run is not None
        saved: list[str] = []
        for name in ("b", "a") if (tmp_path / "die").exists() else ("a", "b", "c"):
            thread = threading.Thread(
                target=contextvars.Context().run, args=(call_back, run, name, saved)
            )
            contextvars.Context().run(thread.start)
            thread.join()
        if (tmp_path / "die").exists():
            die_recorded()
        return saved

    keyed = saver.with_options(key="k")
    (tmp_path / "die").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run()))
    (tmp_path / "die").unlink()
    assert keyed.run() == ["a", "b", "c"]
    assert [(tmp_path / name).read_text() for name in "abc"] == ["saved\n"] * 3


def test_a_branch_of_a_run_that_has_ended_is_refused(db: Any) -> None:
    @agentrun.agent
    def look() -> None:
        seen.append(agentrun.current_run())

    seen: list[Any] = [agentrun.RunInfo("k", UUID(int=0), "look")]
    look.run()
    gc.collect()
    for run in seen:
        with (
            pytest.raises(agentrun.ConfigError, match=r"current_run\(\)"),
            agentrun.branch("a", of=run),
        ):
            pass
