"""The other MovieLens releases (Harper and Konstan, 2015): 100k, 10M, 20M, 25M, 32M and latest.

Their files differ: ``u.data`` with tabs and ``u.user`` with bars (100k), ``ratings.dat`` and
``movies.dat`` with ``::`` (10M), ``ratings.csv`` and ``movies.csv`` with a header (the others). The
columns are user and movie, and those of the users (100k) or the genres of the movie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.delimited import BlockError, Field, Layout, read_blocks, split_header
from seo_rec.data.movielens import USER_COLUMNS, prepare_movielens, tabbed
from seo_rec.data.prepare import prepare
from seo_rec.data.rawfile import BadRows, Intake, TextBlock, existing_file, text_blocks
from seo_rec.data.side_table import SideTable, read_side_table
from seo_rec.data.source import Figures, Source, column_kinds
from seo_rec.data.split import Split
from seo_rec.data.tokens import bags_of_ids, categorical_ids
from seo_rec.data.vocabulary import Pruning
from seo_rec.places import place
from seo_rec.schema import DataError, Schema

# rule -> (ratings left out, ratings above which a row is positive); half stars exist
RATING_RULES: dict[str, tuple[tuple[float, ...], float]] = {
    "drop-3": ((3.0,), 3.0),
    "ge-3": ((), 2.5),
    "ge-4": ((), 3.5),
}
TIME = "timestamp"
ONE_MILLION = "movielens-1m"
_NO_GENRES = b"(no genres listed)"
_RATINGS = ("user", "movie", "rating", TIME)


@dataclass(frozen=True)
class Release:
    """How the files of a release look.

    Args:
        ratings: File of ratings: user, movie, rating, time.
        side: File of users or movies.
        delimiter: Between cells: of ratings and of the side table.
        header: Whether the files begin with the names of their columns.
        fields: The cells of a line of the side table; empty names are not read.
    """

    ratings: str
    side: str
    delimiter: tuple[str, str]
    header: bool
    fields: tuple[str, ...]

    @property
    def key(self) -> str:
        """What the side table is about: ``user`` or ``movie``."""
        return self.fields[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the side table gives."""
        return USER_COLUMNS if self.key == "user" else ("genres",)


RELEASES = {
    "movielens-100k": Release(
        "u.data", "u.user", ("\t", "|"), False, ("user", "age", "gender", "occupation", "zip")
    ),
    "movielens-10m": Release(
        "ratings.dat", "movies.dat", ("::", "::"), False, ("movie", "", "genres")
    ),
    "movielens-csv": Release(
        "ratings.csv", "movies.csv", (",", ","), True, ("movie", "", "genres")
    ),
}


def release_in(raw: Path | str) -> str:
    """The name of the data set that a folder gives, by the files that are in it.

    Raises:
        DataError: The folder holds no release.
    """
    raw = place(raw)
    if (raw / "ratings.dat").is_file() and (raw / "users.dat").is_file():
        return ONE_MILLION
    for name, release in RELEASES.items():
        if (raw / release.ratings).is_file():
            return name
    files = ", ".join(release.ratings for release in RELEASES.values())
    raise DataError(f"{raw}: holds none of {files}; give the unpacked folder of a release")


