from dbos import DBOS, SetWorkflowID
from pydantic_ai import Agent
from pydantic_ai.durable_exec.dbos import DBOSDurability

import tools

DBOS(config={"name": "support", "system_database_url": tools.DSN})
desk = Agent(f"openai-chat:{tools.MODEL}", name="desk", capabilities=[DBOSDurability()])


@desk.tool_plain
@DBOS.step()
def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


@desk.tool_plain
@DBOS.step()
def refund(order_id: str, cents: int) -> str:
    """Refund an order."""
    return tools.refund(order_id, cents, f"{DBOS.workflow_id}-{DBOS.step_id}")


@desk.tool_plain
@DBOS.step()
def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


@DBOS.workflow()
def support(question: str) -> str:
    return desk.run_sync(question).output


DBOS.launch()
with SetWorkflowID(tools.KEY):
    print(DBOS.start_workflow(support, tools.QUESTION).get_result())
