"""Options that the commands of ``seo-rec prepare`` share, and how they report."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli.running import STOPS, stopped
from seo_rec.cli.workers import is_first_rank
from seo_rec.files import one_line, said
from seo_rec.places import place
from seo_rec.process import world_size
from seo_rec.schema import DataError, Schema

if TYPE_CHECKING:
    from seo_rec.data.split import Split
    from seo_rec.data.vocabulary import Pruning

Out = Annotated[Path, typer.Option(help="Folder to make; must not exist, or be empty.")]
SplitRule = Annotated[
    str,
    typer.Option("--split", help="random (a hash of the row number) or temporal (in file order)."),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the random split, 0 or more. (default: 42)")
]
Fractions = Annotated[
    str | None,
    typer.Option(
        help="Shares of train,val,test, summing to 1. "
        "(default: 0.8,0.1,0.1; temporal: 6/7,1/14,1/14)"
    ),
]
MinCount = Annotated[
    int,
    typer.Option(help="Ids seen in fewer training rows than this become one out-of-vocabulary id."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--vocabulary-preset",
        help="Published vocabulary sizes: unified-criteo or unified-avazu. (default: keep all ids)",
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--vocabulary-size",
        help="COLUMN=K: keep the K-1 most frequent ids of a column; may be repeated.",
    ),
]
Missing = Annotated[
    str,
    typer.Option(
        help="A missing categorical value is an id of its own (token) or an empty bag (empty)."
    ),
]


def split_of(rule: str, seed: int | None, fractions: str | None, trains: bool = True) -> Split:
    from seo_rec.data.split import Split

    if rule == "temporal" and seed is not None:
        raise DataError("--seed is given, but a temporal split uses none; leave it out")
    shares = None
    if fractions is not None:
        try:
            train, val, test = (float(share) for share in fractions.split(","))
        except ValueError as error:
            raise DataError(
                f"--fractions is {fractions!r}; allowed: three numbers, as in 0.8,0.1,0.1"
            ) from error
        shares = train, val, test
    return Split(rule, 42 if seed is None else seed, shares, trains)


def shares_in(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError as error:
        raise DataError(f"{option} is {text!r}; allowed: shares, as in 0.2,0.02") from error


def pruning_of(
    min_count: int, preset: str | None, sizes: list[str] | None, counted: bool = True
) -> Pruning:
    from seo_rec.data.vocabulary import Pruning

    by_column: dict[str, int] = {}
    for text in sizes or []:
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdigit()):
            raise DataError(f"--vocabulary-size is {text!r}; allowed: COLUMN=K, as in C3=10000")
        by_column[name] = int(size)
    return Pruning(min_count, preset, by_column, counted)


def names_in(text: str) -> tuple[str, ...]:
    from seo_rec.data.columns import split_names

    return split_names(text)


@contextmanager
def reporting(out: Path) -> Iterator[list[Schema]]:
    """Show the schema that the block appends, or one error message and exit status 2."""
    out = place(out)
    started = clock.monotonic()
    done: list[Schema] = []
    try:
        yield done
    except DataError as error:
        from seo_rec.data.launched_processes import SaidByFirstError

        if not isinstance(error, SaidByFirstError):
            typer.echo(f"error: {one_line(error)}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        typer.echo(f"error: {one_line(said(error))}", err=True)
        raise typer.Exit(2) from error
    except STOPS as stop:
        left = f"nothing is kept in {out}; the same command starts again"
        if world_size() > 1:
            left = "the same command goes on with what the processes have done"
        raise stopped(stop, left) from None
    for schema in done if is_first_rank() else ():
        _show(schema, out, clock.monotonic() - started)


def _show(schema: Schema, out: Path, seconds: float) -> None:
    rows = sum(schema.num_rows.values())
    typer.echo(f"{out}: {rows:,} rows in {seconds:.1f} s ({rows / max(seconds, 1e-9):,.0f} rows/s)")
    for split, num in schema.num_rows.items():
        mean = schema.label_rate[split]
        binary = schema.label_kind == "binary"
        label = f"label rate {mean:.5f}" if binary else f"mean label {mean:.6g}"
        if schema.more_labels:
            rates = [f"{name} {rate[split]:.5f}" for name, rate in schema.label_rates.items()]
            label = f"label rates {', '.join(rates)}"
        typer.echo(f"  {split:5} {num:>12,} rows, {label}")
    vocabulary = sum(column.vocab_size or 0 for column in schema.features)
    typer.echo(
        f"  {len(schema.features)} embedded columns with {vocabulary:,} distinct training ids, "
        f"{len(schema.numeric)} numeric columns"
    )
    bad = schema.options.get("bad_rows", {"skipped": 0})
    if bad["skipped"]:
        typer.echo(f"  {bad['skipped']:,} bad rows skipped; the first ones:", err=True)
        for example in bad["examples"]:
            typer.echo(f"    {example}", err=True)
