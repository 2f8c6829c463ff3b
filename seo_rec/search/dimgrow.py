"""DimGrow: grow every feature's embedding column by column, as long as its columns matter.

Letters: B batch, F features, V rows of a table, D columns in use over all features, H width of
the adaptation layer.

Readings of "DimGrow: Memory-Efficient Field-level Embedding Dimension Search" that had to be
chosen; :class:`DimGrowSettings` has the settings:

* A column is a parameter of its own, (V,): growing allocates one column and copies nothing, and
  the optimizer's state of the others stays where it is. A column is never freed.
* "Any gate falls below T_down: reduce the dimension by one": the column of the lowest gate goes,
  which need not be the last. When the feature grows again, an idle column is used before a new
  one is made; its gate starts at 0.5 again, or it would fall out at once.
* The k of the decaying penalty ``|g| / (k + 1)`` counts the columns in use from 1.
* ``alpha`` weighs the sum over all gates. The authors' code weighs the mean over them; their
  strength is about 1e-3 on MovieLens-1M and 1e-4 or less on Criteo.
* In evaluation the mean of a column over the training rows takes the place of its shuffled part.
  The rows of a batch never mix, so sorted rows (some hundred users in a batch) score as any others.
* "After convergence": the search ends after ``epochs``, or after ``patience`` epochs in which
  neither the validation AUC rose nor the number of gates above 0.5 of any feature changed. The
  gates are those of the end; ``gates_of="best"`` takes those of the epoch after which the search's
  own model had its best validation AUC. No running mean of weights is kept.
* Several processes hold the whole model each and train it on their rows. A column is shuffled over
  the rows of all of them, so the search is that of one process (dropout draws other numbers).
* What trains the gates: ``gate_split="held-out"`` as in the public code, one Adam step on a batch
  of validation rows after each training step, or ``"train"``, together with the weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.backbones import Traits, build_backbone, having, traits_of
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.embed import table_key
from seo_rec.embed.remap import Remap
from seo_rec.metrics import Metrics
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.search.found import Found, embedding_bytes
from seo_rec.search.held_out import SPLITS, HeldOut
from seo_rec.search.space import Space, SpaceSettings, open_space, require
from seo_rec.settings import settled
from seo_rec.train import (
    FitSettings,
    Training,
    eval_stream,
    fit,
    ranks,
    rng_states,
    set_rng_states,
    train_stream,
)
from seo_rec.train.loop import AfterStep
from seo_rec.train.optimizers import DENSE_OPTIMIZERS, ROW_OPTIMIZERS
from seo_rec.train.replicas import average_gradients, place_of, rows_of_all, summed
from seo_rec.train.state import State, optimizer_state

ADAPTS = ("joint", "per-feature")
GATES_OF = ("last", "best")
KEPT = 0.5  # a column whose gate ends above this is part of the answer


@dataclass(frozen=True)
class DimGrowSettings(SpaceSettings):
    """Settings of DimGrow: features start at one column and grow while their gates stay open.

    Args:
        alpha: Weight of the penalty on the gates; a larger weight keeps fewer columns.
        tau: Steepness of the gates.
        t_up: A feature gets a column more when all its gates are above this number.
        t_down: A feature loses a column when one of its gates falls below this number.
        total_dims: The largest number of columns over all features; 0 sets no limit.
        adapt_dim: Width of the adaptation layer.
        adapt: One vector for all features (joint, as in the paper) or one for each (per-feature).
        gate_lr: Learning rate of the gates.
        gate_split: Rows that train the gates: held-out (validation rows) or train.
        gates_of: The epoch whose gates are the answer: the last, or the best by validation AUC.
        fill: Whether the widths found are widened in proportion until the budget is used up.
    """

    alpha: float = 1e-4
    tau: float = 5.0
    t_up: float = 0.6
    t_down: float = 0.01
    total_dims: int = 0
    adapt_dim: int = 64
    adapt: str = "joint"
    gate_lr: float = 5e-3
    gate_split: str = "held-out"
    gates_of: str = "last"
    fill: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        require(self.tau > 0, "tau", self.tau, "above 0")
        require(0 < self.t_up < 1, "t_up", self.t_up, "between 0 and 1")
        require(0 <= self.t_down < 0.5, "t_down", self.t_down, "0 to below 0.5, where gates start")
        require(self.total_dims >= 0, "total_dims", self.total_dims, "0 (no limit) or more")
        require(self.adapt_dim >= 1, "adapt_dim", self.adapt_dim, "1 or more")
        require(self.adapt in ADAPTS, "adapt", self.adapt, ", ".join(ADAPTS))
        require(self.gate_lr > 0, "gate_lr", self.gate_lr, "above 0")
        require(self.gate_split in SPLITS, "gate_split", self.gate_split, ", ".join(SPLITS))
        require(self.gates_of in GATES_OF, "gates_of", self.gates_of, ", ".join(GATES_OF))


def adapt_of(backbone: str) -> str:
    """The ``adapt`` that goes with a backbone, by its name."""
    return "per-feature" if traits_of(backbone).pairs_features else "joint"


def check_fit(fit: FitSettings) -> None:
    """ValueError for what new parameters cannot join: rates by step, state made in advance."""
    for name in ("row_optimizer", "dense_optimizer"):
        value = getattr(settled(fit, 0), name)
        require(value in ("adam", "sgd"), name, value, "adam, sgd with dimgrow")
    require(fit.warmup_steps == 0, "warmup_steps", fit.warmup_steps, "0 with dimgrow")
    require(fit.schedule == "constant", "schedule", fit.schedule, "constant with dimgrow")


def check_adapt(adapt: str, backbone: str) -> None:
    """ValueError for ``joint`` with a backbone that would see one vector in place of several."""
    if adapt == "joint" and adapt_of(backbone) != "joint":
        side_by_side = having(lambda traits: not traits.pairs_features)
        raise ValueError(
            f"adapt 'joint' with backbone {backbone!r}, which pairs the vectors of features and "
            "would see one; allowed: adapt 'per-feature' (--set adapt=per-feature), or a backbone "
            f"that reads vectors side by side: {', '.join(side_by_side)}"
        )


# ---- the gate ----------------------------------------------------------------------------


def shuffle_columns(x_BD: torch.Tensor) -> torch.Tensor:
    """Every column in an order of its own, by sorting random numbers: O(D B log B); no gradient."""
    order_DB = torch.rand(x_BD.T.shape, device=x_BD.device).argsort(dim=1)
    return x_BD.detach().T.gather(1, order_DB).T


def gated(x_BD: torch.Tensor, shuffled_BD: torch.Tensor, g_D: torch.Tensor) -> torch.Tensor:
    """``g x + (1 - g) stop_gradient(P x)`` (equation 1)."""
    return g_D * x_BD + (1 - g_D) * shuffled_BD.detach()


def penalty(g_D: torch.Tensor, places_D: torch.Tensor) -> torch.Tensor:
    """``sum |g_k| / (k + 1)``, k = 1, 2, ... the place of a column within its feature."""
    return (g_D.abs() / (places_D + 1)).sum()


@torch.no_grad()
def mean_reads(remap: Remap, rows: Sequence[int], batches: Iterable[Batch]) -> list[torch.Tensor]:
    """How often a row of data reads each row of a table, on average: float64 (V,) by feature.

    The mean of a column over the rows of data is the product of its values with these numbers.

    Args:
        remap: From ids to rows of tables.
        rows: V of every feature.
        batches: The rows of data, or this process's share of them; padding reads nothing.
    """
    here, total = ranks(), 0
    counts = [torch.zeros(n, dtype=torch.float64, device=here.device) for n in rows]
    for batch in batches:
        total += batch.num_rows
        lookups = remap(batch.to(here.device).sparse)
        ids, weights, ends = lookups.values(), lookups.weights_or_none(), lookups.offset_per_key()
        for i, n in enumerate(rows):
            span = slice(ends[i], ends[i + 1])
            part = None if weights is None else weights[span].double()
            counts[i] += torch.bincount(ids[span], part, minlength=n)
    of_all = summed(torch.tensor(float(total), dtype=torch.float64, device=here.device), here)
    return [summed(count, here) / of_all for count in counts]


# ---- the model that grows ----------------------------------------------------------------


class Dimension(nn.Module):
    """One column of one feature: its values, its row of the adaptation layer, its gate's theta."""

    def __init__(self, num_rows: int, adapt_dim: int, init_scale: float) -> None:
        super().__init__()
        self.values_V = nn.Parameter(torch.empty(num_rows).uniform_(-init_scale, init_scale))
        self.adapt_H = nn.Parameter(torch.randn(adapt_dim) / adapt_dim**0.5)
        self.theta = nn.Parameter(torch.zeros(()))


