"""`agentrun gateway`: start a gateway, and print its address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentrun.cli import options, output
from agentrun.core.errors import ConfigError

__all__ = ["gateway"]


_Token = Annotated[
    str | None,
    typer.Option(envvar="AGENTRUN_GATEWAY_TOKEN", help="Require it in the header Agentrun-Token."),
]


def gateway(
    ctx: typer.Context,
    upstream: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A provider; openai and anthropic are known."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; default: loopback only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free port.")] = 8788,
    keep: Annotated[
        str, typer.Option(metavar="AGE", help="Forget answers older than this.")
    ] = "7d",
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a provider may be silent.")
    ] = 600.0,
    calls: Annotated[int, typer.Option(min=1, help="Calls under way at a time.")] = 1000,
    read_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds to wait for a request's head, or a piece of its body."),
    ] = 30.0,
    buffer: Annotated[int, typer.Option(min=1, help="MiB of requests held at a time.")] = 128,
    uds: Annotated[
        Path | None, typer.Option(help="Listen at this Unix socket instead, for this user only.")
    ] = None,
    token: _Token = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A host name that clients and web pages may use."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Hold model calls in flight, so that an agent killed in one is not billed for it again.

    Point clients at http://127.0.0.1:8788/NAME instead of the provider, as OPENAI_BASE_URL
    (…/openai/v1) or ANTHROPIC_BASE_URL (…/anthropic). Any client, in any language:

    \b
    Idempotency-Key: KEY      names the call; agentrun's own clients send it. Requests with one
                              key share one call, and its answer is stored. Without: passed through.
    Agentrun-On-Doubt: fail   409 if the answer to an earlier call under the key is lost and that
                              call is possibly billed. Default: retry; the answer then has the
                              header Agentrun-Possibly-Billed.

    SIGTERM or Ctrl-C drains: no new calls; calls under way are answered and stored.
    """
    try:
        from agentrun.gateway import serving
    except ImportError as error:
        raise ConfigError(
            f"the gateway needs {error.name}: pip install 'agentrun-harness[gateway]'"
        ) from error
    keep_for = options.age_of(keep, "--keep")
    assert keep_for is not None
    providers = serving.upstreams(upstream or [])
    listener = serving.listen(host, port) if uds is None else serving.listen_at(uds)
    door = serving.Door.of(allow_host or [], token, any_host=uds is not None)
    limits = serving.GatewayLimits(read_timeout, 20 * read_timeout, buffer << 20, calls)
    with listener, ctx.obj.connect() as database:
        if uds is None and not serving.is_loopback(host):
            output.note(_exposure_warning(host, token))

        def ready() -> None:
            _announce(str(uds or _url_of(*listener.getsockname()[:2])), as_json=as_json)

        serving.serve(
            database, listener, providers, keep=keep_for, timeout=timeout, limits=limits, door=door,
            ready=ready,
        )  # fmt: skip
    output.note("drained")


def _announce(url: str, *, as_json: bool) -> None:
    output.emit_json({"url": url}) if as_json else output.emit(url)
    output.note("SIGTERM or Ctrl-C drains")


def _exposure_warning(host: str, token: str | None) -> str:
    return (
        f"warning: other machines can connect to {host}, in clear text: credentials and answers "
        f"can be read on the way{'' if token else '; there is no --token'}"
    )


def _url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
