"""What the server does with a request, apart from HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from seo_rec.files import first_line
from seo_rec.schema import DataError
from seo_rec.serve.bags import Floats
from seo_rec.serve.layout import PackageError
from seo_rec.serve.package import Package
from seo_rec.serve.predictor import Predictor
from seo_rec.serve.server.batching import Batcher
from seo_rec.serve.server.bodies import Body, RequestError, read_body
from seo_rec.serve.server.live import LivePackage
from seo_rec.serve.server.metrics import Metrics
from seo_rec.settings import ServerSettings

LOG = logging.getLogger("seo_rec.progress")
_SMALL = 16 << 10  # bytes of a body that is read at once, without the way to another thread


class Service:
    """Scores bodies of requests from a package that may change.

    Args:
        live: The package.
        settings: Limits and times.
        metrics: What is counted.
    """

    def __init__(self, live: LivePackage, settings: ServerSettings, metrics: Metrics) -> None:
        self.live, self.settings, self.metrics = live, settings, metrics
        self.draining = False
        self.batcher = Batcher(
            settings.batch_rows, settings.batch_wait, lambda rows: metrics.batch_rows.observe(rows)
        )
        # one thread: several that parse only wait for each other
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="seo-rec-read")
        self._in_flight = 0
        self._reload = asyncio.Lock()
        metrics.serves(live.version)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request while it is answered.

        Raises:
            RequestError: With status 429: too many are being answered.
        """
        if self._in_flight >= self.settings.max_requests:
            raise RequestError(
                429,
                f"{self._in_flight} requests are being answered, the most that --max-requests "
                "allows; try again",
            )
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)

    async def score(self, kind: str, body: bytes) -> tuple[Floats, Package]:
        """The scores of the rows of a body, float32 (B,) or (B, T), and the package they are of.

        Args:
            kind: The media type.
            body: The rows.

        Raises:
            RequestError: The body is bad; the message says where and why.
        """
        rows, size = self.settings.max_rows, self.settings.max_body
        return await self.score_rows(
            len(body), lambda of: read_body(kind, body, of.preparation, rows, size)
        )

    async def score_rows(
        self, size: int, read: Callable[[Predictor], Body]
    ) -> tuple[Floats, Package]:
        """The scores of rows, float32 (B,) or (B, T), and the package they are of.

        Args:
            size: Bytes of the body.
            read: What reads the body for a package; it raises a :class:`RequestError`.

        Raises:
            RequestError: The body is bad, or a row cannot be scored.
        """
        predictor = self.live.predictor
        if size <= _SMALL:
            body = read(predictor)
        else:
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(self._reading, read, predictor)
        try:
            scores = await self.batcher.score(predictor, body)
        except DataError as error:
            raise RequestError(422, str(error)) from error
        self.metrics.rows.inc(len(scores))
        return scores, predictor.package

    async def reload(self) -> None:
        """Serve what is at the package's path now; a bad package is logged and not served."""
        async with self._reload:
            try:
                changed = await asyncio.to_thread(self.live.reload)
            except Exception as error:  # a lack of memory too: the package before is served on
                self.metrics.reloads.labels("failed").inc()
                LOG.warning(f"the new package is not served: {_why(error)}")
                return
            if changed:
                self.metrics.reloads.labels("loaded").inc()
                self.metrics.serves(self.live.version)
                LOG.info(f"serving package {self.live.version}")

    async def watch(self) -> None:
        """Reload whenever the files of the package change, until cancelled.

        A look that fails, as where no thread can be started, is logged, and the next one is taken.
        """
        while True:
            await asyncio.sleep(self.settings.reload)
            try:
                changed = await asyncio.to_thread(self.live.has_changed)
            except Exception as error:
                LOG.warning(f"{self.live.path}: cannot look for a new package: {_why(error)}")
                continue
            if changed:
                await self.reload()


def _why(error: Exception) -> str:
    """The message of an error; one that is not written for users comes with its class."""
    if isinstance(error, PackageError | DataError | OSError):
        return str(error)
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"
