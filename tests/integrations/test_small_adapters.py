"""Adapters of one function: agents that are killed repeat nothing and lose nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import outside_tools
import pytest
from crashing import killed

import agentrun
from agentrun.integrations.recorded_functions import record_calls
from agentrun.testing import Call, Provider, Reply, Rule
from agentrun.testing.plugin import Crashtest

# LiteLLM's models and clients warn, and a warning raised in the middle of a call breaks it.
pytestmark = pytest.mark.filterwarnings("ignore")

ORDER = {"order": "7"}
FINISH = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


@dataclass
class Framework:
    """An agent of a framework, and the replies that make it look order 7 up and keep 7 and 8."""

    module: str
    script: Sequence[Reply | str]
    tools: Sequence[tuple[str, str]]  # the recorded tool calls: name and effect class
    rules: Sequence[Rule] = ()  # where the replies do not follow each other in one conversation
    name: str = ""  # of the agent; by default `with_` and the framework's
    answer: str = "Done."

    def __str__(self) -> str:
        return self.name or f"with_{self.module.removesuffix('_agent')}"

    @property
    def agent(self) -> Any:
        return getattr(importlib.import_module(self.module), str(self))


LOOK_AND_KEEP = Reply(tool_calls=[Call("look_up", ORDER), Call("keep", ORDER)])
KEEP = Reply(tool_calls=[Call("keep", {"order": "8"})])
TOOLS = [("look_up", "read"), ("keep", "idempotent"), ("keep", "idempotent")]


def bash(command: str) -> Reply:
    return Reply(tool_calls=[Call("bash", {"command": command})])


def react(tool: str, order: str) -> Reply:
    """A reply in the form that LlamaIndex's ReActAgent asks for."""
    return Reply(f'Thought: go on\nAction: {tool}\nAction Input: {{"order": "{order}"}}')


def shell_keep(order: str) -> str:
    return f"echo {order} > {order}.kept; test -e 'die at {order}' && kill -9 $PPID; echo kept"


