"""`agentrun mcp`: serve the agents of a file to MCP clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentrun.cli import output
from agentrun.core.errors import ConfigError

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

__all__ = ["mcp"]


def mcp(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE[:AGENT]…")],
    http: Annotated[
        bool, typer.Option("--http", help="Serve over HTTP, at /mcp; default: stdin and stdout.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="Where to listen; default: loopback only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free port.")] = 8000,
    answers: Annotated[
        bool, typer.Option("--answers", help="Let clients approve and reject tool calls.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Write the address as JSON.")] = False,
) -> None:
    """Serve the agents of files to MCP clients, as tools and as tasks.

    Over stdin and stdout the client starts this command, and ends it. The process is a worker of
    the agents, too: what it has not finished goes on in the next one. With --http, SIGTERM or
    Ctrl-C drains.
    """
    from agentrun.cli.run_commands import load_agents, only_data_on_stdout

    try:
        from agentrun.integrations.mcp_server import make_server
    except ImportError as error:
        raise ConfigError(f"MCP needs {error.name}: pip install 'agentrun-harness[mcp]'") from error
    with only_data_on_stdout():
        agents = load_agents(files)
        ctx.obj.connect()
        server = make_server(agents.values(), answers=answers, concurrency=concurrency)
        output.note(f"MCP server of {', '.join(sorted(agents))}")
    if not http:
        import asyncio

        asyncio.run(_serve_stdio(server))
        return
    _serve_http(server, host, port, as_json=as_json)


async def _serve_stdio(server: Server[Any]) -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def _serve_http(server: Server[Any], host: str, port: int, *, as_json: bool) -> None:
    import uvicorn

    from agentrun.gateway.serving import is_loopback, listen

    with listen(host, port) as listener:
        bound = listener.getsockname()[1]
        if not is_loopback(host):
            output.note(f"warning: whoever reaches {host} can start and cancel runs: no login")
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound}/mcp"
        output.emit_json({"url": url}) if as_json else output.emit(url)
        config = uvicorn.Config(
            server.streamable_http_app(host=host), log_config=None, timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listener])
