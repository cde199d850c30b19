"""A slow line to the database: a TCP proxy in a process of its own that holds every message."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from psycopg.conninfo import conninfo_to_dict

from benchmarks import sizes
from benchmarks.dsn import url


@contextmanager
def slow_line(dsn: str) -> Iterator[str]:
    """A DSN of the same database, `DELAY` seconds away in either direction."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(dsn, theirs), daemon=True)
    process.start()
    try:
        yield url(dsn, host="127.0.0.1", port=str(ours.recv()))
    finally:
        process.terminate()
        process.join()


def _serve(dsn: str, ready: Connection) -> None:
    target = conninfo_to_dict(dsn)
    host, port = str(target.get("host") or "127.0.0.1"), int(target.get("port") or 5432)

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await connect()
        await asyncio.gather(_carry(reader, up_writer), _carry(up_reader, writer))

    async def main() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while piece := await source.read(1 << 20):
        loop.call_later(sizes.DELAY, target.write, piece)
    target.close()
