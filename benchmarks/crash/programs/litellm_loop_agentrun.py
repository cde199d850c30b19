import json

import litellm

import agentrun
import tools


@agentrun.tool(effect="read")
def find_order(order_id: str) -> str:
    return tools.find_order(order_id)


@agentrun.tool(effect="idempotent")
def refund(order_id: str, cents: int, idempotency_key: str = "") -> str:
    return tools.refund(order_id, cents, idempotency_key)


@agentrun.tool
def send_mail(order_id: str, text: str) -> str:
    return tools.send_mail(order_id, text)


agentrun.install()
TOOLS = {"find_order": find_order, "refund": refund, "send_mail": send_mail}


@agentrun.agent
def support(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    while True:
        reply = litellm.completion(model=f"openai/{tools.MODEL}", messages=messages)
        message = reply.choices[0].message.model_dump(exclude_none=True)
        messages.append(message)
        if not message.get("tool_calls"):
            return message["content"]
        for call in message["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            result = TOOLS[call["function"]["name"]](**arguments)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


print(support.with_options(key=tools.KEY).run(tools.QUESTION))
