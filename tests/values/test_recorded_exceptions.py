"""An exception of a step is recorded and raised again: same type, same text, same path."""

from __future__ import annotations

import ast
import json
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

import agentrun
from agentrun.testing import Call, Provider, Reply
from agentrun.values.exceptions import describe, rebuild


class Picky(Exception):
    """Cannot be made without its arguments, and tells of them in its own words."""

    def __new__(cls, _first: int, _second: object) -> Picky:
        return super().__new__(cls)

    def __init__(self, first: int, second: object) -> None:
        super().__init__()
        self.first, self.second = first, second

    def __str__(self) -> str:
        return f"{self.first} and {self.second}"


def test_a_traceback_names_every_frame_and_cause_and_calls_no_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(n: int) -> int:
        try:
            return fail(n - 1) + 1 if n else {}["missing"]  # type: ignore[return-value]
        except KeyError as error:
            if n == 2:
                raise ValueError("because") from error
            raise

    parsed: list[str] = []
    monkeypatch.setattr(ast, "parse", parsed.append)
    with pytest.raises(ValueError, match="because") as failed:
        fail(2)
    text = describe(failed.value, trace=True)["traceback"]  # type: ignore[index, call-overload]
    assert "KeyError: 'missing'" in text
    assert "The above exception was the direct cause" in text
    assert text.count("in fail\n    return fail(n - 1) + 1") == 3
    assert text.endswith("ValueError: because\n")
    assert "^" not in text
    assert parsed == []


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


class Spoilt(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class Empty(Exception):
    """It is false, as a collection of errors that has none."""

    def __len__(self) -> int:
        return 0


EXCEPTIONS: dict[str, BaseException] = {
    "plain": ValueError("out of stock", 7),
    "without text": TimeoutError(),
    "with an argument that JSON cannot hold": ValueError(Path("/etc")),
    "with two of them": ValueError(Path("/etc"), {1, 2}),
    "with NaN": ValueError(float("nan")),
    "with a deep argument": ValueError(json.loads("[" * 250 + "]" * 250)),
    "with hostile text": ValueError("\x1b[2J\0\ud800␛0000\n" + "x" * 100_000),
    "of a file": FileNotFoundError(2, "No such file or directory", "/nope"),
    "of a file, of its own type": type("Mine", (OSError,), {})(28, "disk full"),
    "of TLS": ssl.SSLError(1, "bad record"),
    "of bytes": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "of text": UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    "of JSON": json.JSONDecodeError("Expecting value", "{", 1),
    "of an import": ImportError("no module", name="m", path="p"),
    "of syntax": SyntaxError("invalid syntax", ("f.py", 1, 2, "a b")),
    "of a process": subprocess.CalledProcessError(3, ["ls", "-l"], b"out"),
    "picky": Picky(1, Path("/etc")),
    "slotted": Slotted(4),
    "false": Empty("nothing"),
    "a group": ExceptionGroup("both", [ValueError("a"), ExceptionGroup("in", [Picky(1, 2)])]),
}


@pytest.mark.parametrize("what", EXCEPTIONS)
def test_an_exception_comes_back_with_its_type_and_text(what: str) -> None:
    error = EXCEPTIONS[what]
    again = rebuild(json.loads(json.dumps(describe(error))))
    assert isinstance(again, type(error))
    assert type(again).__name__ == type(error).__name__
    assert str(again) == str(error)


def test_what_the_code_asks_of_an_exception_comes_back() -> None:
    missing = rebuild(describe(EXCEPTIONS["of a file"]))
    assert isinstance(missing, OSError)
    assert (missing.errno, missing.filename) == (2, "/nope")
    slotted = rebuild(describe(EXCEPTIONS["slotted"]))
    assert isinstance(slotted, Slotted)
    assert slotted.code == 4
    group = rebuild(describe(EXCEPTIONS["a group"]))
    assert isinstance(group, ExceptionGroup)
    matched, rest = group.split(Picky)
    assert [str(error) for error in (matched, rest)] == ["both (1 sub-exception)"] * 2


def test_an_exception_that_tells_nothing_is_recorded_all_the_same() -> None:
    for error in (Spoilt(), ValueError(Spoilt())):
        described = describe(error, trace=True)
        assert isinstance(rebuild(json.loads(json.dumps(described))), type(error))


def test_an_exception_of_a_type_that_is_not_loaded_is_a_failed_tool() -> None:
    again = rebuild({"type": "gone.Away", "message": "long ago", "args": []})
    assert (type(again), str(again)) == (agentrun.ToolFailed, "gone.Away: long ago")


def test_a_group_of_groups_ends_somewhere() -> None:
    error: Exception = ValueError("core")
    for _ in range(100):
        error = ExceptionGroup("around", [error])
    assert str(rebuild(describe(error))) == str(error)


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_secret_is_not_cut_in_two_where_a_traceback_is(cut: int) -> None:
    secret = "sk-proj-Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"
    described = describe(ValueError(f"{secret} " + "x" * (4_000 - cut)), trace=True)
    shown = described["traceback"]
    assert not any(secret[start : start + 12] in shown for start in range(len(secret) - 12))


@pytest.mark.parametrize("what", [*EXCEPTIONS, "spoilt"])
def test_the_model_is_told_the_same_again(
    db: Any, provider: Provider, what: str, reincarnate: Callable[[], Any]
) -> None:
    """Else the next request would differ, and the run would be refused as diverged."""
    crash = True

    @agentrun.tool
    def break_down() -> None:
        raise EXCEPTIONS.get(what, Spoilt())

    @agentrun.agent
    def tell() -> str | None:
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
        messages: list[Any] = [{"role": "user", "content": "go"}]
        while True:
            reply = client.chat.completions.create(model="m", messages=messages)
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                if crash:
                    raise SystemExit
                return message.content
            messages += agentrun.call_tools(reply, [break_down])

    provider.say([Reply(tool_calls=[Call("break_down")]), "so be it"])
    with pytest.raises(SystemExit):
        tell.with_options(key="k").run()
    crash = False
    assert tell.with_options(key="k").run() == "so be it"
    assert provider.billed() == 2
