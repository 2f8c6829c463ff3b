"""MovieLens-1M (Harper and Konstan, 2015): ``ratings.dat`` joined with ``users.dat``.

Six categorical columns as in Wang et al. (DCN-V2, 2021) and Unified Embedding (2023): user,
movie, gender, age, occupation, zip. The label says whether the user liked the movie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.delimited import BlockError, Field, Layout, read_blocks
from seo_rec.data.prepare import prepare
from seo_rec.data.rawfile import BadRows, Intake, TextBlock, existing_file, text_blocks
from seo_rec.data.side_table import SideTable, read_side_table
from seo_rec.data.source import Figures, Source, column_kinds
from seo_rec.data.split import Split
from seo_rec.data.tokens import categorical_ids
from seo_rec.data.vocabulary import Pruning
from seo_rec.places import place
from seo_rec.schema import DataError, Schema

# rule -> (ratings left out, smallest rating that is a positive)
RATING_RULES: dict[str, tuple[tuple[int, ...], int]] = {
    "drop-3": ((3,), 4),
    "ge-3": ((), 3),
    "ge-4": ((), 4),
}
USER_COLUMNS = ("gender", "age", "occupation", "zip")
COLUMNS = ("user", "movie", *USER_COLUMNS)


def prepare_movielens(
    raw: Path | str,
    out: Path | str,
    *,
    rating_rule: str = "drop-3",
    split: Split = Split(),
    pruning: Pruning = Pruning(),
    bad_rows: BadRows = BadRows(),
    progress: bool = False,
    figures: Figures | None = None,
) -> Schema:
    """Prepare the folder ``raw`` that holds ``ratings.dat`` and ``users.dat``.

    Args:
        rating_rule: ``drop-3`` leaves out rating 3 and calls 4 and 5 positive (739,012 rows);
            ``ge-3`` and ``ge-4`` keep all rows, positive from that rating on.
        figures: of earlier data, whose rules these are (:class:`seo_rec.data.like.LogRules`).

    Raises:
        DataError: a file is missing or a row is bad; or the split is temporal, which the order
            of ``ratings.dat`` (by user) does not support.
    """
    raw = place(raw)
    if rating_rule not in RATING_RULES:
        raise DataError(f"rating rule is {rating_rule!r}; allowed: {', '.join(RATING_RULES)}")
    if split.rule != "random":
        raise DataError(
            "movielens-1m: ratings.dat is ordered by user, not by time, so a temporal split "
            "would divide users; use the random split"
        )
    if not raw.is_dir():
        raise DataError(f"{raw}: no such folder; give the folder that holds ratings.dat")
    ratings, users = existing_file(raw / "ratings.dat"), existing_file(raw / "users.dat")

    def read(intake: Intake) -> Iterator[Any]:
        people = _read_users(users, intake)
        return _read_ratings(ratings, people, rating_rule, intake)

    dropped, positive = RATING_RULES[rating_rule]
    source = Source(
        dataset="movielens-1m",
        columns=column_kinds(COLUMNS, (), ()),
        label="label",
        paths=(users, ratings),
        read=read,
        options={
            "rating_rule": rating_rule,
            "rating_rule_text": f"label = rating >= {positive}; dropped ratings: {list(dropped)}",
        },
        figures=figures,
    )
    return prepare(source, out, split=split, pruning=pruning, bad_rows=bad_rows, progress=progress)


def tabbed(blocks: Iterator[TextBlock]) -> Iterator[TextBlock]:
    """``::`` becomes one character, which Arrow can split at."""
    for block in blocks:
        yield replace(block, data=block.data.replace(b"::", b"\t"))


def _read_users(path: Path, intake: Intake) -> SideTable:
    layout = Layout(
        fields=(
            Field("user", "integer"),
            *(Field(name, "token") for name in USER_COLUMNS),
        ),
        delimiter="\t",
        quoting=False,
        column_count_fix="a line is UserID::Gender::Age::Occupation::Zip-code",
        check=lambda row: None if row[0] else ("user", "", "no user number", "correct the line"),
    )

    def encode(table: Any) -> dict[str, Any]:
        return {name: categorical_ids(table[name], name, "token") for name in USER_COLUMNS}

    return read_side_table(path, tabbed(text_blocks(path, intake)), layout, encode, intake)


def _read_ratings(path: Path, users: SideTable, rating_rule: str, intake: Intake) -> Iterator[Any]:
    dropped, positive = RATING_RULES[rating_rule]
    known = {int(number) for number in users.numbers}

    def check(row: Sequence[str]) -> tuple[str, str, str, str] | None:
        if not row[0] or int(row[0]) not in known:
            return "user", row[0], "a user that users.dat lacks", "add the user to users.dat"
        if not row[1]:
            return "movie", row[1], "no movie number", "correct the line"
        if row[2].strip() not in {"1", "2", "3", "4", "5"}:
            return "rating", row[2], "a rating outside {1, 2, 3, 4, 5}", "correct the rating"
        return None

    layout = Layout(
        fields=(
            Field("user", "integer"),
            Field("movie", "integer"),
            Field("rating", "integer"),
            Field("timestamp", "ignored"),
        ),
        delimiter="\t",
        quoting=False,
        column_count_fix="a line is UserID::MovieID::Rating::Timestamp",
        check=check,
    )

    def encode(table: Any) -> Any:
        if any(table[name].null_count for name in ("user", "movie", "rating")):
            raise BlockError("an empty cell")
        user, rating = table["user"].to_numpy(), table["rating"].to_numpy()
        if ((rating < 1) | (rating > 5)).any():
            raise BlockError("an unknown rating")
        stays = ~np.isin(rating, dropped)
        columns = {
            "user": categorical_ids(table["user"], "user", "token").to_numpy(),
            "movie": categorical_ids(table["movie"], "movie", "token").to_numpy(),
            **{name: ids.to_numpy() for name, ids in users.join(user).items()},
            "label": (rating >= positive).astype(np.float32),
        }
        return pa.table({name: values[stays] for name, values in columns.items()})

    return read_blocks(tabbed(text_blocks(path, intake)), layout, encode, intake)
