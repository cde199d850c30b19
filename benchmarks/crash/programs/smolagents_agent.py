import smolagents

import tools


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
    return tools.refund(order_id, cents)


@smolagents.tool
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer.

    Args:
        order_id: its number
        text: what the mail says
    """
    return tools.send_mail(order_id, text)


def support(question: str) -> str:
    model = smolagents.OpenAIModel(tools.MODEL)
    desk = smolagents.ToolCallingAgent([find_order, refund, send_mail], model, verbosity_level=0)
    return desk.run(question)


print(support(tools.QUESTION))
