from agents import Agent, function_tool
from dbos import DBOS, SetWorkflowID
from dbos_openai_agents import DBOSRunner

import tools

DBOS(config={"name": "support", "system_database_url": tools.DSN})


@function_tool
@DBOS.step()
async def find_order(order_id: str) -> str:
    """Find an order."""
    return tools.find_order(order_id)


@function_tool
@DBOS.step()
async def refund(order_id: str, cents: int) -> str:
    """Refund an order."""
    return tools.refund(order_id, cents, f"{DBOS.workflow_id}-{DBOS.step_id}")


@function_tool
@DBOS.step()
async def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return tools.send_mail(order_id, text)


desk = Agent(name="desk", model=tools.MODEL, tools=[find_order, refund, send_mail])


@DBOS.workflow()
def support(question: str) -> str:
    return DBOSRunner.run_sync(desk, question).final_output


DBOS.launch()
with SetWorkflowID(tools.KEY):
    print(DBOS.start_workflow(support, tools.QUESTION).get_result())
