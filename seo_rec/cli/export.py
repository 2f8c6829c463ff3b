"""``seo-rec export``: a finished training run as a package that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli.options import DATA, MODEL, RUN, load_stack
from seo_rec.places import local_copy


def export(
    run: Annotated[Path, typer.Argument(help="A finished training run.", rich_help_panel=DATA)],
    out: Annotated[
        Path, typer.Option(help="Package, or delta, to make: a folder.", rich_help_panel=DATA)
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Prepared data of the training. (default: where they lay then)",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Type of all tables: float32, float16, bfloat16, int8 or int4. "
            "(default: as the policy says)",
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="What the package holds for fast scoring: onnx, aoti (machine code), or none. "
            "Or triton: OUT is a model of a Triton repository.",
            rich_help_panel=MODEL,
        ),
    ] = "onnx",
    since: Annotated[
        Path | None,
        typer.Option(
            help="Write only what differs from this package: a delta for apply-delta.",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    tar: Annotated[
        bool, typer.Option("--tar", help="Write one .tar file.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Write the package of a trained model: what another machine needs to score raw rows."""
    load_stack(0)
    from seo_rec.export import FORMATS, export_run, export_triton

    if formats == "triton":
        if since is not None or tar:
            raise ValueError("--format triton writes a folder; leave out --since and --tar")
        with local_copy(run) as copy:
            done = export_triton(copy, out, precision, data)
        typer.echo(f"{done.path}: Triton model {out.name} of {done.total_bytes:,} bytes")
        return
    wanted = () if formats == "none" else tuple(formats.split(","))
    if unknown := [name for name in wanted if name not in FORMATS]:
        raise ValueError(
            f"--format {unknown[0]}; allowed: {', '.join(FORMATS)}; none alone, or triton alone"
        )
    with local_copy(run) as copy:
        done = export_run(copy, out, precision, data, wanted, since=since, tar=tar)
    what = "package" if since is None else "delta"
    typer.echo(
        f"{done.path}: {what} of {done.total_bytes:,} bytes; the embeddings take "
        f"{done.num_bytes:,} bytes ({done.precision}); {done.num_golden} golden rows verify it"
    )
