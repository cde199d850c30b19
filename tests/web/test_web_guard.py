"""Who is let in: hosts, origins, people, and what they may do."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from web_pages import ANA, hold_for_approval, post, serving

import agentrun
from agentrun.testing import Provider
from agentrun.web.app import make_app
from agentrun.web.guard import POLICY
from agentrun.web.people import Person, UrlEntry


def status(url: str, path: str = "/inbox", **headers: str) -> int:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(f"{url}{path}", headers=names).status_code


@pytest.mark.parametrize(
    ("host", "let_in"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("127.8.8.8:1", True),
        ("[::1]:80", True),
        ("runs.desk.example", True),
        ("RUNS.desk.example.:443", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.168.0.7", False),
        ("localhost.evil.example", False),
        ("evil.example#localhost", False),
        ("localhost@evil.example", False),
        ("[", False),
        ("localhost/static/?", False),
        ("localhost:80/enter?", False),
        ("localhost:80#", False),
        ("evil.example:80@localhost", False),
        ("[::1].evil.example", False),
    ],
)
def test_only_names_of_this_server_are_answered(db: Any, host: str, let_in: bool) -> None:
    with serving(agentrun.ui(hosts=["runs.desk.example"])) as url:
        found = status(url, host=host), status(url, "/static/pages.css", host=host)
        found += (status(url, "/openapi.json", host=host),)
    assert found == ((200, 200, 200) if let_in else found)
    assert let_in or set(found) <= {400, 403}


def ask(
    app: Any, method: str, path: str, host: str, *, mount: str = "", **headers: str
) -> tuple[int, str]:
    """The status and the text of an answer. No client checks or changes the request."""
    named = {"host": host, **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": mount,
        "query_string": b"key=k", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }  # fmt: skip
    sent: list[Any] = []

    bodies = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        return bodies.pop() if bodies else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent).decode()


@pytest.mark.parametrize("host", ["localhost/static/?", "localhost/enter?", "localhost/enter#"])
def test_no_host_stands_for_a_path_that_needs_no_login(db: Any, host: str) -> None:
    entry = UrlEntry(ANA, cookie="agentrun-1")
    app = make_app(None, authorize=None, allow_decisions=False, sql=True, hosts=[], entry=entry)
    assert ask(app, "GET", "/runs.json", host)[0] == 400
    assert ask(app, "POST", "/cancel", host, origin=f"http://{host}")[0] in (400, 403)
    assert ask(app, "GET", "/runs.json", "localhost")[0] == 401


def test_without_a_login_only_the_entry_takes_a_form(db: Any) -> None:
    entry = UrlEntry(ANA, cookie="agentrun-1")
    app = make_app(None, authorize=None, allow_decisions=True, sql=True, hosts=[], entry=entry)
    own = {"origin": "http://localhost"}
    assert ask(app, "GET", "/static/pages.css", "localhost")[0] == 200
    assert ask(app, "POST", "/static/pages.css", "localhost", **own)[0] == 401
    assert ask(app, "POST", "/cancel", "localhost", **own)[0] == 401
    refused, text = ask(app, "POST", "/enter", "localhost", **own)
    assert refused == 401
    assert 'name="token"' in text


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, True),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, False),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://localhost:1"}, False),
    ],
)
def test_pages_of_other_sites_may_not_ask(
    reading: str, headers: dict[str, str], let_in: bool
) -> None:
    assert status(reading, **headers) == (200 if let_in else 403)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_decision_needs_the_origin_of_this_site(
    pages: str, desk: Any, provider: Provider, headers: dict[str, str]
) -> None:
    hold_for_approval(desk, provider, "k")
    (waiting,) = agentrun.inbox()
    refused = httpx.post(
        f"{pages}/approve?key=k&step={waiting.step}", data={"reason": "x"}, headers=headers
    )
    assert refused.status_code == 403
    assert len(agentrun.inbox()) == 1


def test_every_answer_has_the_policy(pages: str) -> None:
    for path in ("inbox", "run?key=none", "static/pages.css", "inbox.json", "nothing"):
        headers = httpx.get(f"{pages}/{path}").headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    assert "script-src 'self';" in POLICY
    assert POLICY.startswith("default-src 'none';")
    assert "unsafe" not in POLICY


def test_without_leave_to_decide_nothing_is_changed(
    reading: str, desk: Any, provider: Provider
) -> None:
    hold_for_approval(desk, provider, "k")
    assert "<form" not in httpx.get(f"{reading}/inbox").text
    for path in ("approve?key=k&step=2", "cancel?key=k", "resume?key=k", "redo?key=k&step=1"):
        refused = post(reading, path, {})
        assert refused.status_code == 403, path
        assert "--allow-decisions" in refused.text
    assert agentrun.get("k").status() == "held"
    own = {"origin": reading}
    assert httpx.put(f"{reading}/inbox", headers=own).status_code == 405
    assert httpx.delete(f"{reading}/run?key=k", headers=own).status_code == 405


def test_who_may_only_read_cannot_decide_where_others_may(
    db: Any, desk: Any, provider: Provider
) -> None:
    hold_for_approval(desk, provider, "k")

    async def authorize(request: Any) -> Person | None:
        name = request.headers.get("x-user")
        return None if name is None else Person(name, may_decide=name == "ana")

    with serving(agentrun.ui(authorize=authorize, allow_decisions=True)) as url:
        assert status(url) == 403
        assert status(url, x_user="bo") == 200
        assert "<form" not in httpx.get(f"{url}/inbox", headers={"x-user": "bo"}).text
        assert post(url, "cancel?key=k", {}, **{"x-user": "bo"}).status_code == 403
        assert agentrun.get("k").status() == "held"
        assert post(url, "cancel?key=k", {}, **{"x-user": "ana"}).status_code == 303
    assert agentrun.get("k").status() == "cancelled"


def test_an_application_around_gets_the_refusals(db: Any) -> None:
    def authorize(request: Any) -> Person | None:
        name = request.headers.get("x-user")
        return None if name is None else Person(name, may_decide=False)

    pages = agentrun.ui(authorize=authorize, allow_decisions=True)
    app = Starlette(routes=[Mount("/runs", pages)])
    own = {"origin": "http://localhost", "x-user": "bo"}
    assert ask(app, "GET", "/runs/inbox", "localhost", **own)[0] == 200
    for answer in (
        ask(app, "GET", "/runs/inbox", "localhost"),
        ask(app, "GET", "/runs/inbox", "evil.example"),
        ask(app, "GET", "/runs/inbox", "localhost", origin="http://evil.example"),
        ask(app, "POST", "/runs/cancel", "localhost", **own),
    ):
        assert answer[0] == 403
        assert "That was not done" in answer[1]


@pytest.mark.parametrize("name", ["", " ", None, 7])
def test_a_person_has_a_name(name: Any) -> None:
    with pytest.raises(agentrun.ConfigError, match="needs a name"):
        Person(name)


def test_decisions_need_somebody_who_takes_them() -> None:
    with pytest.raises(agentrun.ConfigError, match="give authorize="):
        agentrun.ui(allow_decisions=True)


def test_a_printed_url_lets_one_browser_in_once(db: Any) -> None:
    entry = UrlEntry(ANA, cookie="agentrun-1")
    app = make_app(None, authorize=None, allow_decisions=True, sql=False, hosts=[], entry=entry)
    with serving(app) as url, httpx.Client(base_url=url) as browser, httpx.Client() as other:
        assert browser.get("/inbox").status_code == 401
        assert browser.get("/inbox", headers={"cookie": "agentrun-1=guess"}).status_code == 401
        assert browser.get("/enter?token=guess").status_code == 401
        entered = browser.get(f"/enter?token={entry.one_time}")
        assert entered.status_code == 200
        (cookie,) = entered.headers.get_list("set-cookie")
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {p.strip() for p in cookie.split(";")}
        assert browser.get("/inbox").status_code == 200
        again = other.get(f"{url}/enter?token={entry.one_time}")
        assert again.status_code == 401
        assert "works once" in again.text
        assert other.get(f"{url}/inbox").status_code == 401
        bearer = {"authorization": f"Bearer {entry.one_time}"}
        assert other.get(f"{url}/inbox.json", headers=bearer).status_code == 401


def test_a_token_of_a_file_lets_people_and_programs_in(db: Any) -> None:
    entry = UrlEntry(ANA, cookie="agentrun-1", token="of the file")
    app = make_app(None, authorize=None, allow_decisions=False, sql=False, hosts=[], entry=entry)
    with serving(app) as url:
        for _ in range(2):
            with httpx.Client(base_url=url) as browser:
                form = {"token": "of the file"}
                assert browser.post("/enter", data=form).status_code == 403, "no Origin"
                entered = browser.post("/enter", data=form, headers={"origin": url})
                assert entered.status_code == 200
                assert browser.get("/inbox").status_code == 200
        bearer = {"authorization": "Bearer of the file"}
        assert httpx.get(f"{url}/inbox.json", headers=bearer).status_code == 200
        assert httpx.get(f"{url}/inbox.json").json()["error"]["code"] == "enter"
