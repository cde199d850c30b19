"""`agentrun ui`: serve the web pages, and print the URL that opens them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agentrun.cli import output
from agentrun.cli.options import AsJson, By
from agentrun.core.errors import ConfigError

__all__ = ["ui"]


def ui(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Option(help="Where to listen; default: this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free port.")] = 8789,
    allow_decisions: Annotated[
        bool,
        typer.Option(
            "--allow-decisions", help="Let people approve, cancel, resume and redo. Default: read."
        ),
    ] = False,
    by: By = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Holds a token that lets people and programs in, each time."),
    ] = None,
    trusted_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name by which browsers reach this server."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at runs in a browser: live, with the inbox, spend, SQL and health.

    The printed URL works once, in one browser. Other machines can connect only with --host,
    --token-file and --trusted-host; put TLS before it, since tokens are sent as they are.
    """
    from agentrun.api.acting_user import acting_user

    try:
        from agentrun.web import serving
        from agentrun.web.people import Person
    except ImportError as error:
        raise ConfigError(
            f"the web pages need {error.name}: pip install 'agentrun-harness[ui]'"
        ) from error
    hosts = list(trusted_host or [])
    serving.check_exposure(host, token_file, hosts)
    token = None if token_file is None else serving.read_token(token_file)
    listener = serving.listen(host, port)
    bound = listener.getsockname()[1]
    with listener, ctx.obj.connect() as database:
        app, entry = serving.make_site(
            database, person=Person(by or acting_user()), port=bound, token=token,
            allow_decisions=allow_decisions, hosts=hosts,
        )  # fmt: skip
        if not serving.is_loopback(host):
            output.note(f"warning: other machines can connect to {host}, in clear text")
        name = host if serving.is_loopback(host) else hosts[0]
        name = f"[{name}]" if ":" in name else name
        url = f"http://{name}:{bound}/enter?token={entry.one_time}"

        def ready() -> None:
            # Not by `output`, which masks secrets: this one is for the person who reads it.
            typer.echo(json.dumps({"url": url}) if as_json else url)
            output.note("opens the pages once; Ctrl-C ends them")

        serving.serve(app, listener, ready)