class GrowingModel(nn.Module):
    """``Batch -> (loss, logits_B)`` of columns, gates, adaptation layer and backbone.

    ``logits = backbone(dense, adapt(Concat_fk(g x + (1 - g) x~)))``; in training the loss has
    ``alpha`` times the penalty in it. While it grows and trains, the model draws its random numbers
    (shuffles, dropout, new columns) from a random state of its own, which goes on from where
    torch's stood after the backbone was made. Other code that draws random numbers therefore does
    not change the search.

    Args:
        space: rows of every feature.
        settings, model_settings: of the search and of its backbone.

    Attributes:
        reads: what :func:`mean_reads` gives for the training rows; evaluation needs them.
    """

    def __init__(
        self, space: Space, settings: DimGrowSettings, model_settings: ModelSettings
    ) -> None:
        super().__init__()
        self.space, self.settings = space, settings
        self.init_scale = model_settings.init_scale
        self.remap = Remap(space.policy([1] * len(space.names)))
        self.columns = nn.ModuleList(nn.ModuleList() for _ in space.names)
        self.used: list[list[int]] = [[] for _ in space.names]
        self.reads: list[torch.Tensor] = []
        self.means_1D: torch.Tensor | None = None  # of the columns, while they are evaluated
        parts = len(space.names) if settings.adapt == "per-feature" else 1
        self.backbone = build_backbone(
            model_settings.backbone,
            len(space.schema.numeric),
            (settings.adapt_dim,) * parts,
            model_settings.hidden,
            model_settings.dropout,
            model_settings.interaction,
        )
        self.random = rng_states(replace(ranks(), rank=0))

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within the block torch's generators are the model's own, alike in every process."""
        here = replace(ranks(), rank=0)
        with torch.random.fork_rng([here.device] if here.device.type == "cuda" else []):
            set_rng_states(self.random, here)
            yield
            self.random = rng_states(here)

    @property
    def dims(self) -> list[int]:
        """Columns in use of every feature."""
        return [len(u) for u in self.used]

    @property
    def allocated(self) -> list[int]:
        return [len(own) for own in self.columns]  # type: ignore[arg-type]

    def dimension(self, feature: int, column: int) -> Dimension:
        return self.columns[feature][column]  # type: ignore[index,return-value]

    def in_use(self) -> list[Dimension]:
        """The columns in use, feature by feature."""
        return [self.dimension(i, k) for i, own in enumerate(self.used) for k in own]

    def allocate(self, feature: int) -> Dimension:
        """A new column of ``feature``, not in use yet."""
        rows = self.space.rows[feature]
        with self.drawing():
            made = Dimension(rows, self.settings.adapt_dim, self.init_scale)
        made.to(next(self.backbone.parameters()).device)
        self.columns[feature].append(made)  # type: ignore[operator]
        return made

    def gates(self) -> torch.Tensor:
        """Gates of the columns in use, (D,)."""
        return torch.sigmoid(self.settings.tau * torch.stack([d.theta for d in self.in_use()]))

    def places(self) -> torch.Tensor:
        """The place of every column in use within its feature, from 1, (D,)."""
        counted = [k + 1 for own in self.used for k in range(len(own))]
        return torch.tensor(counted, device=self.gates().device)

    def embed(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """The columns in use of every row, bags summed, ungated: x_BD."""
        lookups = self.remap(sparse)
        B, ends = lookups.stride(), lookups.offset_per_key()
        ids, weights = lookups.values(), lookups.weights_or_none()
        lengths_FB = lookups.lengths().view(-1, B)
        single = ids.numel() == lengths_FB.numel() and bool((lengths_FB == 1).all())
        row_of = torch.arange(B, device=ids.device)
        found = []
        for i, own in enumerate(self.used):
            span = slice(ends[i], ends[i + 1])
            bag = row_of if single else row_of.repeat_interleave(lengths_FB[i])
            for k in own:
                values = self.dimension(i, k).values_V[ids[span]]
                values = values if weights is None else values * weights[span]
                if not single:
                    values = values.new_zeros(B).index_add(0, bag, values)
                found.append(values)
        return torch.stack(found, dim=1)

    def adapt(self, x_BD: torch.Tensor) -> torch.Tensor:
        """``sum_f x_f W_f`` (B, H), or ``x_f W_f`` side by side (B, F * H) with per-feature."""
        adapt_DH = torch.stack([d.adapt_H for d in self.in_use()])
        if self.settings.adapt == "joint":
            return x_BD @ adapt_DH
        parts = zip(x_BD.split(self.dims, dim=1), adapt_DH.split(self.dims), strict=True)
        return torch.cat([x @ w for x, w in parts], dim=1)

    def train(self, mode: bool = True) -> GrowingModel:
        """Train or evaluate; every evaluation works the means of the columns out anew."""
        self.means_1D = None
        super().train(mode)
        return self

    @torch.no_grad()
    def means(self) -> torch.Tensor:
        """The mean of every column in use over the training rows, (1, D)."""
        assert self.reads, "evaluation needs the reads of the training rows"
        columns = [
            (reads_V, self.dimension(i, k).values_V)
            for i, (reads_V, own) in enumerate(zip(self.reads, self.used, strict=True))
            for k in own
        ]
        return torch.stack([r @ v.double() for r, v in columns]).to(columns[0][1].dtype)[None]

    def other_rows(self, x_BD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What takes the place of a column as its gate closes, without a gradient.

        In training the values of other rows, of all processes and without padding; in evaluation
        the mean of the training rows.
        """
        if not self.training:
            if self.means_1D is None:
                self.means_1D = self.means()
            return self.means_1D
        here = ranks()
        if here.world_size == 1:
            return shuffle_columns(x_BD)
        place = place_of(batch, here)
        with self.drawing():
            shuffled_RD = shuffle_columns(rows_of_all(x_BD, place, here))
        padding = len(x_BD) - place.rows
        return functional.pad(shuffled_RD[place.first : place.stop], (0, 0, 0, padding))

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        x_BD, g_D = self.embed(batch.sparse), self.gates()
        with self.drawing() if ranks().world_size == 1 else nullcontext():
            other = self.other_rows(x_BD, batch)
            logits_B = self.backbone(batch.dense_BN, self.adapt(gated(x_BD, other, g_D)))
        loss = batch.loss(logits_B)
        if self.training and self.settings.alpha:
            loss = loss + self.settings.alpha * penalty(g_D, self.places())
        return loss, logits_B


