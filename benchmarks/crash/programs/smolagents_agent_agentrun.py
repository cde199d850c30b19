import smolagents

import agentrun
import tools
from agentrun.integrations.smolagents import durable

agentrun.install()


@smolagents.tool
def find_order(order_id: str) -> str:
    """Find an order.

    Args:
        order_id: its number
    """
    return tools.find_order(order_id)


@smolagents.tool
def refund(order_id: str, cents: int) -> str:
    """Refund an order.

    Args:
        order_id: its number
        cents: how much
    """
    return tools.refund(order_id, cents, agentrun.current_step().key)


@smolagents.tool
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer.

    Args:
        order_id: its number
        text: what the mail says
    """
    return tools.send_mail(order_id, text)


@agentrun.agent
def support(question: str) -> str:
    model = smolagents.OpenAIModel(tools.MODEL)
    desk = smolagents.ToolCallingAgent([find_order, refund, send_mail], model, verbosity_level=0)
    durable(desk, effects={"find_order": "read", "refund": "idempotent"})
    return desk.run(question)


print(support.with_options(key=tools.KEY).run(tools.QUESTION))
