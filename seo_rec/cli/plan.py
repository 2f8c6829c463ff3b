"""``seo-rec plan``: where a policy's tables go on a topology, and what a step will cost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from seo_rec.cli.budget import size
from seo_rec.cli.options import DATA, RUN
from seo_rec.files import require_new_file
from seo_rec.process import without_collection

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from seo_rec.data.dataset import DataSet
    from seo_rec.plan import Estimate, Plan, RankLoad
    from seo_rec.plan.offload import Counts

MOST_LINES = 16  # ranks shown one by one; of more, a few


def plan(
    policy: Annotated[Path, typer.Argument(help="The policy, a .json file.", rich_help_panel=DATA)],
    topology: Annotated[
        str,
        typer.Option(
            help="Devices of one machine, as 8xH100-80GB or 2xcpu; or a .json file.",
            rich_help_panel=RUN,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The plan, a .json file.", rich_help_panel=RUN)],
    nodes: Annotated[int, typer.Option(help="Machines.", rich_help_panel=RUN)] = 1,
    batch: Annotated[
        int, typer.Option(help="Rows in the batch of one device.", rich_help_panel=RUN)
    ] = 8192,
    rates: Annotated[
        str,
        typer.Option(
            help="Prepared data set to take ids per bag from; without it one id is assumed.",
            rich_help_panel=RUN,
        ),
    ] = "",
    row_optimizer: Annotated[
        str,
        typer.Option(
            help="Optimizer of the tables, as `seo-rec train --optimizer`.",
            rich_help_panel=RUN,
        ),
    ] = "auto",
    storage: Annotated[
        str,
        typer.Option(help="Type of the tables, as `seo-rec train --storage`.", rich_help_panel=RUN),
    ] = "auto",
    l2: Annotated[
        float,
        typer.Option(help="L2 of the tables, as `seo-rec train --l2`.", min=0, rich_help_panel=RUN),
    ] = 0.0,
    l2_on: Annotated[
        str,
        typer.Option(help="What it acts on, as `seo-rec train --l2-on`.", rich_help_panel=RUN),
    ] = "auto",
    compute_kernels: Annotated[
        str,
        typer.Option(
            help="What may hold tables: fused (GPU), fused_uvm_caching (main memory, for tables "
            "that do not fit), key_value (SSD).",
            rich_help_panel=RUN,
        ),
    ] = "fused,fused_uvm_caching",
    cache_load_factor: Annotated[
        float | None,
        typer.Option(
            help="Part of such a table's rows that a GPU caches; without it the best one is taken.",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Place a policy's tables on devices, which need not be there."""
    from seo_rec.policy import Policy
    from seo_rec.settings import AUTO_STORAGE, FitSettings, Training, settled

    require_new_file(out)
    placed = Policy.load(policy)
    typer.echo(f"{policy}: {len(placed.tables)} tables, {size(placed)}")
    with without_collection():  # these import TorchRec, whose own plan is priced beside ours
        from seo_rec.data.dataset import open_data
        from seo_rec.plan import plan_policy, rates_of, read_topology
        from seo_rec.train import storage_for

    data = open_data(rates) if rates else None
    fit = FitSettings(row_optimizer=row_optimizer, storage=storage, row_l2=l2, l2_on=l2_on)
    devices = read_topology(topology, nodes)
    if storage == AUTO_STORAGE:
        chosen = storage_for(placed, Training(fit=fit), device=devices.device)
        storage = chosen.dtype
        if chosen.why:
            typer.echo(f"tables are trained in {storage}, {chosen.why} (--storage)")
    found = plan_policy(
        placed,
        devices,
        batch_size=batch,
        row_optimizer=settled(fit, placed.num_params).row_optimizer,
        storage=storage,
        rates=rates_of(data.schema) if data else None,
        compute_kernels=[name.strip() for name in compute_kernels.split(",")],
        cache_load_factor=cache_load_factor,
        counts=_counts(data) if data else None,
    )
    found.save(out)
    show(found, Console())
    typer.echo(f"plan: {out}")


def _counts(data: DataSet) -> Counts:
    """How often each id of a column occurs, None where the data set has no vocabulary of it."""
    from seo_rec.schema import DataError

    def of(column: str) -> npt.NDArray[np.generic] | None:
        try:
            return data.counts(column)[1]
        except DataError:
            return None

    return of


def show(plan: Plan, console: Console) -> None:
    """The ranks' loads by this plan and by TorchRec's own, and what a step takes by either."""
    console.print(_ranks(f"{plan.topology}, batch {plan.batch_size:,} per device", plan.estimate))
    if plan.default is not None:
        console.print(_ranks("the same by TorchRec's own plan", plan.default))
    console.print(_totals(plan))
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False)


def _ranks(title: str, estimate: Estimate) -> Table:
    table = Table(title=title)
    outside = any(r.host_memory_bytes for r in estimate.ranks)
    more = ("outside, GB",) if outside else ()
    for heading in ("rank", "tables", "memory, GB", "lookups/sample", "est. ms", *more):
        table.add_column(heading, justify="right")
    for name, rank in _shown(estimate):
        load = estimate.ranks[rank]
        beyond = (f"{load.host_memory_bytes / 1e9:.3f}",) if outside else ()
        table.add_row(name, *_cells(load), *beyond)
    return table


def _cells(load: RankLoad) -> list[str]:
    return [
        str(load.tables),
        f"{load.memory_bytes / 1e9:.3f}",
        f"{load.lookups_per_sample:.2f}",
        f"{load.ms:.3f}",
    ]


def _shown(estimate: Estimate) -> list[tuple[str, int]]:
    """All ranks if they are few, else the slowest, the median and the fastest ones."""
    if len(estimate.ranks) <= MOST_LINES:
        return [(str(rank), rank) for rank in range(len(estimate.ranks))]
    order = sorted(range(len(estimate.ranks)), key=lambda r: (-estimate.ranks[r].ms, r))
    chosen = {f"{r} (slowest)": r for r in order[:3]}
    chosen[f"{order[len(order) // 2]} (median)"] = order[len(order) // 2]
    chosen[f"{order[-1]} (fastest)"] = order[-1]
    return list(chosen.items())


def _totals(plan: Plan) -> Table:
    table = Table(title="embedding part of a step")
    table.add_column("")
    for title in ("this plan", "TorchRec's own"):
        table.add_column(title, justify="right")
    rows = {
        "imbalance, max / mean": lambda e: f"{e.imbalance:.3f}",
        "step, est. ms": lambda e: f"{e.step_ms:.3f}",
        "largest memory, GB": lambda e: f"{max(r.memory_bytes for r in e.ranks) / 1e9:.3f}",
        "most lookups/sample": lambda e: f"{max(r.lookups_per_sample for r in e.ranks):.2f}",
    }
    for title, text in rows.items():
        other = "none" if plan.default is None else text(plan.default)
        table.add_row(title, text(plan.estimate), other)
    kinds = sorted({p.kind for p in plan.placements})
    counts = (f"{sum(p.kind == kind for p in plan.placements)} {kind}" for kind in kinds)
    table.caption = f"tables: {', '.join(counts)}\nkernels: {', '.join(_kernels(plan))}"
    return table


def _kernels(plan: Plan) -> list[str]:
    """How many tables have which compute kernel, with the load factor of its cache."""
    found = Counter((p.compute_kernel, p.cache_load_factor) for p in plan.placements)
    return [
        f"{count} {kernel}" + ("" if load is None else f" (cache load factor {load:g})")
        for (kernel, load), count in sorted(found.items(), key=lambda item: item[0][0])
    ]