# ---- growing and shrinking ---------------------------------------------------------------


@dataclass
class Growth:
    """Adapts the widths after each step, and keeps the optimizers in step with them."""

    model: GrowingModel
    settings: DimGrowSettings
    optimizers: dict[str, torch.optim.Optimizer]
    events: list[tuple[int, str, int]] = field(default_factory=list)

    def start(self, allocated: Sequence[int], used: Sequence[Sequence[int]]) -> None:
        """Allocate so many columns of every feature and use the named ones."""
        for i, count in enumerate(allocated):
            while len(self.model.columns[i]) < count:  # type: ignore[arg-type]
                self._allocate(i)
        self.model.used = [list(own) for own in used]

    def __call__(self, step: int) -> None:
        """Shrink the features with a gate below t_down, grow those with all gates above t_up."""
        gates = self.model.gates().detach().cpu().tolist()
        at = 0
        for i, name in enumerate(self.model.space.names):
            own = self.model.used[i]
            mine = gates[at : at + len(own)]
            at += len(own)
            if min(mine) < self.settings.t_down and len(own) > 1:
                del own[mine.index(min(mine))]
            elif min(mine) > self.settings.t_up and self._fits(i):
                self._grow(i)
            else:
                continue
            self.events.append((step, name, len(own)))

    def _fits(self, feature: int) -> bool:
        dims, s = self.model.dims, self.settings
        space = self.model.space
        after = space.size(dims) + space.column(feature, dims[feature])
        return (
            dims[feature] < s.max_dim
            and (not s.total_dims or sum(dims) < s.total_dims)
            and (not s.amount or after <= s.amount)
        )

    def _grow(self, feature: int) -> None:
        own = self.model.used[feature]
        idle = [k for k in range(self.model.allocated[feature]) if k not in own]
        if not idle:
            self._allocate(feature)
            idle = [self.model.allocated[feature] - 1]
        theta = self.model.dimension(feature, idle[0]).theta
        with torch.no_grad():
            theta.zero_()
        self.optimizers["gate"].state.pop(theta, None)
        own.append(idle[0])

    def _allocate(self, feature: int) -> None:
        made = self.model.allocate(feature)
        for name, parameter in (
            ("rows", made.values_V),
            ("dense", made.adapt_H),
            ("gate", made.theta),
        ):
            self.optimizers[name].param_groups[0]["params"].append(parameter)


