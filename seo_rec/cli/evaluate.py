"""``seo-rec eval``: metrics of a trained model on a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import DATA, MODEL, RUN, load_stack
from seo_rec.files import finite
from seo_rec.places import local_copy


def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished training run.", rich_help_panel=DATA)],
    data: par.Data,
    split: Annotated[str, typer.Option(help="train, val or test.", rich_help_panel=RUN)] = "test",
    precision: Annotated[
        str,
        typer.Option(
            help="Type of stored rows: float32, float16, bfloat16, int8, int4; the policy's own.",
            rich_help_panel=MODEL,
        ),
    ] = "",
    group: par.Group = None,
    by: par.By = None,
    by_frequency: par.ByFrequency = None,
    threads: par.Threads = 0,
) -> None:
    """Evaluate a trained model on a split: AUC, log loss, calibration, and the bytes it takes.

    Quality by group of the test split, in the policy's types, is also kept for seo-rec report.
    """
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data

    opened = open_data(data)
    grouping = recipes.Grouping(tuple(group or ()), tuple(by or ()), tuple(by_frequency or ()))
    with local_copy(run) as copy:
        found = recipes.evaluate_served(copy, opened, split, precision or None, grouping).to_json()
    typer.echo(json.dumps(finite(found), indent=1, allow_nan=False))
