"""``seo-rec analyze``: collisions | orthogonality | gradients | frequency."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli import training_options as opt
from seo_rec.cli.fields import value_of
from seo_rec.cli.options import TRAINING, FromSettings, load_stack, takes_settings
from seo_rec.settings import FitSettings

app = typer.Typer(help="What sharing rows does, and which samples gain.")

Rows = Annotated[str, typer.Option(help="Rows of all tables together, comma-separated.")]
Features = Annotated[str, typer.Option(help="Names of features, comma-separated (none: all).")]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    numbers: tuple[int, ...] = value_of(text, tuple[int, ...], "--rows")
    return numbers


@app.command()
def collisions(
    data: par.Data,
    rows: Rows = "1000,10000",
    seeds: Annotated[int, typer.Option(help="Hash functions that are drawn.")] = 2000,
    share: Annotated[
        float, typer.Option(help="Part of every vocabulary in x and in y, 0 to 1.")
    ] = 0.01,
    features: Features = "",
    seed: par.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write the figures there too, as JSON.")] = None,
    threads: par.Threads = 0,
) -> None:
    """Measured mean and variance of hashed inner products beside their closed form.

    Proposition 4.2 of "Unified Embedding": one table for all features, against one for each.
    """
    load_stack(threads)
    from seo_rec import analysis
    from seo_rec.data.dataset import open_data
    from seo_rec.files import finite, write_json
    from seo_rec.runs import command_line

    sizes = _numbers(rows)
    opened = open_data(data)
    found = list(analysis.compare_encodings(opened, sizes, seeds, share, _names(features), seed))
    analysis.print_inner_products(found)
    counts = list(analysis.shared_rows(opened, sizes, _names(features), seed))
    analysis.print_shared_rows(counts)
    if out:
        figures = {
            "command": command_line(),
            "inner_products": [asdict(m) | {"within": m.within} for m in found],
            "shared_rows": [asdict(c) for c in counts],
        }
        write_json(out, finite(figures))
        typer.echo(f"figures: {out}")


FIT = FromSettings(
    FitSettings,
    TRAINING,
    (
        dataclasses.replace(opt.EPOCHS, default=10),
        opt.PATIENCE,
        opt.BATCH_SIZE,
        opt.LR,
        opt.OPTIMIZER,
        opt.SEED,
    ),
    lambda values: FitSettings(**values, average=0.0),
)


@app.command()
@takes_settings(fit=FIT)
def orthogonality(
    data: par.Data,
    out: Annotated[Path, typer.Option(help="Folder for orthogonality.json and .png.")],
    rows: Rows = "100,300,1000,3000,10000,30000,100000",
    dim: Annotated[int, typer.Option(help="Width of an embedding, floats.")] = 32,
    features: Features = "",
    control: Annotated[
        bool, typer.Option("--control", help="Train a table per feature beside it.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 1,
    *,
    fit: FitSettings,
    threads: par.Threads = 0,
) -> None:
    """Angles between the weights of features that share one table, against its size.

    Figure 2 of "Unified Embedding": all weights start alike; the smaller the table, the further
    they turn apart. A file that exists is replaced.
    """
    load_stack(threads)
    from seo_rec import analysis
    from seo_rec.analysis.orthogonality import TABLES
    from seo_rec.data.dataset import open_data
    from seo_rec.files import finite, write_bytes, write_json
    from seo_rec.report.charts import as_png
    from seo_rec.runs import command_line

    settings = analysis.OrthogonalitySettings(
        rows=_numbers(rows),
        dim=dim,
        seeds=seeds,
        features=_names(features),
        tables=TABLES if control else TABLES[:1],
    )
    found = list(analysis.orthogonality(open_data(data), settings, fit))
    unified = [r for r in found if r.tables == "unified"]
    figures = {
        "command": command_line(),
        "settings": asdict(settings),
        "fit": fit.as_json(),
        "models": [asdict(r) for r in found],
        "growth_of_square_norm": analysis.growth(unified),
    }
    write_json(out / "orthogonality.json", finite(figures))
    write_bytes(out / "orthogonality.png", as_png(analysis.figure(found)))
    analysis.print_orthogonality(found)
    typer.echo(f"plot: {out / 'orthogonality.png'}")


@app.command()
@takes_settings(fit=FIT)
def gradients(
    data: par.Data,
    out: Annotated[Path, typer.Option(help="Folder for gradients.json and .png.")],
    rows: Rows = "300,1000,3000,10000,30000",
    dim: Annotated[int, typer.Option(help="Width of an embedding, floats.")] = 32,
    features: Features = "",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 1,
    *,
    fit: FitSettings,
    threads: par.Threads = 0,
) -> None:
    """Gradients of shared rows in three parts: the id itself, its feature, other features.

    Equations 2 to 5 of "Unified Embedding", before and after training. A file that exists is
    replaced.
    """
    load_stack(threads)
    from seo_rec import analysis
    from seo_rec.data.dataset import open_data
    from seo_rec.files import finite, write_bytes, write_json
    from seo_rec.report.charts import as_png
    from seo_rec.runs import command_line

    opened, names = open_data(data), _names(features)
    found = list(analysis.gradients(opened, _numbers(rows), dim, seeds, names, fit))
    figures = {"command": command_line(), "fit": fit.as_json(), "models": [*map(asdict, found)]}
    write_json(out / "gradients.json", finite(figures))
    write_bytes(out / "gradients.png", as_png(analysis.figure_of_gradients(found)))
    analysis.print_gradients(found)
    typer.echo(f"plot: {out / 'gradients.png'}")


@app.command()
def frequency(
    data: par.Data,
    runs: Annotated[list[Path], typer.Argument(help="Finished training runs; the first is 0 %.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    share: Annotated[float, typer.Option(help="Part of the samples in each of the sets.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Write the figures there too, as JSON.")] = None,
    threads: par.Threads = 0,
) -> None:
    """PR-AUC on the samples whose ids are most and least frequent in training.

    Table 4 of "Multi-Layer Embedding Training" (MLET). A file that exists is replaced.
    """
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data
    from seo_rec.files import finite, write_json
    from seo_rec.report.frequency import print_frequency
    from seo_rec.runs import command_line

    qualities = recipes.frequency(open_data(data), runs, split, share)
    found = {str(run): quality for run, quality in qualities.items()}
    print_frequency(found, f"PR-AUC, {share:g} of the {split} samples in each set")
    if out:
        figures = {name: asdict(quality) for name, quality in found.items()}
        write_json(out, finite({"command": command_line(), "runs": figures}))
        typer.echo(f"figures: {out}")
