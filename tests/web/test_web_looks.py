"""Every page in a browser: no complaint under the policy, narrow, dark, accessible, and inert."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from browser import Browser
from journals import HOSTILE
from web_pages import complaints, in_browser

import agentrun
from agentrun.testing import Call, Provider, Reply
from agentrun.view.safe import visible
from agentrun.web.app import ACTIONS, PAGES

EVIL = (
    HOSTILE.replace("\x00", "").replace("\ud800", "")
    + "</pre></textarea></td></details></main><script>document.title='owned'</script>"
    "<img src=http://127.0.0.1:1/x onerror=\"document.title='owned'\"><svg onload=alert(1)>"
    "<form action=http://127.0.0.1:1/><button hx-get=http://127.0.0.1:1/ hx-trigger=load>"
    "<hx-partial hx-target=body>owned</hx-partial> {{ 7 * 7 }} {% raw %}"
)


@pytest.fixture
def hostile(client: Any, provider: Provider, db: Any) -> str:
    """A run that waits, whose key, agent, texts, arguments and errors are all hostile."""

    @agentrun.tool(approve=True, name="web_evil_tool")
    def web_evil_tool(text: str) -> str:
        return text

    @agentrun.tool(effect="read", name="web_evil_look")
    def web_evil_look(text: str) -> str:
        return text

    @agentrun.agent(name=EVIL)
    def web_evil(text: str) -> None:
        messages: list[Any] = [{"role": "user", "content": text}]
        reply = client.chat.completions.create(
            model="gpt-5-mini", messages=messages, tools=agentrun.schemas(web_evil_tool)
        )
        web_evil_look(text)  # a run of two steps has a timeline
        agentrun.call_tools(reply, [web_evil_tool])

    @agentrun.agent(name=f"{EVIL}!")
    def web_evil_failing() -> None:
        raise type(EVIL, (Exception,), {})(EVIL)

    provider.say([Reply(EVIL, tool_calls=[Call("web_evil_tool", {"text": EVIL})])])
    with pytest.raises(agentrun.RunHeld):
        web_evil.with_options(key=EVIL).run(EVIL)
    with pytest.raises(agentrun.RunFailed):
        web_evil_failing.with_options(key=f"{EVIL}!").run()
    return EVIL


def places(key: str) -> list[str]:
    """The address of every page, for this run."""
    return [
        "", "inbox", "spend", "health", "sql", f"run?key={key}",
        f"journal?key={key}", f"compare?a={key}&b={key}", "sql?query=SELECT key FROM runs",
        f"redo?key={key}&step=1", "nothing", "run?key=nobody",
        f"?text={key}&agent={key}&error={key}&root={key}", f"inbox?decided={key}",
    ]  # fmt: skip


def opened(browser: Browser, url: str, **how: Any) -> Any:
    browser.close_pages()
    page = browser.open(url, **how)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("new Promise(done => setTimeout(done, 300))")
    return page


# What a browser logs by itself when an answer has the status 4xx.
def refusals(found: list[Any]) -> list[Any]:
    return [one for one in found if "Failed to load resource" not in json.dumps(one)]


@in_browser
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1100, True)])
def test_hostile_text_is_inert_on_every_page(
    browser: Browser, pages: str, hostile: str, width: int, dark: bool
) -> None:
    for place in places(quote(hostile)):
        page = opened(browser, f"{pages}/{place}", width=width, dark=dark)
        assert refusals(complaints(page)) == [], place
        assert "owned" not in page.evaluate("document.title"), place
        asked = [address for address in page.requests() if not address.startswith(pages)]
        assert asked == [], place
        evil = "[...document.all].filter(e => e.matches('img, iframe, [onload], [onerror]')).length"
        assert page.evaluate(evil) == 0, place
        assert page.evaluate("document.querySelectorAll('script:not([src])').length") == 0
        assert page.evaluate("document.querySelectorAll('[style]').length") == 0 or "run" in place
        drawn = page.evaluate("document.querySelectorAll('.ar-root svg').length")
        assert drawn == place.startswith("run?key=" + quote(hostile)), place
        wide = "[document.documentElement.scrollWidth, window.innerWidth]"
        scroll, inner = page.evaluate(wide)
        assert scroll <= inner, f"{place} sticks out"


@in_browser
def test_no_page_has_a_serious_fault_for_who_cannot_see_it(
    browser: Browser, pages: str, hostile: str
) -> None:
    pytest.importorskip("axe_core_python")
    axe = files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
    for place in places(quote(hostile)):
        for dark in (False, True):
            page = opened(browser, f"{pages}/{place}", dark=dark)
            page.evaluate(f"{axe}; true")
            found = page.evaluate("axe.run().then(found => JSON.stringify(found.violations))")
            serious = [
                (fault["id"], [node["html"][:200] for node in fault["nodes"][:3]])
                for fault in json.loads(found)
                if fault["impact"] in ("serious", "critical")
            ]
            assert serious == [], (place, dark)


@in_browser
def test_a_keyboard_reaches_every_part(browser: Browser, pages: str, hostile: str) -> None:
    page = opened(browser, f"{pages}/inbox")
    reached = set()
    for _ in range(80):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
    wanted = page.evaluate(
        "[...document.querySelectorAll('a, button, input:not([type=hidden]), textarea, summary')]"
        ".map(e => e.outerHTML.slice(0, 60))"
    )
    assert set(wanted) <= reached


def test_hostile_text_shows_its_control_characters(pages: str, hostile: str) -> None:
    for place in places(quote(hostile)):
        text = httpx.get(f"{pages}/{place}").text
        found = {letter for letter in text if letter != "\n" and visible(letter) != letter}
        assert found == set(), place
        for tag in ("<img", "<svg onload", "<form action=http", 'onerror="', "<hx-partial"):
            assert tag not in text, (place, tag)


def test_hostile_text_of_the_twins_is_ascii(pages: str, hostile: str) -> None:
    for place in ("runs.json", "inbox.json", "spend.json", "run.json", "journal.json"):
        answer = httpx.get(f"{pages}/{place}", params={"key": hostile})
        assert answer.status_code == 200, place
        assert answer.content.isascii()
        assert not any(code < 0x20 or code == 0x7F for code in answer.content)
        assert answer.headers["content-type"] == "application/json"


# -- the twins and their documentation -------------------------------------------------------------


def test_every_page_has_a_documented_twin(pages: str) -> None:
    described = httpx.get(f"{pages}/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    twins = {page.twin for page in PAGES if page.data is not None}
    acts = {f"/{action.path}.json" for action in ACTIONS}
    assert set(described["paths"]) == twins | acts
    schemas = described["components"]["schemas"]
    assert {"RunData", "RunsData", "InboxData", "SpendData", "HealthData"} <= set(schemas)
    assert all(schema.get("properties") for schema in schemas.values())


def test_a_twin_has_what_its_documentation_says(pages: str, hostile: str) -> None:
    described = httpx.get(f"{pages}/openapi.json").json()
    schemas = described["components"]["schemas"]

    def check(value: Any, schema: dict[str, Any], place: str) -> None:
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rpartition("/")[2]]
        if "anyOf" in schema:
            if value is not None:
                kinds = [one for one in schema["anyOf"] if one.get("type") != "null"]
                if len(kinds) == 1:
                    check(value, kinds[0], place)
            else:
                assert {"type": "null"} in schema["anyOf"], place
            return
        kinds = {
            "object": dict, "array": list, "string": str, "integer": int,
            "number": (int, float), "boolean": bool, "null": type(None),
        }  # fmt: skip
        if "type" in schema:
            assert isinstance(value, kinds[schema["type"]]), (place, value, schema)
        for name, part in schema.get("properties", {}).items():
            assert name in value, (place, name)
            check(value[name], part, f"{place}.{name}")
        if isinstance(value, dict) and schema.get("properties"):
            assert set(value) == set(schema["properties"]), place
        for item in value if schema.get("type") == "array" else []:
            check(item, schema.get("items", {}), f"{place}[]")

    for page in PAGES:
        if page.data is None:
            continue
        given = {"key": hostile, "step": "1", "a": hostile, "b": hostile, "query": "SELECT 1"}
        value = httpx.get(f"{pages}{page.twin}", params=given)
        operation = described["paths"][page.twin]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert value.status_code == 200, (page.twin, value.text)
        check(value.json(), schema, page.twin)
