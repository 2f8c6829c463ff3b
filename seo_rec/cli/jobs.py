"""``seo-rec job-search`` and ``seo-rec job-applier``: what the TorchX components launch.

A job differs from the plain command in its defaults only: without a data set it makes the
synthetic one, without a search it runs one, and a result that is already complete is a success.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path("runs/torchx")
POLICY_FILE = "policy.json"

Data = Annotated[Path | None, typer.Option(help="Prepared data set; default: synthetic.")]
Rows = Annotated[int, typer.Option(help="Rows of the synthetic data set, if one is made.")]
Seed = Annotated[int, typer.Option(help="Seed of the data set and of the search.")]


def _one_process() -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        raise typer.BadParameter(f"{world} processes were started and a search runs in one: -j 1x1")


def _search(data: Path | None, out: Path, rows: int, seed: int) -> Path:
    """The policy of the search in ``out``, which is run or resumed if it is not complete."""
    policy = out / POLICY_FILE
    if policy.exists():
        typer.echo(f"{policy} is already there, nothing to search")
        return policy
    from seo_rec import recipes  # imports torch, which takes seconds: not for --help

    if data is None:
        data = ROOT / "data"
        if not data.exists():
            typer.echo(f"making the synthetic data set in {data}")
            recipes.synthetic(data, rows=rows, seed=seed)
    recipes.search(data, out, seed=seed)
    return policy


def job_search(
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Folder of the search.")] = ROOT / "search",
    rows: Rows = 200_000,
    seed: Seed = 0,
) -> None:
    """Search a policy; on synthetic data unless told otherwise. Run again to resume."""
    _one_process()
    typer.echo(f"policy: {_search(data, out, rows, seed)}")


def job_applier(
    data: Data = None,
    search: Annotated[Path, typer.Option(help="Folder of the search.")] = ROOT / "search",
    out: Annotated[Path, typer.Option(help="Folder of the applied policy.")] = ROOT / "applied",
    rows: Rows = 200_000,
    seed: Seed = 0,
) -> None:
    """Apply a search's policy; search first if there is none. Run again to resume."""
    _one_process()
    applied = out / POLICY_FILE
    if applied.exists():
        typer.echo(f"{applied} is already there, nothing to apply")
    else:
        from seo_rec import recipes

        recipes.apply(_search(data, search, rows, seed), out)
    typer.echo(f"policy: {applied}")
