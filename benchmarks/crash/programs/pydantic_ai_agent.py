from pydantic_ai import Agent

import tools

desk = Agent(f"openai-chat:{tools.MODEL}", name="desk")


@desk.tool_plain
def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


@desk.tool_plain
def refund(order_id: str, cents: int) -> str:
    """Refund an order."""
    return tools.refund(order_id, cents)


@desk.tool_plain
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


def support(question: str) -> str:
    return desk.run_sync(question).output


print(support(tools.QUESTION))
