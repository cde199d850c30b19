from anthropic import Anthropic, beta_tool

import agentrun
import tools

client = agentrun.wrap(Anthropic())


@beta_tool
@agentrun.tool(effect="read")
def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


@beta_tool
@agentrun.tool(effect="idempotent")
def refund(order_id: str, cents: int, idempotency_key: str = "") -> str:
    """Refund an order."""
    return tools.refund(order_id, cents, idempotency_key)


@beta_tool
@agentrun.tool
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


@agentrun.agent
def support(question: str) -> str:
    runner = client.beta.messages.tool_runner(
        model="claude-haiku-4-5",
        max_tokens=1000,
        messages=[{"role": "user", "content": question}],
        tools=[find_order, refund, send_mail],
    )
    return runner.until_done().content[0].text


print(support.with_options(key=tools.KEY).run(tools.QUESTION))
