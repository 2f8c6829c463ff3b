"""``seo-rec job-search`` and ``seo-rec job-applier``: what the TorchX components launch.

A job differs from the plain command in its defaults only: without a data set it makes the
synthetic one, without a search it runs one, an unfinished search is resumed and a result that is
already there is a success. Asking for something else in a used folder stays an error.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from seo_rec.schema import SCHEMA_FILE

ROOT = Path("runs/torchx")
SYNTHETIC_ROWS = 200_000

Data = Annotated[Path | None, typer.Option(help="Prepared data set; default: synthetic.")]
Rows = Annotated[
    int | None, typer.Option(help=f"Rows of the synthetic data set; default: {SYNTHETIC_ROWS}.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the search; default: 0.")]


def _one_process() -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        raise typer.BadParameter(f"{world} processes were started and a search runs in one: -j 1x1")


def _synthetic(rows: int) -> Path:
    """The synthetic data set of that many rows, made if it is not there."""
    from seo_rec.data.synthetic import synthetic

    data = ROOT / ("data" if rows == SYNTHETIC_ROWS else f"data-{rows}-rows")
    if not (data / SCHEMA_FILE).exists():
        typer.echo(f"making the synthetic data set of {rows} rows in {data}")
        synthetic(data, rows=rows)
    return data


def _search(data: Path | None, out: Path, rows: int | None, seed: int | None) -> None:
    """Run or resume the search in ``out``; return at once if it is complete."""
    # These import torch, which takes seconds: not for --help.
    from seo_rec import recipes
    from seo_rec.model import ModelSettings
    from seo_rec.search.seo import SeoSettings
    from seo_rec.train import FitSettings

    if data is not None and rows is not None:
        raise typer.BadParameter("--rows is for the synthetic data set; drop it or --data")
    if data is None:
        data = _synthetic(SYNTHETIC_ROWS if rows is None else rows)
    if (out / recipes.SEARCH_FILE).exists():
        typer.echo(f"the search in {out} is complete")
    settings = FitSettings(seed=seed or 0)
    recipes.search(data, out, SeoSettings(), ModelSettings(), settings, resume=True)


def job_search(
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Folder of the search.")] = ROOT / "search",
    rows: Rows = None,
    seed: Seed = None,
) -> None:
    """Search a policy; on synthetic data unless told otherwise. Run again to resume."""
    from seo_rec import recipes

    _one_process()
    _search(data, out, rows, seed)
    typer.echo(f"policy: {out / recipes.POLICY_FILE}")


def job_applier(
    data: Data = None,
    search: Annotated[Path, typer.Option(help="Folder of the search.")] = ROOT / "search",
    out: Annotated[Path, typer.Option(help="Folder of the applied policy.")] = ROOT / "applied",
    strategy: Annotated[str, typer.Option(help="exact or round-robin.")] = "exact",
    rows: Rows = None,
    seed: Seed = None,
) -> None:
    """Apply a search's policy at its budget; search first if there is none."""
    from seo_rec import recipes
    from seo_rec.apply import STRATEGIES
    from seo_rec.policy import Policy
    from seo_rec.search.seo import SeoSettings

    _one_process()
    if strategy not in STRATEGIES:
        allowed = ", ".join(STRATEGIES)
        raise typer.BadParameter(f"--strategy is {strategy!r}; allowed: {allowed}")
    complete = (search / recipes.SEARCH_FILE).exists()
    # A complete search is taken as it is, unless something is said about it that must be so.
    if not complete or any(said is not None for said in (data, rows, seed)):
        _search(data, search, rows, seed)
    asked = json.loads((search / recipes.RUN_FILE).read_text())
    chosen = Policy.load(search / recipes.POLICY_FILE)
    policy = STRATEGIES[strategy](chosen, SeoSettings(**asked["seo"]).params)

    path = out / recipes.POLICY_FILE
    if path.exists():
        if json.loads(path.read_text()) != json.loads(json.dumps(policy.to_json())):
            raise typer.BadParameter(
                f"{path} is another policy than {search} with {strategy} gives; "
                "choose another --out or remove it"
            )
        typer.echo(f"{path} is already there")
    else:
        policy.save(path)
    typer.echo(f"policy: {path}")
