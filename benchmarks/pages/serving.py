"""Latency and memory of serving, as ``benchmarks.speed.serving`` recorded them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.pages import precision
from benchmarks.pages.markdown import Column, each, table
from benchmarks.pages.speed import place
from benchmarks.record import Line, path_of, read

BATCHES = ("1", "64", "512")
OURS = ("onnxruntime", "onnxruntime, int8", "AOTI, C++", "AOTI, C++, int8")
SINGLE_MS = 0.03  # that one row may take
TIMES_FASTER = 3.0  # than the fastest way of TorchRec, at one row
ROW_BY_ROW = 1.15  # int8 of float32, where tables are too large to become floats
HASHING = 1.15  # of the time of a graph that is given row numbers


def region(lines: Sequence[Line]) -> list[str]:
    """Two tables for each model, from the last line of each: times, and goals."""
    if not lines:
        return ["`python -m benchmarks.speed.serving`: not run.", ""]
    out: list[str] = []
    columns = [
        Column("way", lambda item: item[0]),
        *each(BATCHES, lambda b: f"{b} rows: p50", lambda b, item: item[1]["ms"][b][0], ".3f"),
        *each(BATCHES, lambda b: f"{b} rows: p99", lambda b, item: item[1]["ms"][b][1], ".3f"),
        Column("resident MB", lambda item: item[1]["resident_mb"], ",d"),
    ]
    judged = [
        Column("goal, by p50", lambda x: x[0]),
        Column("measured", lambda x: x[1], ".3f"),
        Column("limit", lambda x: x[2], ".2f"),
        Column("", lambda x: "met" if x[1] <= x[2] else "missed"),
    ]
    for x in {line["model"]: line for line in lines}.values():
        out += [
            f"**{x['model']}**, milliseconds of a call; {x['rounds']} rounds. {place(x)}.",
            "",
            *table(columns, x["ways"].items()),
            *table(judged, goals(x)),
        ]
    return out


def goals(line: Line) -> Iterator[tuple[str, float, float]]:
    """What is wanted of the medians, what was found, and what is allowed at most."""
    median = {w: {b: found["ms"][b][0] for b in BATCHES} for w, found in line["ways"].items()}
    if set(median) <= set(OURS):  # tables too large for caches
        yield from _int8_by_float32(median)
        return
    best = {b: min((median[way][b], way) for way in OURS) for b in BATCHES}
    others = {b: min((ms[b], w) for w, ms in median.items() if "Torch" in w) for b in BATCHES}
    torchrec = min((ms["1"], w) for w, ms in median.items() if w.startswith("TorchRec"))
    yield f"1 row, {best['1'][1]}, in milliseconds", best["1"][0], SINGLE_MS
    yield (
        f"1 row, {best['1'][1]} by {torchrec[1]}",
        best["1"][0] / torchrec[0],
        1 / TIMES_FASTER,
    )
    yield f"512 rows, {best['512'][1]} by {others['512'][1]}", best["512"][0] / others["512"][0], 1
    yield from _int8_by_float32(median)
    large = "onnxruntime, int8, row by row"
    for b in BATCHES if large in median else ():
        ratio = median[large][b] / median["onnxruntime"][b]
        yield f"{b} rows, {large} by float32", ratio, ROW_BY_ROW
    for way in OURS[::2]:
        alone = median.get(f"{way}, ids in a matrix", median[way])
        for b in BATCHES:
            ratio = alone[b] / median[f"{way}, hashed before"][b]
            yield f"{b} rows, {way}, hashing inside by before", ratio, HASHING


def _int8_by_float32(
    median: Mapping[str, Mapping[str, float]],
) -> Iterator[tuple[str, float, float]]:
    for way in OURS[::2]:
        for b in BATCHES if way in median else ():  # earlier lines of large tables lack one
            yield f"{b} rows, {way}, int8 by float32", median[f"{way}, int8"][b] / median[way][b], 1


def regions() -> dict[str, list[str]]:
    return {
        "serving": region(read(path_of("serving"))),
        "precision": precision.region(),
    }
