"""``seo-rec prepare``: raw files, or a synthetic world, to a prepared data set."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import refuse_ignored
from seo_rec.cli.running import STOPS, stopped
from seo_rec.cli.workers import (
    NoVocabulary,
    Processes,
    is_first_rank,
    require_one_process,
    workers_of,
)
from seo_rec.files import one_line, said
from seo_rec.places import is_url, place
from seo_rec.process import world_size
from seo_rec.schema import DataError, Schema

if TYPE_CHECKING:
    from seo_rec.data.like import LikeLogs
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
        require_one_process("movielens-1m")
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
def movielens(
    raw: Annotated[Path, typer.Option(help="Unpacked folder of a release, 100k to latest.")],
    out: Out,
    rating_rule: Annotated[
        str,
        typer.Option(
            help="drop-3: leave out rating 3, label = rating > 3; "
            "ge-3: label = rating >= 3; ge-4: label = rating >= 4."
        ),
    ] = "drop-3",
    split: Annotated[
        str, typer.Option(help="random (a hash of the row number) or temporal (by timestamp).")
    ] = "random",
    seed: Seed = None,
    fractions: Fractions = None,
    min_count: MinCount = 1,
    vocabulary_size: Sizes = None,
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """MovieLens 100k, 1M, 10M, 20M, 25M, 32M or latest; the label is a good rating."""
    from seo_rec.data.movielens_releases import prepare_release

    with _reporting(out) as done:
        require_one_process("movielens")
        schema = prepare_release(
            raw,
            out,
            rating_rule=rating_rule,
            split=_split(split, seed, fractions),
            pruning=_pruning(min_count, None, vocabulary_size),
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            progress=True,
        )
        done.append(schema)


OF_LOGS = ("embed_numeric", "missing", "min_count", "vocabulary_preset", "vocabulary_size")
Like = Annotated[
    Path | None,
    typer.Option(
        help="Data of an earlier day, whose rules and kept ids are used, so that a model of it "
        "knows the new rows."
    ),
]


@app.command()
def criteo(
    context: typer.Context,
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
    like: Like = None,
    no_vocabulary: NoVocabulary = False,
    processes: Processes = 1,
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """Criteo click logs: 13 integers (log-transformed or embedded) and 26 categorical columns."""
    from seo_rec.data.criteo import prepare_criteo

    with _reporting(out) as done:
        own = _pruning(min_count, vocabulary_preset, vocabulary_size, not no_vocabulary)
        rules = _like_logs(context, like, "criteo", no_vocabulary)
        schema = prepare_criteo(
            raw,
            out,
            embed_numeric=embed_numeric if rules is None else rules.embed_numeric,
            missing=missing if rules is None else rules.missing,
            split=_split(split, seed, fractions, trains=like is None),
            pruning=own if rules is None else rules.pruning,
            figures=None if rules is None else rules.figures,
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            workers=workers_of(processes),
            progress=True,
        )
        done.append(schema)


@app.command()
def avazu(
    context: typer.Context,
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
    like: Like = None,
    no_vocabulary: NoVocabulary = False,
    processes: Processes = 1,
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """Avazu click logs: 22 categorical columns; id is dropped, hour is the hour of the day."""
    from seo_rec.data.avazu import prepare_avazu

    with _reporting(out) as done:
        if fractions is None and split == "random":
            fractions = "0.81,0.09,0.1"
        own = _pruning(min_count, vocabulary_preset, vocabulary_size, not no_vocabulary)
        rules = _like_logs(context, like, "avazu", no_vocabulary)
        schema = prepare_avazu(
            raw,
            out,
            missing=missing if rules is None else rules.missing,
            split=_split(split, seed, fractions, trains=like is None),
            pruning=own if rules is None else rules.pruning,
            figures=None if rules is None else rules.figures,
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            workers=workers_of(processes),
            progress=True,
        )
        done.append(schema)


def _like_logs(
    context: typer.Context, like: Path | None, dataset: str, no_vocabulary: bool
) -> LikeLogs | None:
    """The rules of the data of ``--like``; None without it."""
    if like is None:
        return None
    from seo_rec.data.dataset import open_data
    from seo_rec.data.like import LikeLogs

    declared = {parameter.name for parameter in context.command.params}
    decided = [name for name in OF_LOGS if name in declared]
    refuse_ignored(context, decided, "--like", "data that are prepared without --like")
    rules = LikeLogs.of(open_data(like), dataset)
    counted = rules.pruning.counted and not no_vocabulary
    return replace(rules, pruning=replace(rules.pruning, counted=counted))


Files = Annotated[list[Path] | None, typer.Option(help="Files of this split, in place of --raw.")]


# parameters of ``table`` that the earlier data of ``--like`` decide
DECIDED = (
    *("label", "inspect", "kind", "categorical", "numeric", "multivalent", "separator"),
    *("numeric_transform", "numeric_missing", "buckets", "time", "task", "weight"),
    *("keep_negatives", "min_count", "vocabulary_size", "missing"),
)


@app.command()
def table(
    context: typer.Context,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of 0 and 1, true and false, or yes and no; or 'rating >= 4'. Needed "
            "unless --like is given. Repeated for a model of several labels."
        ),
    ] = None,
    raw: Annotated[
        list[Path] | None,
        typer.Option(help="CSV (with a header; plain or compressed) or Parquet file."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; must not exist, or be empty.")
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="More files after --raw, in order."),
    ] = None,
    train: Files = None,
    val: Files = None,
    test: Files = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Prepared table whose columns, rules and figures (means, bounds, kept ids) are "
            "used, so that a model of it knows the new rows."
        ),
    ] = None,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Print the inferred columns, and write nothing.")
    ] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=KIND: categorical, numeric, multivalent or drop, where another kind was "
            "inferred; may be repeated."
        ),
    ] = None,
    categorical: Annotated[
        str,
        typer.Option(
            help="Columns with one text or whole number per row, as in A,B,C. If columns are named "
            "here or by the next two options, the others are not used, and nothing is inferred."
        ),
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
        str,
        typer.Option(
            help="standard: (x - mean) / deviation of the training rows; log: sign(x) ln(1 + "
            "abs(x)); quantiles: categories; none. For single columns: standard,price=log."
        ),
    ] = "standard",
    numeric_missing: Annotated[
        str | None,
        typer.Option(
            help="A missing number is 0, and is told by a second column (indicator) or not (zero). "
            "(default: indicator for standard, else zero)"
        ),
    ] = None,
    buckets: Annotated[int, typer.Option(help="Categories of quantiles.")] = 32,
    time: Annotated[
        str | None,
        typer.Option(help="Column of numbers or ISO dates, by which rows are split."),
    ] = None,
    split_column: Annotated[
        str | None, typer.Option(help="Column that says train, val or test.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column whose values each stay within one split.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="What the label is: binary, or regression for any number.")
    ] = "binary",
    weight: Annotated[
        str | None, typer.Option(help="Column of the weights of rows, 0 or more.")
    ] = None,
    keep_negatives: Annotated[
        float,
        typer.Option(
            help="Share of the training rows of label 0 that is kept, by chance; scores stay "
            "the probabilities of all rows."
        ),
    ] = 1.0,
    split: Annotated[
        str | None,
        typer.Option(
            help="random (a hash of the row number) or temporal (by --time, or in file order). "
            "(default: temporal with --time, else random)"
        ),
    ] = None,
    seed: Seed = None,
    fractions: Fractions = None,
    min_count: MinCount = 1,
    vocabulary_size: Sizes = None,
    missing: Missing = "token",
    no_vocabulary: NoVocabulary = False,
    processes: Processes = 1,
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """Your own table: CSV or Parquet files with a label. The kinds of columns are inferred."""
    from seo_rec.cli.inspection import inspection
    from seo_rec.data.table import TableColumns, infer_table, prepare_table

    with _reporting(out or Path()) as done:
        if like is not None:
            use = "tables that are prepared without --like"
            refuse_ignored(context, DECIDED, "--like", use)
        elif "quantiles" not in numeric_transform:
            refuse_ignored(context, ["buckets"], "these numbers", "--numeric-transform quantiles")
        if like is None and not label:
            raise DataError("no label is named; give --label COLUMN, or --like DATA")
        if out is None and not inspect:
            raise DataError("no folder to make is given; give --out, or --inspect to write nothing")
        by_split = {"train": train, "val": val, "test": test}
        files = _files([*(raw or []), *(more or [])], by_split, trains=like is None)
        if (split_column or train or val or test) and (split or seed or fractions or time):
            raise DataError(
                "a split column or files of each split decide where rows go; leave out --split, "
                "--seed, --fractions and --time"
            )
        if like is not None and out is not None:
            from seo_rec.data.dataset import open_data
            from seo_rec.data.like import LikeTable, prepare_like

            rules = LikeTable.of(open_data(like))
            rule = split or ("temporal" if rules.columns.time and not group else "random")
            schema = prepare_like(
                files,
                out,
                rules,
                delimiter=delimiter,
                split=_split(rule, seed, fractions, trains=False),
                split_column=split_column,
                group=group,
                counted=not no_vocabulary,
                bad_rows=par.bad_rows(on_bad_row, max_bad),
                workers=workers_of(processes),
                progress=True,
            )
            done.append(schema)
            return
        columns = TableColumns(
            label=(label or [""])[0],
            more_labels=tuple((label or [])[1:]),
            categorical=_names(categorical),
            numeric=_names(numeric),
            multivalent=_names(multivalent),
            separator=separator,
            numeric_transform=numeric_transform,
            missing=missing,
            numeric_missing=numeric_missing,
            buckets=buckets,
            time=time,
            weight=weight,
            split_column=split_column,
            group=group,
            kinds=_kinds(kind),
            task=task,
        )
        inferred = infer_table(files, columns, delimiter=delimiter) if columns.is_open else None
        if inferred is not None:
            typer.echo(inspection(inferred))
        elif inspect:
            raise DataError(
                "--inspect shows what is inferred, and nothing is, because columns are named"
            )
        if out is None or inspect:
            return
        schema = prepare_table(
            files,
            out,
            columns=columns,
            delimiter=delimiter,
            split=_split(split or ("temporal" if time else "random"), seed, fractions),
            pruning=_pruning(min_count, None, vocabulary_size, not no_vocabulary),
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            workers=workers_of(processes),
            progress=True,
            inferred=inferred,
            negative_rate=keep_negatives,
        )
        done.append(schema)


def _files(
    raw: list[Path], by_split: dict[str, list[Path] | None], trains: bool
) -> list[Path] | dict[str, list[Path]]:
    """The files to divide, or those of each split."""
    divided = {split: files for split, files in by_split.items() if files}
    if divided and raw:
        raise DataError("files are given by --raw and by split; use one of the two ways")
    if divided and trains and "train" not in divided:
        raise DataError("--val or --test is given without --train; name the training files too")
    return divided or raw


def _kinds(texts: list[str] | None) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for text in texts or []:
        name, sign, kind = text.rpartition("=")
        if not sign or not name:
            raise DataError(f"--kind is {text!r}; allowed: COLUMN=KIND, as in zip=categorical")
        kinds[name] = kind
    return kinds


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
        require_one_process("synthetic")
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


def _split(rule: str, seed: int | None, fractions: str | None, trains: bool = True) -> Split:
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


def _shares(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError as error:
        raise DataError(f"{option} is {text!r}; allowed: shares, as in 0.2,0.02") from error


def _pruning(
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


def _names(text: str) -> tuple[str, ...]:
    from seo_rec.data.columns import split_names

    return split_names(text)


@app.command("import")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="Folder with train/part-*.parquet, and val and test likewise.")
    ],
    label: Annotated[
        str | None, typer.Option(help="Column of labels. (default: label)", show_default=False)
    ] = None,
    no_vocabulary: NoVocabulary = False,
) -> None:
    """Rows that DuckDB, Spark, Ray Data or Polars wrote: verify them and complete the folder."""
    from seo_rec.data.imported import import_folder

    with _reporting(folder) as done:
        require_one_process("an import")
        done.append(import_folder(folder, label=label, counted=not no_vocabulary, progress=True))


@app.command()
def verify(
    data: Annotated[Path, typer.Argument(help="Prepared data set, a folder with schema.json.")],
) -> None:
    """Compare every file of a prepared data set with the checksums in its schema.json."""
    from seo_rec.data.dataset import open_data

    opened = open_data(data)
    files = opened.verify_all()
    size = sum(entry["bytes"] for entry in files.values())
    name = opened.path if is_url(data) else data
    typer.echo(f"{name}: {len(files)} files, {size:,} bytes, as they were prepared")


@contextmanager
def _reporting(out: Path) -> Iterator[list[Schema]]:
    """Show the schema that the block appends, or one error message and exit status 2."""
    out = place(out)
    started = clock.monotonic()
    done: list[Schema] = []
    try:
        yield done
    except DataError as error:
        from seo_rec.data.ranks import SaidByFirstError

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
