from google import genai

import agentrun
import tools


@agentrun.tool(effect="read")
def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


@agentrun.tool(effect="idempotent")
def refund(order_id: str, cents: int, idempotency_key: str = "") -> str:
    """Refund an order."""
    return tools.refund(order_id, cents, idempotency_key)


@agentrun.tool
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


agentrun.install()
client = genai.Client()


@agentrun.agent
def support(question: str) -> str:
    config = {"tools": [find_order, refund, send_mail]}
    chat = client.chats.create(model="gemini-3-flash", config=config)
    return chat.send_message(question).text


print(support.with_options(key=tools.KEY).run(tools.QUESTION))
