"""An agent of mini-swe-agent, written as its users write it."""

from __future__ import annotations

import os

from outside_tools import KEY, models_url

import agentrun

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise importing LiteLLM goes online
os.environ["MSWEA_SILENT_STARTUP"] = "1"
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel

from agentrun.integrations.mini_swe_agent import durable


@agentrun.agent
def with_mini_swe_agent(task: str) -> str:
    agentrun.install()
    model = LitellmModel(
        model_name="openai/gpt-5-mini",
        model_kwargs={"api_base": models_url(), "api_key": KEY},
        cost_tracking="ignore_errors",
    )
    agent = DefaultAgent(
        model,
        durable(LocalEnvironment(cwd=os.environ["OUTSIDE"]), effect="idempotent"),
        system_template="You keep orders.",
        instance_template="{{task}}",
        cost_limit=0,
    )
    return str(agent.run(task)["submission"])
