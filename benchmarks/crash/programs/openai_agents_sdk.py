from agents import Agent, Runner, function_tool

import tools


@function_tool
def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


@function_tool
def refund(order_id: str, cents: int) -> str:
    """Refund an order."""
    return tools.refund(order_id, cents)


@function_tool
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


desk = Agent(name="desk", model=tools.MODEL, tools=[find_order, refund, send_mail])


def support(question: str) -> str:
    return Runner.run_sync(desk, question).final_output


print(support(tools.QUESTION))
