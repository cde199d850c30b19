"""The programs that are killed: one refund agent a framework, plain and with each durability."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import Environment

__all__ = ["CONTESTANTS", "Contestant"]

PROGRAMS = Path(__file__).with_name("programs")
# agentrun's own environment, with the extra `test`: frameworks without another durability run here.
OURS = Environment("")
DBOS = Environment("crash-dbos", ("dbos", "openai"))
ABSURD = Environment("crash-absurd", ("absurd-sdk", "absurdctl", "psycopg[binary]", "openai"))
DBOS_OPENAI_AGENTS = Environment("crash-dbos-openai-agents", ("dbos-openai-agents",))
DBOS_PYDANTIC_AI = Environment("crash-dbos-pydantic-ai", ("pydantic-ai-slim[openai,dbos]",))


@dataclass(frozen=True)
class Contestant:
    """A program in a framework, and what makes it durable; ``plain`` is the program without."""

    framework: str
    durability: str  # "none" for the plain program
    program: str
    plain: str
    environment: Environment = OURS

    @property
    def name(self) -> str:
        """The framework and the durability, as the command line knows them."""
        return f"{self.framework}/{self.durability}"

    @property
    def path(self) -> Path:
        """The file of the program."""
        return PROGRAMS / f"{self.program}.py"

    def count_edits(self) -> int:
        """How many lines of the plain program are added or changed."""
        texts = [(PROGRAMS / f"{name}.py").read_text() for name in (self.plain, self.program)]
        before, after = ([line for line in text.splitlines() if line.strip()] for text in texts)
        return sum(line.startswith("+ ") for line in difflib.ndiff(before, after))


def _of(
    framework: str, plain: str, *others: tuple[str, str, Environment]
) -> tuple[Contestant, ...]:
    return (
        Contestant(framework, "none", plain, plain),
        *(
            Contestant(framework, durability, f"{plain}_{suffix}", plain, environment)
            for durability, suffix, environment in others
        ),
        Contestant(framework, "agentrun", f"{plain}_agentrun", plain),
    )


CONTESTANTS = (
    *_of("a loop of one's own", "loop", ("DBOS", "dbos", DBOS), ("Absurd", "absurd", ABSURD)),
    *_of("anthropic tool_runner", "anthropic_runner"),
    *_of(
        "openai-agents",
        "openai_agents_sdk",
        ("SQLiteSession", "session", OURS),
        ("dbos-openai-agents", "dbos", DBOS_OPENAI_AGENTS),
    ),
    *_of("pydantic-ai", "pydantic_ai_agent", ("DBOSDurability", "dbos", DBOS_PYDANTIC_AI)),
    *_of("LangChain", "langchain_agent", ("PostgresSaver", "postgres", OURS)),
    *_of("smolagents", "smolagents_agent"),
    *_of("agno", "agno_agent"),
    *_of("LiteLLM, a loop", "litellm_loop"),
    *_of("google-genai", "google_genai_chat"),
)
