"""``seo-rec predict`` and ``seo-rec apply-delta``: they need no torch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import DATA, refuse_ignored
from seo_rec.files import require_new_file
from seo_rec.places import place
from seo_rec.schema import SCHEMA_FILE, DataError


def predict(
    context: typer.Context,
    package: par.Package,
    raw: Annotated[
        list[Path],
        typer.Option(
            help="CSV, TSV or Parquet file, or the folder of prepared data; or a URL.",
            rich_help_panel=DATA,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Parquet file to make for the scores.", rich_help_panel=DATA)
    ],
    more: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...", help="More files after --raw, in order.", rich_help_panel=DATA
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Of a prepared data set: train, val or test.", rich_help_panel=DATA)
    ] = "test",
    keep: Annotated[
        str,
        typer.Option(help="Columns to copy beside scores, as in id,ts.", rich_help_panel=DATA),
    ] = "",
    delimiter: Annotated[
        str | None,
        typer.Option(
            help="Character between CSV cells. (default: tab for .tsv, else comma)",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
    engine: par.Engine = "auto",
) -> None:
    """Score the rows of raw files, in order, without torch."""
    from seo_rec.data.columns import split_names
    from seo_rec.data.progress import ProgressBar
    from seo_rec.serve import Predictor
    from seo_rec.serve.predict import predict_files, predict_split

    paths = [place(path) for path in (*raw, *(more or []))]
    names = split_names(keep)
    is_prepared = _is_prepared(context, paths)
    rule = par.bad_rows(on_bad_row, max_bad)
    require_new_file(out)
    predictor = Predictor.load(package, engine)
    started = time.monotonic()
    with ProgressBar(True) as bar:
        if is_prepared:
            bar.begin("score", 0)
            done = predict_split(
                predictor,
                paths[0],
                split,
                out,
                keep=names,
                progress=lambda _, rows: bar.update(rows, rows),
            )
        else:
            bar.begin("score", sum(path.stat().st_size for path in paths if path.is_file()))
            done = predict_files(
                predictor,
                paths,
                out,
                keep=names,
                delimiter=delimiter,
                bad_rows=rule,
                progress=lambda size, rows: bar.update(size, rows, size),
            )
    seconds = max(time.monotonic() - started, 1e-9)
    rate = f"{done.rows / seconds:,.0f} rows/s"
    typer.echo(f"{out}: {done.rows:,} scores in {seconds:.1f} s ({rate})")
    if done.skipped:
        typer.echo(f"  {done.skipped:,} bad rows skipped; the first ones:", err=True)
        for example in done.examples:
            typer.echo(f"    {example}", err=True)


def _is_prepared(context: typer.Context, paths: list[Path]) -> bool:
    """Whether the rows are a prepared data set; options that it makes idle are refused."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file; check the path given as --raw")
    if not any((path / SCHEMA_FILE).is_file() for path in paths):
        refuse_ignored(context, ["split"], "raw files", "a prepared data set")
        return False
    if len(paths) > 1:
        raise DataError("a prepared data set is scored alone; name one folder as --raw")
    of_text = ["delimiter", "on_bad_row", "max_bad"]
    refuse_ignored(context, of_text, "a prepared data set", "raw files")
    return True


def apply_delta(
    package: par.Package,
    delta: Annotated[
        Path, typer.Argument(help="Delta of seo-rec export --since.", rich_help_panel=DATA)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="New package to make. (default: PACKAGE is replaced)",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring a package up to date by a delta; the old one stays whole until the new one is."""
    from seo_rec.serve.delta import apply_delta as apply

    done = apply(package, delta, out)
    typer.echo(f"{done}: up to date, checked, and verified on its golden rows")
