"""``seo-rec prepare``: raw files, or a synthetic world, to a prepared data set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.running import STOPS, stopped
from seo_rec.files import one_line, said
from seo_rec.schema import DataError, Schema

if TYPE_CHECKING:
    from seo_rec.data.split import Split
    from seo_rec.data.vocabulary import Pruning

app = typer.Typer(
    no_args_is_help=True,
    help="Turn raw files into a prepared data set: parquet shards per split and schema.json.",
)

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


@app.command("movielens-1m")
def movielens_1m(
    raw: Annotated[Path, typer.Option(help="Folder with ratings.dat and users.dat.")],
    out: Out,
    rating_rule: Annotated[
        str,
        typer.Option(
            help="drop-3: leave out rating 3, label = rating >= 4; "
            "ge-3: label = rating >= 3; ge-4: label = rating >= 4."
        ),
    ] = "drop-3",
    seed: Seed = None,
    fractions: Fractions = None,
    min_count: MinCount = 1,
    vocabulary_size: Sizes = None,
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """MovieLens-1M: user, movie, gender, age, occupation, zip; the label is a good rating."""
    from seo_rec.data.movielens import prepare_movielens

    with _reporting(out) as done:
        schema = prepare_movielens(
            raw,
            out,
            rating_rule=rating_rule,
            split=_split("random", seed, fractions),
            pruning=_pruning(min_count, None, vocabulary_size),
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            progress=True,
        )
        done.append(schema)


@app.command()
def criteo(
    raw: Annotated[
        Path,
        typer.Option(
            help="train.txt (plain or compressed), or the folder with it or day_0, day_1 ..."
        ),
    ],
    out: Out,
    embed_numeric: Annotated[
        bool,
        typer.Option(
            "--embed-numeric",
            help="Make the 13 integers categorical (floor(ln(x)^2) above 2): "
            "39 categorical columns, 0 numeric.",
        ),
    ] = False,
    split: SplitRule = "random",
    seed: Seed = None,
    fractions: Fractions = None,
    min_count: MinCount = 1,
    vocabulary_preset: Preset = None,
    vocabulary_size: Sizes = None,
    missing: Missing = "token",
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """Criteo click logs: 13 integers (log-transformed or embedded) and 26 categorical columns."""
    from seo_rec.data.criteo import prepare_criteo

    with _reporting(out) as done:
        schema = prepare_criteo(
            raw,
            out,
            embed_numeric=embed_numeric,
            missing=missing,
            split=_split(split, seed, fractions),
            pruning=_pruning(min_count, vocabulary_preset, vocabulary_size),
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            progress=True,
        )
        done.append(schema)


@app.command()
def avazu(
    raw: Annotated[Path, typer.Option(help="train.csv, plain or compressed.")],
    out: Out,
    split: SplitRule = "random",
    seed: Seed = None,
    fractions: Annotated[
        str | None,
        typer.Option(
            help="Shares of train,val,test, summing to 1. "
            "(default: 0.81,0.09,0.1; temporal: 6/7,1/14,1/14)"
        ),
    ] = None,
    min_count: MinCount = 1,
    vocabulary_preset: Preset = None,
    vocabulary_size: Sizes = None,
    missing: Missing = "token",
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """Avazu click logs: 22 categorical columns; id is dropped, hour is the hour of the day."""
    from seo_rec.data.avazu import prepare_avazu

    with _reporting(out) as done:
        if fractions is None and split == "random":
            fractions = "0.81,0.09,0.1"
        schema = prepare_avazu(
            raw,
            out,
            missing=missing,
            split=_split(split, seed, fractions),
            pruning=_pruning(min_count, vocabulary_preset, vocabulary_size),
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            progress=True,
        )
        done.append(schema)


@app.command()
def table(
    raw: Annotated[
        list[Path], typer.Option(help="CSV (with a header; plain or compressed) or Parquet file.")
    ],
    label: Annotated[
        str, typer.Option(help="Column that holds 0 and 1, or numbers with --task regression.")
    ],
    out: Out,
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="More files after --raw, in order."),
    ] = None,
    categorical: Annotated[
        str, typer.Option(help="Columns with one text or whole number per row, as in A,B,C.")
    ] = "",
    numeric: Annotated[str, typer.Option(help="Columns with numbers, as in X,Y.")] = "",
    multivalent: Annotated[
        str, typer.Option(help="Columns with several values per row: lists, or text to split.")
    ] = "",
    separator: Annotated[
        str, typer.Option(help="Text between the values of a multivalent cell.")
    ] = "|",
    delimiter: Annotated[
        str | None,
        typer.Option(help="Character between CSV cells. (default: tab for .tsv, else comma)"),
    ] = None,
    numeric_transform: Annotated[
        str, typer.Option(help="none, or log for sign(x) ln(1 + abs(x)).")
    ] = "none",
    task: Annotated[
        str, typer.Option(help="What the label is: binary, or regression for any number.")
    ] = "binary",
    split: SplitRule = "random",
    seed: Seed = None,
    fractions: Fractions = None,
    min_count: MinCount = 1,
    vocabulary_size: Sizes = None,
    missing: Missing = "token",
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """Your own table: any CSV or Parquet files with a 0/1 label, or a number to predict."""
    from seo_rec.data.table import TableColumns, prepare_table

    with _reporting(out) as done:
        schema = prepare_table(
            [*raw, *(more or [])],
            out,
            columns=TableColumns(
                label=label,
                categorical=_names(categorical),
                numeric=_names(numeric),
                multivalent=_names(multivalent),
                separator=separator,
                numeric_transform=numeric_transform,
                missing=missing,
                task=task,
            ),
            delimiter=delimiter,
            split=_split(split, seed, fractions),
            pruning=_pruning(min_count, None, vocabulary_size),
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            progress=True,
        )
        done.append(schema)


@app.command()
def synthetic(
    out: Out,
    rows: Annotated[int, typer.Option(help="Rows over all splits.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Decides the world, the rows and the split.")] = 1,
    strong: Annotated[
        int, typer.Option(help="Columns with many ids and high-rank interactions.")
    ] = 4,
    weak: Annotated[int, typer.Option(help="Columns with few ids and a bias per id.")] = 6,
    noise: Annotated[
        int, typer.Option(help="Columns with very many ids that predict nothing.")
    ] = 6,
    numeric: Annotated[int, typer.Option(help="Numeric columns.")] = 2,
    multivalent: Annotated[int, typer.Option(help="Columns with a bag of ids per row.")] = 0,
    strong_vocab: Annotated[int, typer.Option(help="Ids of a strong column.")] = 300,
    weak_vocab: Annotated[int, typer.Option(help="Ids of the largest weak column.")] = 200,
    noise_vocab: Annotated[int, typer.Option(help="Ids of a noise column.")] = 20_000,
    rank: Annotated[int, typer.Option(help="Dimension of the latent vectors.")] = 4,
    signal: Annotated[float, typer.Option(help="Standard deviation of the logit.")] = 2.0,
    zipf: Annotated[float, typer.Option(help="Exponent of the id frequencies.")] = 1.0,
    missing_rate: Annotated[
        float, typer.Option(help="Share of missing categorical values, 0 to 1.")
    ] = 0.0,
    label_rate: Annotated[float, typer.Option(help="Share of positive labels, 0 to 1.")] = 0.25,
    days: Annotated[int, typer.Option(help="Days that the rows come in, in order.")] = 1,
    enter: Annotated[
        str,
        typer.Option(
            help="New ids from day to day, as a share of the ids; strong and noise columns "
            "take several shares in turn, as in 0.2,0.02."
        ),
    ] = "0",
    vanish: Annotated[str, typer.Option(help="Ids that vanish from day to day, alike.")] = "0",
    split: SplitRule = "random",
    fractions: Fractions = None,
) -> None:
    """Synthetic clicks with known truth: strong, weak and noise columns, and the best AUC."""
    from seo_rec.data.synthetic import Churn
    from seo_rec.data.synthetic import synthetic as write_synthetic

    with _reporting(out) as done:
        schema = write_synthetic(
            out,
            rows=rows,
            seed=seed,
            strong=strong,
            weak=weak,
            noise=noise,
            numeric=numeric,
            multivalent=multivalent,
            strong_vocab=strong_vocab,
            weak_vocab=weak_vocab,
            noise_vocab=noise_vocab,
            rank=rank,
            signal=signal,
            zipf=zipf,
            missing_rate=missing_rate,
            label_rate=label_rate,
            churn=Churn(days, _shares("--enter", enter), _shares("--vanish", vanish)),
            split=_split(split, None if split == "temporal" else seed, fractions),
            progress=True,
        )
        done.append(schema)


def _split(rule: str, seed: int | None, fractions: str | None) -> Split:
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
    return Split(rule, 42 if seed is None else seed, shares)


def _shares(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError as error:
        raise DataError(f"{option} is {text!r}; allowed: shares, as in 0.2,0.02") from error


def _pruning(min_count: int, preset: str | None, sizes: list[str] | None) -> Pruning:
    from seo_rec.data.vocabulary import Pruning

    by_column: dict[str, int] = {}
    for text in sizes or []:
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdigit()):
            raise DataError(f"--vocabulary-size is {text!r}; allowed: COLUMN=K, as in C3=10000")
        by_column[name] = int(size)
    return Pruning(min_count, preset, by_column)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


@app.command()
def verify(
    data: Annotated[Path, typer.Argument(help="Prepared data set, a folder with schema.json.")],
) -> None:
    """Compare every file of a prepared data set with the checksums in its schema.json."""
    from seo_rec.data.dataset import open_data

    files = open_data(data).verify_all()
    size = sum(entry["bytes"] for entry in files.values())
    typer.echo(f"{data}: {len(files)} files, {size:,} bytes, as they were prepared")


@contextmanager
def _reporting(out: Path) -> Iterator[list[Schema]]:
    """Show the schema that the block appends, or one error message and exit status 2."""
    started = time.monotonic()
    done: list[Schema] = []
    try:
        yield done
    except DataError as error:
        typer.echo(f"error: {one_line(error)}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        typer.echo(f"error: {one_line(said(error))}", err=True)
        raise typer.Exit(2) from error
    except STOPS as stop:
        left = f"nothing is kept in {out}; the same command starts again"
        raise stopped(stop, left) from None
    for schema in done:
        _show(schema, out, time.monotonic() - started)


def _show(schema: Schema, out: Path, seconds: float) -> None:
    rows = sum(schema.num_rows.values())
    typer.echo(f"{out}: {rows:,} rows in {seconds:.1f} s ({rows / max(seconds, 1e-9):,.0f} rows/s)")
    for split, num in schema.num_rows.items():
        mean = schema.label_rate[split]
        binary = schema.label_kind == "binary"
        label = f"label rate {mean:.5f}" if binary else f"mean label {mean:.6g}"
        typer.echo(f"  {split:5} {num:>12,} rows, {label}")
    vocabulary = sum(column.vocab_size or 0 for column in schema.features)
    typer.echo(
        f"  {len(schema.features)} embedded columns with {vocabulary:,} distinct training ids, "
        f"{len(schema.numeric)} numeric columns"
    )
    bad = schema.options["bad_rows"]
    if bad["skipped"]:
        typer.echo(f"  {bad['skipped']:,} bad rows skipped; the first ones:", err=True)
        for example in bad["examples"]:
            typer.echo(f"    {example}", err=True)
