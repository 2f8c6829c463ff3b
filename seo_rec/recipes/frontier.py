"""The parameter-accuracy frontier: methods at several budgets, one comparison for each.

A folder of it::

    DIR/run.json (kind frontier)   frontier.json  frontier.png  infeasible.json
    DIR/params-<N>/                the comparison at a budget of N parameters
    DIR/bytes-<N>/                 the same of N bytes to serve, where budgets are in bytes
    DIR/unbudgeted/                the methods whose size follows from the data, if asked for

Figures 3 and 6 to 8 of "Unified Embedding" (Coleman et al., 2023).
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from seo_rec.data.dataset import DataSet, require_opened
from seo_rec.documents import read_object
from seo_rec.files import write_json
from seo_rec.methods import SUFFIX
from seo_rec.policy.allowance import read_bytes, read_params
from seo_rec.policy.entries import FULL_BITS, SHORT_BITS
from seo_rec.process import Terminated
from seo_rec.recipes.comparing import run_comparison
from seo_rec.recipes.comparison import Comparison, asked_of, whole
from seo_rec.recipes.comparison_checks import (
    InfeasibleError,
    check_comparison,
    check_methods,
    infeasible,
    stores_ids,
)
from seo_rec.runs import Run, RunError, claim_run, command_line
from seo_rec.runs.layout import (
    INFEASIBLE_FILE,
    RESULTS_FILE,
    UNBUDGETED_FOLDER,
    budget_folder,
)
from seo_rec.train import Preempted, agree, as_recorded, ranks

log = logging.getLogger(__name__)

COMPONENT = Path("components/seo.py")  # in a clone; elsewhere TorchX finds the installed one


def read_budgets(text: str, data: DataSet, dim: int) -> tuple[int, ...]:
    """``"400000,0.1x"`` as parameters, each rounded down to whole rows of ``dim``; largest first.

    ``0.1x`` is a tenth of what collisionless tables of that width take, as in the paper's grid.

    Raises:
        ValueError: no number, less than one row, or two budgets that are one after rounding.
    """
    require_opened(data, "read_budgets")
    full = collisionless_rows(data) * dim
    budgets = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            asked = float(part[:-1]) * full if part.endswith("x") else read_params(part)
        except ValueError:
            raise ValueError(
                f"--budgets has {part!r}; allowed: parameters, or as 0.1x a multiple of the "
                f"{full:,} parameters of collisionless tables"
            ) from None
        if not dim <= asked < 2**62:
            raise ValueError(f"--budgets has {part!r}; allowed: one row of --dim {dim} or more")
        budgets.append(int(asked) // dim * dim)
    if not budgets:
        raise ValueError("--budgets is empty; allowed: parameters separated by commas")
    if len(set(budgets)) < len(budgets):
        raise ValueError(
            f"--budgets {text!r}: in rows of {dim} these are {budgets}; give each once"
        )
    return tuple(sorted(budgets, reverse=True))


def read_byte_budgets(text: str) -> tuple[int, ...]:
    """``"384k,96k"`` as numbers of bytes, largest first.

    Raises:
        ValueError: No number of bytes, or one that is given twice.
    """
    budgets = [read_bytes(part) for part in text.split(",") if part.strip()]
    if not budgets or len(set(budgets)) < len(budgets):
        raise ValueError(
            f"--bytes {text!r}; allowed: numbers of bytes separated by commas, each once"
        )
    return tuple(sorted(budgets, reverse=True))


def collisionless_rows(data: DataSet) -> int:
    """Rows of all collisionless tables: one per training id, and one per feature for others."""
    return sum((c.vocab_size or 0) + 1 for c in data.schema.features)


def parts(comparison: Comparison, budgets: Sequence[int], out: Path) -> dict[Path, Comparison]:
    """The comparison of every subfolder of ``out``: one per budget, and one without any."""
    dim, wanted = comparison.dim, comparison.methods
    budgeted = {m for m in wanted if comparison.method_of(m).budgeted}
    found = {}
    in_bytes = comparison.allowance.in_bytes
    unit = "bytes" if in_bytes else "params"
    methods = tuple(m for m in wanted if m in budgeted)
    for budget in budgets:
        if not in_bytes and (budget < dim or budget % dim):
            raise ValueError(f"budget {budget}; allowed: a multiple of dim {dim}")
        if methods:
            found[budget_folder(out, budget, unit)] = replace(
                comparison,
                methods=methods,
                params=0 if in_bytes else budget,
                num_bytes=budget if in_bytes else 0,
            )
    if free := tuple(m for m in wanted if m not in budgeted):
        rows = collisionless_rows(comparison.data[0])
        alone = replace(comparison, params=rows * dim, num_bytes=0, methods=free)
        found[out / UNBUDGETED_FOLDER] = alone
    return found


def frontier(comparison: Comparison, budgets: Sequence[int], out: Path | str) -> list[Run]:
    """Compare methods at every budget, one after the other; plot what there is after each.

    Args:
        comparison: methods, seeds and settings; its own budget does not count.
        budgets: in parameters, multiples of ``comparison.dim``; in bytes if its budget is.
        out: resumable as a comparison is; more budgets, methods and seeds may be asked for. A
            method that does not fit into a budget is left out there, be it known beforehand or
            after its search, and ``infeasible.json`` says why.

    Returns:
        The runs of all budgets.

    Raises:
        DisagreementError: The processes of this launch ask for different things.
        RunError: ``out`` holds a frontier with other data or settings, or no method fits.
        ValueError: an unknown method or a budget that is no multiple of the width.
    """
    out = Path(out)
    comparison = replace(comparison, training=as_recorded(comparison.training, out))
    agree({**whole(comparison), "kind": "frontier", "budgets": list(budgets)}, out=out)
    wanted = parts(comparison, budgets, out)
    if not wanted:
        raise ValueError("no budget or no method is given; allowed: 1 or more of each")
    check_comparison(comparison)
    for part in wanted.values():
        check_methods(part)
    here = ranks()
    _claim(comparison, out)
    runs: list[Run] = []
    for folder, part in wanted.items():
        reasons: dict[str, str] = {}
        try:
            runs += _compare_what_fits(part, folder, reasons)
        except (KeyboardInterrupt, Terminated, Preempted) as stop:
            if here.world_size == 1 or isinstance(stop, Preempted):  # then all ranks stop together
                _write_at_a_stop(out, folder.name, reasons)
            raise
        here.on_first(partial(_write, out, folder.name, reasons))
    if not runs:
        raise RunError(f"{out}: no method fits into any budget; see {INFEASIBLE_FILE} there")
    return runs


def _claim(comparison: Comparison, out: Path) -> None:
    asked = asked_of(comparison)
    del asked["params"]
    if "num_bytes" in asked:  # of one budget
        asked["num_bytes"] = None
    ranks().on_first(partial(claim_run, out, {**asked, "kind": "frontier"}, resume=True))


def _compare_what_fits(part: Comparison, out: Path, reasons: dict[str, str]) -> list[Run]:
    """The runs of the methods that fit; why others do not is added to ``reasons``."""
    while fits := tuple(m for m in part.methods if m not in reasons):
        try:
            return run_comparison(replace(part, methods=fits), out)
        except InfeasibleError as error:
            for method, reason in error.reasons.items():
                log.warning("%s: %s is left out: %s", out.name, method, reason)
            reasons |= error.reasons
    return []


def _write_at_a_stop(out: Path, name: str, reasons: Mapping[str, str]) -> None:
    """As :func:`_write`; an error of it does not hide the stop."""
    try:
        ranks().on_first(partial(_write, out, name, reasons))
    except Exception as error:
        log.warning("%s: the plot is not drawn: %s", out, error)


def _write(out: Path, name: str, reasons: Mapping[str, str]) -> None:
    path = out / INFEASIBLE_FILE
    if reasons:
        known = read_object(path, {}, {name: dict}) if path.exists() else {}
        write_json(path, {**known, name: {**known.get(name, {}), **reasons}})
    if any(out.glob(f"*/{RESULTS_FILE}")):
        from seo_rec.report.frontier import write_frontier  # plots load slowly

        write_frontier(out, command_line())


def jobs(
    comparison: Comparison,
    budgets: Sequence[int],
    out: Path,
    options: Sequence[str],
    options_of: Mapping[str, Sequence[str]],
    scheduler: str,
) -> list[str]:
    """``torchx run`` commands that do what :func:`frontier` does, one job per budget.

    Claims ``out``, so that :func:`frontier` can gather what the jobs have left there.

    Args:
        options: further options of ``seo-rec compare``, as typed.
        options_of: those that a job would refuse unless it compares such a method: by the family of
            the method, or by ``+mlet``.
        scheduler: of TorchX, such as ``slurm``.
    """
    comparison = replace(comparison, training=as_recorded(comparison.training, out))
    wanted = parts(comparison, budgets, out)
    check_comparison(comparison)
    for part in wanted.values():
        check_methods(part)
    _claim(comparison, out)
    component = f"{COMPONENT}:compare" if COMPONENT.exists() else "seo.compare"
    lines = []
    for folder, part in wanted.items():
        reasons = infeasible(part)
        ranks().on_first(partial(_write, out, folder.name, reasons))
        fits = [m for m in part.methods if m not in reasons]
        if not fits:
            continue
        first, *more = (str(d.path) for d in part.data)
        words = ["torchx", "run", "-s", scheduler, component, "--data", first]
        words += ["--out", str(folder), "--", *more, "--methods", ",".join(fits)]
        amount = part.allowance.amount
        words += ["--bytes" if part.num_bytes else "--params", str(amount)]
        other_bits = part.id_bits != (SHORT_BITS if part.num_bytes else FULL_BITS)
        if other_bits and stores_ids(replace(part, methods=tuple(fits))):  # else it is refused
            words += ["--id-bits", str(part.id_bits)]
        if part.wide:
            words += ["--crosses", ",".join(c.name for c in part.wide[0].crosses)]
        words += options
        there = {comparison.method_of(m).family for m in fits}
        there |= {SUFFIX for m in fits if m.endswith(SUFFIX)}
        words += [word for name, own in options_of.items() if name in there for word in own]
        lines.append(shlex.join(words))
    return lines
