"""What code catches after a resume is what it caught live, with all that it may look at."""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.message import Message
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import anthropic
import httpx
import httpx2
import openai
import psycopg
import pydantic
import pytest
import requests
from pydantic import BeforeValidator, TypeAdapter
from pydantic_core import PydanticCustomError

import agentrun
from agentrun.values import exceptions
from agentrun.values.exceptions import describe, rebuild

SECRET = "s3cr3t-passw0rd"


class Why(Enum):
    STOCK = "stock"


class Order(pydantic.BaseModel):
    number: int
    names: list[str] = []

    @pydantic.field_validator("number")
    @classmethod
    def small(cls, number: int) -> int:
        if number > 10:
            raise ValueError("too many")
        if number == 7:
            raise PydanticCustomError("unlucky", "{number} is unlucky", {"number": 7})
        assert number != 8, "not eight"
        return number


class Refused(Exception):
    def __init__(self, why: Why, price: Decimal) -> None:
        super().__init__(f"refused for {why.value}")
        self.why, self.price, self.at = why, price, datetime(2026, 1, 1, tzinfo=UTC)
        self._limits = {"a": (1, 2), "b": {3}}


@dataclass
class Problem(Exception):
    code: int
    detail: str = ""


def answered(module: Any, status: int) -> Any:
    sent = {"authorization": f"Bearer {SECRET}", "x-trace": "1"}
    request = module.Request("POST", "https://api.example/v1?q=1", headers=sent, json={"n": 1})
    came = {
        "set-cookie": f"id={SECRET}",
        "x-request-id": "req_1",
        "content-type": "application/json",
    }
    return module.Response(status, headers=came, json={"error": {"code": "c"}}, request=request)


def by_requests() -> requests.Response:
    made = requests.Response()
    made.status_code, made.url, made.reason = 503, "https://api.example/", "Busy"
    made._content = b'{"a": 1}'
    made.headers["x-request-id"] = "req_1"
    made.headers["Set-Cookie"] = f"id={SECRET}"
    made.request = requests.Request("PUT", made.url, json={"n": 1}).prepare()
    made.request.headers["Authorization"] = f"Bearer {SECRET}"
    return made


