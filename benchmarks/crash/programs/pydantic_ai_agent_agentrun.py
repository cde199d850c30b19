from pydantic_ai import Agent

import agentrun
import tools
from agentrun.integrations.pydantic_ai import Durability

agentrun.install()
effects = {"find_order": "read", "refund": "idempotent"}
desk = Agent(f"openai-chat:{tools.MODEL}", name="desk", capabilities=[Durability(effects=effects)])


@desk.tool_plain
def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


@desk.tool_plain
def refund(order_id: str, cents: int) -> str:
    """Refund an order."""
    return tools.refund(order_id, cents, agentrun.current_step().key)


@desk.tool_plain
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


@agentrun.agent
def support(question: str) -> str:
    return desk.run_sync(question).output


print(support.with_options(key=tools.KEY).run(tools.QUESTION))
