"""Canary secrets through every path; then everything stored, logged and shown is searched.

Each path says where it is in words beside the secret, so that a path that was not taken shows as
much as a secret that got through. No twelve characters of a secret in a row may be left, so that
one cut in two is found as well.
"""

from __future__ import annotations

import json
import logging
import random
import string
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
import zstandard
from crashing import die, killed
from openai import OpenAI
from sayings import Saying, Server
from typer.testing import CliRunner

import agentrun
from agentrun.cli import app
from agentrun.cli.reading import EXPORTS
from agentrun.testing import Call, Provider, Reply

pytestmark = pytest.mark.long

VARIABLE = "PAYROLL_TOKEN"
WINDOW = 12  # characters


def drawn(rng: random.Random, size: int = 40, letters: str = string.ascii_letters) -> str:
    return "".join(rng.choices(letters + string.digits, k=size))


# How a secret stands in a text, and the part of it that must be found nowhere.
Made = tuple[str, str]
KINDS: dict[str, Callable[[str], Made]] = {
    "openai key": lambda r: (f"sk-proj-{r}", r),
    "anthropic key": lambda r: (f"sk-ant-api03-{r}", r),
    "github token": lambda r: (f"ghp_{r}", r),
    "slack token": lambda r: (f"xoxb-1234-{r}", r),
    "stripe key": lambda r: (f"rk_live_{r}", r),
    "aws secret": lambda r: (f"aws_secret_access_key = {r}", r),
    "jwt": lambda r: (f"eyJhbGciOiJIUzI1NiJ9.{r}.{r[::-1]}", r),
    "bearer header": lambda r: (f"Authorization: Bearer {r}", r),
    "basic header": lambda r: (f"Basic {(b := b64encode(f'me:{r}'.encode()).decode())}", b),
    "cookie": lambda r: (f"Cookie: theme=dark-mode; session={r}", r),
    "password in a DSN": lambda r: (f"postgresql://me:{r}@db.example/app", r),
    "password of libpq": lambda r: (f"host=db user=me password={r} dbname=x", r),
    "private key": lambda r: (f"-----BEGIN PRIVATE KEY-----\n{r}\n-----END PRIVATE KEY-----", r),
    "of the environment": lambda r: (f'{r[:20]} "of" the\\env {r[20:]} pässwörd', r[20:]),
}


class Gone(Exception):
    """Tells of a secret in all the ways an exception can."""

    def __init__(self, text: str) -> None:
        super().__init__(text, {"inside": [text]})
        self.told = text


