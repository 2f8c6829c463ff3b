"""``--batch-size auto`` and ``--l2 auto``: settings that follow the data, and saying so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from seo_rec.schema import BINARY
from seo_rec.settings import FitSettings, Training

if TYPE_CHECKING:
    from seo_rec.data.dataset import DataSet
    from seo_rec.policy import Allowance
    from seo_rec.search import Method

AUTO = "auto"


def automatic(
    context: typer.Context, fit: FitSettings, data: DataSet, floats: int, methods: Sequence[Method]
) -> FitSettings:
    """The settings with ``auto`` of batch and L2 decided; a message on stderr says how.

    The storage stays ``auto`` where no run that is there already has recorded one: it follows the
    policy, of which a comparison trains several.

    Args:
        context: The command.
        fit: Its settings.
        data: The data set, or the first of several.
        floats: Of the tables that are trained.
        methods: What decides the policies. Where one of them is a search with which the rules were
            not measured, the numbers of :class:`FitSettings` stay.
    """
    from seo_rec.train import as_recorded, ranks
    from seo_rec.train.automatic import batch_for, l2_for

    fit = as_recorded(Training(fit=fit), context.params["out"]).fit
    if any(method.trains and not method.automatic for method in methods):
        return fit
    rows, said = data.schema.num_rows["train"], []
    if context.params["batch_size"] == AUTO:
        fit = replace(fit, batch_size=batch_for(rows, ranks().world_size))
        said.append(f"batch size {fit.batch_size} for {rows:,} training rows (--batch-size)")
    if context.params["l2"] == AUTO:
        fit = replace(fit, row_l2=l2_for(fit, rows, floats, data.schema.label_kind == BINARY))
        said.append(f"L2 {fit.row_l2:g} (--l2)")
    if said and ranks().first:
        typer.echo(f"settings: {', '.join(said)}", err=True)
    return fit


def settled_options(fit: FitSettings) -> Mapping[str, Any]:
    """The values of the options that may be ``auto``, for the settings of a run."""
    return {"batch_size": fit.batch_size, "l2": fit.row_l2}


def floats_of(at: Allowance, dim: int) -> int:
    """How many floats a budget buys, about: of a budget in bytes, in rows of the width ``dim``."""
    return at.amount // at.row(dim) * dim if at.in_bytes else at.amount
