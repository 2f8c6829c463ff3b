"""``seo-rec job-search`` and ``seo-rec job-applier``: what the TorchX components launch.

A job is the plain command with more defaults: without a data set it makes the synthetic one,
without a search it runs one, an unfinished run is resumed and a result that is already there is a
success. Further options are passed on to ``seo-rec search`` and ``seo-rec train``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seo_rec.documents import read_object
from seo_rec.runs.layout import POLICY_FILE, RUN_FILE, SEARCH_FILE
from seo_rec.schema import SCHEMA_FILE

ROOT = Path("runs/torchx")
SYNTHETIC_ROWS = 60_000
FURTHER_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}

Data = Annotated[Path | None, typer.Option(help="Prepared data set; default: synthetic.")]
Rows = Annotated[int, typer.Option(help="Rows of the synthetic data set, if one is made.")]


def job_search(
    context: typer.Context,
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Folder of the search.")] = ROOT / "search",
    rows: Rows = SYNTHETIC_ROWS,
) -> None:
    """Search a policy, on synthetic data unless told otherwise; run again to resume."""
    source = str(data or _synthetic(rows))
    _run(context, ["search", source, "--out", str(out), "--resume", *context.args])


def job_applier(
    context: typer.Context,
    data: Data = None,
    search: Annotated[Path, typer.Option(help="Folder of the search.")] = ROOT / "search",
    out: Annotated[Path, typer.Option(help="Folder of the applier's run.")] = ROOT / "applier",
    strategy: Annotated[str, typer.Option(help="exact or round-robin.")] = "exact",
    rows: Rows = SYNTHETIC_ROWS,
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
        _run(context, ["search", source, "--out", str(search), "--resume"])
    searched = Policy.load(search / POLICY_FILE)
    if data is None:
        data = Path(read_object(search / RUN_FILE, {"data": str})["data"])
    applied = search / f"applier-{strategy}.json"
    chosen = STRATEGIES[strategy](searched, default_budget(searched))
    here.on_first(lambda: chosen.save(applied))
    typer.echo(f"applied policy: {applied}")
    command = ["train", str(data), "--policy", str(applied), "--out", str(out), "--resume"]
    _run(context, [*command, *context.args])


def _synthetic(rows: int) -> Path:
    """The synthetic data set of that many rows, made if it is not there."""
    from seo_rec.data.synthetic import synthetic
    from seo_rec.train import ranks

    data = ROOT / f"synthetic-{rows}"

    def make() -> None:
        if not (data / SCHEMA_FILE).exists():
            typer.echo(f"making the synthetic data set of {rows} rows in {data}")
            synthetic(data, rows=rows)

    ranks().on_first(make)
    return data


def _run(context: typer.Context, arguments: list[str]) -> None:
    """Run another command of ``seo-rec`` in this process."""
    program = context.find_root().command
    status = program.main(arguments, prog_name="seo-rec", standalone_mode=False)
    if status:  # it was stopped, and has said what is kept
        raise typer.Exit(status)
