"""``seo-rec serve``: scores over HTTP; it needs no torch."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import RUN

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    package: par.Package,
    port: Annotated[
        int, typer.Option(help="Port to listen at; 0 takes a free one.", rich_help_panel=RUN)
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at; 0.0.0.0 for those of all networks.", rich_help_panel=RUN
        ),
    ] = "127.0.0.1",
    engine: par.Engine = "auto",
    threads: Annotated[
        int, typer.Option(help="Of ONNX Runtime; 0 takes all cores.", rich_help_panel=RUN)
    ] = 1,
    max_body: Annotated[
        int, typer.Option(help="Most bytes of a request's body.", rich_help_panel=RUN)
    ] = 16 << 20,
    max_rows: Annotated[
        int, typer.Option(help="Most rows of a request.", rich_help_panel=RUN)
    ] = 10_000,
    max_requests: Annotated[
        int, typer.Option(help="Most requests at a time.", rich_help_panel=RUN)
    ] = 256,
    batch_rows: Annotated[
        int, typer.Option(help="Most rows that are scored in one call.", rich_help_panel=RUN)
    ] = 1024,
    batch_wait: Annotated[
        float,
        typer.Option(help="Seconds that a request may wait for others.", rich_help_panel=RUN),
    ] = 0.0,
    drain: Annotated[
        float,
        typer.Option(help="Seconds of answering on after SIGTERM.", rich_help_panel=RUN),
    ] = 2.0,
    reload: Annotated[
        float,
        typer.Option(
            help="Seconds between looks for a new package; 0 looks on SIGHUP only.",
            rich_help_panel=RUN,
        ),
    ] = 2.0,
) -> None:
    """Score raw rows over HTTP, until SIGTERM."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{', '.join(missing)} not installed: pip install 'seo-rec[server]'")
    from seo_rec.serve.server.live import LivePackage
    from seo_rec.serve.server.running import listening
    from seo_rec.serve.server.running import serve as run
    from seo_rec.serve.server.settings import ServerSettings

    settings = ServerSettings(
        max_body=max_body,
        max_rows=max_rows,
        max_requests=max_requests,
        batch_rows=batch_rows,
        batch_wait=batch_wait,
        drain=drain,
        reload=reload,
    )
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
