"""LangGraph with PostgresSaver: `langgraph_.py storage DSN`: bytes a byte of new text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import sizes
from benchmarks.text import new_text


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]


def storage(dsn: str) -> float:
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"messages": [("assistant", "ok")]})
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    with PostgresSaver.from_conn_string(dsn) as saver:
        saver.setup()
        before = size(dsn)
        app = graph.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "long"}}
        for turn in range(sizes.TURNS):
            app.invoke({"messages": [("user", new_text(turn))]}, config)
    return (size(dsn) - before) / (sizes.TURNS * sizes.TURN_BYTES)


def size(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("VACUUM")
        return (conn.execute("SELECT pg_database_size(current_database())").fetchone() or (0,))[0]


if __name__ == "__main__":
    if sys.argv[1] != "storage":
        raise SystemExit(f"LangGraph does not measure {sys.argv[1]}")
    print(json.dumps({"value": storage(sys.argv[2])}))
