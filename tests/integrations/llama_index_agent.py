"""Agents of LlamaIndex, written as their users write them.

Their model is `OpenAI` where it is installed. It needs openai 2, so most environments of the tests
have `LiteLLM` instead. LlamaIndex has to find the class `Context` in the annotations of a tool, so
they are no strings.
"""

import importlib.util
import os
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.workflow import Context
from outside_tools import KEY, act, look, models_url

import agentrun
from agentrun.integrations.llama_index import durable

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise importing LiteLLM goes online

EFFECTS: Any = {"look_up": "read", "keep": "idempotent"}


def look_up(order: str) -> str:
    """Look an order up."""
    return look(order)


async def keep(order: str) -> str:
    """Keep an order."""
    return act(order)


async def keep_noted(ctx: Context, order: str) -> str:
    """Keep an order, and note it in the state of the workflow."""
    async with ctx.store.edit_state() as state:
        state["state"] = {"kept": [*state["state"]["kept"], order]}
    return act(order)


def make_model() -> Any:
    agentrun.install()
    if importlib.util.find_spec("llama_index.llms.openai"):
        from llama_index.llms.openai import OpenAI

        return OpenAI("gpt-5-mini", api_base=models_url(), api_key=KEY)
    from llama_index.llms.litellm import LiteLLM

    return LiteLLM("openai/gpt-5-mini", temperature=1, api_base=models_url(), api_key=KEY)


@agentrun.agent
async def with_llama_index(question: str) -> str:
    agent = FunctionAgent(tools=[look_up, keep], llm=make_model())
    return str(await durable(agent, effects=EFFECTS).run(question))


@agentrun.agent
async def with_react(question: str) -> str:
    agent = ReActAgent(tools=[look_up, keep], llm=make_model(), streaming=False)
    return str(await durable(agent, effects=EFFECTS).run(question))


@agentrun.agent
async def with_workflow(question: str) -> str:
    """A clerk hands off to a keeper, who notes in the state what he keeps."""
    model = make_model()
    clerk = FunctionAgent(
        name="clerk", description="Looks up.", tools=[look_up], llm=model, system_prompt="Look up."
    )
    keeper = FunctionAgent(
        name="keeper", description="Keeps.", tools=[keep_noted], llm=model, system_prompt="Keep."
    )
    workflow = AgentWorkflow([clerk, keeper], root_agent="clerk", initial_state={"kept": []})
    context = Context(workflow)
    effects: Any = {"look_up": "read", "keep_noted": "idempotent"}
    answer = await durable(workflow, effects=effects).run(question, ctx=context)
    state = await context.store.get("state")
    return f"{answer} {sorted(state['kept'])}"
