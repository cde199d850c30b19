"""Canary secrets through every path; then everything stored, logged and shown is searched.

Each path says where it is in words beside the secret, so that a path that was not taken shows as
much as a secret that got through. No twelve characters of a secret in a row may be left, so that
one cut in two is found as well.

What an agent's code saw of a secret is kept exactly, in tables that only workers read. A secret
must be there, and in nothing that anybody else can read; credentials of clients, headers and
cookies, must not even be there.
"""

from __future__ import annotations

import json
import logging
import os
import random
import string
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import openai
import psycopg
import pytest
import zstandard
from crashing import die, killed
from gateways import Gateway
from openai import OpenAI
from sayings import Saying, Server
from typer.testing import CliRunner

import agentrun
from agentrun.cli import app
from agentrun.cli.export_command import EXPORTS
from agentrun.store.embedded import Files
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
    "jwt": lambda r: (f"eyJhbGciOiJIUzI1NiJ9.eyJ{r}.{r[::-1]}", r),
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
        self, number: int, secret: str, credential: str, dsn: str, provider: Provider,
        server: Server,
    ) -> None:  # fmt: skip
        self.number, self.secret, self.credential = number, secret, credential
        self.dsn, self.provider, self.server = dsn, provider, server
        self.taken: set[str] = set()
        self.keys: list[str] = []

    def at(self, path: str) -> str:
        """The text that goes along ``path``."""
        self.taken.add(path)
        return f"(at {path}) {self.secret} (from there)"

    def client(self) -> OpenAI:
        return agentrun.wrap(self.plain_client(self.provider.base_url), retries=1)

    def plain_client(self, base_url: str) -> OpenAI:
        """One whose key and headers are credentials."""
        headers = {"x-api-key": self.credential, "cookie": f"theme=dark; session={self.credential}"}
        return OpenAI(base_url=base_url, api_key=self.credential, default_headers=headers)

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
        headers = {"set-cookie": f"session={self.credential}; HttpOnly", "x-odd": "1"}

        @agentrun.tool
        def call_out() -> None:
            """Raises an error that has its request, response and their headers."""
            asked: Any = [{"role": "user", "content": "x"}]
            with self.plain_client(self.server.url) as client:
                client.chat.completions.create(model="m", messages=asked)

        @agentrun.agent(name="hearer")
        def hear() -> None:
            with suppress(openai.APIError):
                call_out()
            with agentrun.wrap(self.plain_client(self.server.url), retries=0) as client:
                for _ in range(2):
                    with suppress(openai.APIError):
                        client.chat.completions.create(
                            model="m", messages=[{"role": "user", "content": "x"}]
                        )

        broken = json.dumps(error, indent=3)[:-5]
        self.server.say(
            Saying.json(error, 400, **headers),
            Saying.json(error, 400, **headers),
            Saying((broken.encode(),), 400, (("content-type", "application/json"),)),
        )
        hear.with_options(key=self.key("hears")).run()

    def asks_a_gateway(self, log: Path) -> None:
        """And asks again, which is answered from what the gateway keeps."""
        answer = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [
            {"index": 0, "finish_reason": "stop",
             "message": {"role": "assistant", "content": self.secret}}
        ]}  # fmt: skip
        self.server.say(Saying.json(answer, 200, **{"set-cookie": f"session={self.credential}"}))
        headers = {
            "authorization": f"Bearer {self.credential}",
            "cookie": f"session={self.credential}",
        }
        with Gateway(self.dsn, self.server.url, log) as gateway:
            for _ in range(2):
                response = gateway.post(self.at("question"), key=f"g{self.number}", headers=headers)
                assert self.secret in response.json()["choices"][0]["message"]["content"]
                gateway.rest()

    def stores_a_blob(self) -> None:
        @agentrun.step
        def read() -> str:
            return f"{self.at('blob')} {'and so on' * 20_000}"

        @agentrun.agent(name="reader")
        def reader() -> int:
            return len(read())

        reader.with_options(key=self.key("blob")).run()

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
            with agentrun.branch("by the way"):  # a name with a credential is refused
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
            del os.environ["AGENTRUN_BLOBS"]  # whose library survives no fork
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


HIDDEN = {"exact_values", "gateway_answers", "gateway_secret", "mask_key"}


