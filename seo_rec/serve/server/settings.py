"""Settings and limits of the server."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ServerSettings:
    """Limits of the server, and its times in seconds.

    Args:
        max_body: Bytes of the body of one request.
        max_rows: Rows of one request.
        max_requests: Requests at a time; a further one is refused with status 429.
        batch_rows: Rows that are scored in one call, of as many requests as wait.
        batch_wait: How long a request may wait for others before it is scored.
        body_time: How long a client may take to send the body of a request.
        drain: After SIGTERM, how long the server goes on answering while it asks clients to leave.
        reload: Between looks at the package for a new one; 0 looks only on SIGHUP.
    """

    max_body: int = 16 << 20
    max_rows: int = 10_000
    max_requests: int = 256
    batch_rows: int = 1024
    batch_wait: float = 0.0
    body_time: float = 30.0
    drain: float = 2.0
    reload: float = 2.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            whole = f.name.startswith("max_") or f.name == "batch_rows"
            least = 1 if whole else 0
            if not least <= value < float("inf"):
                raise ValueError(f"{f.name} {value}; allowed: {least} or more, and finite")
        if self.body_time == 0:
            raise ValueError("body_time 0; allowed: more than 0")
