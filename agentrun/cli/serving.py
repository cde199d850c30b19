"""`agentrun gateway`: serve it, and say where it is."""

from __future__ import annotations

from typing import Annotated

import typer

from agentrun.cli import options, output
from agentrun.core.errors import ConfigError

__all__ = ["gateway"]


def gateway(
    ctx: typer.Context,
    upstream: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A provider; openai and anthropic are known."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond loopback only if told so here.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8788,
    keep: Annotated[
        str, typer.Option(metavar="AGE", help="Forget answers older than this.")
    ] = "7d",
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a provider may be silent.")
    ] = 600.0,
    calls: Annotated[int, typer.Option(min=1, help="Calls under way at a time.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Hold model calls in flight, so that an agent killed in one is not billed for it again.

    Point clients at http://127.0.0.1:8788/NAME instead of the provider, as OPENAI_BASE_URL
    (…/openai/v1) or ANTHROPIC_BASE_URL (…/anthropic). Any client, in any language:

    \b
    Idempotency-Key: KEY      names the call; agentrun's own clients send it. Requests with one
                              key share one call, and its answer is kept. Without: passed through.
    Agentrun-On-Doubt: fail   409 where the answer to an earlier call under the key is lost, and
                              possibly billed. Default: retry, which is told by the header
                              Agentrun-Possibly-Billed of the answer.

    SIGTERM or Ctrl-C drains: no new calls, those under way are answered and kept.
    """
    try:
        from agentrun.gateway import serving
    except ImportError as error:
        raise ConfigError(
            f"the gateway needs {error.name}: pip install 'agentrun-harness[gateway]'"
        ) from error
    kept = options.age_of(keep, "--keep")
    assert kept is not None
    providers = serving.upstreams(upstream or [])
    with serving.listen(host, port) as listener, ctx.obj.connect() as database:
        if not serving.is_loopback(host):
            output.note(
                f"warning: {host} is reached from other machines, in clear text; whoever knows a "
                "key and its request is given the answer"
            )

        def ready() -> None:
            url = _url(*listener.getsockname()[:2])
            output.emit_json({"url": url}) if as_json else output.emit(url)
            output.note("SIGTERM or Ctrl-C drains")

        serving.serve(
            database, listener, providers, keep=kept, timeout=timeout, calls=calls, ready=ready
        )
    output.note("drained")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
