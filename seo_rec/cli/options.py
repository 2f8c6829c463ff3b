"""Options that several commands share, and the settings they become."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from seo_rec.backbones import Interaction
    from seo_rec.methods import Mlet
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

Backbone = Annotated[
    str,
    typer.Option(
        help="mlp, dcn-v2, dcn, dlrm, wide-deep, deepfm, fnn, ipnn, xdeepfm, autoint or nfm."
    ),
]
InteractionText = Annotated[
    str,
    typer.Option(
        "--interaction",
        help="Settings of the backbone's own, as layers=3,rank=16; see docs/backbones.md.",
    ),
]
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
ExactBelow = Annotated[
    int,
    typer.Option(help="Features with at most so many training ids keep a row per id (0: none)."),
]
SameHash = Annotated[
    list[str] | None,
    typer.Option(help="Features that hash alike, as query,title. Repeatable."),
]
MinChunks = Annotated[int, typer.Option(help="Chunks that every feature keeps (0: may lose all).")]
ChunkHashing = Annotated[
    str, typer.Option(help="independent: a hash per chunk; shared: one row number for all.")
]
SearchSplit = Annotated[
    str, typer.Option(help="Rows that train the logits: train, or held-out (validation rows).")
]
SearchMethod = Annotated[
    str,
    typer.Option(help="seo, dimgrow, optembed, autodim, sseds, mixed-dimension or no-search."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting of --method, as alpha=0.01; see docs/searches.md. Repeatable."
    ),
]
TotalChunks = Annotated[
    int, typer.Option(help="Chunks chosen over all features (0: F x dim / chunk-dim).")
]
Temperature = Annotated[float, typer.Option(help="tau of the attention's softmax.")]
TemperatureEnd = Annotated[
    float, typer.Option(help="tau at the end, reached geometrically (0: constant).")
]
AttentionScale = Annotated[
    str, typer.Option(help="mean-one: attention times F x C; paper: as in equation 1.")
]
WarmupEpochs = Annotated[int, typer.Option(help="Epochs before held-out steps begin.")]
LogitLr = Annotated[float, typer.Option(help="Learning rate of the logits.")]
RunOffEpochs = Annotated[int, typer.Option(help="Epochs of a candidate in the run-off at most.")]
ById = Annotated[
    bool,
    typer.Option(help="Candidates of the run-off with a row per training id, where that fits."),
]
DownProjection = Annotated[
    bool, typer.Option("--use-down-projection", help="Project the pool of chunks to M vectors.")
]
AdjustBuckets = Annotated[
    bool, typer.Option("--adjust-hash-buckets", help="Search model at the budget, not above it.")
]


MletDim = Annotated[
    int, typer.Option(help="MLET: inner dimension of tables trained as two layers (0: of one).")
]
MletStd = Annotated[
    float, typer.Option(help="MLET: standard deviation of the second layer at the start.")
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


def groups(texts: Iterable[str] | None, option: str) -> tuple[tuple[str, ...], ...]:
    """``["a,b", "c,d"]`` as groups of two names or more."""
    found = tuple(tuple(n.strip() for n in t.split(",") if n.strip()) for t in texts or ())
    if any(len(names) < 2 for names in found):
        raise ValueError(f"{option} {' '.join(texts or ())}; allowed: two names or more, as a,b")
    return found


def with_options_of(
    function: Callable[..., None], other: Callable[..., None], without: Iterable[str]
) -> Callable[..., None]:
    """``function`` with the parameters of ``other`` beside its own, as typer reads them.

    Args:
        function: takes what it has no name for by ``**``, and reads it in ``context.params``.
        other: a command.
        without: parameters of ``other`` that make no sense here.
    """
    own = inspect.signature(function, eval_str=True).parameters.values()
    named = {p.name: p for p in own if p.kind is not p.VAR_KEYWORD}
    more = inspect.signature(other, eval_str=True).parameters
    taken = {n: p for n, p in more.items() if n not in named and n not in without}
    both = [p.replace(kind=p.KEYWORD_ONLY) for p in (*named.values(), *taken.values())]
    function.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in both}
    return function


def model_settings(
    backbone: str, interaction_text: str, hidden: str, dropout: float
) -> ModelSettings:
    from seo_rec.model import ModelSettings

    return ModelSettings(
        backbone=backbone,
        hidden=whole_numbers(hidden, "--hidden"),
        dropout=dropout,
        interaction=interaction(backbone, interaction_text),
    )


def mlet(dim: int, std: float, context: typer.Context) -> Mlet | None:
    """MLET's settings; None without an inner dimension.

    Raises:
        ValueError: ``--mlet-std`` was given without it.
    """
    from seo_rec.methods import Mlet

    if dim:
        return Mlet(dim, std)
    if given(context, ["mlet_std"]):
        raise ValueError(f"--mlet-std {std} without --mlet-dim; give the inner dimension too")
    return None


def interaction(backbone: str, text: str) -> Interaction | None:
    """``"layers=3,rank=16"`` as settings of the backbone; widths are written ``512x256``.

    Raises:
        ValueError: a setting that the backbone does not have, or a value that is not allowed.
    """
    from seo_rec.backbones import INTERACTIONS

    if not text:
        return None
    kind = INTERACTIONS.get(backbone)
    if kind is None:
        raise ValueError(
            f"--interaction {text!r} with --backbone {backbone}; allowed with: "
            f"{', '.join(INTERACTIONS)}"
        )
    defaults = {f.name: f.default for f in fields(kind)}
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in defaults or name in given:
            raise ValueError(
                f"--interaction {text!r}: {part!r}; allowed, each once: "
                f"{', '.join(f'{k}=...' for k in defaults)}"
            )
        if isinstance(defaults[name], str):
            given[name] = value
        elif isinstance(defaults[name], int):
            given[name] = whole_number(value, f"{name} of --interaction")
        else:
            widths = value.split("x")
            given[name] = tuple(whole_number(w, f"{name} of --interaction") for w in widths)
    return kind(**given)


def whole_number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{what} has {text!r}; allowed: a whole number") from None


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


def params_of(policy: Path) -> int:
    """The budget of a policy file (``--budget-of``), in parameters."""
    from seo_rec.policy import Policy
    from seo_rec.recipes import budget_of

    return budget_of(Policy.load(policy))


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
    if option := given(context, [other]):
        raise ValueError(f"--budget-of and {option[0]} both set the budget; give one of them")
    from seo_rec.policy import Policy
    from seo_rec.recipes import budget_of

    budget = budget_of(Policy.load(policy))
    if budget < dim:
        raise ValueError(f"{policy}: {budget} parameters; a row of --dim {dim} needs {dim}")
    rows = budget // dim
    typer.echo(f"budget of {policy}: {budget} parameters, {rows} rows of {dim}", err=True)
    return rows


def settings_of(method: str, assignments: list[str], params: int | None) -> Any:
    """Settings of a search of ``SEARCHES`` from ``name=value`` texts.

    Args:
        params: a budget given by another option.

    Raises:
        ValueError: an unknown method or name, a name given twice, or a value of another type.
    """
    from seo_rec.search import SEARCHES

    if method not in SEARCHES:
        raise ValueError(f"--method {method!r}; allowed: seo, {', '.join(SEARCHES)}")
    kind = SEARCHES[method].settings
    defaults = {f.name: f.default for f in fields(kind)}
    given: dict[str, Any] = {} if params is None else {"params": params}
    for text in assignments:
        name, equals, value = (word.strip() for word in text.partition("="))
        if not equals or name not in defaults:
            allowed = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise ValueError(f"--set {text!r} of {method}; allowed, with defaults: {allowed}")
        if name in given:
            by = "--budget-of" if name == "params" and params is not None else "--set"
            raise ValueError(f"--set {text!r}: {name} is already given by {by}; give it once")
        given[name] = _typed(name, value, defaults[name])
    return kind(**given)


def _typed(name: str, text: str, default: Any) -> Any:
    """``text`` as a value of the type of ``default``."""
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"--set {name}={text}; allowed: true or false")
        return text == "true"
    if isinstance(default, int):
        return whole_number(text, f"--set {name}")
    if isinstance(default, float):
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"--set {name}={text}; allowed: a number") from None
    if isinstance(default, tuple):
        return whole_numbers(text, f"--set {name}")
    return text


def refuse_other_options(context: typer.Context, method: str, meant_for: frozenset[str]) -> None:
    """ValueError if one of ``meant_for``, which ``method`` would ignore, was given."""
    if found := given(context, meant_for):
        raise ValueError(
            f"{', '.join(found)} with --method {method}; allowed with --method seo only; the "
            f"settings of {method} are given by --set name=value"
        )


def refuse_ignored(context: typer.Context, names: Iterable[str], beside: str, use: str) -> None:
    """ValueError if one of the options ``names``, which ``beside`` makes idle, was given.

    Args:
        context: of the command.
        names: of parameters of the command.
        beside: the option that makes them idle, as it is written.
        use: where they are allowed.
    """
    if found := given(context, names):
        raise ValueError(f"{', '.join(found)} with {beside} would be ignored; allowed with {use}")


def given(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Those of the parameters ``names`` that stand on the command line, written as options."""
    return [
        "--" + name.replace("_", "-")
        for name in sorted(names)
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
