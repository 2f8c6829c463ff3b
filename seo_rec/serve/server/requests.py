"""What all requests for scores have in common: limits, counts, times, and refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from seo_rec.serve.server.bodies import RequestError
from seo_rec.serve.server.service import Service

_LEFT = 499  # the client closed the connection; only counted, since nobody reads the answer


async def answered(service: Service, answer: Coroutine[Any, Any, Response]) -> Response:
    """The answer to a request for scores, or what a refused one is told.

    Args:
        service: Counts the request, and says whether there may be another one.
        answer: Reads the request and scores it.
    """
    started = time.perf_counter()
    try:
        with service.admitted():
            response = await answer
    except RequestError as error:
        answer.close()
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


async def read_all(service: Service, request: Request) -> bytes:
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
