"""Runs behind HTTP: a FastAPI service with a worker inside.

    pip install fastapi uvicorn
    uvicorn --app-dir notebooks fastapi_service:app

    run=localhost:8000/runs/ticket-42
    curl -X PUT $run --json '{"question": "refund 99 dollars for order 7"}'   start or find the run
    curl $run                                                   its status, and what waits there
    curl -X POST "$run/steps/2/approve?by=ada"                  or reject, with by= and reason=
    curl "$run/answer?wait=30"                                  wait for the result

Kill the process at any moment and start it again: its worker goes on with every run.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import psycopg
from fastapi import Body, FastAPI, Request
from fastapi.responses import JSONResponse
from openai import AsyncOpenAI

import agentrun

client = agentrun.wrap(AsyncOpenAI())


@agentrun.tool(effect="transaction", approve=lambda order_id, cents: cents > 5000)
async def refund(order_id: str, cents: int) -> str:
    """Refund an order."""
    connection = agentrun.current_step().connection
    await connection.execute("insert into refunds values (%s, %s)", (order_id, cents))
    return f"refunded {cents} cents"


@agentrun.agent
async def support(question: str) -> str:
    messages: list[Any] = [{"role": "user", "content": question}]
    while True:
        reply = await client.chat.completions.create(
            model="gpt-5-mini", messages=messages, tools=agentrun.schemas(refund)
        )
        message = reply.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        messages += await agentrun.acall_tools(message, [refund])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with agentrun.connect() as database:
        with psycopg.connect(database.dsn) as connection:
            connection.execute("create table if not exists refunds (order_id text, cents int)")
        async with agentrun.Worker([support]):
            yield


app = FastAPI(lifespan=lifespan)


@app.put("/runs/{key}")
async def start(key: str, question: Annotated[str, Body(embed=True)]) -> str:
    run = await support.with_options(key=key).asubmit(question)
    return await run.astatus()


@app.get("/runs/{key}")
def look(key: str) -> dict[str, Any]:
    return {"status": agentrun.get(key).status(), "waits": agentrun.inbox(key)}


@app.post("/runs/{key}/steps/{step}/approve")
def approve(key: str, step: int, by: str) -> None:
    agentrun.approve(key, step, by=by)


@app.post("/runs/{key}/steps/{step}/reject")
def reject(key: str, step: int, by: str, reason: str) -> None:
    agentrun.reject(key, step, by=by, reason=reason)


@app.get("/runs/{key}/answer")
async def answer(key: str, wait: float = 30) -> str:
    run = await asyncio.to_thread(agentrun.get, key)
    return str(await run.aresult(timeout=wait))


@app.exception_handler(agentrun.RunError)
@app.exception_handler(TimeoutError)
def refused(request: Request, error: Exception) -> JSONResponse:
    codes = {agentrun.RunNotFound: 404, agentrun.RunFailed: 500, TimeoutError: 504}
    return JSONResponse({"detail": str(error)}, codes.get(type(error), 409))
