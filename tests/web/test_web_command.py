"""`agentrun ui`, a process of its own: who it lets in, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Browser
from web_pages import complaints, eventually, hold_for_approval, in_browser

import agentrun
from agentrun.core.errors import ConfigError
from agentrun.testing import Provider
from agentrun.web.serving import check_exposure, read_token


@contextmanager
def command(dsn: str, *options: str) -> Iterator[tuple[str, Any]]:
    """The URL that the command prints, and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agentrun", "ui", "--port", "0", "--json", *options],
        env={**os.environ, "AGENTRUN_DATABASE_URL": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.environ["AGENTRUN_HOME"],
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()
        yield json.loads(line)["url"], process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@in_browser
def test_its_url_opens_the_pages_once(
    browser: Browser, dsn: str, db: Any, desk: Any, provider: Provider
) -> None:
    hold_for_approval(desk, provider, "k")
    with command(dsn, "--allow-decisions", "--by", "ana") as (url, process):
        page = browser.open(url)
        eventually(page, "document.title.startsWith('Runs')")
        assert "token" not in page.evaluate("location.href")
        page.evaluate("document.querySelector('nav a[href=inbox]').click()")
        eventually(page, "document.title.startsWith('Inbox')")
        page.evaluate("document.querySelector('.card button').click()")
        eventually(page, "document.querySelector('[role=status]')?.innerText.includes('Recorded')")
        assert complaints(page) == []
        assert page.evaluate("document.cookie") == "", "no script can read it"
        assert httpx.get(url).status_code == 401
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    desk.with_options(key="k").run("Please pay Ann.")
    (step,) = [step for step in agentrun.transcript("k").steps if step.kind == "tool"]
    assert step.approvals[0].decider == "ana"


def test_a_stream_does_not_keep_it_from_ending(
    dsn: str, db: Any, desk: Any, provider: Provider
) -> None:
    hold_for_approval(desk, provider, "k")
    with command(dsn) as (url, process), httpx.Client() as browser:
        browser.get(url)
        site = url.partition("/enter")[0]
        with browser.stream("GET", f"{site}/run/events?key=k") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("id: ")
            process.send_signal(signal.SIGTERM)
            for _ in lines:
                pass
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == "opens the pages once; Ctrl-C ends them\n"


@pytest.mark.parametrize(
    ("host", "token", "trusted", "let"),
    [
        ("127.0.0.1", None, [], True),
        ("::1", None, [], True),
        ("localhost", None, [], True),
        ("0.0.0.0", None, [], False),
        ("0.0.0.0", Path("t"), [], False),
        ("0.0.0.0", None, ["desk.example"], False),
        ("192.168.1.5", Path("t"), ["desk.example"], True),
    ],
)
def test_other_machines_need_a_token_and_a_name(
    host: str, token: Path | None, trusted: list[str], let: bool
) -> None:
    if let:
        check_exposure(host, token, trusted)
    else:
        with pytest.raises(ConfigError, match="--token-file"):
            check_exposure(host, token, trusted)


def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(file)
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="16 characters"):
        read_token(file)
    file.write_text("0123456789abcdef\n")
    assert read_token(file) == "0123456789abcdef"
