"""Dynamic batching: many requests in one call, each with its own scores or its own error."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from patience import PATIENCE
from seo_rec.schema import DataError
from seo_rec.serve.bags import Bags, Inputs
from seo_rec.serve.server.batching import Batcher, joined


def inputs(*values: float, ids: tuple[int, ...] = (), weights=None) -> Inputs:
    dense = np.array(values, np.float32)[:, None]
    bags = Bags(np.array(ids, np.int64), np.array([len(ids)], np.int64), weights)
    return Inputs(dense, {"c": bags} if len(values) == 1 else {})


class Echo:
    """Scores each row by its number; refuses negative ones; can be held back."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def score(self, rows: Inputs) -> np.ndarray:
        assert self.open.wait(PATIENCE)
        self.calls.append(len(rows))
        if (rows.dense_BN < 0).any():
            raise DataError("a negative number")
        return rows.dense_BN[:, 0]


def test_joined_rows_keep_their_bags_and_weights():
    found = joined(
        [inputs(1.0, ids=(4, 5)), inputs(2.0), inputs(3.0, ids=(6,), weights=np.float32([2]))]
    )
    assert found.dense_BN[:, 0].tolist() == [1, 2, 3]
    bags = found.columns["c"]
    assert (bags.ids.tolist(), bags.lengths.tolist()) == ([4, 5, 6], [2, 0, 1])
    assert bags.weights.tolist() == [1, 1, 2]


def together(rows: int, wait: float, echo: Echo, pieces: list[Inputs]) -> tuple[list, list[int]]:
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
    results, seen = together(3, 0.0, echo, [inputs(float(i)) for i in range(7)])
    assert [r.tolist() for r in results] == [[float(i)] for i in range(7)]
    assert seen == echo.calls == [3, 3, 1]


def test_a_larger_request_is_scored_alone():
    echo = Echo()
    results, seen = together(2, 0.0, echo, [inputs(1.0, 2.0, 3.0), inputs(4.0, 5.0)])
    assert [r.tolist() for r in results] == [[1, 2, 3], [4, 5]]
    assert seen == [3, 2]


def test_a_bad_row_spoils_its_own_request_only():
    results, _ = together(10, 0.0, Echo(), [inputs(1.0), inputs(-1.0), inputs(3.0)])
    assert isinstance(results[1], DataError)
    assert [results[0].tolist(), results[2].tolist()] == [[1], [3]]


def test_requests_with_weights_are_scored_apart():
    echo = Echo()
    weighted = inputs(2.0, ids=(1,), weights=np.float32([3]))
    together(10, 0.0, echo, [inputs(1.0), inputs(1.5), weighted, inputs(4.0)])
    assert echo.calls == [2, 1, 1]


def test_a_wait_gathers_requests():
    async def run(wait: float) -> list[int]:
        echo = Echo()
        batcher = Batcher(10, wait, lambda rows: None)
        task = asyncio.create_task(batcher.run())
        first = asyncio.create_task(batcher.score(echo, inputs(1.0)))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, batcher.score(echo, inputs(2.0)))
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
            await asyncio.wait_for(batcher.score(echo, inputs(1.0)), 0.05)
        echo.open.set()
        scores = await batcher.score(echo, inputs(2.0))
        task.cancel()
        return float(scores[0])

    assert asyncio.run(run()) == 2.0