def raised(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def in_chain() -> None:
    try:
        try:
            {}["k"]  # type: ignore[index]
        except KeyError as missing:
            raise ValueError("middle") from missing
    except ValueError:
        raise RuntimeError("outer")  # noqa: B904


def noted() -> None:
    error = ValueError("v")
    error.add_note("hint")
    error.add_note("another")
    raise error from None


def of_urllib() -> None:
    headers = Message()
    headers["x-request-id"] = "req_1"
    raise urllib.error.HTTPError(
        "http://x/", 404, "Not Found", headers, io.BytesIO(b"no such thing")
    )


def in_sql(dsn: str = "") -> None:
    raise psycopg.errors.UniqueViolation("duplicate key")


def fail(error: Exception) -> None:
    raise error


def refuse(value: Any) -> Any:
    raise PydanticCustomError("refused", "no", {"between": (1, 2)})


def status(error: Any) -> Any:
    response = error.response
    return (
        response.status_code,
        response.json(),
        response.content,
        sorted(
            (name.lower(), value)
            for name, value in response.headers.items()
            if name.lower() not in ("content-length", "set-cookie")
        ),
        response.request.method,
        str(response.request.url),
    )


INVALID = (
    '{"number": "x"}',
    '{"number": 11}',
    '{"number": 7}',
    '{"number": 8}',
    "{}",
    "[",
    '{"number": 1, "names": [1, null]}',
)


def lines(error: pydantic.ValidationError) -> Any:
    return [
        {**line, "ctx": {name: repr(value) for name, value in line.get("ctx", {}).items()}}
        for line in error.errors()
    ]


# What is raised, and what the code may look at.
RAISED: dict[str, tuple[Callable[[], object], Callable[[Any], Any]]] = {
    "httpx": (lambda: answered(httpx, 404).raise_for_status(), status),
    "httpx2": (lambda: answered(httpx2, 429).raise_for_status(), status),
    "no connection": (
        lambda: fail(httpx.ConnectError("no", request=httpx.Request("GET", "http://x/"))),
        lambda e: (e.request.method, str(e.request.url)),
    ),
    "requests": (lambda: by_requests().raise_for_status(), status),
    "openai": (
        lambda: fail(
            openai.RateLimitError(
                "slow down", response=answered(httpx2, 429), body={"code": "c", "type": "t"}
            )
        ),
        lambda e: (
            *status(e),
            e.status_code,
            e.request_id,
            e.body,
            e.code,
            e.type,
            e.param,
            e.message,
        ),
    ),
    "anthropic": (
        lambda: fail(
            anthropic.BadRequestError(
                "bad", response=answered(httpx2, 400), body={"error": {"type": "t"}}
            )
        ),
        lambda e: (*status(e), e.status_code, e.request_id, e.body),
    ),
    "openai timeout": (
        lambda: fail(openai.APITimeoutError(request=httpx2.Request("GET", "http://x/"))),
        lambda e: (str(e.request.url), e.message),
    ),
    **{
        f"pydantic {text}": (lambda text=text: Order.model_validate_json(text), lines)
        for text in INVALID
    },
    "pydantic python": (
        lambda: Order(number=object(), names="x"),  # type: ignore[arg-type]
        lambda e: [(line["type"], line["loc"], line["msg"]) for line in e.errors()],
    ),
    "attributes": (
        lambda: fail(Refused(Why.STOCK, Decimal("1.10"))),
        lambda e: (e.why is Why.STOCK, e.price, e.at, e._limits),
    ),
    "a dataclass": (lambda: fail(Problem(4, "d")), lambda e: (e.code, e.detail)),
    "a chain": (
        in_chain,
        lambda e: (repr(e.__context__), repr(e.__context__.__cause__), e.__cause__),
    ),
    "notes": (noted, lambda e: (e.__notes__, e.__suppress_context__)),
    "a file": (lambda: Path("/nope").read_text(), lambda e: (e.errno, e.filename, e.strerror)),
    "a process": (
        lambda: subprocess.run(
            ["sh", "-c", "echo out; echo err >&2; exit 3"], check=True, capture_output=True
        ),
        lambda e: (e.returncode, e.cmd, e.stdout, e.stderr),
    ),
    "a slow process": (
        lambda: fail(subprocess.TimeoutExpired(["x"], 1.5, b"out")),
        lambda e: (e.timeout, e.cmd, e.output),
    ),
    "JSON": (lambda: json.loads('{"a": '), lambda e: (e.doc, e.pos, e.lineno, e.colno, e.msg)),
    "text": (lambda: b"\xff".decode(), lambda e: (e.object, e.start, e.end, e.reason, e.encoding)),
    "urllib": (of_urllib, lambda e: (e.code, e.reason, e.read(), e.headers["x-request-id"])),
    "a timeout": (lambda: fail(TimeoutError()), lambda e: isinstance(e, TimeoutError)),
    "a future": (lambda: fail(concurrent.futures.InvalidStateError("x")), str),
    "SQL": (in_sql, lambda e: (e.sqlstate, e.diag.constraint_name)),
    "a group": (
        lambda: fail(ExceptionGroup("both", [Problem(1), ExceptionGroup("in", [ValueError("v")])])),
        lambda e: (
            e.message,
            [x.code for x in e.split(Problem)[0].exceptions],
            repr(e.exceptions[1]),
        ),
    ),
    "an object": (
        lambda: fail(ValueError(Why, {1: [object]}, b"\xff")),
        lambda e: (str(e), e.args[2]),
    ),
    "a tuple in a dict": (
        lambda: fail(Problem(1, {"at": (1, 2), 5: [Why.STOCK]})),  # type: ignore[arg-type]
        lambda e: (e.detail, repr(e)),
    ),
    "what pydantic was told": (
        lambda: TypeAdapter(Annotated[int, BeforeValidator(refuse)]).validate_python(1),
        lambda e: (e.errors()[0]["ctx"], e.args),
    ),
    "pydantic's own of C": (
        lambda: TypeAdapter(Any).dump_json(object()),
        lambda e: (type(e), e.args, isinstance(e, ValueError)),
    ),
    "pydantic's own with a type": (
        lambda: fail(PydanticCustomError("odd", "said {what}", {"what": "this"})),
        lambda e: (type(e), e.type, e.context, repr(e)),
    ),
    "numbers": (lambda: fail(ValueError(float("nan"), -0.0)), lambda e: str(e.args)),
}


@pytest.mark.parametrize("what", RAISED)
def test_an_exception_comes_back_with_what_it_carries(what: str) -> None:
    action, look = RAISED[what]
    error = raised(action)
    seen = (str(error), look(raised(action)))
    described = json.loads(json.dumps(describe(error)))
    live, again = rebuild(described, error), rebuild(described)
    for one in live, again:
        assert isinstance(one, type(error))
        assert (str(one), look(one)) == seen
        assert SECRET not in json.dumps(described)
    assert live.__traceback__ is error.__traceback__
    assert json.loads(json.dumps(describe(rebuild(described)))) == described


@pytest.mark.parametrize("what", RAISED)
def test_a_caught_exception_is_the_same_live_and_resumed(db: Any, what: str) -> None:
    action, look = RAISED[what]
    seen: list[Any] = []
    done: list[str] = []
    crash = True

    @agentrun.tool(effect="once")
    def act() -> None:
        done.append("done")
        action()

    @agentrun.agent
    def go() -> None:
        try:
            raise LookupError("handled when the tool is called")
        except LookupError:
            try:
                act()
            except Exception as error:
                seen.append((type(error), str(error), look(error), repr(error.__context__)))
        if crash:
            raise SystemExit

    with pytest.raises(SystemExit):
        go.with_options(key="k").run()
    crash = False
    go.with_options(key="k").run()
    assert seen[0] == seen[1]
    assert done == ["done"]


def test_the_text_of_one_exception_makes_no_class_of_the_next() -> None:
    told = describe(ValueError("said"))
    odd = rebuild({**told, "message": "something else"})
    assert (type(odd).__name__, str(odd)) == ("ValueError", "something else")
    assert type(rebuild(told)) is ValueError
    refused = describe(Refused(Why.STOCK, Decimal(1)))
    odder = rebuild({**refused, "message": "something else"})
    assert str(odder) == "something else"
    assert type(rebuild(refused)) is Refused


def test_an_exception_whose_class_is_not_loaded_has_its_name_and_its_nearest_base() -> None:
    class Unloaded(Problem):
        def __repr__(self) -> str:
            return f"<{self.code}>"

    error = Unloaded(4, "d")
    described = json.loads(json.dumps(describe(error)).replace("Unloaded", "Elsewhere"))
    made: Any = rebuild(described)
    assert isinstance(made, Problem)
    assert type(made).__name__ == "Elsewhere"
    assert type(made).__module__ == __name__
    assert type(made).__qualname__ == type(error).__qualname__.replace("Unloaded", "Elsewhere")
    assert (str(made), repr(made), made.code, made.args) == (str(error), "<4>", 4, error.args)
    assert describe(made) == described
    older = {name: value for name, value in described.items() if name != "bases"}
    assert type(rebuild(older)) is agentrun.ToolFailed


def test_an_exception_that_nothing_can_make_again_is_caught_by_its_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = describe(raised(lambda: TypeAdapter(Any).dump_json(object())))
    monkeypatch.setattr(exceptions, "BuiltinFunctionType", None)  # as if C had no such function
    made = rebuild(described)
    assert isinstance(made, ValueError)
    assert (type(made).__name__, str(made)) == (
        "PydanticSerializationError",
        described["message"],  # type: ignore[index, call-overload]
    )


class Shop:
    class OutOfStock(LookupError):
        pass


def test_a_class_is_found_where_its_old_module_has_it_now(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("moved_shop")
    old.OutOfStock = Shop.OutOfStock  # type: ignore[attr-defined]
    old.Shop, old.Order = Shop, Order  # type: ignore[attr-defined]
    described: Any = describe(Shop.OutOfStock("hat"))
    described["bases"] = []
    for name in "moved_shop.OutOfStock", "moved_shop.Shop.OutOfStock":
        record = {**described, "type": name}
        monkeypatch.delitem(sys.modules, "moved_shop", raising=False)
        assert type(rebuild(record)) is agentrun.ToolFailed
        monkeypatch.setitem(sys.modules, "moved_shop", old)
        again = rebuild(record)
        assert (type(again), again.args) == (Shop.OutOfStock, ("hat",))
        derived: Any = rebuild({**record, "type": "elsewhere.Sold", "bases": [name]})
        assert isinstance(derived, Shop.OutOfStock)
    for name in "moved_shop.Order", "moved_shop.Shop", "moved_shop.Shop.OutOfStock.args":
        assert type(rebuild({**described, "type": name})) is agentrun.ToolFailed


def test_a_class_is_looked_for_in_its_old_module_without_running_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    lazy = ModuleType("lazy_shop")
    lazy.__getattr__ = asked.append  # type: ignore[method-assign, assignment]
    monkeypatch.setitem(sys.modules, "lazy_shop", lazy)
    described: Any = {**describe(Shop.OutOfStock("hat")), "type": "lazy_shop.Gone"}  # type: ignore[dict-item]
    assert isinstance(rebuild(described), LookupError)
    assert asked == []


def test_the_text_of_a_set_is_that_of_the_process_that_raised_it() -> None:
    script = (
        "import json; from agentrun.values.exceptions import describe;"
        "print(json.dumps([describe(KeyError(frozenset('abcdef'))), describe(KeyError(*'a'))]))"
    )
    for seed in "1", "2", "3":
        told = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        of_set, plain = json.loads(told.stdout)
        for live in KeyError(frozenset("abcdef")), None:
            made = rebuild(of_set, live)
            assert type(made).__mro__[1:] == KeyError.__mro__  # of one kind in every process
            assert (str(made), repr(made)) == (of_set["message"], of_set["repr"])
        assert type(rebuild(plain)) is KeyError


def test_the_context_of_an_exception_is_that_of_its_record(db: Any) -> None:
    @agentrun.tool
    def act() -> None:
        in_chain()

    @agentrun.agent
    def go() -> str:
        try:
            raise LookupError("handled")
        except LookupError:
            try:
                act()
            except RuntimeError as error:
                chain, one = [], error.__context__
                while one is not None:
                    chain.append(type(one).__name__)
                    one = one.__context__
                return " ".join(chain)
        return "nothing"

    assert go.run() == "ValueError KeyError LookupError"


def test_a_live_exception_has_the_traceback_of_the_body(db: Any) -> None:
    @agentrun.tool
    def act() -> None:
        raise ValueError("here")

    @agentrun.agent
    def go() -> list[str]:
        try:
            act()
        except ValueError as error:
            names, frame = [], error.__traceback__
            while frame is not None:
                names.append(frame.tb_frame.f_code.co_name)
                frame = frame.tb_next
            return names
        return []

    assert go.run()[-1] == "act"


def test_no_code_of_a_class_runs_because_a_row_names_it() -> None:
    called: list[str] = []

    class Loud(Exception):
        def __init__(self, *args: Any) -> None:
            called.append("init")
            super().__init__(*args)

        def __init_subclass__(cls, **options: Any) -> None:
            called.append("subclass")

        def __setattr__(self, name: str, value: Any) -> None:
            called.append(f"set {name}")

        @property
        def code(self) -> int:
            return 1

        @code.setter
        def code(self, value: int) -> None:
            called.append("setter")

        def __str__(self) -> str:
            return "mine"

    described: Any = describe(Loud("x"))
    called.clear()
    described["state"] = {"code": 3, "more": 1}
    described["message"] = "other"
    error = rebuild(described)
    assert isinstance(error, Loud)
    assert str(error) == "other"
    assert vars(error)["more"] == 1
    assert called == []


def test_a_row_can_name_exceptions_and_no_other_class() -> None:
    for name in ("builtins.dict", "subprocess.Popen", "KeyboardInterrupt", "agentrun.DurableAgent"):
        error = rebuild({"type": name, "message": "m", "args": ["ls"]})
        assert (type(error), str(error)) == (agentrun.ToolFailed, f"{name}: m")
    inside = rebuild(
        {
            "type": "ValueError",
            "message": "m",
            "args": [
                {"agentrun:object": "subprocess.Popen", "fields": {"args": "ls"}},
                {"agentrun:kept": "subprocess.Popen", "args": "ls"},
                {"agentrun:enum": "nobody.Knows", "member": "X"},
            ],
        }
    )
    assert {type(one).__module__ for one in inside.args} == {"agentrun.values.exception_parts"}


class Holder:
    def __init__(self) -> None:
        self.inside = 1

    def __repr__(self) -> str:
        return "<holder>"


def test_of_what_no_record_can_hold_a_stand_in_is_left_live_too(db: Any) -> None:
    @agentrun.tool
    def act() -> None:
        raise ValueError("held", Holder())

    @agentrun.agent
    def go() -> str:
        try:
            act()
        except ValueError as error:
            held = error.args[1]
            with pytest.raises(AttributeError, match="Put what the code needs into the exception"):
                _ = held.inside
            return f"{error} {type(held).__name__} {held!r} {hasattr(held, 'inside')}"
        return ""

    assert go.run() == "('held', <holder>) Holder <holder> False"


def test_an_exception_in_itself_ends_somewhere() -> None:
    error = ValueError("v")
    error.args = ("v", error)
    error.__cause__ = KeyError("k")
    error.__cause__.__cause__ = error
    deep: Any = "core"
    for _level in range(300):
        deep = (deep,)
    error.deep = deep  # type: ignore[attr-defined]
    again = rebuild(json.loads(json.dumps(describe(error))))
    assert isinstance(again, ValueError)
    assert isinstance(again.__cause__, KeyError)


@pytest.fixture
def graph() -> Iterator[Any]:
    pytest.importorskip("langgraph")
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import interrupt

    @agentrun.tool
    def charge(cents: int) -> str:
        return f"charged {cents}: {interrupt({'ask': 'ok?', 'when': (1, 2)})}"

    built = StateGraph(dict)
    built.add_node("pay", lambda _state: {"out": charge(100)})
    built.add_edge(START, "pay")
    built.add_edge("pay", END)
    return built.compile(checkpointer=InMemorySaver())


def test_an_interrupt_of_langgraph_stays_one(db: Any, graph: Any) -> None:
    from langgraph.types import Command

    crash = True
    asked: list[Any] = []

    @agentrun.agent
    def pay() -> str:
        config = {"configurable": {"thread_id": f"{len(asked)}"}}
        first = graph.invoke({"x": 1}, config)
        asked.append(first["__interrupt__"][0].value)
        second = graph.invoke(Command(resume="yes"), config)
        if crash:
            raise SystemExit
        return str(second["out"])

    with pytest.raises(SystemExit):
        pay.with_options(key="k").run()
    crash = False
    assert pay.with_options(key="k").run() == "charged 100: yes"
    assert asked == [{"ask": "ok?", "when": (1, 2)}] * 2
