"""`redo`: a bad answer is set aside by a recorded decision, and no effect is repeated silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from crashing import World, die, killed, until
from openai import OpenAI
from pydantic import BaseModel
from typer.testing import CliRunner

import agentrun
from agentrun.cli import app
from agentrun.core import points
from agentrun.steps.execution_point import current_context
from agentrun.testing import Call, Fault, Provider, Reply

ASK: Any = [{"role": "user", "content": "a number"}]


class Number(BaseModel):
    n: int


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


def parsing(client: OpenAI) -> Any:
    @agentrun.agent(name="parsing")
    def agent() -> int:
        parse = client.chat.completions.parse
        message = parse(model="m", messages=ASK, response_format=Number).choices[0].message
        assert message.parsed is not None
        return message.parsed.n

    return agent.with_options(key="k")


def paying(client: OpenAI, world: World, effect: Any = "once") -> Any:
    """Asks, pays as the model says, asks again."""

    @agentrun.tool(effect=effect)
    def pay(n: int) -> str:
        world.act(f"paid {n}")
        return f"paid {n}"

    @agentrun.agent(name="paying")
    def agent() -> str | None:
        messages: list[Any] = [*ASK]
        tools = agentrun.schemas(pay)
        create = client.chat.completions.create
        while True:
            reply = create(model="m", messages=messages, tools=tools).choices[0].message
            messages.append(reply.model_dump(exclude_none=True))
            if not reply.tool_calls:
                return reply.content
            messages += agentrun.call_tools(reply, [pay])

    return agent.with_options(key="k")


def pays(n: int, *more: int) -> Reply:
    return Reply(tool_calls=[Call("pay", {"n": each}) for each in (n, *more)])


def test_structured_output_that_does_not_parse_is_asked_for_anew(
    db: Any, provider: Provider, client: OpenAI
) -> None:
    provider.say(["Sure!"])
    agent = parsing(client)
    with pytest.raises(agentrun.RunFailed, match="`agentrun redo k 1`") as failed:
        agent.run()
    assert isinstance(failed.value.__cause__, pydantic.ValidationError)
    provider.say(['{"n": 5}'])
    with pytest.raises(agentrun.RunFailed, match="`agentrun redo k 1`"):
        agent.run()
    assert provider.billed() == 1
    plan = agentrun.redo("k", 1, by="ada", reason="no JSON")
    assert "model m, is set aside and performed again. Paid again: 1 model call" in plan.describe()
    assert agentrun.get("k").status() == "queued"
    assert agent.run() == 5
    assert provider.billed() == 2
    transcript = agentrun.transcript("k")
    assert [(step.step, step.set_aside) for step in transcript.steps] == [(1, True), (2, False)]
    shown = agentrun.as_text(transcript)
    assert "by ada · no JSON" in shown
    assert "set aside" in shown
    assert agent.run() == 5
    assert provider.billed() == 2


def test_what_is_equal_is_found_again_and_what_differs_is_done(
    db: Any, provider: Provider, client: OpenAI, world: World
) -> None:
    provider.say([pays(1), "done"])
    agent = paying(client, world)
    assert agent.run() == "done"
    provider.say([pays(1, 2), "done twice"])
    assert "pay(n=1) [once]" in agentrun.redo("k", 1, dry_run=True).describe()
    assert agentrun.get("k").status() == "done"
    agentrun.redo("k", 1)
    assert agent.run() == "done twice"
    assert world.effects == ["paid 1", "paid 2"]
    assert provider.billed() == 4


def test_what_acts_once_is_not_done_again_unless_told(
    db: Any, provider: Provider, client: OpenAI, world: World
) -> None:
    provider.say([pays(1), "done"])
    agent = paying(client, world)
    agent.run()
    with pytest.raises(agentrun.RunError, match=r"pay\(n=1\) \[once\].*redo k 2 --once"):
        agentrun.redo("k", 2)
    assert agentrun.get("k").status() == "done"
    agentrun.redo("k", 2, once=True)
    assert agent.run() == "done"
    assert world.effects == ["paid 1", "paid 1"]
    assert provider.billed() == 2, "the reply that follows is the same: found again"


def test_an_idempotent_effect_is_done_again_under_another_key(
    db: Any, provider: Provider, client: OpenAI, world: World, sql: Any
) -> None:
    provider.say([pays(1), "done"])
    agent = paying(client, world, "idempotent")
    agent.run()
    agentrun.redo("k", 2)
    assert agent.run() == "done"
    assert world.effects == ["paid 1", "paid 1"]
    keys = sql("SELECT DISTINCT idempotency_key FROM agentrun.steps WHERE name = 'pay'")
    assert len(keys) == 2


def test_resume_sets_aside_and_goes_on(db: Any, provider: Provider, client: OpenAI) -> None:
    provider.say(["Sure!"])
    with pytest.raises(agentrun.RunFailed):
        parsing(client).run()
    provider.say(['{"n": 3}'])
    assert agentrun.resume("k", redo=1, by="ada") == 3
    assert provider.billed() == 2


def test_a_worker_takes_it_up(db: Any, provider: Provider, client: OpenAI) -> None:
    provider.say(["Sure!"])
    agent = parsing(client)
    with pytest.raises(agentrun.RunFailed):
        agent.run()
    provider.say(['{"n": 7}'])
    agentrun.redo("k", 1)
    with agentrun.Worker([agent]):
        assert agentrun.get("k").result(timeout=60) == 7


def test_a_step_inside_a_recorded_one_names_the_outer_one(db: Any) -> None:
    drawn: list[int] = []

    @agentrun.step(effect="read")
    def draw() -> int:
        drawn.append(1)
        return len(drawn)

    @agentrun.tool(effect="read")
    def outer() -> int:
        return draw()

    @agentrun.agent
    def agent() -> int:
        return outer()

    assert agent.with_options(key="k").run() == 1
    with pytest.raises(agentrun.RunError, match="`agentrun redo k 1` performs both again"):
        agentrun.redo("k", 2)
    agentrun.redo("k", 1)
    assert agent.with_options(key="k").run() == 2


def test_steps_around_the_redone_one_depend_on_it(
    db: Any, client: OpenAI, provider: Provider
) -> None:
    provider.say(["bad"])

    @agentrun.agent
    def agent() -> str:
        create = client.chat.completions.create
        with agentrun.branch("side"):
            said = str(create(model="m", messages=ASK).choices[0].message.content)
        follow: Any = [{"role": "user", "content": f"is {said} good?"}]
        return str(create(model="m", messages=follow).choices[0].message.content)

    assert agent.with_options(key="k").run() == "bad"
    provider.say(["good"])
    assert [one.step for one in agentrun.redo("k", 1).aside] == [1, 2]
    assert agent.with_options(key="k").run() == "good"


@pytest.mark.parametrize("step", [1, 9])
def test_what_is_not_recorded_is_refused(
    step: int, db: Any, provider: Provider, client: OpenAI
) -> None:
    provider.say(["Sure!"])
    with pytest.raises(agentrun.RunFailed):
        parsing(client).run()
    agentrun.redo("k", 1)
    problem = "set aside already" if step == 1 else "does not exist"
    with pytest.raises(agentrun.RunError, match=problem):
        agentrun.redo("k", step)


def test_a_run_that_is_executed_is_refused(db: Any, provider: Provider, client: OpenAI) -> None:
    provider.say(["hello"])
    seen: list[str] = []

    @agentrun.agent
    def agent() -> None:
        client.chat.completions.create(model="m", messages=ASK)
        run = current_context()
        assert run is not None
        run.database.writer.wait(run.append())
        with pytest.raises(agentrun.RunConflict, match="is being executed"):
            agentrun.redo("k", 1)
        seen.append("refused")

    agent.with_options(key="k").run()
    assert seen == ["refused"]


def test_a_cancelled_run_is_not_gone_on_with(db: Any, events: Any) -> None:
    """It would be cancelled once more, by a letter that it has."""

    @agentrun.agent
    def run() -> int:
        agentrun.now()
        return int(agentrun.receive("n", timeout=60))

    run.with_options(key="k").submit()
    with agentrun.Worker([run]):
        until(lambda: agentrun.get("k").status() == "waiting")
    agentrun.cancel("k", by="ada")
    before = events("k")
    with pytest.raises(agentrun.RunError, match="run 'k' was cancelled: by ada"):
        agentrun.resume("k")
    with pytest.raises(agentrun.RunError, match="run 'k' was cancelled, which is for good"):
        agentrun.redo("k", 1)
    assert events("k") == before


@pytest.mark.parametrize("at", ["claim:before", "claim:after"])
def test_a_redo_that_is_killed_is_made_or_changes_nothing(db: Any, dsn: str, at: str) -> None:
    """Left half-way, the run would go on along its old path, and diverge where its code is new."""
    version = ["old"]

    @agentrun.step(effect="read")
    def look(what: str) -> str:
        return what

    @agentrun.agent
    def looking() -> str:
        return look(version[0])

    agent = looking.with_options(key="k")
    assert agent.run() == "old"

    def redo() -> None:
        agentrun.connect(dsn)
        points.arm(lambda point: die() if point == at else None)
        agentrun.redo("k", 1)

    killed(redo)
    version[0] = "new"
    with agentrun.Worker([agent]):
        assert agent.submit().result(timeout=30) == ("old" if at == "claim:before" else "new")


def test_an_error_that_reached_the_code_may_be_redone(
    db: Any, provider: Provider, client: OpenAI
) -> None:
    provider.say(["fine"])
    provider.arm(Fault.error(400))

    @agentrun.agent
    def agent() -> str:
        try:
            return str(client.chat.completions.create(model="m", messages=ASK).choices[0].message)
        except openai.BadRequestError:
            return "gave up"

    assert agent.with_options(key="k").run() == "gave up"
    agentrun.redo("k", 1)
    assert "fine" in agent.with_options(key="k").run()


def delegating(client: OpenAI, world: World, key: str | None = None) -> Any:
    """A run whose child asks, and pays as the model says."""
    paying(client, world)
    child = agentrun.lifecycle.registry.registered("paying").with_options(key=key)

    @agentrun.agent(name="above")
    def above() -> str:
        return f"said {child()}"

    return above.with_options(key="k")


def test_a_child_run_that_ended_is_done_anew_by_its_parent(
    db: Any, provider: Provider, client: OpenAI, world: World
) -> None:
    provider.say([pays(1), "done"])
    above = delegating(client, world)
    assert above.run() == "said done"
    (key,) = {run.key for run in agentrun.runs()} - {"k"}
    with pytest.raises(
        agentrun.RunError, match=f"run '{key}' is a child of run 'k'.*`agentrun redo k 1`"
    ):
        agentrun.redo(key, 1)
    at_stake = rf"child run '{key}' .*it had 2 model calls .*pay\(n=1\) \[once\].*redo k 1 --once"
    with pytest.raises(agentrun.RunError, match=at_stake):
        agentrun.redo("k", 1)
    assert world.effects == ["paid 1"]
    provider.say([pays(2), "done anew"])
    assert f"The child run '{key}' is begun anew" in str(agentrun.redo("k", 1, once=True))
    assert above.run() == "said done anew"
    assert world.effects == ["paid 1", "paid 2"]
    assert agentrun.get(key).result() == "done", "the former child run stays as it was"


def test_a_step_of_a_child_run_is_done_anew_while_its_parent_waits(
    db: Any, provider: Provider, client: OpenAI, world: World
) -> None:
    gone: list[str] = ["gone"]

    @agentrun.agent(name="child")
    def child() -> str | None:
        create = client.chat.completions.create
        said = create(model="m", messages=ASK).choices[0].message.content
        if gone:
            raise KeyboardInterrupt(gone.pop())
        return said

    @agentrun.agent(name="above")
    def above() -> str:
        return f"said {child()}"

    provider.say(["bad"])
    with pytest.raises(KeyboardInterrupt):
        above.with_options(key="k").run()
    (key,) = {run.key for run in agentrun.runs()} - {"k"}
    provider.say(["good"])
    agentrun.redo(key, 1)
    assert above.with_options(key="k").run() == "said good"


def test_a_child_run_of_a_given_key_is_found_again_and_not_redone(
    db: Any, provider: Provider, client: OpenAI, world: World
) -> None:
    provider.say([pays(1), "done"])
    delegating(client, world, key="mine").run()
    with pytest.raises(agentrun.RunError, match="'paying', whose agent was given a key"):
        agentrun.redo("k", 1, once=True)


def test_the_command_says_the_price_and_asks(
    dsn: str, db: Any, provider: Provider, client: OpenAI
) -> None:
    provider.say(["Sure!"])
    agent = parsing(client)
    with pytest.raises(agentrun.RunFailed):
        agent.run()

    def command(*more: str) -> Any:
        return CliRunner().invoke(app, ["--dsn", dsn, "redo", "k", "1", *more])

    asked = command()
    assert asked.exit_code == 2
    assert "Paid again: 1 model call" in asked.stderr
    assert "--yes" in asked.stderr
    with agentrun.connect(dsn):
        assert agentrun.get("k").status() == "failed"
        done = command("--yes", "--by", "ada", "--json")
    assert done.exit_code == 0, done.stderr
    assert '"set_aside": [1]' in done.stdout
    with agentrun.connect(dsn):
        provider.say(['{"n": 5}'])
        assert agent.run() == 5


def test_resume_redo_says_the_price_and_asks(
    dsn: str, db: Any, provider: Provider, tmp_path: Path
) -> None:
    file = tmp_path / "app.py"
    file.write_text(AGENT.format(url=f"{provider.url}/v1"))

    def command(*more: str) -> Any:
        return CliRunner().invoke(app, ["--dsn", dsn, *more])

    provider.say(["Sure!"])
    assert command("run", str(file), "--key", "k").exit_code == 1
    provider.say(["5"])
    asked = command("resume", "k", str(file), "--redo", "1")
    assert asked.exit_code == 2
    assert "Paid again: 1 model call" in asked.stderr
    assert "nothing was changed: say --yes" in asked.stderr
    refused = command("resume", "k", str(file), "--redo", "2", "--yes")
    assert refused.exit_code != 0
    assert "pay(cents=1) [once]" in refused.stderr
    assert "--once" in refused.stderr
    assert provider.billed() == 1
    done = command("resume", "k", str(file), "--redo", "1", "--yes", "--by", "ada")
    assert (done.exit_code, done.stdout) == (0, "6\n"), done.stderr
    again = command("resume", "k", str(file), "--redo", "2", "--yes", "--once")
    assert (again.exit_code, again.stdout) == (0, "6\n"), again.stderr
    assert provider.billed() == 2
    with agentrun.connect(dsn):
        paid = [one for one in agentrun.transcript("k").steps if one.name == "pay"]
        assert [one.set_aside for one in paid] == [True, False]


AGENT = """
import agentrun
from openai import OpenAI

client = agentrun.wrap(OpenAI(base_url="{url}", api_key="none"))

@agentrun.tool
def pay(cents: int) -> int:
    return cents

@agentrun.agent
def payer() -> int:
    ask = [{{"role": "user", "content": "a number"}}]
    said = client.chat.completions.create(model="m", messages=ask).choices[0].message.content
    return pay(1) + int(said)
"""
