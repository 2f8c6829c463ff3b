"""The HTTP interface: ``/score``, ``/healthz``, ``/package`` and ``/metrics``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

from seo_rec.serve.server.bodies import ARROW, JSON, RequestError, write_scores
from seo_rec.serve.server.service import Service

_LEFT = 499  # the client closed the connection; only counted, since nobody reads the answer


def build_app(
    service: Service, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]
) -> FastAPI:
    """The application.

    Args:
        service: What answers.
        lifespan: What runs beside it, from :func:`background`.
    """
    app = FastAPI(title="seo-rec", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.post("/score")
    async def score(request: Request) -> Response:
        """Scores of raw rows, in their order."""
        started = time.perf_counter()
        try:
            with service.admitted():
                response = await _scored(service, request)
        except RequestError as error:
            response = JSONResponse({"error": str(error)}, error.status)
            if error.status in (408, 413):  # the rest of the body was not read
                response.headers["Connection"] = "close"
            if error.status == 429:
                response.headers["Retry-After"] = "1"
        except ClientDisconnect:
            response = Response(status_code=_LEFT)
        except Exception:
            service.metrics.requests.labels("500").inc()
            raise
        service.metrics.requests.labels(str(response.status_code)).inc()
        service.metrics.seconds.observe(time.perf_counter() - started)
        if service.draining:
            response.headers["Connection"] = "close"
        return response

    @app.get("/healthz")
    async def healthz() -> Response:
        """Status 200 while requests are welcome, 503 once the server is about to stop."""
        state = "stopping" if service.draining else "ok"
        status = 503 if service.draining else 200
        return JSONResponse({"status": state, "package": service.live.version}, status)

    @app.get("/package")
    async def package() -> Response:
        """Which package is served, and which columns it reads."""
        served = service.live.predictor
        columns = [{"name": c.name, "kind": c.kind} for c in served.preparation.columns]
        about = {key: served.package.manifest[key] for key in ("precision", "num_bytes", "metrics")}
        return JSONResponse({"package": served.package.version, "columns": columns, **about})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


async def _scored(service: Service, request: Request) -> Response:
    kind = _media_type(request.headers.get("content-type", JSON))
    body = await _body(service, request)
    scores, package = await service.score(kind, body)
    answer = kind
    accepted = _media_type(request.headers.get("accept", ""))
    if accepted in (JSON, ARROW):
        answer = accepted
    content = write_scores(answer, scores, package.version, package.labels)
    return Response(content, media_type=answer)


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


async def _body(service: Service, request: Request) -> bytes:
    """The body of a request.

    Raises:
        RequestError: It is too large, or comes too slowly, or is compressed.
    """
    most, seconds = service.settings.max_body, service.settings.body_time
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "the body has a Content-Encoding; send it as it is")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > most:
        raise RequestError(413, f"a body of {announced} bytes; allowed: {most}; send fewer rows")
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise RequestError(413, f"a body of more than {most} bytes; send fewer rows")
                parts.append(part)
    except TimeoutError as error:
        raise RequestError(408, f"the body did not arrive within {seconds:g} s") from error
    return b"".join(parts)


def background(
    service: Service, started: Callable[[], None]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What runs beside the application: batching, and the look at the package.

    Args:
        service: What answers.
        started: Is called once the application is ready.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(service.batcher.run())]
        if service.settings.reload:
            tasks.append(asyncio.create_task(service.watch()))
        started()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    return lifespan
