import json

from dbos import DBOS, SetWorkflowID
from openai import OpenAI

import tools

client = OpenAI()
DBOS(config={"name": "support", "system_database_url": tools.DSN})


@DBOS.step()
def find_order(order_id: str) -> str:
    return tools.find_order(order_id)


@DBOS.step()
def refund(order_id: str, cents: int) -> str:
    return tools.refund(order_id, cents, f"{DBOS.workflow_id}-{DBOS.step_id}")


@DBOS.step()
def send_mail(order_id: str, text: str) -> str:
    return tools.send_mail(order_id, text)


TOOLS = {"find_order": find_order, "refund": refund, "send_mail": send_mail}


@DBOS.step()
def ask(messages: list) -> dict:
    reply = client.chat.completions.create(model=tools.MODEL, messages=messages)
    return reply.choices[0].message.model_dump(exclude_none=True)


@DBOS.workflow()
def support(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    while True:
        message = ask(messages)
        messages.append(message)
        if not message.get("tool_calls"):
            return message["content"]
        for call in message["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            result = TOOLS[call["function"]["name"]](**arguments)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


DBOS.launch()
with SetWorkflowID(tools.KEY):
    print(DBOS.start_workflow(support, tools.QUESTION).get_result())
