"""The HTTP interface: ``/score``, ``/healthz``, ``/package`` and ``/metrics``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from seo_rec.serve.server.bodies import ARROW, JSON, write_scores
from seo_rec.serve.server.models import open_inference_routes
from seo_rec.serve.server.requests import answered, read_all
from seo_rec.serve.server.service import Service


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
        return await answered(service, _scored(service, request))

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

    app.include_router(open_inference_routes(service))
    app.add_exception_handler(HTTPException, _no_such_address)
    return app


async def _no_such_address(request: Request, error: Exception) -> Response:
    """What a request for another address, or by another method, is told."""
    status, headers = 404, None
    message = f"{request.method} {request.url.path[:80]}: no such address"
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
    if status == 405:
        message = f"{request.url.path} does not take {request.method}"
    known = "POST /score, GET /package, /healthz and /metrics, and /v2 for clients of Triton"
    return JSONResponse({"error": f"{message}; there are {known}"}, status, headers)


async def _scored(service: Service, request: Request) -> Response:
    kind = _media_type(request.headers.get("content-type", JSON))
    body = await read_all(service, request)
    scores, package = await service.score(kind, body)
    answer = kind
    accepted = _media_type(request.headers.get("accept", ""))
    if accepted in (JSON, ARROW):
        answer = accepted
    content = write_scores(answer, scores, package.version, package.labels)
    return Response(content, media_type=answer)


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


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
