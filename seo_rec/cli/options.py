"""Options that several commands share, and the settings they become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from seo_rec.model import ModelSettings
    from seo_rec.train import FitSettings

Data = Annotated[Path, typer.Argument(help="Prepared data set (a folder with schema.json).")]
Out = Annotated[Path, typer.Option(help="Folder of the run; made, never overwritten.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run found in --out.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, order and hash functions.")]
PlanFile = Annotated[
    Path | None, typer.Option(help="Plan to shard by (default: one made for what is there).")
]
Threads = Annotated[int, typer.Option(help="CPU threads (0: torch's own choice).")]

Hidden = Annotated[str, typer.Option(help="Widths of the hidden layers, comma-separated.")]
Dropout = Annotated[float, typer.Option(help="Dropout of hidden units, 0 to 1.")]
Epochs = Annotated[int, typer.Option(help="Epochs at most.")]
Patience = Annotated[int, typer.Option(help="Stop after so many epochs without a better AUC.")]
BatchSize = Annotated[int, typer.Option(help="Rows in a batch, over all processes.")]
Lr = Annotated[float, typer.Option(help="Learning rate of tables and dense layers.")]
Optimizer = Annotated[
    str, typer.Option(help="Optimizer of the tables: adam, adagrad, rowwise_adagrad or sgd.")
]
L2 = Annotated[
    float, typer.Option("--l2", help="Weight of half the squared norm of the tables in the loss.")
]
Average = Annotated[
    float, typer.Option(help="Decay of the running mean of weights that is kept (0: none).")
]
Warmup = Annotated[int, typer.Option(help="Steps over which the learning rate rises.")]
CheckpointEvery = Annotated[
    int, typer.Option(help="Steps between checkpoints (0: at the end of each epoch).")
]

BudgetRows = Annotated[
    int, typer.Option(help="B_base: the budget is B_base x dim parameters (floats).")
]
BudgetOf = Annotated[
    Path | None, typer.Option(help="Take the budget of this policy file, whatever made it.")
]
Dim = Annotated[int, typer.Option(help="Width of a feature's embedding, floats.")]
ChunkDim = Annotated[int, typer.Option(help="Width of a chunk, floats.")]
SearchDim = Annotated[int, typer.Option(help="Width of the search table, floats.")]
MinChunks = Annotated[int, typer.Option(help="Chunks that every feature keeps (0: may lose all).")]
ChunkHashing = Annotated[
    str, typer.Option(help="independent: a hash per chunk; shared: one row number for all.")
]
SearchSplit = Annotated[
    str, typer.Option(help="Rows that train the logits: train, or held-out (validation rows).")
]
RunOffEpochs = Annotated[int, typer.Option(help="Epochs of a candidate in the run-off at most.")]
DownProjection = Annotated[
    bool, typer.Option("--use-down-projection", help="Project the pool of chunks to M vectors.")
]
AdjustBuckets = Annotated[
    bool, typer.Option("--adjust-hash-buckets", help="Search model at the budget, not above it.")
]


def set_threads(threads: int) -> None:
    if threads < 0:
        raise ValueError(f"--threads {threads}; allowed: 0 or more")
    if threads:
        import torch

        torch.set_num_threads(threads)


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """``"256,128"`` as numbers."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"{option} is {text!r}; allowed: whole numbers separated by commas"
        ) from None


def model_settings(hidden: str, dropout: float) -> ModelSettings:
    from seo_rec.model import ModelSettings

    return ModelSettings(hidden=whole_numbers(hidden, "--hidden"), dropout=dropout)


def fit_settings(
    epochs: int,
    patience: int,
    batch_size: int,
    lr: float,
    optimizer: str,
    average: float,
    l2: float,
    seed: int,
    warmup: int = 0,
    checkpoint_every: int = 0,
) -> FitSettings:
    from seo_rec.train import FitSettings

    return FitSettings(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        row_optimizer=optimizer,
        row_lr=lr,
        dense_lr=lr,
        average=average,
        row_l2=l2,
        seed=seed,
        warmup_steps=warmup,
        checkpoint_every=checkpoint_every,
    )


def budget_rows(params: int, dim: int) -> int:
    """B_base of a budget given in parameters."""
    if params < dim or params % dim:
        raise ValueError(f"--params {params}; allowed: a multiple of --dim {dim}")
    return params // dim


def budget_rows_of(policy: Path, dim: int, context: typer.Context, other: str) -> int:
    """B_base of the budget of a policy file (``--budget-of``), rounded down to whole rows.

    Args:
        policy: a policy file of any origin.
        dim: width of a feature's embedding.
        context: tells whether ``other``, the parameter that it replaces, was given too.
        other: ``budget_rows`` or ``params``.

    Raises:
        ValueError: both were given, or the budget is less than one row.
    """
    source = context.get_parameter_source(other)
    if source is not None and source.name == "COMMANDLINE":
        option = "--" + other.replace("_", "-")
        raise ValueError(f"--budget-of and {option} both set the budget; give one of them")
    from seo_rec.policy import Policy
    from seo_rec.recipes import budget_of

    budget = budget_of(Policy.load(policy))
    if budget < dim:
        raise ValueError(f"{policy}: {budget} parameters; a row of --dim {dim} needs {dim}")
    rows = budget // dim
    typer.echo(f"budget of {policy}: {budget} parameters, {rows} rows of {dim}", err=True)
    return rows
