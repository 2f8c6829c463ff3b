"""The server's process: its socket, its signals, and how it stops."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

import uvicorn

from seo_rec.serve.server.app import background, build_app
from seo_rec.serve.server.live import LivePackage
from seo_rec.serve.server.metrics import Metrics
from seo_rec.serve.server.service import Service
from seo_rec.settings import ServerSettings

_LONGEST = 60  # seconds that requests have to end in, once no new ones are taken
_IDLE = 75  # seconds that a connection may wait for its next request; balancers often close at 60


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: The port is no port, or the address is taken or not one of this machine.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}; allowed: 0 to 65535, 0 for any free one")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. Without it an answer, written in two pieces, waits 40 ms for the
        # client's acknowledgement of the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}:{port} ({error.strerror}); name another --port or --host"
        ) from error


def serve(
    live: LivePackage,
    listener: socket.socket,
    settings: ServerSettings,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT.

    After the signal the server goes on answering for ``settings.drain`` seconds, with ``/healthz``
    at status 503 and ``Connection: close`` in every answer, so that clients and balancers go
    elsewhere. Then it takes no new requests, ends those it has, and returns. A second signal stops
    the wait. SIGHUP loads the package anew.

    Args:
        live: The package.
        listener: Where requests come in.
        settings: Limits and times.
        ready: Is called once requests are answered.
    """
    asyncio.run(_serve(live, listener, settings, ready))


async def _serve(
    live: LivePackage,
    listener: socket.socket,
    settings: ServerSettings,
    ready: Callable[[], None],
) -> None:
    service = Service(live, settings, Metrics())
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def stop() -> None:
        wait = 0.0 if service.draining else settings.drain
        service.draining = True
        loop.call_later(wait, setattr, server, "should_exit", True)

    def reload() -> None:
        task = loop.create_task(service.reload())
        tasks.add(task)  # the loop alone would let it go
        task.add_done_callback(tasks.discard)

    def started() -> None:
        # here, since uvicorn sets handlers of its own before
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, reload)
        loop.call_soon(ready)

    app = build_app(service, background(service, started))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=_LONGEST,
        )
    )
    await server.serve(sockets=[listener])
