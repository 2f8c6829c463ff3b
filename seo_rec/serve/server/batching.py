"""Dynamic batching: rows of the requests that wait are prepared and scored in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from seo_rec.serve.bags import Floats, Inputs
from seo_rec.serve.predictor import Predictor
from seo_rec.serve.server.bodies import Body
from seo_rec.serve.server.together import joined, prepared


@dataclass(frozen=True)
class _Waiting:
    """Rows of a request that wait for their scores."""

    predictor: Predictor
    body: Body
    scores: asyncio.Future[Floats]

    @property
    def kind(self) -> tuple[int, bool]:
        """Only requests of one kind are scored together: ids with weights take another way."""
        return id(self.predictor), bool(self.body.weights)


class Batcher:
    """Prepares and scores rows of many requests; one call of a scorer runs at a time.

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

    async def score(self, predictor: Predictor, body: Body) -> Floats:
        """The scores of raw rows, float32 (B,).

        Raises:
            DataError: A row cannot be prepared or scored.
        """
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(predictor, body, future))
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
                results, calls = await loop.run_in_executor(self._thread, _answers, batch)
                for rows in calls:
                    self.seen(rows)
                for waiting, result in zip(batch, results, strict=True):
                    if waiting.scores.done():
                        continue  # its client has left
                    if isinstance(result, BaseException):
                        waiting.scores.set_exception(result)
                    else:
                        waiting.scores.set_result(result)

    def _waiting_rows(self) -> int:
        return sum(len(waiting.body) for waiting in self._waiting)

    def _next(self) -> list[_Waiting]:
        """The first requests that wait, of one kind, up to the number of rows."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting:
            first = self._waiting[0]
            rows += len(first.body)
            if batch and (rows > self.rows or first.kind != batch[0].kind):
                break
            self._waiting.popleft()
            batch.append(first)
        return batch


def _answers(batch: Sequence[_Waiting]) -> tuple[list[Floats | Exception], list[int]]:
    """As :func:`_scored`; no error ends the thread's loop."""
    try:
        return _scored(batch)
    except Exception as error:
        return [error] * len(batch), []


def _scored(batch: Sequence[_Waiting]) -> tuple[list[Floats | Exception], list[int]]:
    """The scores of each request, or why it has none, and the rows of each call of the scorer."""
    predictor = batch[0].predictor
    results: dict[int, Floats | Exception] = {}
    places, pieces = [], []
    for group in prepared(predictor.preparation, [waiting.body for waiting in batch]):
        if isinstance(group.inputs, Inputs):
            places += group.places
            pieces.append(group.inputs)
        else:
            results[group.places[0]] = group.inputs
    calls: list[int] = []
    if places:
        sizes = [len(batch[place].body) for place in places]
        parts, calls = _parts(predictor, joined(pieces), sizes)
        results.update(zip(places, parts, strict=True))
    return [results[place] for place in range(len(batch))], calls


def _parts(
    predictor: Predictor, inputs: Inputs, sizes: Sequence[int]
) -> tuple[list[Floats | Exception], list[int]]:
    """The scores of each request, one behind the other in ``inputs``, and the rows of each call.

    If the call for all fails, each request has a call of its own, which a bad one alone fails.
    """
    ends = np.cumsum(sizes).tolist()
    try:
        return list(np.split(predictor.score(inputs), ends[:-1])), [len(inputs)]
    except Exception as error:
        if len(sizes) == 1:
            return [error], []
    found: list[Floats | Exception] = []
    calls = []
    for start, end in zip([0, *ends], ends, strict=False):
        try:
            found.append(predictor.score(inputs.slice(start, end)))
            calls.append(end - start)
        except Exception as error:
            found.append(error)
    return found, calls
