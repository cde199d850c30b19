"""What the README shows, done to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI

import agentrun
from agentrun.testing import Call, Provider, Reply

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAYMENTS = """
def refund(order_id, cents, key):
    with open("payments.log", "a") as log:
        log.write(f"{order_id} {cents}\\n")
    return {"refunded": cents}
"""


def block(text: str) -> str:
    """The one block of Python that has this text."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (found,) = (block for block in blocks if text in block)
    return str(found)


def test_every_file_that_it_names_is_there() -> None:
    linked = re.findall(r"\]\(([^):]+)\)", README)
    proofs = [path for line in re.findall(r"`(pytest [^`]+)`", README)
              for path in re.findall(r"tests/\S+", line)]  # fmt: skip
    assert linked
    assert proofs
    missing = [path for path in [*linked, *proofs] if not (ROOT / path.rstrip(";")).exists()]
    assert missing == []


def test_three_edits(dsn: str, tmp_path: Path) -> None:
    """Run, run again, worked off by a worker: one file serves for all."""
    (tmp_path / "payments.py").write_text(PAYMENTS)
    (tmp_path / "app.py").write_text("import payments\n" + block("# 3  the loop stays"))
    script = [Reply(tool_calls=[Call("refund", {"order_id": "7", "cents": 100})]), "done"]
    with Provider(script=script) as provider:
        settings = {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": "k"}

        def python(*command: str) -> str:
            return subprocess.run(
                [sys.executable, *command],
                cwd=tmp_path,
                env={**os.environ, **settings, "AGENTRUN_DATABASE_URL": dsn},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout

        assert [python("app.py"), python("app.py")] == ["done\n"] * 2
        assert provider.billed() == 2
        assert "refund(order_id=" in python("-m", "agentrun", "show", "ticket-42")
        again = python("-m", "agentrun", "run", "app.py:support", "refund", "--key", "ticket-43")
        assert again == "done\n"
    assert (tmp_path / "payments.log").read_text() == "7 100\n" * 2


def test_testing_your_own_agent(dsn: str) -> None:
    def own_agent(client: OpenAI) -> None:
        @agentrun.tool(effect="idempotent")
        def refund(order_id: str, cents: int) -> str:
            return "refunded"

        @agentrun.agent
        def support() -> None:
            messages: list[Any] = [{"role": "user", "content": "refund order 7"}]
            for _ in range(2):
                reply = client.chat.completions.create(model="gpt-5-mini", messages=messages)
                messages.append(reply.choices[0].message.model_dump(exclude_none=True))
                messages += agentrun.call_tools(reply, [refund])

        support.run()

    shown = block("from agentrun.testing import")
    with agentrun.connect(dsn):
        code = compile(shown.replace("…", "own_agent(client)"), "README.md", "exec")
        exec(code, {"agentrun": agentrun, "OpenAI": OpenAI, "own_agent": own_agent})
