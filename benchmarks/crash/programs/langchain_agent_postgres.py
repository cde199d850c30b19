from typing import Annotated

from langchain.agents import create_agent
from langchain_core.tools import InjectedToolCallId
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.postgres import PostgresSaver

import tools


def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


def refund(order_id: str, cents: int, call_id: Annotated[str, InjectedToolCallId]) -> str:
    """Refund an order."""
    return tools.refund(order_id, cents, call_id)


def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


def support(question: str) -> str:
    with PostgresSaver.from_conn_string(tools.DSN) as saver:
        saver.setup()
        desk = create_agent(
            ChatOpenAI(model=tools.MODEL), [find_order, refund, send_mail], checkpointer=saver
        )
        thread = {"configurable": {"thread_id": tools.KEY}}
        begun = desk.get_state(thread).values  # a restart goes on at the last checkpoint
        question = None if begun else {"messages": [{"role": "user", "content": question}]}
        state = desk.invoke(question, thread, durability="sync")
        return state["messages"][-1].content


print(support(tools.QUESTION))
