"""Topology files as docs/plan-format.md describes them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from seo_rec.plan.topology import Topology


def document_of(topology: Topology) -> dict[str, Any]:
    """The file of one machine; how many machines there are is an option of the command."""
    document = asdict(topology)
    del document["nodes"]
    return {"format": "seo-rec-topology", "version": 3, **document}