def dspy_reply(**fields: Any) -> Reply:
    """A reply in the form that DSPy asks for."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
    parts = [f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()]
    return Reply("\n\n".join([*parts, "[[ ## completed ## ]]"]))


def thought(tool: str, **args: str) -> Reply:
    return dspy_reply(next_thought="go on", next_tool_name=tool, next_tool_args=args)


# Each request of DSPy is a conversation of its own, with all that happened before as its content.
DSPY_REPLIES = [
    thought("look_up", order="7"),
    thought("keep", order="7"),
    thought("keep", order="8"),
    thought("finish"),
    dspy_reply(reasoning="both are kept", answer="Done."),
]
DSPY_RULES = [
    *(
        Rule({"contains": f"observation_{number}"}, DSPY_REPLIES[number + 1])
        for number in reversed(range(4))
    ),
    Rule({}, DSPY_REPLIES[0]),
]


FRAMEWORKS = [
    Framework(
        "smolagents_agent",
        [LOOK_AND_KEEP, KEEP, Reply(tool_calls=[Call("final_answer", {"answer": "Done."})])],
        [*TOOLS, ("final_answer", "read")],
    ),
    Framework("agno_agent", [LOOK_AND_KEEP, KEEP, "Done."], TOOLS),
    Framework("dspy_agent", DSPY_REPLIES, TOOLS, rules=DSPY_RULES),
    *(
        Framework(f"{name}_agent", [LOOK_AND_KEEP, KEEP, "Done."], TOOLS)
        for name in ("google_genai", "litellm", "mistral", "ollama")
    ),
    Framework(
        "mini_swe_agent_agent",
        [
            bash("ls"),
            bash(shell_keep("7")),
            bash(shell_keep("8")),
            bash(f"echo {FINISH}; echo Done."),
        ],
        [("execute", "idempotent")] * 4,
    ),
    Framework("llama_index_agent", [LOOK_AND_KEEP, KEEP, "Done."], TOOLS),
    Framework(
        "llama_index_agent",
        [react("look_up", "7"), react("keep", "7"), react("keep", "8"), "Thought: I can answer "
         "without using any more tools.\nAnswer: Done."],
        TOOLS,
        name="with_react",
    ),
    Framework(
        "llama_index_agent",
        [
            Reply(tool_calls=[Call("look_up", ORDER)]),
            Reply(tool_calls=[Call("handoff", {"to_agent": "keeper", "reason": "It is ready."})]),
            Reply(tool_calls=[Call("keep_noted", ORDER), Call("keep_noted", {"order": "8"})]),
            "Done.",
        ],
        [("look_up", "read"), ("keep_noted", "idempotent"), ("keep_noted", "idempotent")],
        name="with_workflow",
        answer="Done. ['7', '8']",
    ),
]  # fmt: skip


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTSIDE", str(tmp_path))
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("framework", FRAMEWORKS, ids=str)
def test_killed_at_every_point_it_repeats_nothing(
    crashtest: Crashtest, framework: Framework
) -> None:
    report = crashtest(framework.agent, "go", script=framework.script, rules=framework.rules)
    report.check()
    assert report.doubts == ()
    assert len(report.killed) > 15


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS, ids=str)
def test_killed_in_a_tool_it_resumes(
    db: Any,
    dsn: str,
    provider: Provider,
    outside: Path,
    sql: Any,
    framework: Framework,
    unpatched: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODELS_URL", provider.base_url)
    provider.say(framework.script, framework.rules)
    keyed = framework.agent.with_options(key="k")
    (outside / "die at 8").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run("go")))
    (outside / "die at 8").unlink()
    assert keyed.run("go").strip() == framework.answer
    assert provider.billed() == len(framework.script)
    assert [order.strip() for order in outside_tools.kept()] == ["7", "8"]
    calls = sql("SELECT name, effect FROM agentrun.tool_calls")
    assert sorted(calls) == sorted(framework.tools)


def test_each_call_of_a_function_is_a_step_inside_a_run(db: Any, sql: Any) -> None:
    async def alook(order: str) -> str:
        return outside_tools.look(order)

    look = record_calls(outside_tools.look, "look", effect="read", positional=("order",))
    async_look = record_calls(alook, "alook", effect="idempotent")

    @agentrun.agent
    async def looker() -> list[str]:
        return [look("7"), await async_look(order="8")]

    assert look("9") == "order 9 is ready", "outside a run it is called"
    with pytest.warns(agentrun.NoModelWarning, match="no model call of this run is recorded"):
        assert looker.run() == ["order 7 is ready", "order 8 is ready"]
    calls = sql("SELECT name, effect, args ->> 'order' FROM agentrun.tool_calls ORDER BY step")
    assert calls == [("look", "read", "7"), ("alook", "idempotent", "8")]


def test_a_function_that_is_recorded_twice_is_one_step(db: Any, sql: Any) -> None:
    once = record_calls(outside_tools.look, "look", effect="once")
    look = record_calls(once, "look", effect="read")

    @agentrun.agent
    def looker() -> str:
        return str(look(order="7"))

    assert looker.run() == "order 7 is ready"
    assert sql("SELECT name, effect FROM agentrun.tool_calls") == [("look", "read")]


def test_a_failed_call_gives_the_framework_what_it_expects(db: Any) -> None:
    def look(order: str) -> str:
        raise agentrun.ToolFailed(f"nobody knows order {order}")

    told = record_calls(look, "look", effect="read", positional=("order",), make_failure=str)
    raised = record_calls(look, "look", effect="read", positional=("order",))

    @agentrun.agent
    def failing_looker() -> str:
        with pytest.raises(agentrun.ToolFailed, match="order 8"):
            raised("8")
        return str(told("7"))

    assert failing_looker.run() == "nobody knows order 7"


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"cache": False}, {"engine": "litellm"}])
def test_a_model_of_dspy_that_is_not_recorded_is_refused(db: Any, options: Any) -> None:
    dspy_agent = importlib.import_module("dspy_agent")
    (tool,) = dspy_agent.durable([dspy_agent.look_up])

    @agentrun.agent
    def looker() -> str:
        with dspy_agent.dspy.context(lm=dspy_agent.dspy.LM("openai/gpt-5-mini", **options)):
            try:
                return str(tool(order="7"))
            except Exception:
                return "told the model"

    with pytest.raises(agentrun.RunFailed, match=r'engine="litellm", cache=False'):
        looker.run()


@pytest.mark.slow
def test_tools_that_are_recorded_already_are_left_alone(db: Any, sql: Any) -> None:
    smolagents_agent = importlib.import_module("smolagents_agent")
    look = agentrun.tool(effect="read", name="look")(smolagents_agent.look)

    @agentrun.agent
    def looker() -> str:
        tool = smolagents_agent.look_up
        tool.forward = look
        agent = smolagents_agent.smolagents.ToolCallingAgent([tool], model=lambda: None)
        return str(smolagents_agent.durable(agent).tools["look_up"]("7"))

    assert looker.run() == "order 7 is ready"
    assert sql("SELECT name, effect FROM agentrun.steps WHERE kind = 'tool'") == [("look", "read")]
