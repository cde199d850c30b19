import asyncio

from agents import Agent, Runner, SQLiteSession, function_tool
from agents.tool_context import ToolContext

import tools


@function_tool
def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


@function_tool
def refund(context: ToolContext, order_id: str, cents: int) -> str:
    """Refund an order."""
    return tools.refund(order_id, cents, context.tool_call_id)


@function_tool
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


desk = Agent(name="desk", model=tools.MODEL, tools=[find_order, refund, send_mail])


async def support(question: str) -> str:
    session = SQLiteSession(tools.KEY, "conversation.db")
    begun = await session.get_items()  # a restart goes on with what the session has
    result = await Runner.run(desk, [] if begun else question, session=session)
    return result.final_output


print(asyncio.run(support(tools.QUESTION)))
