from google import genai

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


client = genai.Client()


def support(question: str) -> str:
    config = {"tools": [find_order, refund, send_mail]}
    chat = client.chats.create(model="gemini-3-flash", config=config)
    return chat.send_message(question).text


print(support(tools.QUESTION))
