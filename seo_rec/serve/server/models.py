"""The routes of the Open Inference Protocol: ``/v2`` and what is below it."""

from __future__ import annotations

import os
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from seo_rec.serve.predictor import Predictor
from seo_rec.serve.server.bodies import ARROW, Body, RequestError
from seo_rec.serve.server.open_inference import (
    HEADER_LENGTH,
    Asked,
    model_metadata,
    read_request,
    write_answer,
)
from seo_rec.serve.server.requests import answered, read_all
from seo_rec.serve.server.service import Service


def open_inference_routes(service: Service) -> APIRouter:
    """The routes; the model has the name of the package's folder, and the package's version."""
    routes = APIRouter(prefix="/v2")
    model = os.path.basename(os.path.abspath(service.live.path))

    def require_model(name: str, version: str, served: Predictor) -> None:
        if name != model or version not in ("", served.package.version):
            raise RequestError(
                404,
                f"model {name[:80]!r}, version {version[:80]!r}; this server has {model!r}, "
                f"version {served.package.version!r}",
            )

    def described(name: str, version: str = "") -> Response:
        served = service.live.predictor
        try:
            require_model(name, version, served)
        except RequestError as error:
            return JSONResponse({"error": str(error)}, error.status)
        return JSONResponse(model_metadata(model, served.package, served.preparation))

    async def inferred(request: Request, name: str, version: str) -> Response:
        require_model(name, version, service.live.predictor)
        if request.headers.get("content-type", "").lower().startswith(ARROW):
            raise RequestError(415, "/v2 takes no Arrow streams; POST /score does")
        content = await read_all(service, request)
        length = request.headers.get(HEADER_LENGTH)
        asked: list[Asked] = []

        def read(of: Predictor) -> Body:
            require_model(name, version, of)
            rows = service.settings.max_rows
            body, wanted = read_request(content, length, of.preparation, of.package.labels, rows)
            asked.append(wanted)
            return body

        scores, package = await service.score_rows(len(content), read)
        body, headers = write_answer(asked[0], scores, model, package)
        return Response(body, headers=headers)

    def ready() -> Response:
        return Response(status_code=503 if service.draining else 200)

    for path in ("/models/{name}", "/models/{name}/versions/{version}"):

        @routes.get(path)
        async def metadata(name: str, version: str = "") -> Response:
            """The inputs and outputs of the model."""
            return described(name, version)

        @routes.get(f"{path}/ready")
        async def model_ready(name: str, version: str = "") -> Response:
            """Status 200 while requests are welcome."""
            found = described(name, version)
            return ready() if found.status_code == 200 else found

        @routes.post(f"{path}/infer")
        async def infer(request: Request, name: str, version: str = "") -> Response:
            """Scores of raw rows, in their order."""
            return await answered(service, inferred(request, name, version))

    @routes.get("")
    async def server() -> dict[str, Any]:
        """The name of the server, and which extensions of the protocol it has."""
        version = service.live.version
        return {"name": "seo-rec", "version": version, "extensions": ["binary_tensor_data"]}

    @routes.get("/health/live")
    async def live() -> Response:
        """Status 200."""
        return Response()

    @routes.get("/health/ready")
    async def server_ready() -> Response:
        """Status 200 while requests are welcome, 503 once the server is about to stop."""
        return ready()

    return routes
