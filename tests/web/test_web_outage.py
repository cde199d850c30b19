"""While the database is away: pages say so, and the application around them goes on."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from web_pages import hold_for_approval, serving

import agentrun
from agentrun.store import patience
from agentrun.store.database import OpenDatabase
from agentrun.testing import Provider
from agentrun.web import site
from agentrun.web.live import messages
from agentrun.web.site import Site


def test_a_page_says_that_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "GRACE", 0.2)
    monkeypatch.setattr("agentrun.web.threads.PATIENCE", 0.2)
    nowhere = OpenDatabase(f"postgresql://postgres@/postgres?host={tmp_path}")
    with serving(agentrun.ui(nowhere)) as url:
        for path in ("runs.json", "inbox.json", "run.json?key=k", "run/events?key=k"):
            answer = httpx.get(f"{url}/{path}", timeout=20)
            assert answer.status_code == 503
            assert "does not answer" in answer.text


def test_pages_need_no_thread_of_the_application_around_them(
    db: OpenDatabase, desk: Any, provider: Provider
) -> None:
    hold_for_approval(desk, provider, "k")

    async def read_and_watch() -> bytes:
        async with asyncio.timeout(30):
            pages = Site(db)
            assert await pages.read(lambda: agentrun.transcript("k").status) == "held"
            async with pages.live.watched(db, "k") as run:
                return await anext(messages(run, 0))

    async def host() -> bytes:
        """An application whose threads are all in use."""
        go_on = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loop.run_in_executor(None, go_on.wait)
        try:
            return await read_and_watch()
        finally:
            go_on.set()

    assert b"hx-partial" in asyncio.run(host())


def test_a_read_that_goes_on_is_not_begun_again(
    db: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "EVERY", 0.0)
    go_on = threading.Event()
    begun: list[int] = []

    def count_up() -> int:
        begun.append(1)
        assert go_on.wait(60)
        return len(begun)

    async def share() -> list[int]:
        pages = Site(db)
        asking = []
        for _ in range(3):
            asking.append(asyncio.create_task(pages.share(("a",), count_up)))
            await asyncio.sleep(0.01)
        go_on.set()
        return await asyncio.gather(*asking)

    assert asyncio.run(share()) == [1, 1, 1]
