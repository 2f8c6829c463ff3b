"""Every MovieLens release gives the rows that are in its files, however they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from real_data import real_data
from seo_rec.data.dataset import open_data
from seo_rec.data.movielens import prepare_movielens
from seo_rec.data.movielens_releases import prepare_release
from seo_rec.data.split import Split
from seo_rec.data.tokens import MISSING, OUT_OF_VOCABULARY, token_id
from seo_rec.schema import DataError

ALL_TRAIN = Split(fractions=(1.0, 0.0, 0.0))
IN_TIME = Split("temporal", fractions=(0.5, 0.25, 0.25))
# user, movie, rating, time
RATINGS = [(3, 10, 5, 900), (1, 20, 3, 100), (3, 20, 2, 300), (2, 10, 4, 200), (1, 10, 1, 500)]
USERS = {1: (24, "M", "writer", "05901"), 2: (53, "F", "none", "94043"), 3: (23, "M", "artist", "")}
GENRES = {10: ["Action", "Film-Noir"], 20: []}
TITLES = {10: '"Heat, The" (1995)', 20: "Café (1999)"}


def folder_of(path: Path, release: str, halves: bool = False) -> Path:
    path.mkdir()
    rows = [(u, m, r - 0.5 if halves else r, t) for u, m, r, t in RATINGS]
    if release == "100k":
        write(path / "u.data", ["\t".join(map(str, row)) for row in rows])
        lines = [f"{u}|{age}|{g}|{job}|{z}" for u, (age, g, job, z) in USERS.items()]
        write(path / "u.user", lines)
    elif release == "10m":
        write(path / "ratings.dat", ["::".join(map(str, row)) for row in rows])
        write(path / "movies.dat", [f"{m}::{TITLES[m]}::{genres(m)}" for m in GENRES])
    else:
        write(
            path / "ratings.csv",
            ["userId,movieId,rating,timestamp"] + [",".join(map(str, r)) for r in rows],
        )
        quoted = {m: '"' + title.replace('"', '""') + '"' for m, title in TITLES.items()}
        write(
            path / "movies.csv",
            ["movieId,title,genres"] + [f"{m},{quoted[m]},{genres(m)}" for m in GENRES],
        )
    return path


def genres(movie: int) -> str:
    return "|".join(GENRES[movie]) or "(no genres listed)"


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(data: Path, split: str = "train") -> dict[str, list[Any]]:
    return pq.read_table(data / split).to_pydict()


@pytest.mark.parametrize("release", ["100k", "10m", "csv"])
def test_rows_are_exact(tmp_path: Path, release: str) -> None:
    raw = folder_of(tmp_path / "raw", release)
    schema = prepare_release(raw, tmp_path / "out", split=ALL_TRAIN)
    found = rows(tmp_path / "out")
    kept = [row for row in RATINGS if row[2] != 3]
    assert found["user"] == [u for u, _, _, _ in kept]
    assert found["movie"] == [m for _, m, _, _ in kept]
    assert found["label"] == [float(r >= 4) for _, _, r, _ in kept]
    assert found["timestamp"] == [t for _, _, _, t in kept] and schema.time == "timestamp"
    if release == "100k":
        assert [c.name for c in schema.features] == [
            "user",
            "movie",
            "gender",
            "age",
            "occupation",
            "zip",
        ]
        assert found["age"] == [USERS[u][0] for u, _, _, _ in kept]
        assert found["zip"] == [MISSING, MISSING, 94043, token_id("05901")]
    else:
        assert found["genres"] == [[token_id(g) for g in GENRES[m]] for _, m, _, _ in kept]
    assert schema.dataset == f"movielens-{release}"


def test_half_stars(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "raw", "csv", halves=True)  # 4.5, 2.5, 1.5, 3.5, 0.5
    for rule, labels in (
        ("drop-3", [1, 0, 0, 1, 0]),
        ("ge-3", [1, 0, 0, 1, 0]),
        ("ge-4", [1, 0, 0, 0, 0]),
    ):
        prepare_release(raw, tmp_path / rule, rating_rule=rule, split=ALL_TRAIN)
        assert rows(tmp_path / rule)["label"] == labels


@pytest.mark.parametrize("release", ["100k", "10m", "csv"])
def test_splits_by_the_time_of_the_rating(tmp_path: Path, release: str) -> None:
    raw = folder_of(tmp_path / "raw", release)
    prepare_release(raw, tmp_path / "out", rating_rule="ge-4", split=IN_TIME)
    times = {
        split: rows(tmp_path / "out", split)["timestamp"] for split in ("train", "val", "test")
    }
    assert times == {"train": [100, 200], "val": [300, 500], "test": [900]}


def test_bad_lines_are_named(tmp_path: Path) -> None:
    for release, file, line, message in [
        (
            "100k",
            "u.data",
            "9\t10\t5\t7",
            r"u\.data: line 6, column 'user': a user that u\.user lacks",
        ),
        (
            "10m",
            "ratings.dat",
            "1::30::5::7",
            r"line 6, column 'movie': a movie that movies\.dat lacks",
        ),
        ("csv", "ratings.csv", "1,10,5.5,7", r"ratings\.csv: line 7, column 'rating': .*'5.5'"),
        ("csv", "ratings.csv", "1,10,5,", r"line 7, column 'timestamp': an empty cell"),
        ("csv", "movies.csv", "10,x,Drama", r"movie 10 has more than one line"),
    ]:
        raw = folder_of(tmp_path / f"{release}-{line[-4:]}".replace("\t", ""), release)
        with (raw / file).open("a") as stream:
            stream.write(line + "\n")
        with pytest.raises(DataError, match=message):
            prepare_release(raw, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds none of u\.data, ratings\.dat, ratings\.csv"):
        prepare_release(tmp_path / "empty", tmp_path / "out")


def test_the_command_takes_any_release(tmp_path: Path, seo_rec: Callable[..., Any]) -> None:
    raw = folder_of(tmp_path / "raw", "10m")
    done = seo_rec(
        "prepare", "movielens", "--raw", raw, "--out", tmp_path / "out", "--split", "temporal"
    )
    assert done.code == 0, done.err
    assert "3 embedded columns" in done.out
    for name, lines in {
        "ratings.dat": ["1::10::5::9", "1::11::2::9"],
        "users.dat": ["1::F::1::10::7"],
    }.items():
        write(tmp_path / name, lines)
    prepare_release(tmp_path, tmp_path / "a", split=ALL_TRAIN)
    prepare_movielens(tmp_path, tmp_path / "b", split=ALL_TRAIN)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


@pytest.mark.parametrize("release", ["100k", "10m", "20m", "1m"])
def test_later_ratings_keep_the_rule_and_the_ids(
    tmp_path: Path, seo_rec: Callable[..., Any], release: str
) -> None:
    """Of the same release; movie 20 was too rare on the first day to have an id of its own."""

    def day(name: str, ratings: list[tuple[int, int, float, int]]) -> Path:
        raw = folder_of(tmp_path / name, "10m" if release == "1m" else release)
        if release == "1m":
            (raw / "movies.dat").unlink()
            write(raw / "users.dat", [f"{u}::F::1::10::7" for u in USERS])
        form = {"100k": ("u.data", "\t"), "20m": ("ratings.csv", ",")}
        file, sign = form.get(release, ("ratings.dat", "::"))
        head = ["userId,movieId,rating,timestamp"] if release == "20m" else []
        write(raw / file, head + [sign.join(map(str, row)) for row in ratings])
        return raw

    first = day("first", [(1, 10, 4, 100), (2, 10, 3, 200), (3, 20, 5, 300), (1, 10, 2, 400)])
    later = day("later", [(1, 20, 3, 500), (2, 10, 5, 600), (3, 20, 4, 700)])
    command = ["prepare", "movielens", "--raw"]
    of_first = ["--rating-rule", "ge-4", "--min-count", "2", "--fractions", "1,0,0"]
    done = seo_rec(*command, first, "--out", tmp_path / "a", *of_first)
    assert done.code == 0, done.err
    like = ["--like", tmp_path / "a", "--fractions", "0,0,1"]
    done = seo_rec(*command, later, "--out", tmp_path / "b", *like)
    assert done.code == 0, done.err
    found = rows(tmp_path / "b", "test")
    assert found["movie"] == [OUT_OF_VOCABULARY, 10, OUT_OF_VOCABULARY]
    assert found["user"] == [1, OUT_OF_VOCABULARY, OUT_OF_VOCABULARY]
    assert found["label"] == [0.0, 1.0, 1.0]  # by the rule of the first day a 3 is kept
    a, b = open_data(tmp_path / "a"), open_data(tmp_path / "b")
    assert b.schema.options["like"] == a.fingerprint
    assert b.schema.options["rating_rule"] == "ge-4"
    b.require_rules(a.schema.preparation, "the model")
    for option, value in (("--rating-rule", "ge-3"), ("--min-count", "2")):
        done = seo_rec(*command, later, "--out", tmp_path / "x", *like, option, value)
        assert done.code == 2 and f"{option} with --like would be ignored" in done.err
    other = folder_of(tmp_path / "other", "100k" if release != "100k" else "20m")
    done = seo_rec(*command, other, "--out", tmp_path / "x", *like)
    assert done.code == 2 and "follows data of its own only" in done.err


@pytest.mark.slow
def test_real_ratings_in_the_forms_of_other_releases(tmp_path: Path) -> None:
    """The ratings of 1M, written as 100k and as CSV, give the same users, movies and labels."""
    source = real_data("ml-1m")
    ratings = (source / "ratings.dat").read_text().splitlines()[:50_000]
    numbers = [line.split("::") for line in ratings]
    users = [line.split("::") for line in (source / "users.dat").read_text().splitlines()]
    (tmp_path / "100k").mkdir()
    write(tmp_path / "100k" / "u.data", ["\t".join(row) for row in numbers])
    write(tmp_path / "100k" / "u.user", ["|".join([u, a, g, o, z]) for u, g, a, o, z in users])
    (tmp_path / "csv").mkdir()
    write(
        tmp_path / "csv" / "ratings.csv",
        ["userId,movieId,rating,timestamp", *(",".join(r) for r in numbers)],
    )
    movies = [
        line.split("::") for line in (source / "movies.dat").read_text("latin-1").splitlines()
    ]
    lines = [f'{m},"{t.replace(chr(34), chr(34) * 2)}",{g}' for m, t, g in movies]
    write(tmp_path / "csv" / "movies.csv", ["movieId,title,genres", *lines])
    (tmp_path / "1m").mkdir()
    write(tmp_path / "1m" / "ratings.dat", ratings)
    write(tmp_path / "1m" / "users.dat", ["::".join(user) for user in users])
    found = {}
    for name in ("1m", "100k", "csv"):
        prepare_release(tmp_path / name, tmp_path / f"{name}-out")
        found[name] = rows(tmp_path / f"{name}-out")
    shared = set(found["1m"]) & set(found["100k"])
    assert len(shared) == 7
    assert all(found["1m"][c] == found["100k"][c] for c in shared)
    assert all(found["1m"][c] == found["csv"][c] for c in ("user", "movie", "label"))
