"""`agentrun demo` from end to end: the numbers, the exit code, and that nothing is left running."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from leftovers import Marked

import agentrun.demo
from agentrun.demo import show
from agentrun.demo.ledger import DemoNumbers
from agentrun.demo.world import World, open_world
from agentrun.store import embedded
from agentrun.store.database import OpenDatabase
from agentrun.testing import Call, Provider, Reply

MAIN = "import sys, json, agentrun.demo as d; sys.exit(d.main(**json.loads(sys.argv[1])))"
PATIENCE = 120.0


def start(**options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def demo(**options: Any) -> tuple[int, str, str]:
    process = start(**options)
    out, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, out, errors


def until(holds: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < patience
        time.sleep(0.02)


def test_killed_three_times_it_pays_and_acts_once(
    new_home: Path, marked: Marked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTRUN_HOME", str(new_home))  # with a Postgres of its own, from nothing
    code, out, errors = demo(as_json=True)
    assert code == 0, errors
    (line,) = out.splitlines()
    numbers = json.loads(line)
    assert list(numbers) == [
        *("kills", "model_steps", "billed", "possibly_billed"),
        *("emails", "refunds", "pickups", "seconds", "key"),
    ]
    assert [*numbers.values()][:7] == [3, 3, 4, 1, 1, 1, 1]
    assert [line for line in marked.alive() if "postgres" not in line] == []
    with psycopg.connect(embedded.where(new_home).dsn()) as journal:
        resumes = journal.execute(
            "SELECT replayed, rerun, in_doubt FROM agentrun.resumes WHERE key = %s ORDER BY epoch",
            [numbers["key"]],
        ).fetchall()
    # Inside a model call; between an effect and its record; between turns, where nothing is open.
    assert resumes == [(2, 1, 0), (4, 0, 1), (6, 0, 0)]


@pytest.fixture
def on_database(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", dsn)


@pytest.mark.usefixtures("on_database")
def test_a_person_sees_kills_bands_ledger_and_what_to_try(marked: Marked) -> None:
    code, out, errors = demo()
    assert (code, errors) == (0, "")
    assert out.count("SIGKILL ") >= 3
    assert out.count("resumed by w-") == 3
    assert "decided by" in out
    assert "what the outside world says" in out
    assert "agentrun show demo-" in out
    assert max(map(len, out.splitlines())) <= 80
    assert marked.alive() == []


@pytest.mark.usefixtures("on_database")
def test_ctrl_c_leaves_no_process(marked: Marked) -> None:
    process = start(as_json=True)
    until(lambda: any("demo.worker" in line for line in marked.alive()))
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    assert "Stopped." in errors
    assert marked.alive() == []


@pytest.mark.usefixtures("on_database")
def test_even_killed_it_leaves_no_process(marked: Marked) -> None:
    process = start(as_json=True)
    until(lambda: any("demo.worker" in line for line in marked.alive()))
    process.kill()
    process.communicate()
    until(lambda: marked.alive() == [])


@pytest.mark.usefixtures("on_database")
def test_with_a_real_provider_the_model_chooses_and_nothing_happens_twice(marked: Marked) -> None:
    def script(order_id: str) -> list[Reply]:
        return [
            Reply("Looking.", [Call("look_up_order", {"order_id": order_id})]),
            Reply("Booking.", [Call("book_pickup", {"order_id": order_id, "address": "Here 1"})]),
            Reply("Refunding.", [Call("refund_order", {"order_id": order_id, "cents": 1})]),
            Reply("Done."),
        ]

    with Provider(script=script("no such order")) as provider:
        code, out, errors = demo(as_json=True, base_url=provider.base_url, model="local-model")
        billed, models = provider.billed(), {body["model"] for body in provider.requests()}
    assert code == 0, errors
    numbers = json.loads(out)
    assert models == {"local-model"}
    assert numbers["kills"] == 3
    assert numbers["pickups"] == 1
    assert (numbers["refunds"], numbers["emails"]) == (0, 0)
    assert numbers["possibly_billed"] == 1
    assert billed <= numbers["model_steps"] + numbers["possibly_billed"]
    assert marked.alive() == []


@pytest.mark.usefixtures("on_database")
def test_a_model_that_is_done_early_is_killed_less_often(marked: Marked) -> None:
    with Provider(script=["Nothing to do."]) as provider:
        code, out, errors = demo(as_json=True, base_url=provider.base_url)
    assert code == 0, errors
    assert json.loads(out)["kills"] == 0


@pytest.mark.direct("logs in as a role that the pooler was not told of")
def test_a_login_that_may_not_create_tables_is_told_the_way_out(
    database: OpenDatabase,
) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE reader LOGIN")
    try:
        reader = database.dsn.replace("//postgres@", "//reader@")
        with pytest.raises(agentrun.ConfigError, match="agentrun_demo"), open_world(reader, None):
            pass
    finally:
        with psycopg.connect(database.dsn, autocommit=True) as admin:
            admin.execute("DROP ROLE reader")


@pytest.mark.usefixtures("on_database")
def test_an_agent_that_fails_fails_the_demo_and_says_why(marked: Marked) -> None:
    with Provider(script=[Reply("", raw={"no": "choices"})]) as provider:
        code, out, errors = demo(as_json=True, base_url=provider.base_url)
    assert (code, out) == (1, "")
    assert "agentrun show demo-" in errors
    assert marked.alive() == []


def test_a_model_without_a_provider_is_refused() -> None:
    code, _, errors = demo(model="gpt-5")
    assert code != 0
    assert "set OPENAI_API_KEY, or give --base-url" in errors


GOOD = DemoNumbers(3, 3, 4, 1, 1, 1, 1, 5.0, "demo-1", scripted=True)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("billed", 5, "5 answers billed for 3"),
        ("possibly_billed", 2, "2 answers possibly billed"),
        ("emails", 2, "2 e-mails"),
        ("refunds", 0, "0 refunds"),
        ("pickups", 2, "2 pick-ups"),
        ("kills", 2, "2 kills"),
    ],
)
def test_a_wrong_number_is_named(field: str, value: int, said: str) -> None:
    assert list(GOOD.problems()) == []
    (problem,) = replace(GOOD, **{field: value}).problems()
    assert said in problem


def test_the_exit_code_tells_of_a_wrong_number(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = replace(GOOD, pickups=2)
    monkeypatch.setattr(show, "_run_demo", lambda *_: wrong)
    assert agentrun.demo.main(as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["pickups"] == 2
