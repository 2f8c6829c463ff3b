"""``seo-rec prepare table``: a table of your own to a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import refuse_ignored
from seo_rec.cli.prepare_options import (
    Fractions,
    MinCount,
    Missing,
    Seed,
    Sizes,
    names_in,
    pruning_of,
    reporting,
    split_of,
)
from seo_rec.cli.workers import NoVocabulary, Processes, workers_of
from seo_rec.schema import DataError

Files = Annotated[list[Path] | None, typer.Option(help="Files of this split, in place of --raw.")]


# parameters of ``table`` that the earlier data of ``--like`` decide
DECIDED = (
    *("label", "inspect", "kind", "categorical", "numeric", "multivalent", "separator"),
    *("numeric_transform", "numeric_missing", "buckets", "time", "task", "weight"),
    *("keep_negatives", "min_count", "vocabulary_size", "missing"),
)


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

    with reporting(out or Path()) as done:
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
                split=split_of(rule, seed, fractions, trains=False),
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
            categorical=names_in(categorical),
            numeric=names_in(numeric),
            multivalent=names_in(multivalent),
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
            split=split_of(split or ("temporal" if time else "random"), seed, fractions),
            pruning=pruning_of(min_count, None, vocabulary_size, not no_vocabulary),
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