def make_optimizers(model: GrowingModel, fit: FitSettings) -> dict[str, torch.optim.Optimizer]:
    """``rows`` for the columns, ``dense`` for backbone and adaptation layer, ``gate`` for theta."""
    fit = settled(fit, 0)
    make = ROW_OPTIMIZERS[fit.row_optimizer]
    columns = [d for own in model.columns for d in own]  # type: ignore[attr-defined]
    dense = [*model.backbone.parameters(), *(d.adapt_H for d in columns)]
    gate = torch.optim.Adam([d.theta for d in columns], lr=model.settings.gate_lr)
    return {
        "rows": make([d.values_V for d in columns], fit.row_lr, fit.row_l2),
        "dense": DENSE_OPTIMIZERS[fit.dense_optimizer](dense, fit.dense_lr),
        "gate": gate,
    }


# ---- the search --------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Gates of the columns in use at the end of ``epoch``, by feature; that epoch's AUC."""

    epoch: int
    val_auc: float
    gates: list[list[float]]

    @property
    def kept(self) -> list[int]:
        """Columns of every feature whose gates are above 0.5."""
        return [sum(g > KEPT for g in own) for own in self.gates]


class DimGrowStep(AfterStep):
    """After each training step: train the gates on held-out rows, and adapt the widths.

    After each epoch it reads the gates. The gates of the last or of the best epoch are the answer.

    Args:
        growth: The model, its optimizers, and how they grow.
        held_out: The rows that train the gates; None if the training rows do.
    """

    def __init__(self, growth: Growth, held_out: HeldOut | None) -> None:
        self.growth, self.held_out = growth, held_out
        self.model, self.settings = growth.model, growth.settings
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.answer: Answer | None = None
        self.best_weights: dict[str, torch.Tensor] = {}

    @property
    def calls_model(self) -> bool:
        return self.held_out is not None

    @property
    def keeps_best(self) -> bool:
        return False

    def __call__(self, model: nn.Module, step: int) -> None:
        self.step = step
        if self.held_out is not None:
            self._train_gates(self.held_out.next())
        self.growth(step)

    def _train_gates(self, batch: Batch) -> None:
        """An Adam step of the gates alone; they have gradients of the training batch so far."""
        gate, thetas = self.growth.optimizers["gate"], [d.theta for d in self.model.in_use()]
        gate.zero_grad()
        loss, _ = self.model(batch)
        gradients = torch.autograd.grad(loss, thetas)
        for theta, gradient in zip(thetas, gradients, strict=True):
            theta.grad = gradient
        average_gradients(thetas, ranks())
        gate.step()
        gate.zero_grad()

    def after_epoch(self, metrics: Metrics) -> bool:
        """Note the gates; whether the number of columns that are kept of a feature changed."""
        answer = Answer(len(self.history) + 1, metrics.auc, self.gates())
        earlier = [epoch["val_auc"] for epoch in self.history]
        if self.settings.gates_of == "last":
            self.answer = answer
        elif metrics.auc > max(earlier, default=-1.0):
            self.answer = answer
            self.best_weights = found_weights(self.model, self.kept_columns())
        changed = not self.history or answer.kept != self.history[-1]["kept"]
        self.history.append(
            {
                "epoch": answer.epoch,
                "step": self.step,
                "val_auc": metrics.auc,
                "used": self.model.dims,
                "kept": answer.kept,
            }
        )
        return changed

    def gates(self) -> list[list[float]]:
        """Gates of the columns in use, by feature."""
        gates = iter(self.model.gates().detach().cpu().tolist())
        return [[next(gates) for _ in own] for own in self.model.used]

    def kept_columns(self) -> list[list[int]]:
        """Columns of every feature whose gates are above 0.5."""
        both = zip(self.model.used, self.gates(), strict=True)
        return [[k for k, g in zip(own, gates, strict=True) if g > KEPT] for own, gates in both]

    # ---- checkpoints -------------------------------------------------------------------

    def tensors(self) -> State:
        """The model's random state, Adam's state of the gates, the weights of the best epoch."""
        gate = {"gate": self.growth.optimizers["gate"]} if self.held_out else {}
        states = optimizer_state(self.model, gate)
        return {
            **self.model.random,
            **{f"gate.{n}": t for n, t in states.items()},
            **{f"best.{n}": t for n, t in self.best_weights.items()},
        }

    def values(self) -> dict[str, Any]:
        """Which columns there are and which are in use, what happened, the answer so far."""
        return {
            "allocated": self.model.allocated,
            "used": self.model.used,
            "events": self.growth.events,
            "history": self.history,
            "answer": asdict(self.answer) if self.answer else None,
            "held_out": self.held_out.state_dict() if self.held_out else {},
        }

    def before_load(self, values: Mapping[str, Any]) -> None:
        """Allocate the columns that the checkpoint holds."""
        self.growth.start(values["allocated"], values["used"])

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave."""
        named = dict(self.model.named_parameters())
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "gate":
                parameter, _, key = rest.rpartition(".")
                theta = named[parameter]
                self.growth.optimizers["gate"].state[theta][key] = tensor.to(theta.device)
            elif kind == "best":
                self.best_weights[rest] = tensor
            elif name in self.model.random:  # it may have been written where a GPU was, or was not
                self.model.random[name] = tensor
        self.growth.events = [(s, n, d) for s, n, d in values["events"]]
        self.history = values["history"]
        self.answer = Answer(**values["answer"]) if values["answer"] else None
        if self.held_out:
            self.held_out.load_state_dict(values["held_out"])


def _start(data: DataSet, settings: DimGrowSettings, training: Training) -> Growth:
    """The model with one column of each feature, and its optimizers."""
    check_fit(training.fit)
    check_adapt(settings.adapt, training.model.backbone)
    space = open_space(data, settings, training.fit.seed)
    space.require_columns(settings.amount)
    F = len(space.names)
    if 0 < settings.total_dims < F:
        raise PolicyError(f"total_dims {settings.total_dims}; allowed: {F}, one per feature")
    torch.manual_seed(training.fit.seed)
    model = GrowingModel(space, settings, training.model).to(ranks().device)
    model.reads = mean_reads(model.remap, space.rows, train_stream(data, training.fit))
    for i in range(F):
        model.allocate(i)
    model.used = [[0] for _ in range(F)]
    return Growth(model, settings, make_optimizers(model, training.fit))


def dimgrow(
    data: DataSet, settings: DimGrowSettings, training: Training, out: Path | None = None
) -> Found:
    """Search widths by growing them; ``d_f = |{k: g_fk > 0.5}|``, features with none are dropped.

    Raises:
        CheckpointError: the newest checkpoint of ``out`` is damaged, or another process searches
            there.
        PolicyError: one column of every feature exceeds a limit, or no gate ended above 0.5.
        ValueError: settings that do not go together, or the search in ``out`` is past ``max_steps``
            and was not evaluated there.
        Preempted: SIGTERM came; with ``out``, a checkpoint has been written.
    """
    growth = _start(data, settings, training)
    model, space, optimizers = growth.model, growth.model.space, growth.optimizers
    held_out = HeldOut(data, training.fit) if settings.gate_split == "held-out" else None
    step = DimGrowStep(growth, held_out)
    train, val = train_stream(data, training.fit), eval_stream(data, "val")
    by_fit = {n: o for n, o in optimizers.items() if n != "gate" or held_out is None}
    # its best epoch is by AUC, as its widths are; a mean of weights would not know new columns
    alone = replace(training.fit, average=0.0, keep_by="auc")
    result = fit(model, train, val, by_fit, alone, out=out, after_step=step, title="dimgrow")
    trained, answer = time.perf_counter(), step.answer
    assert answer is not None
    _require_some(answer, settings, result.steps)
    kept = dims = answer.kept
    if settings.amount and settings.fill:
        most = [settings.max_dim] * len(kept)
        dims = space.fill([float(d) for d in kept], settings.amount, most)
    params = settings.amount if settings.fill else 0
    policy = space.policy(dims, params, space.origin("dimgrow", dims, asdict(settings)))
    record = {
        "found": dict(zip(space.names, kept, strict=True)),
        "gates": dict(zip(space.names, answer.gates, strict=True)),
        "gates_of_epoch": answer.epoch,
        "allocated": dict(zip(space.names, model.allocated, strict=True)),
        "steps": result.steps,
        "history": step.history,
        "events": growth.events,
    }
    weights = step.best_weights
    if settings.gates_of == "last":
        weights = found_weights(model, step.kept_columns())
    as_grown = dims == kept and space.allowance.of(policy) == space.size(
        dims
    )  # no wider, no longer tables
    columns = [d.values_V for own in model.columns for d in own]  # type: ignore[attr-defined]
    return Found(
        policy,
        answer.val_auc,
        result.seconds + time.perf_counter() - trained,
        embedding_bytes(columns, [optimizers["rows"]]),
        record,
        weights if as_grown else {},
    )


def _require_some(answer: Answer, settings: DimGrowSettings, steps: int) -> None:
    """PolicyError if no column of any feature is kept."""
    if any(answer.kept):
        return
    early = f", and gates_of best took epoch {answer.epoch}" if settings.gates_of == "best" else ""
    raise PolicyError(
        f"no gate of the search ended above {KEPT}: alpha {settings.alpha} is too strong for these "
        f"data, or {steps} steps were too few{early}; lower alpha"
    )


@torch.no_grad()
def found_weights(model: GrowingModel, kept: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Weights with which the policy's own model computes what the search model does.

    The adaptation layer is folded into the linear maps that read the vectors (``Traits.readers``),
    ``W_1 W_adapt^T``, and a column's gate into its values. Shuffled values and columns that are not
    kept are lost. Other backbones also read the vectors in products, and get no weights.
    """
    backbone = model.backbone
    traits: Traits = type(backbone).traits  # type: ignore[attr-defined]
    readers = traits.readers
    if not readers:
        return {}
    weights = {f"backbone.{name}": value.clone() for name, value in backbone.state_dict().items()}
    H, joint = model.settings.adapt_dim, model.settings.adapt == "joint"
    adapted: dict[int, torch.Tensor] = {}  # of every feature that is left, (H, its columns)
    for i, own in enumerate(kept):
        if own:
            found = [model.dimension(i, k) for k in own]
            gates = torch.sigmoid(model.settings.tau * torch.stack([d.theta for d in found]))
            key = f"embedding.ebc.embedding_bags.{table_key(model.space.names[i])}.weight"
            weights[key] = torch.stack([d.values_V for d in found], dim=1) * gates
            adapted[i] = torch.stack([d.adapt_H for d in found], dim=1)
    for reader in readers:
        name = f"backbone.{reader}.weight"
        numeric = weights[name].shape[1] - H * (1 if joint else len(kept))
        parts = [weights[name][:, :numeric]]
        for i, adapt_HD in adapted.items():
            start = numeric + (0 if joint else i * H)
            parts.append(weights[name][:, start : start + H] @ adapt_HD)
        weights[name] = torch.cat(parts, dim=1)
    return {name: value.cpu() for name, value in weights.items()}
