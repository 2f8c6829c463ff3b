"""``seo-rec eval``: metrics of a trained model on a split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import DATA, MODEL, RUN, load_stack
from seo_rec.files import finite


def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished training run.", rich_help_panel=DATA)],
    data: par.Data,
    split: Annotated[str, typer.Option(help="train, val or test.", rich_help_panel=RUN)] = "test",
    quantize: Annotated[
        int,
        typer.Option(
            help="8: tables of eight bits with a scale per row; 0: float32.", rich_help_panel=MODEL
        ),
    ] = 0,
    threads: par.Threads = 0,
) -> None:
    """Evaluate a trained model on a split: AUC, log loss, normalised entropy, calibration."""
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data

    opened = open_data(data)
    if quantize:
        found: Mapping[str, float] = recipes.evaluate_quantized(run, opened, split, quantize)
    else:
        found = asdict(recipes.evaluate_run(run, opened, split))
    typer.echo(json.dumps(finite(found), indent=1, allow_nan=False))
