import functools
import json
import threading

from absurd_sdk import Absurd
from openai import OpenAI

import tools

client = OpenAI()
app = Absurd(tools.DSN, queue_name="support")


def find_order(order_id: str) -> str:
    return tools.find_order(order_id)


def refund(order_id: str, cents: int, key: str) -> str:
    return tools.refund(order_id, cents, key)


def send_mail(order_id: str, text: str) -> str:
    return tools.send_mail(order_id, text)


TOOLS = {"find_order": find_order, "refund": refund, "send_mail": send_mail}


def ask(messages: list) -> dict:
    reply = client.chat.completions.create(model=tools.MODEL, messages=messages)
    return reply.choices[0].message.model_dump(exclude_none=True)


@app.register_task(name="support")
def support(question: str, ctx) -> str:
    messages = [{"role": "user", "content": question}]
    while True:
        message = ctx.step(f"ask {len(messages)}", functools.partial(ask, messages))
        messages.append(message)
        if not message.get("tool_calls"):
            return message["content"]
        for call in message["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            if call["function"]["name"] == "refund":
                arguments["key"] = f"{ctx.task_id}-{call['id']}"
            act = functools.partial(TOOLS[call["function"]["name"]], **arguments)
            result = ctx.step(call["id"], act)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


task = app.spawn("support", tools.QUESTION, idempotency_key=tools.KEY)
worker = Absurd(tools.DSN, queue_name="support")
worker.register_task(name="support")(support)
threading.Thread(target=worker.start_worker, kwargs={"claim_timeout": 5}, daemon=True).start()
print(app.await_task_result(task["task_id"], timeout=90).result)
