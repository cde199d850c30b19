"""Fetch, parse and index documents: a durable pipeline of plain steps, without a model.

    python pipeline.py monday https://example.com/a https://example.com/b …

Kill it half-way and start the same line again: the run `monday` goes on, and no step that has
finished is performed a second time. What it did: `agentrun show monday`; what it made:
`agentrun sql "select word, sum(times) from public.words group by word order by 2 desc limit 9"`.
"""

import asyncio
import re
import sys
from collections import Counter

import httpx
import psycopg

import agentrun

AT_ONCE = 8  # documents under way at a time


@agentrun.step(effect="read", retries=2)  # may be repeated: it changes nothing
async def fetch(url: str) -> str:
    async with httpx.AsyncClient(follow_redirects=True) as web:
        return (await web.get(url)).raise_for_status().text


@agentrun.step(effect="read")  # recorded, since it may take long
def parse(page: str) -> dict[str, int]:
    text = re.sub(r"<[^>]*>", " ", page)
    return Counter(re.findall(r"[a-z]+", text.lower()))


@agentrun.step(effect="transaction")  # commits together with its checkpoint: exactly once
async def index(url: str, words: dict[str, int]) -> int:
    rows = [(url, word, times) for word, times in words.items()]
    async with agentrun.current_step().connection.cursor() as cursor:
        await cursor.executemany("insert into words values (%s, %s, %s)", rows)
    return len(rows)


@agentrun.agent
async def pipeline(urls: list[str]) -> int:
    free = asyncio.Semaphore(AT_ONCE)

    async def document(url: str) -> int:
        async with free:
            page = await fetch(url)
            words = await asyncio.to_thread(parse, page)
            return await index(url, words)

    return sum(await asyncio.gather(*map(document, urls)))


if __name__ == "__main__":
    with agentrun.connect() as database:
        with psycopg.connect(database.dsn) as connection:
            connection.execute("create table if not exists words (url text, word text, times int)")
        key, *urls = sys.argv[1:]
        print(pipeline.with_options(key=key).run(urls), "words indexed")
