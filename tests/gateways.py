"""A gateway as its users start it, a process of its own, and what may be seen of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from anthropic import Anthropic, AsyncAnthropic
from crashing import until
from openai import AsyncOpenAI, OpenAI

from agentrun.store.database import OpenDatabase

KEY = "sk-proj-" + "Zq7" * 16  # what must be found nowhere


class Gateway:
    """`agentrun gateway` in front of one double, which is both providers."""

    def __init__(self, dsn: str, upstream: str, log: Path, *options: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "agentrun", "gateway", "--port", "0", "--json"]
        for name in ("openai", "anthropic"):
            command += ["--upstream", f"{name}={upstream}"]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*command, *options],
                env={**os.environ, "AGENTRUN_DATABASE_URL": dsn},
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=os.environ["AGENTRUN_HOME"],  # where the session's janitor finds it
                start_new_session=True,
            )
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        assert told, log.read_text()
        self.url = json.loads(told)["url"]

    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/openai/v1", api_key=KEY, max_retries=0)

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/openai/v1", api_key=KEY, max_retries=0)

    def anthropic(self) -> Anthropic:
        return Anthropic(base_url=f"{self.url}/anthropic", api_key=KEY, max_retries=0)

    def async_anthropic(self) -> AsyncAnthropic:
        return AsyncAnthropic(base_url=f"{self.url}/anthropic", api_key=KEY, max_retries=0)

    def post(self, content: str = "hi", *, key: str | None = "k", **more: Any) -> httpx.Response:
        """A chat completion, asked for as any program would."""
        with self.asking(content, key=key, **more) as response:
            response.read()
            return response

    @contextlib.contextmanager
    def asking(
        self,
        content: str = "hi",
        *,
        key: str | None = "k",
        headers: dict[str, str] | None = None,
        **body: Any,
    ) -> Any:
        """The response as it comes."""
        asked = {"model": "gpt-5", "messages": [{"role": "user", "content": content}], **body}
        every = {"authorization": f"Bearer {KEY}", "cookie": f"session={KEY}", **(headers or {})}
        if key is not None:
            every["idempotency-key"] = key
        url = f"{self.url}/openai/v1/chat/completions"
        with (
            httpx.Client(timeout=60, trust_env=False) as client,
            client.stream("POST", url, json=asked, headers=every) as response,
        ):
            yield response

    def in_flight(self) -> int:
        told = httpx.get(self.url, trust_env=False).json()
        return int(told["in_flight"])

    def rest(self) -> None:
        """Wait until every call is answered and written down."""
        until(lambda: self.in_flight() == 0)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for what comes of it."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(self.log.read_text())
        self.process.kill()
        self.process.communicate()


def calls(db: OpenDatabase) -> list[dict[str, Any]]:
    """The rows of the gateways, oldest first."""
    with db.connection() as conn:
        query = "SELECT * FROM agentrun.gateway_calls ORDER BY started_at, key, call"
        return conn.execute(query).fetchall()


def statuses(db: OpenDatabase) -> list[str]:
    return [row["status"] for row in calls(db)]


def steps(db: OpenDatabase) -> int:
    """The model steps that journals have an outcome of."""
    with db.connection() as conn:
        query = "SELECT count(*) AS n FROM agentrun.steps WHERE kind = 'model'"
        row = conn.execute(query).fetchone()
        return int(row["n"]) if row else 0
