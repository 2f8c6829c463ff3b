"""``seo-rec job-search`` and ``seo-rec job-applier``: what the TorchX components launch.

A job is the plain command with more defaults: without a data set it makes the synthetic one,
without a search it runs one, an unfinished run is resumed and a result that is already there is a
success. Further options are passed on to ``seo-rec search`` and ``seo-rec train``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seo_rec.documents import read_object
from seo_rec.planted import PLANTED_FIT, PLANTED_PARAMS, PLANTED_ROWS, PLANTED_WORLD
from seo_rec.runs.layout import POLICY_FILE, RUN_FILE, SEARCH_FILE
from seo_rec.schema import SCHEMA_FILE

ROOT = Path("runs/torchx")
BUDGET = {"--params": str(PLANTED_PARAMS)}
# Steps this small do not gain from a second thread, which makes them wait for each other.
TRAINING = {
    "--batch-size": str(PLANTED_FIT.batch_size),
    "--lr": str(PLANTED_FIT.row_lr),
    "--l2": str(PLANTED_FIT.row_l2),
    "--epochs": str(PLANTED_FIT.epochs),
    "--threads": "1",
}
FURTHER_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}

Data = Annotated[Path | None, typer.Option(help="Prepared data set; default: synthetic.")]
Rows = Annotated[int, typer.Option(help="Rows of the synthetic data set, if one is made.")]


def job_search(
    context: typer.Context,
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Folder of the search.")] = ROOT / "search",
    rows: Rows = PLANTED_ROWS,
) -> None:
    """Search a policy, on synthetic data unless told otherwise; run again to resume."""
    source = str(data or _synthetic(rows))
    more = [] if data else _suited(context.args, search=True)
    _run(context, ["search", source, "--out", str(out), "--resume", *more, *context.args])


def job_applier(
    context: typer.Context,
    data: Data = None,
    search: Annotated[Path, typer.Option(help="Folder of the search.")] = ROOT / "search",
    out: Annotated[Path, typer.Option(help="Folder of the applier's run.")] = ROOT / "applier",
    strategy: Annotated[str, typer.Option(help="exact or round-robin.")] = "exact",
    rows: Rows = PLANTED_ROWS,
) -> None:
    """Apply a search's policy and train it from scratch; search first if there is none."""
    from seo_rec.apply import STRATEGIES, default_budget
    from seo_rec.policy import Policy
    from seo_rec.train import ranks

    if strategy not in STRATEGIES:
        raise ValueError(f"--strategy is {strategy!r}; allowed: {', '.join(STRATEGIES)}")
    here = ranks()
    if not here.on_first((search / SEARCH_FILE).exists):
        source = str(data or _synthetic(rows))
        more = [] if data else _suited([], search=True)
        _run(context, ["search", source, "--out", str(search), "--resume", *more])
    searched = Policy.load(search / POLICY_FILE)
    if data is None:
        data = Path(read_object(search / RUN_FILE, {"data": str})["data"])
    applied = search / f"applier-{strategy}.json"
    chosen = STRATEGIES[strategy](searched, default_budget(searched))
    here.on_first(lambda: chosen.save(applied))
    typer.echo(f"applied policy: {applied}")
    command = ["train", str(data), "--policy", str(applied), "--out", str(out), "--resume"]
    is_made_up = data.resolve().parent == ROOT.resolve()
    more = _suited(context.args, search=False) if is_made_up else []
    _run(context, [*command, *more, *context.args])


def _suited(given: Sequence[str], *, search: bool) -> list[str]:
    """Options that suit the synthetic data set, where none of their kind is given.

    Args:
        given: The further options of the job. With ``--config`` among them nothing is added, and
            with a budget of any kind no other budget.
        search: Whether the command takes a budget.
    """
    names = {option.partition("=")[0] for option in given}
    if "--config" in names:
        return []
    budget = {} if not search or names & {"--params", "--bytes", "--budget-of"} else BUDGET
    options = {**budget, **TRAINING}
    return [word for name in options if name not in names for word in (name, options[name])]


def _synthetic(rows: int) -> Path:
    """The synthetic data set of that many rows, made if it is not there."""
    from seo_rec.data.synthetic import synthetic
    from seo_rec.train import ranks

    data = ROOT / f"planted-{rows}"

    def make() -> None:
        if not (data / SCHEMA_FILE).exists():
            typer.echo(f"making the synthetic data set of {rows} rows in {data}")
            synthetic(data, rows=rows, **PLANTED_WORLD)

    ranks().on_first(make)
    return data


def _run(context: typer.Context, arguments: list[str]) -> None:
    """Run another command of ``seo-rec`` in this process."""
    program = context.find_root().command
    status = program.main(arguments, prog_name="seo-rec", standalone_mode=False)
    if status:  # it was stopped, and has said what is kept
        raise typer.Exit(status)