def stored(auditor: str) -> Iterator[tuple[str, str]]:
    """Every table and view that an auditor reads, as text; and what lies compressed in payloads."""
    with psycopg.connect(auditor, autocommit=True) as conn:
        names = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'agentrun'::regnamespace"
            " AND relkind IN ('r', 'v')"
        ).fetchall()
        assert {name for (name,) in names} > HIDDEN
        for (name,) in names:
            query = f"COPY (SELECT * FROM agentrun.{name}) TO STDOUT"  # noqa: S608
            with conn.cursor() as cursor:
                if name in HIDDEN:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        cursor.execute(f"SELECT FROM agentrun.{name}")
                    continue
                with cursor.copy(query) as copy:
                    yield name, b"".join(copy).decode()
        for (zstd,) in conn.execute("SELECT zstd FROM agentrun.payloads WHERE zstd <> ''"):
            yield "a payload", unpacked(zstd)


def unpacked(zstd: bytes) -> str:
    """Compressed bytes as text; those that are not, or hold only a name, as they are."""
    with suppress(zstandard.ZstdError):
        zstd = zstandard.ZstdDecompressor().decompress(zstd, max_output_size=1 << 26)
    return zstd.decode("utf-8", "replace")


def blobs_in(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield f"blob {path.name}", unpacked(path.read_bytes())


def kept_for_workers(dsn: str) -> Iterator[tuple[str, str]]:
    """What nobody but workers and gateways may read."""
    with psycopg.connect(dsn) as conn:
        exact = conn.execute("SELECT zstd FROM agentrun.exact_values").fetchall()
        yield "exact_values", "\n".join(unpacked(zstd) for (zstd,) in exact)
        answers = conn.execute("SELECT headers, zstd FROM agentrun.gateway_answers").fetchall()
        yield "gateway_answers", "\n".join(f"{head} {unpacked(zstd)}" for head, zstd in answers)


class Spy:
    """Somebody who looks at the server all the time: statements under way, and notifications."""

    def __init__(self, dsn: str) -> None:
        self.dsn, self.seen, self.over = dsn, set[str](), threading.Event()
        self.looks = 0

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.add_notify_handler(lambda notify: self.seen.add(notify.payload))
            conn.execute("LISTEN agentrun")
            while not self.over.wait(0.005):
                rows = conn.execute("SELECT query, application_name FROM pg_stat_activity")
                self.seen.update(text for row in rows for text in row if text)
                self.looks += 1


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
    login: Callable[[str], str],
    server: Files,
    proof: Any,
    cli: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG, "agentrun")
    for number, case in enumerate(proof.cases("secrets", list(KINDS), share=3)):
        with case, Provider() as provider, Server() as other, Spy(dsn) as spy:
            secret, part = KINDS[case.name](drawn(case.random))
            credential = drawn(case.random)
            monkeypatch.setenv(VARIABLE, secret if case.name == "of the environment" else "-")
            caplog.clear()
            blobs, log = tmp_path / f"blobs_{number}", tmp_path / f"gateway {number}.log"
            monkeypatch.setenv("AGENTRUN_BLOBS", blobs.as_uri())
            with agentrun.connect(dsn):
                story = Story(number, secret, credential, dsn, provider, other)
                for chapter in (story.talks, story.hears_errors, story.is_told, story.doubts,
                                story.ends_badly, story.is_logged, story.stores_a_blob,
                                ):  # fmt: skip
                    chapter()
                story.asks_a_gateway(log)
                file = tmp_path / f"canary_{number}.py"
                file.write_text(APP.format(secret=repr(secret)))
                found = [*shown(story.keys, cli), *commanded(file, cli)]
                found += [*stored(login("auditor")), ("the log", logged(caplog))]
            found += [("a gateway's log", log.read_text()), *blobs_in(blobs)]
            found += [("the server's log", server.log.read_text("utf-8", "replace"))]
            found += [("pg_stat_activity and notifications", "\n".join(spy.seen))]
            assert spy.looks
            text = "\n".join(told for _, told in found)
            leaks = {where: leak for where, told in found if (leak := leaked(part, told))}
            assert not leaks
            kept = list(kept_for_workers(dsn))
            for where, told in kept:
                assert leaked(part, told), f"what the code saw is not in {where}"
            assert credential in str(other.requests)
            for where, told in [*found, *kept]:
                assert not leaked(credential, told), f"a credential in {where}"
            missing = {path for path in story.taken if f"(at {path})" not in text}
            assert not missing, "paths that were not taken"
            assert "(at failing command)" in text
            assert "(at working command)" in text
            case.count(paths=len(story.taken) + 2, places=len(found), leaks=0)