class Story:
    """Every path that a text can take through agentrun; ``taken`` are their names."""

    def __init__(
        self, number: int, secret: str, dsn: str, provider: Provider, server: Server
    ) -> None:
        self.number, self.secret = number, secret
        self.dsn, self.provider, self.server = dsn, provider, server
        self.taken: set[str] = set()
        self.keys: list[str] = []

    def at(self, path: str) -> str:
        """The text that goes along ``path``."""
        self.taken.add(path)
        return f"(at {path}) {self.secret} (from there)"

    def client(self) -> OpenAI:
        return agentrun.wrap(OpenAI(base_url=self.provider.base_url, api_key="k"), retries=1)

    def key(self, name: str) -> str:
        self.keys.append(f"{name}-{self.number}")
        return self.keys[-1]

    # -- conversations ---------------------------------------------------------------------------

    def talks(self) -> None:
        at = self.at

        @agentrun.tool(effect="idempotent", retries=1)
        def look(what: str) -> dict[str, Any]:
            if agentrun.current_step().attempt == 1:
                raise Gone(at("failed attempt"))
            return {"cookie": [what], "seen": at("tool result"), at("name in a result"): 1}

        @agentrun.tool
        def fail(what: str) -> None:
            raise Gone(at("tool exception"))

        @agentrun.agent(name="talker")
        def talk(question: str) -> str:
            system = {"role": "system", "content": at("system prompt")}
            messages: list[Any] = [system, {"role": "user", "content": question}]
            with self.client() as client:
                while True:
                    reply = client.chat.completions.create(model="m", messages=messages)
                    said = reply.choices[0].message
                    messages.append(said.model_dump(exclude_none=True))
                    if not said.tool_calls:
                        break
                    messages += agentrun.call_tools(reply, [look, fail])
                for chunks in (1, 2, 60):
                    asked: Any = [{"role": "user", "content": at(f"question of {chunks}")}]
                    for _ in client.chat.completions.create(model="m", messages=asked, stream=True):
                        pass
            return at("agent result")

        calls = [
            Call("look", {"what": at("arguments")}),
            Call("fail", {"what": at("more of them")}),
            Call(at("name of no tool"), {}),
            Call("look", at("arguments that are no JSON")),
        ]
        streams = [
            {"when": {"contains": f"question of {chunks}"}, "chunks": chunks}
            for chunks in (1, 2, 60)
        ]
        self.provider.say(
            [Reply(at("reply"), tool_calls=calls), Reply(at("last reply"))],
            [rule_of(stream, at(f"stream of {stream['chunks']}")) for stream in streams],
        )
        talk.with_options(key=self.key("talks")).run(at("question"))

    def hears_errors(self) -> None:
        at = self.at
        error = {"error": {"message": at("provider error"), "type": "no", "code": "no"}}
        headers = {"set-cookie": self.secret.replace("\n", " "), "x-odd": "1"}
        headers = {name: text.encode("ascii", "replace").decode() for name, text in headers.items()}

        @agentrun.agent(name="hearer")
        def hear() -> None:
            where: Any = {"base_url": self.server.url, "api_key": "k"}
            with agentrun.wrap(OpenAI(**where), retries=0) as client:
                for _ in range(2):
                    with suppress(openai.APIError):
                        client.chat.completions.create(
                            model="m", messages=[{"role": "user", "content": "x"}]
                        )

        broken = json.dumps(error, indent=3)[:-5]
        self.server.say(
            Saying.json(error, 400, **headers),
            Saying((broken.encode(),), 400, (("content-type", "application/json"),)),
        )
        hear.with_options(key=self.key("hears")).run()

    # -- people and other runs -------------------------------------------------------------------

    def is_told(self) -> None:
        at = self.at

        @agentrun.tool(approve=True)
        def pay(what: str) -> str:
            return at("approved result")

        @agentrun.step(effect="read")
        def read(what: str) -> str:
            return at("result of a step")

        @agentrun.agent(name="child")
        def child(what: str) -> str:
            return at("result of a child")

        @agentrun.agent(name="told")
        def told() -> None:
            agentrun.receive("news")
            for name in ("first", "second"):
                with suppress(agentrun.ToolFailed):
                    pay(f"{name} {at('what waits')}")
            with agentrun.branch(at("branch")):
                read(at("argument of a step"))
            child(at("argument of a child"))

        key = self.key("told")
        keyed = told.with_options(key=key)
        keyed.submit()
        agentrun.send(key, "news", {"authorization": self.secret, "news": at("signal")})
        with pytest.raises(agentrun.RunHeld) as held:
            keyed.run()
        step = held.value.step or 0
        edited = {"what": at("edited arguments")}
        agentrun.approve(key, step, by=at("approver"), reason=at("why"), arguments=edited)
        with pytest.raises(agentrun.RunHeld) as held:
            keyed.run()
        agentrun.reject(key, held.value.step or 0, by=at("rejecter"), reason=at("why not"))
        keyed.run()
        self.keys += [other for other in runs(self.dsn) if other.startswith(f"{key}/")]

    def doubts(self) -> None:
        at = self.at
        crash = True

        @agentrun.tool
        def act(what: str) -> str:
            if crash:
                die()
            return what

        @agentrun.agent(name="doubter")
        def doubt() -> str:
            return act(at("argument in doubt"))

        key = self.key("doubts")
        keyed = doubt.with_options(key=key)

        def action() -> None:
            agentrun.connect(self.dsn)
            keyed.run()

        killed(action)
        crash = False
        at("argument in doubt")  # said by the child
        with pytest.raises(agentrun.RunHeld):
            keyed.run()
        outcome = agentrun.Happened({"told": at("what happened")})
        agentrun.resolve(key, 1, outcome, by=at("resolver"), reason=at("reason of it"))
        keyed.run()

    def ends_badly(self) -> None:
        at = self.at

        @agentrun.agent(name="failing")
        def failing() -> None:
            secret_on_the_stack = at("failure")
            raise Gone(secret_on_the_stack)

        @agentrun.agent(name="waiting")
        def waiting() -> None:
            agentrun.receive("never")

        handle = failing.with_options(key=self.key("fails")).submit()
        with agentrun.Worker([failing]), pytest.raises(agentrun.RunFailed):
            handle.result(60)
        key = self.key("cancelled")
        waiting.with_options(key=key).submit()
        agentrun.cancel(key, by=at("canceller"), reason=at("why it was cancelled"))

    def is_logged(self) -> None:
        log = logging.getLogger("agentrun")
        log.warning("waiting for %s", self.at("log line"))
        try:
            raise Gone(self.at("logged exception"))
        except Gone:
            log.exception("an error of agentrun's own")


