"""Metrics of the server in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Metrics:
    """What the server counts, in a registry that belongs to one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "seo_rec_requests", "Requests by HTTP status.", ["status"], registry=self.registry
        )
        self.seconds = Histogram(
            "seo_rec_request_seconds",
            "Time from the headers of a request to its scores.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.rows = Counter("seo_rec_rows", "Rows that were scored.", registry=self.registry)
        self.batch_rows = Histogram(
            "seo_rec_batch_rows", "Rows of a call of the scorer.", buckets=_ROWS,
            registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "seo_rec_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self.reloads = Counter(
            "seo_rec_reloads",
            "Loads of a new package by result: loaded or failed.",
            ["result"],
            registry=self.registry,
        )
        self.package = Gauge(
            "seo_rec_package", "1 for the package that is served.", ["version"],
            registry=self.registry,
        )  # fmt: skip

    def serves(self, version: str) -> None:
        """Note which package is served now."""
        self.package.clear()
        self.package.labels(version).set(1)

    def text(self) -> bytes:
        """All metrics, as Prometheus reads them."""
        return generate_latest(self.registry)