def prepare_release(
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
    """Prepare the folder of any MovieLens release, told by the files that are in it.

    Args:
        raw: The unpacked folder.
        out: The folder to make.
        rating_rule: ``drop-3`` leaves out rating 3 and calls higher ones positive; ``ge-3`` and
            ``ge-4`` keep all rows, positive from that rating on.
        split: Random, or temporal by the time of the rating.
        pruning: Of vocabularies.
        bad_rows: Whether a bad row ends it, or is left out and counted.
        progress: Whether a bar is drawn on a terminal.
        figures: Of earlier data, whose rules these are (:class:`seo_rec.data.like.LogRules`).

    Raises:
        DataError: The folder holds no release, a file is missing or a row is bad.
    """
    raw = place(raw)
    if rating_rule not in RATING_RULES:
        raise DataError(f"rating rule is {rating_rule!r}; allowed: {', '.join(RATING_RULES)}")
    if (name := release_in(raw)) == ONE_MILLION:
        return prepare_movielens(
            raw, out, rating_rule=rating_rule, split=split, pruning=pruning, bad_rows=bad_rows,
            progress=progress, figures=figures,
        )  # fmt: skip
    release = RELEASES[name]
    ratings, side = existing_file(raw / release.ratings), existing_file(raw / release.side)

    def read(intake: Intake) -> Iterator[Any]:
        return _read_ratings(
            ratings, release, _read_side(side, release, intake), rating_rule, intake
        )

    dropped, above = RATING_RULES[rating_rule]
    users = release.columns if release.key == "user" else ()
    genres = release.columns if release.key == "movie" else ()
    source = Source(
        dataset=name,
        columns=column_kinds(("user", "movie", *users), genres, ()),
        label="label",
        paths=(side, ratings),
        read=read,
        options={
            "rating_rule": rating_rule,
            "rating_rule_text": f"label = rating > {above:g}; dropped ratings: {list(dropped)}",
        },
        time=TIME,
        figures=figures,
    )
    return prepare(source, out, split=split, pruning=pruning, bad_rows=bad_rows, progress=progress)


def _lines(path: Path, release: Release, delimiter: str, intake: Intake) -> Iterator[TextBlock]:
    """The lines of a file behind its header, with one character between cells."""
    blocks = text_blocks(path, intake, quoted=delimiter if release.header else None)
    if release.header:
        _, blocks = split_header(blocks, path, delimiter)
    return tabbed(blocks) if delimiter == "::" else blocks


def _sign(delimiter: str) -> str:
    return "\t" if delimiter == "::" else delimiter


def _read_side(path: Path, release: Release, intake: Intake) -> SideTable:
    key, delimiter = release.key, release.delimiter[1]
    layout = Layout(
        fields=tuple(
            Field(name or f"cell {i}", "integer" if i == 0 else "token" if name else "ignored")
            for i, name in enumerate(release.fields)
        ),
        delimiter=_sign(delimiter),
        quoting=release.header,
        column_count_fix=f"a line has {len(release.fields)} cells",
        check=lambda row: None if row[0] else (key, "", f"no {key} number", "correct the line"),
    )

    def encode(table: Any) -> dict[str, Any]:
        if key == "user":
            return {name: categorical_ids(table[name], name, "token") for name in USER_COLUMNS}
        genres = table["genres"].combine_chunks()
        words = [None if word == _NO_GENRES else word for word in genres.dictionary.to_pylist()]
        genres = pa.DictionaryArray.from_arrays(genres.indices, pa.array(words, pa.binary()))
        return {"genres": bags_of_ids(genres.cast(pa.binary()), "genres", "|")}

    return read_side_table(path, _lines(path, release, delimiter, intake), layout, encode, intake)


def _read_ratings(
    path: Path, release: Release, side: SideTable, rating_rule: str, intake: Intake
) -> Iterator[Any]:
    dropped, above = RATING_RULES[rating_rule]
    layout = Layout(
        fields=tuple(Field(name, "number" if name == "rating" else "integer") for name in _RATINGS),
        delimiter=_sign(release.delimiter[0]),
        quoting=release.header,
        column_count_fix="a line has a user, a movie, a rating and a time",
        check=_check(release, side),
    )

    def encode(table: Any) -> Any:
        if any(table[name].null_count for name in _RATINGS):
            raise BlockError("an empty cell")
        rating = table["rating"].to_numpy()
        if ((rating < 0.5) | (rating > 5) | (rating * 2 % 1 != 0)).any():
            raise BlockError("an unknown rating")
        rows = pa.table(
            {
                "user": categorical_ids(table["user"], "user", "token"),
                "movie": categorical_ids(table["movie"], "movie", "token"),
                **side.join(table[release.key].to_numpy()),
                "label": pa.array((rating > above).astype(np.float32)),
                TIME: table[TIME].cast(pa.float64()),
            }
        )
        return rows.filter(pa.array(~np.isin(rating, dropped)))

    lines = _lines(path, release, release.delimiter[0], intake)
    return read_blocks(lines, layout, encode, intake)


def _check(
    release: Release, side: SideTable
) -> Callable[[Sequence[str]], tuple[str, str, str, str] | None]:
    known = {int(number) for number in side.numbers}
    at = _RATINGS.index(release.key)

    def check(row: Sequence[str]) -> tuple[str, str, str, str] | None:
        for name, cell in zip(_RATINGS, row, strict=True):
            if not cell:
                return name, cell, "an empty cell", "correct the line"
        if int(row[at]) not in known:
            why = f"a {release.key} that {release.side} lacks"
            return release.key, row[at], why, f"add the {release.key} to {release.side}"
        if float(row[2]) not in {half / 2 for half in range(1, 11)}:
            return "rating", row[2], "a rating outside 0.5, 1 ... 5", "correct the rating"
        return None

    return check
