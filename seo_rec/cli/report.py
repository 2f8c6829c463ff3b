"""``seo-rec report``: one page about runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli.options import DATA, RUN
from seo_rec.places import local_copy


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of searches, trainings and comparisons.", rich_help_panel=DATA
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The page to write, an HTML file.", rich_help_panel=RUN)
    ] = Path("report.html"),
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a page that exists.", rich_help_panel=RUN),
    ] = False,
) -> None:
    """Write one self-contained HTML page about runs."""
    if out.suffix not in ("", ".html", ".htm"):
        raise ValueError(f"--out {out}: the page is HTML; allowed endings: .html, .htm or none")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; give --force to replace it, or another --out")
    from seo_rec.runs.reading import read

    with ExitStack() as stack:
        copies = [stack.enter_context(local_copy(run)) for run in runs]
        records = read(copies)
        trainings, searches = len(records.trainings), len(records.searches)
        ends = ["" if trainings == 1 else "s", "" if searches == 1 else "es"]
        read_now = f"{trainings} finished training{ends[0]}, {searches} finished search{ends[1]}"
        typer.echo(read_now, err=True)
        for note in records.notes:
            typer.echo(f"note: {note}", err=True)
        from seo_rec.report.page import write_page  # plots load slowly

        write_page(records, copies, out)
    typer.echo(f"report: {out}")
