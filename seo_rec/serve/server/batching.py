"""Dynamic batching: rows of the requests that wait are scored in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from seo_rec.serve.bags import Bags, Floats, Inputs
from seo_rec.serve.predictor import Predictor


def joined(pieces: Sequence[Inputs]) -> Inputs:
    """The rows of all pieces, in order; an id without a weight gets 1 if another has one."""
    if len(pieces) == 1:
        return pieces[0]
    columns = {}
    for name in pieces[0].columns:
        bags = [piece.columns[name] for piece in pieces]
        lengths = weights = None
        if any(b.lengths is not None for b in bags):
            lengths = np.concatenate([b.counts() for b in bags])
        if any(b.weights is not None for b in bags):
            weights = np.concatenate([_weights(b) for b in bags])
        columns[name] = Bags(np.concatenate([b.ids for b in bags]), lengths, weights)
    return Inputs(np.concatenate([piece.dense_BN for piece in pieces]), columns)


def _weights(bags: Bags) -> Floats:
    """float32 (V,): the weight of each id, 1 where none is given."""
    return np.ones(len(bags.ids), np.float32) if bags.weights is None else bags.weights


@dataclass(frozen=True)
class _Waiting:
    """Rows of a request that wait for their scores."""

    predictor: Predictor
    inputs: Inputs
    scores: asyncio.Future[Floats]

    @property
    def kind(self) -> tuple[int, bool]:
        """Only requests of one kind are scored together: ids with weights take another way."""
        weighted = any(b.weights is not None for b in self.inputs.columns.values())
        return id(self.predictor), weighted


class Batcher:
    """Scores rows of many requests; one call of a scorer runs at a time.

    While a call runs, further requests wait, and the next call takes all of them up to a number of
    rows. So batches grow with the load, and a request that comes alone is scored at once.

    Args:
        rows: That one call scores at most, unless one request has more.
        wait: Seconds that the first request of a batch waits for others.
        seen: Is told the rows of every call.
    """

    def __init__(self, rows: int, wait: float, seen: Callable[[int], None]) -> None:
        self.rows, self.wait, self.seen = rows, wait, seen
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seo-rec-score")

    async def score(self, predictor: Predictor, inputs: Inputs) -> Floats:
        """The scores of prepared rows, float32 (B,).

        Raises:
            DataError: A row cannot be scored.
        """
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(predictor, inputs, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Score what waits, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if self.wait and self._waiting_rows() < self.rows:
                await asyncio.sleep(self.wait)
            batch = self._next()
            if not self._waiting:
                self._arrived.clear()
            if batch:
                results = await loop.run_in_executor(self._thread, _scored, batch)
                self.seen(sum(len(waiting.inputs) for waiting in batch))
                for waiting, result in zip(batch, results, strict=True):
                    if waiting.scores.done():
                        continue  # its client has left
                    if isinstance(result, BaseException):
                        waiting.scores.set_exception(result)
                    else:
                        waiting.scores.set_result(result)

    def _waiting_rows(self) -> int:
        return sum(len(waiting.inputs) for waiting in self._waiting)

    def _next(self) -> list[_Waiting]:
        """The first requests that wait, of one kind, up to the number of rows."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting:
            first = self._waiting[0]
            rows += len(first.inputs)
            if batch and (rows > self.rows or first.kind != batch[0].kind):
                break
            self._waiting.popleft()
            batch.append(first)
        return batch


def _scored(batch: Sequence[_Waiting]) -> list[Floats | Exception]:
    """The scores of each request, or why it has none; a bad one does not spoil the others."""
    predictor = batch[0].predictor
    try:
        scores = predictor.score(joined([waiting.inputs for waiting in batch]))
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [_scored([waiting])[0] for waiting in batch]
    ends = np.cumsum([len(waiting.inputs) for waiting in batch])
    return list(np.split(scores, ends[:-1]))
