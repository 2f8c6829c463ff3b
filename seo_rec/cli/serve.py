"""``seo-rec serve``: scores over HTTP; it needs no torch."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import RUN, FromSettings, Option, takes_settings
from seo_rec.extras import installing
from seo_rec.settings import ServerSettings

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")
_NAMES = ("max_body", "max_rows", "max_requests", "batch_rows", "batch_wait", "drain", "reload")
SERVER_OPTIONS = FromSettings(ServerSettings, RUN, tuple(Option(name) for name in _NAMES))


@takes_settings(settings=SERVER_OPTIONS)
def serve(
    package: par.Package,
    settings: ServerSettings,
    port: Annotated[
        int, typer.Option(help="Port to listen at; 0 takes a free one.", rich_help_panel=RUN)
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at; 0.0.0.0 for all networks of this machine.",
            rich_help_panel=RUN,
        ),
    ] = "127.0.0.1",
    engine: par.Engine = "auto",
    threads: Annotated[
        int, typer.Option(help="Of ONNX Runtime; 0 takes all cores.", rich_help_panel=RUN)
    ] = 1,
) -> None:
    """Score raw rows over HTTP, until SIGTERM."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{', '.join(missing)} not installed: {installing('server')}")
    from seo_rec.serve.server.live import LivePackage
    from seo_rec.serve.server.running import listening
    from seo_rec.serve.server.running import serve as run

    if threads < 0:
        raise ValueError(f"--threads {threads}; allowed: 0 or more")
    live = LivePackage(package, engine, threads)
    with listening(host, port) as listener:
        at = listener.getsockname()
        place = f"[{at[0]}]" if ":" in at[0] else at[0]

        def ready() -> None:
            typer.echo(f"serving package {live.version} at http://{place}:{at[1]}")

        run(live, listener, settings, ready)
    typer.echo("stopped")
