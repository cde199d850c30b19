"""What a gateway does for any client: equal requests with one key are one call, paid once."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import servers
from crashing import until
from gateways import KEY, Gateway, calls, statuses
from sayings import Saying, Server, chunk, completion
from typer.testing import CliRunner

import agentrun
from agentrun.cli import app
from agentrun.store import embedded
from agentrun.store.answers import Answers, CallEnd
from agentrun.store.database import OpenDatabase
from agentrun.testing import Fault, Provider, Reply

Start = Callable[..., Gateway]


class Asking(threading.Thread):
    """A client of its own: its response, or the error it saw."""

    def __init__(self, gateway: Gateway, *args: Any, **more: Any) -> None:
        super().__init__()
        self._ask = lambda: gateway.post(*args, **more)
        self.response: httpx.Response | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.response = self._ask()
        except httpx.HTTPError as error:
            self.error = error

    def answer(self) -> httpx.Response:
        self.join()
        assert self.response is not None, self.error
        return self.response


# -- shared, and served again ----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_an_answer_is_served_again_byte_for_byte(
    gateway: Gateway, provider: Provider, db: OpenDatabase, stream: bool
) -> None:
    first = gateway.post(stream=stream)
    gateway.rest()
    again = gateway.post(stream=stream)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert first.headers["agentrun-answer"] == "new"
    assert again.headers["agentrun-answer"] == "stored"
    same = {"agentrun-answer", "connection"}
    kept = [{k: v for k, v in one.headers.items() if k not in same} for one in (first, again)]
    assert kept[0] == kept[1]
    assert "x-request-id" in kept[0]
    assert provider.billed() == 1
    assert statuses(db) == ["answered"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_equal_requests_at_once_share_one_call(
    gateway: Gateway, provider: Provider, stream: bool
) -> None:
    provider.arm(Fault.hold("effect"))
    asking = [Asking(gateway, stream=stream) for _ in range(5)]
    provider.wait_for("held")
    provider.release()
    answers = [one.answer() for one in asking]
    assert len({answer.content for answer in answers}) == 1
    told = sorted(answer.headers["agentrun-answer"] for answer in answers)
    assert told.count("new") == 1
    assert provider.billed() == 1


def test_who_comes_in_the_middle_of_a_stream_gets_it_from_its_beginning(
    gateway: Gateway, provider: Provider
) -> None:
    provider.arm(Fault.hold(3))
    first = Asking(gateway, "one two three four", stream=True)
    provider.wait_for("held")
    with gateway.asking("one two three four", stream=True) as live:
        assert live.headers["agentrun-answer"] == "shared"
        pieces = live.iter_raw()
        begun = next(pieces)
        assert b"chat.completion.chunk" in begun  # while the rest is not even there
        provider.release()
        whole = begun + b"".join(pieces)
    assert whole == first.answer().content
    assert whole.rstrip().endswith(b"[DONE]")
    assert provider.billed() == 1


def test_a_call_goes_on_without_readers(
    gateway: Gateway, provider: Provider, db: OpenDatabase
) -> None:
    provider.arm(Fault.hold(1))
    with gateway.asking("one two three", stream=True):
        provider.wait_for("held")
    provider.release()
    gateway.rest()
    assert statuses(db) == ["answered"]
    again = gateway.post("one two three", stream=True)
    assert again.headers["agentrun-answer"] == "stored"
    assert again.text.rstrip().endswith("[DONE]")
    assert provider.billed() == 1


def test_a_key_belongs_to_one_request(gateway: Gateway, provider: Provider) -> None:
    gateway.post("hi")
    gateway.rest()
    other = gateway.post("something else")
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    assert other.headers["x-should-retry"] == "false"
    provider.arm(Fault.hold("effect"))
    asking = Asking(gateway, "slow", key="k2")
    provider.wait_for("held")
    assert gateway.post("not slow", key="k2").status_code == 422
    provider.release()
    assert asking.answer().status_code == 200
    assert provider.billed() == 2


def test_what_clients_randomise_and_the_limit_on_the_reply_do_not_tell_requests_apart(
    gateway: Gateway, provider: Provider
) -> None:
    first = gateway.post(user="a", max_completion_tokens=100)
    again = gateway.post(user="b", max_completion_tokens=50)
    assert again.content == first.content
    assert provider.billed() == 1


def test_without_a_key_a_caller_that_goes_away_ends_the_call(
    gateway: Gateway, provider: Provider
) -> None:
    provider.arm(Fault.hold(1))
    with gateway.asking("one two three", key=None, stream=True):
        provider.wait_for("held")
    provider.wait_for("aborted")
    gateway.rest()


def test_without_a_key_a_request_passes_through(
    gateway: Gateway, provider: Provider, db: OpenDatabase
) -> None:
    first, again = (gateway.post(key=None) for _ in range(2))
    assert first.status_code == again.status_code == 200
    assert "agentrun-answer" not in first.headers
    assert provider.billed() == 2
    listed = httpx.get(f"{gateway.url}/openai/v1/models", trust_env=False)
    assert listed.json()["data"][0]["object"] == "model"
    assert calls(db) == []


def test_two_gateways_of_one_database_share_a_call(start: Start, provider: Provider) -> None:
    one, other = start(), start()
    provider.arm(Fault.hold("effect"))
    first = Asking(one)
    provider.wait_for("held")
    second = Asking(other)
    until(lambda: other.in_flight() == 1)
    provider.release()
    assert second.answer().content == first.answer().content
    assert second.answer().headers["agentrun-answer"] == "stored"
    assert provider.billed() == 1


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 429, 500, 529])
def test_a_refusal_is_told_and_the_next_request_goes_upstream(
    gateway: Gateway, provider: Provider, db: OpenDatabase, code: int
) -> None:
    provider.arm(Fault.error(code, retry_after=3))
    refused = gateway.post()
    assert (refused.status_code, refused.headers["retry-after"]) == (code, "3")
    again = gateway.post("another now", headers={"agentrun-on-doubt": "fail"})
    assert (again.status_code, again.headers["agentrun-answer"]) == (200, "new")
    assert "agentrun-possibly-billed" not in again.headers
    gateway.rest()
    assert statuses(db) == ["refused", "answered"]


def test_an_upstream_that_cannot_be_reached_costs_nothing(start: Start, db: OpenDatabase) -> None:
    gateway = start(upstream="http://127.0.0.1:9")
    told = gateway.post()
    assert (told.status_code, told.json()["error"]["code"]) == (502, "not_sent")
    assert gateway.post(key=None).status_code == 502
    gateway.rest()
    assert statuses(db) == ["refused"]


WHOLE = "a whole body that is no JSON"
BREAKS = {
    "no byte of it came": (Fault.drop("effect"), False),
    "half a body": (Fault.truncate(), False),
    WHOLE: (Fault.malformed(), False),
    "a stream cut": (Fault.cut(2), True),
    "a stream that ends too soon": (Fault.cut(3, clean=True), True),
}


@pytest.mark.parametrize("name", BREAKS)
def test_half_an_answer_is_told_as_broken_and_asked_for_again(
    gateway: Gateway, provider: Provider, db: OpenDatabase, name: str
) -> None:
    fault, stream = BREAKS[name]
    provider.arm(fault)
    if name == WHOLE:
        assert gateway.post(stream=stream).status_code == 200
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            gateway.post(stream=stream)
    gateway.rest()
    assert statuses(db) == ["broken"]
    doubted = gateway.post(stream=stream, headers={"agentrun-on-doubt": "fail"})
    assert (doubted.status_code, doubted.json()["error"]["code"]) == (409, "in_doubt")
    assert doubted.headers["x-should-retry"] == "false"
    again = gateway.post(stream=stream)
    assert again.headers["agentrun-possibly-billed"] == "1"
    assert again.headers["agentrun-answer"] == "new"
    assert gateway.post(stream=stream).content == again.content
    gateway.rest()
    assert provider.billed() == 2
    assert statuses(db) == ["broken", "answered"]


def test_an_answer_that_did_not_come_is_explained_before_the_connection_breaks(
    gateway: Gateway, provider: Provider
) -> None:
    provider.arm(Fault.drop("effect"))
    with gateway.asking() as response:
        assert (response.status_code, response.headers["agentrun-answer"]) == (502, "lost")
        pieces = response.iter_raw()
        assert json.loads(next(pieces))["error"]["code"] == "answer_lost"
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)


def test_an_agent_lists_what_its_gateway_lost_as_possibly_billed(
    gateway: Gateway, provider: Provider, db: OpenDatabase
) -> None:
    @agentrun.agent
    def asks() -> str | None:
        with agentrun.wrap(gateway.openai(), retries=2) as client:
            messages: Any = [{"role": "user", "content": "hi"}]
            reply = client.chat.completions.create(model="gpt-4o", messages=messages)
            return reply.choices[0].message.content

    provider.arm(Fault.drop("effect"))
    assert asks.with_options(key="k").run() == "echo: hi"
    assert provider.billed() == 2
    with db.connection() as conn:
        rows = conn.execute("SELECT billing FROM agentrun.spend ORDER BY attempt").fetchall()
    assert [row["billing"] for row in rows] == ["possibly billed", "confirmed"]


def test_an_error_that_a_stream_tells_is_no_answer(start: Start, db: OpenDatabase) -> None:
    with Server() as server:
        gateway = start(upstream=server.url)
        server.say(Saying.events(chunk("a"), {"error": {"message": "overloaded"}}))
        server.say(Saying.events(chunk("b", "stop"), "[DONE]"))
        with pytest.raises(httpx.RemoteProtocolError):
            gateway.post(stream=True)
        until(lambda: statuses(db) == ["broken"])
        assert '"b"' in gateway.post(stream=True).text
    assert "overloaded" in calls(db)[0]["reason"]


def test_a_gateway_killed_in_a_call_has_lost_it_and_the_next_one_says_so(
    start: Start, provider: Provider, db: OpenDatabase
) -> None:
    killed = start()
    provider.arm(Fault.hold("effect"))
    asking = Asking(killed)
    provider.wait_for("held")
    assert statuses(db) == ["open"]
    killed.end(signal.SIGKILL)
    asking.join()
    assert isinstance(asking.error, httpx.RemoteProtocolError)
    successor = start()
    assert successor.post(headers={"agentrun-on-doubt": "fail"}).status_code == 409
    again = successor.post()
    assert (again.status_code, again.headers["agentrun-possibly-billed"]) == (200, "1")
    successor.rest()
    assert statuses(db) == ["lost", "answered"]
    assert "died in the middle of openai/v1/chat/completions" in successor.log.read_text()


def test_a_stopped_gateway_is_taken_for_dead_and_keeps_its_answer_when_it_wakes(
    start: Start, provider: Provider, db: OpenDatabase
) -> None:
    stopped, other = start(), start()
    provider.arm(Fault.hold("effect"))
    asking = Asking(stopped)
    provider.wait_for("held")
    stopped.process.send_signal(signal.SIGSTOP)
    try:
        with db.connection() as conn:  # as if its lease had passed
            conn.execute(
                "UPDATE agentrun.workers SET beat_at = beat_at - interval '1 hour' "
                "WHERE worker = (SELECT gateway FROM agentrun.gateway_calls)"
            )
        again = other.post()
        assert again.headers["agentrun-possibly-billed"] == "1"
        provider.release()
    finally:
        stopped.process.send_signal(signal.SIGCONT)
    assert asking.answer().status_code == 200
    until(lambda: statuses(db) == ["answered", "answered"])
    assert provider.billed() == 2


def test_an_answer_is_held_while_the_database_is_away(
    new_home: Path, provider: Provider, tmp_path: Path
) -> None:
    dsn = embedded.start(new_home)
    with agentrun.connect(dsn), Gateway(dsn, provider.url, tmp_path / "log") as gateway:
        provider.arm(Fault.hold("effect"))
        asking = Asking(gateway)
        provider.wait_for("held")
        servers.kill(new_home)
        provider.release()
        answer = asking.answer()  # it does not wait for the database
        assert answer.status_code == 200
        embedded.start(new_home)
        gateway.rest()
        with agentrun.connect(dsn) as db:
            assert statuses(db) == ["answered"]
        again = gateway.post()
        assert again.content == answer.content
    assert provider.billed() == 1


def test_a_slow_reader_costs_no_memory(start: Start, db: OpenDatabase) -> None:
    size, readers = 16 << 20, 8
    text = json.dumps(completion("x" * size)).encode()
    saying = Saying(tuple(text[at : at + 65536] for at in range(0, len(text), 65536)), 200)
    with Server() as server:
        gateway = start(upstream=server.url)
        process = psutil.Process(gateway.process.pid)
        before = process.memory_info().rss
        server.say(saying)
        with gateway.asking() as first:
            waiting = [gateway.asking() for _ in range(readers)]
            begun = [one.__enter__() for one in waiting]
            until(lambda: statuses(db) == ["answered"])
            grown = process.memory_info().rss - before
            assert first.read() == text
            for response, one in zip(begun, waiting, strict=True):
                response.close()
                one.__exit__(None, None, None)
        assert len(server.requests) == 1
    assert grown < readers * size  # what it takes to judge and write down one answer, at most


def test_calls_wait_for_their_turn(start: Start, provider: Provider) -> None:
    gateway = start("--calls", "2")
    provider.arm(Fault.hold("effect", times=2))
    asking = [Asking(gateway, f"n {n}", key=f"k{n}") for n in range(3)]
    provider.wait_for("held", 2)
    until(lambda: gateway.in_flight() == 3)
    assert len(provider.ledger()) == 2
    provider.release()
    assert [one.answer().status_code for one in asking] == [200] * 3


# -- its end, its secrets, its table -----------------------------------------------------------


@pytest.mark.parametrize("key", ["k", None])
def test_a_drain_answers_what_is_under_way_and_takes_nothing_new(
    gateway: Gateway, provider: Provider, db: OpenDatabase, key: str | None
) -> None:
    provider.arm(Fault.hold(1))
    asking = Asking(gateway, "one two three", stream=True, key=key)
    provider.wait_for("held")
    assert gateway.in_flight() == 1
    gateway.process.send_signal(signal.SIGTERM)

    def closed() -> bool:
        try:
            gateway.in_flight()
        except httpx.ConnectError:
            return True
        return False

    until(closed)
    assert gateway.process.poll() is None
    provider.release()
    assert asking.answer().text.rstrip().endswith("[DONE]")
    assert gateway.process.wait(60) == 0
    assert "drained" in gateway.log.read_text()
    assert statuses(db) == ["answered"] * (key is not None)


def test_credentials_are_neither_stored_nor_logged(
    gateway: Gateway, provider: Provider, db: OpenDatabase
) -> None:
    provider.say([Reply(f"your key is {KEY}")])
    assert KEY in gateway.post().text
    gateway.rest()
    assert KEY in gateway.post().text, "what an agent was told is what it is told again"
    provider.arm(Fault.error(401))
    gateway.post(key="k2", headers={"x-api-key": KEY})
    sent = provider.requests()
    assert len(sent) == 2
    gateway.rest()
    assert KEY not in str(calls(db))
    with db.connection() as conn:
        kept = conn.execute("SELECT headers::text, zstd FROM agentrun.gateway_answers").fetchall()
    assert len(kept) == 1, "for gateways alone, the one answer; and no caller's credentials"
    assert KEY not in kept[0]["headers"]
    assert KEY not in gateway.log.read_text()


def test_the_caller_is_the_upstreams_caller(start: Start) -> None:
    with Server() as server:
        gateway = start(upstream=f"{server.url}/base")
        server.say(Saying.json(completion(), **{"set-cookie": "a=b", "x-request-id": "r1"}))
        answer = gateway.post(headers={"openai-organization": "org", "agentrun-on-doubt": "retry"})
        ((path, headers, _),) = server.requests
    assert path == "/base/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert (headers["openai-organization"], headers["idempotency-key"]) == ("org", "k")
    assert headers["host"] == server.url.removeprefix("http://")
    assert not [name for name in headers if name.startswith("agentrun")]
    assert answer.headers["x-request-id"] == "r1"
    assert "set-cookie" not in answer.headers


def test_wrong_requests_are_told_what_is_wrong(gateway: Gateway, provider: Provider) -> None:
    nowhere = httpx.post(f"{gateway.url}/nowhere/v1", trust_env=False)
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "no_upstream")
    assert "/anthropic, /openai" in nowhere.json()["error"]["message"]
    assert gateway.post(key="k" * 513).status_code == 400
    assert gateway.post(headers={"agentrun-on-doubt": "maybe"}).status_code == 400
    assert provider.ledger() == []


def test_old_answers_are_forgotten(db: OpenDatabase) -> None:
    answers = Answers(db)
    for key in ("old", "new"):
        opened = answers.begin(key, 1, fingerprint="f", upstream="openai", path="/v1")
        assert opened is not None
        answers.end(opened, CallEnd("refused", "HTTP 429", 429))
    assert answers.begin("new", 1, fingerprint="f", upstream="openai", path="/v1") is None
    with db.connection() as conn:
        conn.execute(
            "UPDATE agentrun.gateway_calls SET ended_at = now() - interval '8 days' "
            "WHERE key = 'old'"
        )
    answers.remove_old_calls(timedelta(days=7))
    assert [row["key"] for row in calls(db)] == ["new"]


def test_an_intent_sent_again_after_a_lost_answer_finds_its_own_row(
    db: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, lost = psycopg.Connection.execute, []

    def losing(self: Any, query: Any, *args: Any, **more: Any) -> Any:
        done = plain(self, query, *args, **more)
        if "gateway_calls AS c" in str(query) and not lost:
            lost.append(query)
            raise psycopg.OperationalError("the answer is lost")
        return done

    monkeypatch.setattr(psycopg.Connection, "execute", losing)
    opened = Answers(db).begin("k", 1, fingerprint="f", upstream="openai", path="/v1")
    assert lost
    assert opened is not None
    assert len(calls(db)) == 1


# -- the command -------------------------------------------------------------------------------


def test_it_listens_beyond_loopback_only_when_told_and_says_what_that_means(
    start: Start, provider: Provider
) -> None:
    quiet = start()
    assert quiet.url.startswith("http://127.0.0.1:")
    assert "warning" not in quiet.log.read_text()
    assert start("--host", "::1").post(key=None).status_code == 200
    open_to_all = start("--host", "0.0.0.0")
    assert open_to_all.post(key=None).status_code == 200
    assert "other machines can connect to 0.0.0.0" in open_to_all.log.read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--upstream", "local"], "give NAME=URL"),
        (["--upstream", "local=ftp://here"], "give NAME=URL"),
        (["--upstream", "local=https://me:secret@here"], "holds a credential"),
        (["--keep", "long"], "give a number of s, m, h, d or w"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_wrong_options_are_told(dsn: str, options: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["--dsn", dsn, "gateway", "--port", "0", *options])
    assert done.exit_code == 2
    assert told in done.stderr
    assert "secret" not in done.output


def test_without_its_packages_the_command_names_them(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "agentrun.gateway.serving", raising=False)
    monkeypatch.delattr("agentrun.gateway.serving", raising=False)
    done = CliRunner().invoke(app, ["--dsn", dsn, "gateway"])
    assert done.exit_code == 2
    assert "pip install 'agentrun-harness[gateway]'" in done.stderr


# -- who may ask ---------------------------------------------------------------------------------


def other(headers: dict[str, str]) -> dict[str, str]:
    return {"authorization": "Bearer sk-of-somebody-else", **headers}


def test_an_answer_is_for_whoever_has_the_credential_it_was_asked_with(
    gateway: Gateway, provider: Provider, db: OpenDatabase
) -> None:
    mine = gateway.post("mine", key="k")
    theirs = gateway.post("mine", key="k", headers=other({}))
    assert theirs.headers["agentrun-answer"] == "new"  # and paid by them
    assert theirs.json()["id"] != mine.json()["id"]
    squatted = gateway.post("something else", key="k2", headers=other({}))
    assert squatted.status_code == 200
    assert gateway.post("mine", key="k2").status_code == 200
    organisation = gateway.post("mine", key="k", headers={"openai-organization": "o"})
    assert organisation.headers["agentrun-answer"] == "new"
    again = gateway.post("mine", key="k", headers={"user-agent": "of another release"})
    assert again.headers["agentrun-answer"] == "stored"
    assert again.content == mine.content
    rows = str(calls(db))
    assert KEY not in rows
    assert "'k'" not in rows


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8788"}, 403),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "[::1]:8788"}, 200),
    ],
)
def test_a_web_page_gets_nothing(
    gateway: Gateway, provider: Provider, headers: dict[str, str], status: int
) -> None:
    plain = {"content-type": "text/plain", **headers}
    assert gateway.post(headers=plain).status_code == status
    assert len(provider.ledger()) == (status == 200)


def test_an_upstream_lets_no_page_read_its_answers(start: Start) -> None:
    with Server() as server:
        gateway = start(upstream=server.url)
        for key in None, "k":
            server.say(Saying.json(completion(), **{"access-control-allow-origin": "*"}))
            answer = gateway.post(key=key)
            assert answer.status_code == 200
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["../../admin", "v1/../../admin", "%2e%2e/admin", "v1/%2E%2E%2fadmin", "v1/%252e%252e/admin",
     "..%5cadmin", "./v1", "v1/%00"],
)  # fmt: skip
def test_no_path_leads_out_of_its_upstream(start: Start, path: str) -> None:
    with Server() as server:
        gateway = start(upstream=f"{server.url}/base")
        answer = raw(gateway, f"GET /openai/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert server.requests == []


def raw(gateway: Gateway, request: str) -> bytes:
    """What is answered to bytes as they stand, until the connection ends or nothing comes."""
    url = httpx.URL(gateway.url)
    with socket.create_connection((url.host, url.port or 0), timeout=5) as conn:
        conn.sendall(request.encode())
        return conn.recv(1 << 16)


@pytest.mark.parametrize("key", ["", "Idempotency-Key: k\r\n"])
def test_a_request_with_two_lengths_is_wrong(gateway: Gateway, key: str) -> None:
    head = "POST /openai/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    lengths = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    assert raw(gateway, f"{head}{key}{lengths}\r\n5\r\nhello\r\n0\r\n\r\n")[9:12] == b"400"
    assert "Traceback" not in gateway.log.read_text()


def test_a_token_and_a_socket_of_ones_own(start: Start, provider: Provider, tmp_path: Path) -> None:
    place = tmp_path / "gateway.sock"
    guarded = start("--token", "the-token", "--uds", str(place))
    assert guarded.url == str(place)
    assert place.stat().st_mode & 0o777 == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(place))) as client:
        asked = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}]}
        url = "http://gateway/openai/v1/chat/completions"
        assert client.post(url, json=asked).status_code == 401
        wrong = {"agentrun-token": "another"}
        assert client.post(url, json=asked, headers=wrong).status_code == 401
        right = {"agentrun-token": "the-token", "authorization": f"Bearer {KEY}"}
        assert client.post(url, json=asked, headers=right).status_code == 200
    assert len(provider.ledger()) == 1
