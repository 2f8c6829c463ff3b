"""Claim a run folder for a run, or find out that the same run is there already."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seo_rec.documents import read_object
from seo_rec.files import write_json
from seo_rec.folders import but_is
from seo_rec.runs.command_settings import write_command_settings
from seo_rec.runs.layout import PERIODS_FOLDER, RUN_FILE

# what run.json has only where it was asked for
OPTIONAL = frozenset(
    {
        "weights",
        "exact_below",
        "same_hash",
        "earlier",
        "mean_anew",
        "trained_policy",
        "num_bytes",
        "precision",
        "id_bits",
        "budget_bytes",
        "crosses",
        "trials",
    }
)


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


def unfinished(run: Path) -> RunError:
    """The error of a path that is not the folder of a finished training run."""
    if not run.exists():
        return RunError(f"{run}: no such folder; name the folder of a finished training run")
    found = but_is(run) or "; name the folder that `seo-rec train --out` made"
    return RunError(f"{run}: not a finished training run{found}")


def claim_run(out: Path, asked: Mapping[str, Any], resume: bool) -> None:
    """Claim ``out`` for the run described by ``asked``, or find that run there again.

    Args:
        out: The run folder; made if it is not there.
        asked: Everything that decides the run, JSON values only; written to ``run.json``.
        resume: Whether the same run may be there already.

    Raises:
        RunError: The folder holds something else, or the same run and ``resume`` is False.
        ValueError: Its ``run.json`` is damaged.
    """
    path = out / RUN_FILE
    wanted = json.loads(json.dumps(asked))
    if path.exists():
        there = read_object(path, {})
        same = _same_data(there, wanted)
        if differing := [key for key in _differing(there, wanted) if key not in same]:
            if there.get("kind") == wanted.get("kind") and _is_of_an_earlier_release(there, wanted):
                raise RunError(
                    f"{out} holds a run of an earlier release, whose {RUN_FILE} lacks "
                    f"{', '.join(sorted(wanted.keys() - there.keys()))}; such runs are reported "
                    "and evaluated but not resumed; choose another --out"
                )
            raise RunError(
                f"{out} holds another run (it differs in {', '.join(differing)}); choose another "
                "--out, or call it as before"
            )
        if not resume:
            raise RunError(f"{out} already holds this run; give --resume, or another --out")
    else:
        require_unclaimed(out)
    write_json(path, wanted)
    write_command_settings(out)


def require_unclaimed(out: Path) -> None:
    """RunError if ``out`` holds anything but what may be there before a run claims it."""
    if out.exists() and not all(_is_of_claim(p.name) for p in out.iterdir()):
        raise RunError(f"{out} exists and is not a run folder; choose another --out")


def _is_of_claim(name: str) -> bool:
    """Whether an entry may be in a folder before it is claimed: steps of a replay that were cut."""
    return name == PERIODS_FOLDER or name.startswith((f".{RUN_FILE}.", f".{PERIODS_FOLDER}."))


def _is_of_an_earlier_release(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether ``there`` lacks something that every run of its kind now says of itself."""
    return bool(wanted.keys() - there.keys() - OPTIONAL)


def _same_data(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """The key that says where the data lie, if they are the same: a path has many spellings."""
    same = any(
        wanted.get(name) is not None and there.get(name) == wanted[name]
        for name in ("data_fingerprint", "data_fingerprints")
    )
    return ("data",) if same else ()


def _differing(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, as ``fit.seed`` where the values are objects themselves."""
    keys = []
    for key in sorted({*there, *wanted}):
        old, new = there.get(key), wanted.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and key != "policy":
            keys += [f"{key}.{inner}" for inner in _differing(old, new)]
        else:
            keys.append(key)
    return keys


def command_line() -> str:
    """The command that started this process, as a user would type it."""
    spec = sys.modules["__main__"].__spec__
    program = Path(sys.argv[0]).name
    if program in ("seo-rec", "__main__.py"):
        program = "seo-rec"
    elif spec is not None:
        program = f"python -m {spec.name}"
    return " ".join([program, *(shlex.quote(a) for a in sys.argv[1:])])
