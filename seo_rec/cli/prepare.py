"""``seo-rec prepare``: raw files, or a synthetic world, to a prepared data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import refuse_ignored
from seo_rec.cli.prepare_options import (
    Fractions,
    MinCount,
    Missing,
    Out,
    Preset,
    Seed,
    Sizes,
    SplitRule,
    pruning_of,
    reporting,
    shares_in,
    split_of,
)
from seo_rec.cli.prepare_table import table
from seo_rec.cli.workers import NoVocabulary, Processes, require_one_process, workers_of
from seo_rec.places import is_url

if TYPE_CHECKING:
    from seo_rec.data.like import LogRules

app = typer.Typer(
    no_args_is_help=True,
    help="Turn raw files into a prepared data set: parquet shards per split and schema.json.",
)


# options that the earlier data of ``--like`` decide
OF_LOGS = (
    *("embed_numeric", "missing", "min_count", "vocabulary_preset", "vocabulary_size"),
    "rating_rule",
)
Like = Annotated[
    Path | None,
    typer.Option(
        help="Data of an earlier day, whose rules and kept ids are used, so that a model of it "
        "knows the new rows."
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

    with reporting(out) as done:
        require_one_process("movielens-1m")
        schema = prepare_movielens(
            raw,
            out,
            rating_rule=rating_rule,
            split=split_of("random", seed, fractions),
            pruning=pruning_of(min_count, None, vocabulary_size),
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            progress=True,
        )
        done.append(schema)


@app.command()
def movielens(
    context: typer.Context,
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
    like: Like = None,
    on_bad_row: par.OnBadRow = "error",
    max_bad: par.MaxBad = None,
) -> None:
    """MovieLens 100k, 1M, 10M, 20M, 25M, 32M or latest; the label is a good rating."""
    from seo_rec.data.like import LogRules
    from seo_rec.data.movielens_releases import prepare_release, release_in

    with reporting(out) as done:
        require_one_process("movielens")
        rules = LogRules(pruning_of(min_count, None, vocabulary_size), rating_rule=rating_rule)
        if like is not None:
            rules = _like_logs(context, like, release_in(raw), False)
        schema = prepare_release(
            raw,
            out,
            rating_rule=rules.rating_rule,
            split=split_of(split, seed, fractions, trains=like is None),
            pruning=rules.pruning,
            figures=rules.figures,
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            progress=True,
        )
        done.append(schema)


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
    from seo_rec.data.like import LogRules

    with reporting(out) as done:
        own = pruning_of(min_count, vocabulary_preset, vocabulary_size, not no_vocabulary)
        rules = LogRules(own, missing, embed_numeric)
        if like is not None:
            rules = _like_logs(context, like, "criteo", no_vocabulary)
        schema = prepare_criteo(
            raw,
            out,
            embed_numeric=rules.embed_numeric,
            missing=rules.missing,
            split=split_of(split, seed, fractions, trains=like is None),
            pruning=rules.pruning,
            figures=rules.figures,
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
    from seo_rec.data.like import LogRules

    with reporting(out) as done:
        if fractions is None and split == "random":
            fractions = "0.81,0.09,0.1"
        own = pruning_of(min_count, vocabulary_preset, vocabulary_size, not no_vocabulary)
        rules = LogRules(own, missing)
        if like is not None:
            rules = _like_logs(context, like, "avazu", no_vocabulary)
        schema = prepare_avazu(
            raw,
            out,
            missing=rules.missing,
            split=split_of(split, seed, fractions, trains=like is None),
            pruning=rules.pruning,
            figures=rules.figures,
            bad_rows=par.bad_rows(on_bad_row, max_bad),
            workers=workers_of(processes),
            progress=True,
        )
        done.append(schema)


def _like_logs(context: typer.Context, like: Path, dataset: str, no_vocabulary: bool) -> LogRules:
    """The rules of the data of ``--like``."""
    from seo_rec.data.dataset import open_data
    from seo_rec.data.like import LogRules

    declared = {parameter.name for parameter in context.command.params}
    decided = [name for name in OF_LOGS if name in declared]
    refuse_ignored(context, decided, "--like", "data that are prepared without --like")
    rules = LogRules.of(open_data(like), dataset)
    counted = rules.pruning.counted and not no_vocabulary
    return replace(rules, pruning=replace(rules.pruning, counted=counted))


app.command()(table)


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

    with reporting(out) as done:
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
            churn=Churn(days, shares_in("--enter", enter), shares_in("--vanish", vanish)),
            split=split_of(split, None if split == "temporal" else seed, fractions),
            progress=True,
        )
        done.append(schema)


@app.command("import")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="Folder with train/part-*.parquet, and val and test likewise.")
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of labels; repeated for a model of several labels. (default: label)",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What the label is: binary, or regression for any number. (default: binary)",
            show_default=False,
        ),
    ] = None,
    no_vocabulary: NoVocabulary = False,
) -> None:
    """Rows that DuckDB, Spark, Ray Data or Polars wrote: verify them and complete the folder."""
    from seo_rec.data.imported import import_folder

    with reporting(folder) as done:
        require_one_process("an import")
        done.append(
            import_folder(folder, label=label, task=task, counted=not no_vocabulary, progress=True)
        )


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
