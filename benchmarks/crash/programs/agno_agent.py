from agno.agent import Agent
from agno.models.openai import OpenAIChat

import tools


def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


def refund(order_id: str, cents: int) -> str:
    """Refund an order."""
    return tools.refund(order_id, cents)


def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


def support(question: str) -> str:
    desk = Agent(
        model=OpenAIChat(tools.MODEL),
        tools=[find_order, refund, send_mail],
        telemetry=False,
    )
    return desk.run(question).content


print(support(tools.QUESTION))
