"""Run folders: who owns one, what its files are called, and what they say.

``run.json`` says what was asked, ``result.json`` what came out; a folder without ``result.json``
is unfinished and is resumed by the same call with ``resume=True``.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seo_rec.files import write_json
from seo_rec.policy import Policy
from seo_rec.runs.command_settings import write_command_settings

log = logging.getLogger(__name__)


RESULT_FILE = "result.json"
RUN_FILE = "run.json"
POLICY_FILE = "policy.json"
SEARCH_FILE = "search.json"


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class SearchCost:
    """What finding a policy took: ``seconds``, and ``peak_bytes`` as :class:`Found` counts them."""

    seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Run:
    """What one trained model came to; one line of ``results.jsonl``.

    ``search_peak_bytes`` came later than the rest: 0 in older files.
    """

    data: str
    data_fingerprint: str
    method: str
    seed: int
    budget: int
    embedding_params: int
    val_auc: float
    val_logloss: float
    test_auc: float
    test_logloss: float
    test_normalized_entropy: float
    test_calibration: float
    epochs: int
    steps: int
    seconds_per_epoch: float
    seconds: float
    search_seconds: float
    policy: str
    command: str
    environment: Mapping[str, Any]
    search_peak_bytes: int = 0


def open_run(out: Path, asked: Mapping[str, Any], resume: bool) -> None:
    """Claim ``out`` for the run described by ``asked``, or find that run there again.

    Raises:
        RunError: the folder holds something else, or the same run and ``resume`` is False.
    """
    path = out / RUN_FILE
    wanted = json.loads(json.dumps(asked))
    if path.exists():
        found = json.loads(path.read_text())
        if differing := sorted(k for k in {*wanted, *found} if found.get(k) != wanted.get(k)):
            raise RunError(
                f"{out} holds another run (it differs in {', '.join(differing)}); choose another "
                "--out, or call it as before"
            )
        if not resume:
            raise RunError(f"{out} already holds this run; give --resume, or another --out")
    elif out.exists() and any(not p.name.startswith(f".{RUN_FILE}.") for p in out.iterdir()):
        raise RunError(f"{out} exists and is not a run folder; choose another --out")
    write_json(path, wanted)
    write_command_settings(out)


def read_runs(path: Path) -> list[Run]:
    """The complete lines of a ``results.jsonl``; a line cut short by a kill is left out."""
    runs = []
    for line in path.read_text().splitlines():
        try:
            runs.append(Run(**json.loads(line)))
        except (ValueError, TypeError):
            log.warning("%s: an unreadable line was left out", path)
    return runs


def describe(policy: Policy) -> str:
    """A policy in a few words: tables and arrays, and lookups per feature."""
    counts: dict[int, int] = {}
    for f in policy.features:
        counts[len(f.lookups)] = counts.get(len(f.lookups), 0) + 1
    lookups = ", ".join(f"{n} features x {k}" for k, n in sorted(counts.items(), reverse=True))
    tables = sorted({(t.num_rows, t.dim) for t in policy.tables})
    found = [
        _some(len(policy.tables), "table", [f"{r}x{d}" for r, d in tables]),
        _some(
            len(policy.arrays), "array", [str(n) for n in sorted({a.size for a in policy.arrays})]
        ),
    ]
    return f"{', '.join(filter(None, found))}; {lookups}"


def _some(count: int, noun: str, sizes: list[str]) -> str:
    plural = noun if count == 1 else noun + "s"
    shown = ", ".join(sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    return f"{count} {plural} ({shown})" if count else ""


def command_line() -> str:
    """The command that started this process, as a user would type it."""
    spec = sys.modules["__main__"].__spec__
    program = Path(sys.argv[0]).name
    if program in ("seo-rec", "__main__.py"):
        program = "seo-rec"
    elif spec is not None:
        program = f"python -m {spec.name}"
    return " ".join([program, *(shlex.quote(a) for a in sys.argv[1:])])
