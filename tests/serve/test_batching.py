"""Dynamic batching: many requests in one call, each with its own scores or its own error."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from patience import PATIENCE
from seo_rec.schema import DataError
from seo_rec.serve.bags import Bags, Inputs, RowError
from seo_rec.serve.few_rows import FewRows
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.server.batching import Batcher
from seo_rec.serve.server.bodies import Body
from seo_rec.serve.server.together import joined

COLUMNS = (
    Column("x", "numeric", "none"),
    Column("h", "categorical", "hour_of_day"),
    Column("c", "multivalent"),
)
PREPARATION = Preparation("table", "y", {}, COLUMNS)
HOUR = 14102100


def cells(*values: Any, c: list[Any] | None = None, h: int = HOUR) -> dict[str, Any]:
    return {"x": list(values), "h": [h] * len(values), "c": c or [[]] * len(values)}


def few(*values: Any, **more: Any) -> Body:
    """Rows that are read cell by cell."""
    read = PREPARATION.few_rows.read(cells(*values, **more))
    assert read is not None
    return Body(read, {})


def table(*values: Any, weights: Any = None, **more: Any) -> Body:
    """Rows that Arrow prepares."""
    return Body(pa.table(cells(*values, **more)), weights or {})


class Echo:
    """Scores each row by its number; refuses negative ones; can be held back."""

    preparation = PREPARATION

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def score(self, rows: Inputs) -> np.ndarray:
        assert self.open.wait(PATIENCE)
        if (rows.dense_BN < 0).any():
            raise DataError("a negative number")
        self.calls.append(len(rows))
        return rows.dense_BN[:, 0] + rows.columns["c"].counts()


def inputs(*values: float, ids: tuple[int, ...] = (), weights: Any = None) -> Inputs:
    dense = np.array(values, np.float32)[:, None]
    bags = Bags(np.array(ids, np.int64), np.array([len(ids)], np.int64), weights)
    return Inputs(dense, {"c": bags})


def test_joined_rows_keep_their_bags_and_weights():
    found = joined(
        [inputs(1.0, ids=(4, 5)), inputs(2.0), inputs(3.0, ids=(6,), weights=np.float32([2]))]
    )
    assert found.dense_BN[:, 0].tolist() == [1, 2, 3]
    bags = found.columns["c"]
    assert (bags.ids.tolist(), bags.lengths.tolist()) == ([4, 5, 6], [2, 0, 1])
    assert bags.weights.tolist() == [1, 1, 2]


def together(rows: int, wait: float, echo: Echo, pieces: list[Body]) -> tuple[list, list[int]]:
    """The results of requests that come at once, while the scorer is held back."""
    seen: list[int] = []

    async def run() -> list:
        batcher = Batcher(rows, wait, seen.append)
        task = asyncio.create_task(batcher.run())
        found = [asyncio.create_task(batcher.score(echo, piece)) for piece in pieces]
        await asyncio.sleep(0.05)
        echo.open.set()
        results = await asyncio.gather(*found, return_exceptions=True)
        task.cancel()
        return results

    return asyncio.run(run()), seen


def test_requests_that_wait_are_scored_in_one_call_up_to_the_limit():
    echo = Echo()
    results, seen = together(3, 0.0, echo, [few(float(i)) for i in range(7)])
    assert [r.tolist() for r in results] == [[float(i)] for i in range(7)]
    assert seen == echo.calls == [3, 3, 1]


def test_a_larger_request_is_scored_alone():
    echo = Echo()
    results, seen = together(2, 0.0, echo, [few(1.0, 2.0, 3.0), few(4.0, 5.0)])
    assert [r.tolist() for r in results] == [[1, 2, 3], [4, 5]]
    assert seen == [3, 2]


def test_a_bad_row_spoils_its_own_request_only():
    results, _ = together(10, 0.0, Echo(), [few(1.0), few(-1.0), few(3.0)])
    assert isinstance(results[1], DataError)
    assert [results[0].tolist(), results[2].tolist()] == [[1], [3]]


def encodes(calls: list[int]) -> Any:
    """Notes the rows of each call that prepares rows, in either way."""
    whole, of_few = Preparation.encode, FewRows.encode

    def table_rows(self: Any, rows: Any, weights: Any = None) -> Inputs:
        calls.append(len(rows))
        return whole(self, rows, weights)

    def few_rows(self: Any, pieces: Any) -> Inputs:
        calls.append(sum(map(len, pieces)))
        return of_few(self, pieces)

    return mock.patch.multiple(Preparation, encode=table_rows), mock.patch.multiple(
        FewRows, encode=few_rows
    )


def test_requests_that_wait_are_prepared_in_one_call_for_each_form():
    """Few rows with few rows, tables with tables of the same types; each gets its own scores."""
    calls: list[int] = []
    floats = table(5.0, 6.0, c=[["a"], ["a", "b"]])
    bodies = [few(1, c=[["a"]]), table(2), few(3.5, None), table(4, 9), floats, few(7)]
    one, other = encodes(calls)
    with one, other:
        results, seen = together(100, 0.0, Echo(), bodies)
    assert [r.tolist() for r in results] == [[2], [2], [3.5, 0], [4, 9], [6, 8], [7]]
    assert (sorted(calls), seen) == ([2, 3, 4], [9])


@pytest.mark.parametrize("of", [few, table])
def test_a_row_that_cannot_be_prepared_spoils_its_own_request_only(of):
    """With the message that the request has alone, and the number of its own row."""
    bad = Body(table(1.0, 2.0).rows.set_column(1, "h", pa.array([HOUR, 99])), {})
    other = Body(pa.table({"x": [1.0], "h": [HOUR]}), {})
    weighted = table(1.0, c=[["a"]], weights={"c": [[1.0, 2.0]]})
    results, seen = together(100, 0.0, Echo(), [of(1.0), of(2.0), bad, other, of(4.0)])
    assert [results[i].tolist() for i in (0, 1, 4)] == [[1], [2], [4]]
    assert isinstance(results[2], RowError) and results[2].row == 1
    assert "column 'h': not an hour written as YYMMDDHH, got '99.0'" in str(results[2])
    assert "the rows lack the columns ['c']" in str(results[3])
    assert sum(seen) == 3
    results, seen = together(100, 0.0, Echo(), [weighted])
    assert isinstance(results[0], DataError) and "lists of other lengths" in str(results[0])
    assert seen == []


def test_a_fault_of_the_program_ends_neither_the_thread_nor_other_requests():
    class Broken(Preparation):
        def encode(self, rows: Any, weights: Any = None) -> Inputs:
            if 2.0 in rows["x"].to_pylist():
                raise KeyError("a fault")
            return super().encode(rows, weights)

    echo = Echo()
    echo.preparation = Broken("table", "y", {}, COLUMNS)
    results, _ = together(100, 0.0, echo, [table(1.0), table(2.0, 3.0), table(4.0)])
    assert isinstance(results[1], KeyError)
    assert [results[0].tolist(), results[2].tolist()] == [[1], [4]]
    echo.preparation = None
    results, seen = together(100, 0.0, echo, [table(1.0)])
    assert isinstance(results[0], AttributeError) and seen == []


def test_requests_with_weights_are_scored_apart():
    echo = Echo()
    weighted = table(2.0, c=[["a"]], weights={"c": [[3.0]]})
    together(10, 0.0, echo, [few(1.0), few(1.5), weighted, few(4.0)])
    assert echo.calls == [2, 1, 1]


def test_a_wait_gathers_requests():
    async def run(wait: float) -> list[int]:
        echo = Echo()
        batcher = Batcher(10, wait, lambda rows: None)
        task = asyncio.create_task(batcher.run())
        first = asyncio.create_task(batcher.score(echo, few(1.0)))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, batcher.score(echo, few(2.0)))
        task.cancel()
        return echo.calls

    assert asyncio.run(run(0.0)) == [1, 1]
    assert asyncio.run(run(0.5)) == [2]


def test_a_client_that_left_does_not_stop_the_others():
    async def run() -> float:
        echo = Echo()
        batcher = Batcher(10, 0.0, lambda rows: None)
        task = asyncio.create_task(batcher.run())
        with pytest.raises(TimeoutError):
            echo.open.clear()
            await asyncio.wait_for(batcher.score(echo, few(1.0)), 0.05)
        echo.open.set()
        scores = await batcher.score(echo, few(2.0))
        task.cancel()
        return float(scores[0])

    assert asyncio.run(run()) == 2.0
