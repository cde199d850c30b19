"""Fixtures of the web pages: served applications, a browser, and agents to look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from browser import Browser
from openai import OpenAI
from psycopg import sql
from psycopg.conninfo import make_conninfo
from web_pages import ANA, serving

import agentrun
from agentrun.store import roles


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The session's browser; its pages are closed after the test."""
    yield chromium
    chromium.close_pages()


@pytest.fixture
def reader_login(dsn: str, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that may do nothing but read, for the queries of people."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        name = conn.info.dbname
        login = sql.Identifier(f"{name}_reads")
        role = sql.Identifier(roles.create(conn, prefix=name)["reader"])
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(login, role))
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", dsn)
    monkeypatch.setenv("AGENTRUN_READER_URL", make_conninfo(dsn, user=f"{name}_reads"))


@pytest.fixture
def pages(db: Any, reader_login: None) -> Iterator[str]:
    """All pages, for somebody who may decide."""
    app = agentrun.ui(authorize=lambda request: ANA, allow_decisions=True, sql=True)
    with serving(app) as url:
        yield url


@pytest.fixture
def reading(db: Any) -> Iterator[str]:
    """The pages for everybody, who may only read."""
    with serving(agentrun.ui()) as url:
        yield url


@pytest.fixture
def desk(client: OpenAI) -> Any:
    """An agent whose tool waits for an approval."""

    @agentrun.tool(approve=True)
    def web_pay(cents: int, to: str = "ann") -> str:
        return f"paid {cents} to {to}"

    @agentrun.agent(name="web_desk")
    def web_desk(question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            reply = client.chat.completions.create(
                model="gpt-5-mini", messages=messages, tools=agentrun.schemas(web_pay)
            )
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return str(message.content)
            messages += agentrun.call_tools(reply, [web_pay])

    return web_desk


@pytest.fixture
def writer(client: OpenAI) -> Any:
    """An agent that answers by a stream."""

    @agentrun.agent(name="web_writer")
    def web_writer(question: str) -> str:
        stream = client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": question}], stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    return web_writer
