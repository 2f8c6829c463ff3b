"""What a part of the GPU checks says: lines of a record, each a check, a measurement or a note."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.record import Line
from seo_rec.train import Ranks


@dataclass(frozen=True)
class Run:
    """How a part is run.

    Args:
        ranks: the processes, with the device of this one.
        small: sizes for a machine without a GPU, where a part only shows that it works.
    """

    ranks: Ranks
    small: bool

    @property
    def device(self) -> torch.device:
        return self.ranks.device

    def pick(self, full: int, small: int) -> int:
        """One of two sizes."""
        return small if self.small else full


Lines = Iterator[Line]


def check(name: str, value: float, limit: float, text: str = "") -> Line:
    """A number that must not be above a limit; NaN is above every limit. ``text``: why it is."""
    value = float(value)
    passed = not math.isnan(value) and value <= limit
    shown = value if math.isfinite(value) else None
    more = {"text": text} if text else {}
    return {"kind": "check", "name": name, "value": shown, "limit": limit, "passed": passed, **more}


def holds(name: str, truth: bool, text: str = "") -> Line:
    """Something that is so or is not."""
    return {"kind": "check", "name": name, "value": None, "limit": None, "passed": truth} | (
        {"text": text} if text else {}
    )


def forbidden(name: str, why: str) -> Line:
    """A check that the installed versions, or this machine, do not allow."""
    return {"kind": "forbidden", "name": name, "text": why}


def note(name: str, text: str) -> Line:
    return {"kind": "note", "name": name, "text": text}


def measure(name: str, value: float, unit: str, goal: float | None = None, **more: object) -> Line:
    """A figure; with a goal it should be at least that, and a run whose figure is not says so."""
    reached = {} if goal is None else {"goal": goal, "reached": value >= goal}
    return {"kind": "measurement", "name": name, "value": value, "unit": unit, **reached, **more}
