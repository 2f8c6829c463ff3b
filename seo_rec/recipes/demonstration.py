"""The main job on made-up data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from seo_rec.data.dataset import open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.planted import PLANTED_FIT, PLANTED_PARAMS, PLANTED_ROWS, PLANTED_WORLD
from seo_rec.policy.entries import SHORT_BITS
from seo_rec.recipes.comparing import compare
from seo_rec.recipes.comparison import Comparison
from seo_rec.runs import Run
from seo_rec.schema import SCHEMA_FILE
from seo_rec.search.run_off import RunOff
from seo_rec.settings import COMPARED_METHODS
from seo_rec.train import Training, agree, ranks


def demo(out: Path | str, *, quick: bool = False, seed: int = 0) -> list[Run]:
    """Prepare synthetic data, search, train the answer and its rivals at one budget.

    The data are those of :mod:`seo_rec.planted`, whose columns are of very different worth, so that
    how they share the budget matters. Called again it goes on where it stopped.

    Args:
        out: Folder for the data, the comparison and the report.
        quick: Small data and short trainings: only shows that everything works.
        seed: The first seed of the comparison.
    """
    out = Path(out)
    agree({"kind": "demo", "quick": quick, "seed": seed}, out=out)
    folder = out / f"data-seed{seed}"

    def prepare() -> None:
        if not (folder / SCHEMA_FILE).exists():
            rows = 8_000 if quick else PLANTED_ROWS
            synthetic(folder, rows=rows, seed=seed + 1, progress=True, **PLANTED_WORLD)

    ranks().on_first(prepare)
    short = RunOff(epochs=1, chunk_dims=(8,), trivial_lookups=(1, 2, 4), cost=0)
    comparison = Comparison(
        data=(open_data(folder),),
        methods=COMPARED_METHODS,
        params=0,
        num_bytes=4 * PLANTED_PARAMS,
        id_bits=SHORT_BITS,
        seeds=1 if quick else 3,
        first_seed=seed,
        training=Training(fit=replace(PLANTED_FIT, epochs=2) if quick else PLANTED_FIT),
        settings={"seo": {"run_off": short}} if quick else {},
    )
    return compare(comparison, out / "compare")