def rule_of(stream: dict[str, Any], text: str) -> Any:
    from agentrun.testing import Rule

    return Rule(stream["when"], Reply(text, chunks=stream["chunks"]))


# -- everything that is left ---------------------------------------------------------------------


def runs(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        return [key for (key,) in conn.execute("SELECT key FROM agentrun.runs")]


def stored(dsn: str) -> Iterator[tuple[str, str]]:
    """Every table and every view as text, and what lies compressed in the payloads."""
    with psycopg.connect(dsn) as conn:
        names = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'agentrun'::regnamespace"
            " AND relkind IN ('r', 'v')"
        ).fetchall()
        for (name,) in names:
            query = f"COPY (SELECT * FROM agentrun.{name}) TO STDOUT"  # noqa: S608
            with conn.cursor().copy(query) as copy:
                yield name, b"".join(copy).decode()
        for (zstd,) in conn.execute("SELECT zstd FROM agentrun.payloads"):
            raw = zstandard.ZstdDecompressor().decompress(zstd)
            yield "a payload", raw.decode("utf-8", "replace")


def shown(keys: list[str], cli: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """What every viewer and every command makes of the runs."""
    for key in keys:
        transcript = agentrun.transcript(key)
        yield "a notebook", json.dumps(transcript._repr_mimebundle_())
        yield "a repr", repr(transcript) + repr(agentrun.get(key))
        for args in (["show"], ["show", "--full"], ["show", "--json"], ["watch"]):
            yield " ".join(args), cli(*args, key)
        for name in EXPORTS:
            yield f"export --{name}", cli("export", key, f"--{name}")
    for args in (["ls"], ["ls", "--json"], ["inbox"], ["doctor"]):
        yield args[0], cli(*args)
    yield "sql", cli("sql", "SELECT * FROM journal")
    yield "sql --json", cli("sql", "SELECT * FROM journal", "--json")


def commanded(file: Path, cli: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """What the command line says of an agent that it executes itself."""
    for name in ("fails", "works"):
        key = f"{file.stem}-{name}"
        yield f"run {name}", cli("run", f"{file}:{name}", "--key", key)
        yield f"run --json {name}", cli("run", f"{file}:{name}", "--key", f"{key}-2", "--json")
        yield f"resume {name}", cli("--debug", "resume", key, file)


APP = """
import agentrun

@agentrun.agent
def fails():
    raise ValueError("(at failing command)", {secret})

@agentrun.agent
def works():
    return ["(at working command)", {secret}]
"""


@pytest.fixture
def cli(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", dsn)

    def invoke(*args: object) -> str:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        return f"{result.output}{result.stderr}"

    return invoke


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """agentrun's own log: what an HTTP library says of headers at DEBUG is its own affair."""
    ours = (record for record in caplog.records if record.name == "agentrun")
    return "\n".join(map(caplog.handler.format, ours))


def leaked(part: str, text: str) -> str:
    """The surroundings of the first piece of ``part`` that is left in ``text``."""
    for spelt in (part, json.dumps(part)[1:-1]):
        for start in range(len(spelt) - WINDOW + 1):
            at = text.find(spelt[start : start + WINDOW])
            if at >= 0:
                return text[max(0, at - 80) : at + 80]
    return ""


def test_no_secret_is_left_anywhere(
    dsn: str,
    proof: Any,
    cli: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG, "agentrun")
    for number, case in enumerate(proof.cases("secrets", list(KINDS), share=3)):
        with case, Provider() as provider, Server() as server:
            secret, part = KINDS[case.name](drawn(case.random))
            monkeypatch.setenv(VARIABLE, secret if case.name == "of the environment" else "-")
            caplog.clear()
            with agentrun.connect(dsn):
                story = Story(number, secret, dsn, provider, server)
                for chapter in (story.talks, story.hears_errors, story.is_told, story.doubts,
                                story.ends_badly, story.is_logged):  # fmt: skip
                    chapter()
                file = tmp_path / f"canary_{number}.py"
                file.write_text(APP.format(secret=repr(secret)))
                found = [*shown(story.keys, cli), *commanded(file, cli)]
                found += [*stored(dsn), ("the log", logged(caplog))]
            text = "\n".join(told for _, told in found)
            leaks = {where: leak for where, told in found if (leak := leaked(part, told))}
            assert not leaks
            missing = {path for path in story.taken if f"(at {path})" not in text}
            assert not missing, "paths that were not taken"
            assert "(at failing command)" in text
            assert "(at working command)" in text
            case.count(paths=len(story.taken) + 2, places=len(found), leaks=0)
