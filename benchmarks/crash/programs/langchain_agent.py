from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

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


desk = create_agent(ChatOpenAI(model=tools.MODEL), [find_order, refund, send_mail])


def support(question: str) -> str:
    state = desk.invoke({"messages": [{"role": "user", "content": question}]})
    return state["messages"][-1].content


print(support(tools.QUESTION))
