import json

import litellm

import tools


def find_order(order_id: str) -> str:
    return tools.find_order(order_id)


def refund(order_id: str, cents: int) -> str:
    return tools.refund(order_id, cents)


def send_mail(order_id: str, text: str) -> str:
    return tools.send_mail(order_id, text)


TOOLS = {"find_order": find_order, "refund": refund, "send_mail": send_mail}


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


print(support(tools.QUESTION))
