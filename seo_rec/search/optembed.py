"""OptEmbed: which rows of every table to keep, and how wide each table is, from one supernet.

"OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction".
Letters: B batch, F features, V rows of a table, D full width, E = F D, Z = dense columns and E,
C candidates.

Phase 1 trains the supernet: a row v of feature f counts as ``S(|e_v|_1 - t_f) e_v`` with a learnt
threshold ``t_f`` per feature, and of the vector of every sample and feature the first i columns
count, i uniform from 1 to D. Phase 2 freezes it and evolves the widths by validation AUC. Phase 3
trains the policy like any other, from scratch or from weights that this search writes.

Readings of the paper that had to be chosen, and what differs:

* A pruned id reads row 0 of a table, like the ids which training never saw, so that serving needs
  no mask. That row is a zero in the supernet, as in the paper (``pruned="zero"``), or a vector of
  its own (``"shared"``). Training the policy trains it in both cases, and it counts in the budget.
* Where a feature has a row per id, the policy stores the ids that are left as its vocabulary,
  which takes less space than a code for every id. Where it is hashed, codes say which row a hash
  has; each of them takes a float of the budget.
* A feature of which no row is left is dropped, unless its shared row is a vector.
* The norm is taken over all D columns, whatever the widths of the sample.
* A budget is not part of the method, nor is a target sparsity. With one, rows of the smallest
  ``|e_v|_1 - t_f`` go until the others could be ``KEPT_WIDTH`` wide, candidates above the
  budget lose columns, and the best one is widened in proportion until the budget is filled.
* The best candidate is that of all generations; of equal AUC the smaller.
* Several processes hold the whole supernet each and train it on their rows, with the widths that
  one process would draw for them (unless dropout draws numbers in between). Each scores its share
  of the validation rows; what is kept and chosen is decided by the first one.
* The rows that are kept, and the supernet that widths are evolved on, are those of the running mean
  of weights and thresholds at the best epoch (``average``, 0: of the weights themselves).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.backbones import build_backbone, traits_of
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.embed import table_key
from seo_rec.metrics import binary_metrics
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import PolicyError
from seo_rec.search.evolution import Candidate, Evolution, Evolved, evolve, evolved_so_far
from seo_rec.search.found import Found, embedding_bytes
from seo_rec.search.slicing import EXACT, SLICED, backbone_columns
from seo_rec.search.space import (
    Space,
    SpaceSettings,
    open_space,
    require,
)
from seo_rec.settings import settled
from seo_rec.train import FitSettings, Training, eval_stream, fit, ranks, train_stream
from seo_rec.train.loop import AfterStep
from seo_rec.train.optimizers import DENSE_OPTIMIZERS, ROW_OPTIMIZERS
from seo_rec.train.replicas import SharedDraws, place_of
from seo_rec.train.state import State

log = logging.getLogger(__name__)

VARIANTS = ("full", "rows", "dims")
PRUNED = ("zero", "shared")
WEIGHTS = ("none", "initial", "trained")
STATE_FILE = "evolution.json"
KEPT_WIDTH = 4  # columns that a budget leaves to the mean feature when it takes rows away

Kept = list[npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class OptEmbedSettings(SpaceSettings):
    """Settings of OptEmbed: prune rows by thresholds, then choose widths by evolution.

    With ``trained`` weights the policy's model computes what the masked supernet does. With
    ``fill`` and variant ``dims``, hashed tables also take the rows that are left over, unless
    ``weights`` are asked for; rows that were pruned do not come back.

    Args:
        variant: Whether rows and widths are searched (full), only rows (rows) or widths (dims).
        alpha: Weight of sum_f exp(-t_f) over the thresholds t_f; a larger weight prunes more rows.
        threshold_lr: Learning rate (SGD) of the thresholds.
        pruned: What a pruned id reads while searching: zero, or the shared row of unknown ids.
        generations: Generations of the evolution of widths.
        mutations: Mutants in each generation.
        crossovers: Crossovers in each generation.
        mutation_rate: Probability that a mutant changes the width of a feature.
        parents: The best candidates, of which the next generation is made.
        sparsity: Instead of params, the share of the floats at max_dim to save; 0 saves none.
        fill: Whether the widths found are widened in proportion until the budget is used up.
        weights: Weights that training may start from: none, the supernet's initial or trained ones.
    """

    address: str = "id"
    variant: str = "full"
    alpha: float = 2e-3
    threshold_lr: float = 0.1
    pruned: str = "zero"
    generations: int = 30
    mutations: int = 10
    crossovers: int = 10
    mutation_rate: float = 0.1
    parents: int = 15
    sparsity: float = 0.0
    fill: bool = True
    weights: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_bytes:
            raise ValueError(
                f"num_bytes {self.num_bytes} with optembed, which chooses rows before it knows "
                "their width; allowed: params, a budget in floats"
            )
        require(self.variant in VARIANTS, "variant", self.variant, ", ".join(VARIANTS))
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        require(self.threshold_lr > 0, "threshold_lr", self.threshold_lr, "above 0")
        require(self.pruned in PRUNED, "pruned", self.pruned, ", ".join(PRUNED))
        for name in ("generations", "parents"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("mutations", "crossovers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        if not self.mutations + self.crossovers:
            raise ValueError("mutations 0 and crossovers 0; allowed: one of them above 0")
        rate = self.mutation_rate
        require(0 < rate <= 1, "mutation_rate", rate, "above 0, to 1")
        require(0 <= self.sparsity < 1, "sparsity", self.sparsity, "0 (no target) to below 1")
        if self.sparsity and self.params:
            raise ValueError(
                f"sparsity {self.sparsity} with params {self.params}; allowed: one of the two"
            )
        require(self.weights in WEIGHTS, "weights", self.weights, ", ".join(WEIGHTS))
        for name in _UNUSED.get(self.variant, ()):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} with variant {self.variant!r}, which does not "
                    f"read it; allowed: the default, or variant 'full'"
                )

    @property
    def prunes(self) -> bool:
        return self.variant != "dims"

    @property
    def zeros(self) -> bool:
        """Whether row 0 of every table is one of zeros."""
        return self.prunes and self.pruned == "zero"

    @property
    def narrows(self) -> bool:
        return self.variant != "rows"


_UNUSED = {
    "rows": ("generations", "mutations", "crossovers", "mutation_rate", "parents", "fill"),
    "dims": ("alpha", "threshold_lr", "pruned"),
}


# ---- the supernet ------------------------------------------------------------------------


class _UnitStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        distance = ctx.saved_tensors[0].abs()
        slope = torch.where(distance <= 0.4, 2 - 4 * distance, 0.4)
        return gradients[0] * slope.masked_fill(distance > 1, 0.0)


def unit_step(u: torch.Tensor) -> torch.Tensor:
    """``S(u) = 1 if u > 0 else 0``, with the long-tailed estimator in place of its derivative.

    ``H(u) = 2 - 4 |u|`` up to 0.4, 0.4 up to 1, and 0 beyond. Any shape.
    """
    stepped: torch.Tensor = _UnitStep.apply(u)
    return stepped


def sparsity(thresholds_F: torch.Tensor) -> torch.Tensor:
    """``sum_f exp(-t_f)``."""
    return torch.exp(-thresholds_F).sum()


class Supernet(nn.Module):
    """``Batch -> (loss, logits_B)`` of tables whose rows and columns are masked.

    In training the loss has ``alpha`` times the sparsity term in it, and widths are drawn for every
    sample and feature. In evaluation all columns count, or as many as ``dims`` says.

    Args:
        model: of all features at width D, with its initial weights.
        space: rows of every feature.
        settings: of the search.
        draws: of the widths in training.

    Attributes:
        kept: rows that count, once that is decided; until then the thresholds say.
        dims: a width of every feature, once that is decided.
    """

    def __init__(
        self, model: RecModel, space: Space, settings: OptEmbedSettings, draws: SharedDraws
    ) -> None:
        super().__init__()
        self.space, self.settings = space, settings
        self.embedding, self.backbone = model.embedding, model.backbone
        F = len(space.names)
        self.thresholds_F = nn.Parameter(torch.zeros(F), requires_grad=settings.prunes)
        self.kept: list[torch.Tensor] | None = None
        self.dims: Candidate | None = None
        self.draws = draws

    @property
    def tables(self) -> list[nn.Parameter]:
        """Weights (V, D) of every feature."""
        bags = self.embedding.ebc.embedding_bags
        return [bags[key].weight for key in self.embedding.table_keys]

    def freeze(self, kept: Kept) -> list[int]:
        """Count these rows from now on, whatever the thresholds; the features that have some.

        A shared row of zeros does not count.
        """
        masks = [torch.from_numpy(rows.copy()) for rows in kept]
        if self.settings.zeros:
            for mask_V in masks:
                mask_V[0] = False
        self.kept = [mask_V.to(self.thresholds_F.device) for mask_V in masks]
        return [i for i, mask_V in enumerate(masks) if bool(mask_V.any())]

    def margins(self, feature: int) -> torch.Tensor:
        """``|e_v|_1 - t_f`` of every row of a feature, (V,)."""
        norms_V = self.tables[feature].abs().sum(1)
        return norms_V - self.thresholds_F[feature]

    def row_mask(self, feature: int) -> torch.Tensor:
        """One for the rows that count, (V,); row 0, of the unknown ids, is as ``pruned`` says."""
        if self.kept is not None:
            return self.kept[feature].to(self.thresholds_F.dtype)
        mask_V = unit_step(self.margins(feature))
        first = torch.full_like(mask_V[:1], float(self.settings.pruned == "shared"))
        return torch.cat([first, mask_V[1:]])

    def masked_table(self, feature: int) -> torch.Tensor:
        """``m_v e_v``, and with ``pruned="shared"`` ``(1 - m_v) e_0`` more, (V, D)."""
        table_VD = self.tables[feature]
        if not self.settings.prunes:
            return table_VD
        mask_V1 = self.row_mask(feature)[:, None]
        masked_VD = table_VD * mask_V1
        if self.settings.pruned == "zero":
            return masked_VD
        return masked_VD + table_VD[:1] * (1 - mask_V1)

    def embed(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """The masked rows of every sample, bags summed, all columns: x_BE."""
        batched = self.embedding.batched
        assert batched is not None
        tables = [self.masked_table(i) for i in range(len(self.space.names))]
        x_BE: torch.Tensor = batched(tables, self.embedding.remap(sparse))
        return x_BE

    def drawn_widths(self, batch: Batch) -> torch.Tensor:
        """Widths from 1 to D of every sample and feature, int64 (B, F), on the CPU; padding: 1."""
        place = place_of(batch, ranks())
        shape = (place.total, len(self.space.names))
        widths_BF = self.draws.integers(1, self.settings.max_dim + 1, shape)
        padding = len(batch.labels_B) - place.rows
        own_BF = widths_BF[place.first : place.stop]
        return functional.pad(own_BF, (0, 0, 0, padding), value=1) if padding else own_BF

    def column_mask(self, widths: torch.Tensor) -> torch.Tensor:
        """Ones for the first columns: int64 (..., F) to float32 (..., E)."""
        columns_D = torch.arange(self.settings.max_dim, device=widths.device)
        return (columns_D < widths[..., None]).float().flatten(-2)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        x_BE, s = self.embed(batch.sparse), self.settings
        if self.training and s.narrows:
            x_BE = x_BE * self.column_mask(self.drawn_widths(batch).to(x_BE.device))
        elif self.dims is not None:
            x_BE = x_BE * self.column_mask(torch.tensor(self.dims, device=x_BE.device))
        logits_B = self.backbone(batch.dense_BN, x_BE)
        loss = batch.loss(logits_B)
        if self.training and s.prunes and s.alpha:
            loss = loss + s.alpha * sparsity(self.thresholds_F)
        return loss, logits_B


class KeptDraws(AfterStep):
    """Keeps in checkpoints where the draws of the widths stand."""

    def __init__(self, draws: SharedDraws) -> None:
        self.draws = draws

    def tensors(self) -> State:
        """See :meth:`SharedDraws.tensors`."""
        return self.draws.tensors()

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what :meth:`tensors` gave."""
        self.draws.load(tensors)


def make_optimizers(model: Supernet, f: FitSettings) -> dict[str, torch.optim.Optimizer]:
    """``rows`` and ``dense`` as for any model, and SGD for the thresholds."""
    f = settled(f, 0)
    make = ROW_OPTIMIZERS[f.row_optimizer]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "rows": make(model.tables, f.row_lr, f.row_l2),
        "dense": DENSE_OPTIMIZERS[f.dense_optimizer](model.backbone.parameters(), f.dense_lr),
    }
    if model.settings.prunes:
        lr = model.settings.threshold_lr
        optimizers["thresholds"] = torch.optim.SGD([model.thresholds_F], lr=lr)
    return optimizers


# ---- the rows ----------------------------------------------------------------------------


@torch.no_grad()
def kept_rows(model: Supernet) -> Kept:
    """Rows that the policy has, of every feature bool (V,): those that count, and the shared one.

    With a budget, of the rows above their thresholds those that are furthest above.
    """
    s, space = model.settings, model.space
    if not s.prunes:
        return [np.ones(r, bool) for r in space.rows]
    margins = [model.margins(i).cpu().numpy()[1:] for i in range(len(space.names))]
    if s.params:
        rows = (s.params - _num_codes(space)) // _width_with_rows(s) - len(margins)
        every = np.concatenate(margins)
        order = np.argsort(-every, kind="stable")
        every[order[rows:]] = -np.inf
        margins = np.split(every, np.cumsum([len(m) for m in margins])[:-1])
    return [np.concatenate([[True], margin > 0]) for margin in margins]


def _width_with_rows(s: OptEmbedSettings) -> int:
    """The mean width that the rows which are kept must leave room for."""
    return min(s.max_dim, KEPT_WIDTH) if s.narrows else s.max_dim


def with_budget(space: Space, s: OptEmbedSettings) -> OptEmbedSettings:
    """``s`` with the budget in floats that its sparsity is: ``(1 - sparsity) rows D`` at most."""
    if not s.sparsity:
        return s
    full = sum(space.rows) * s.max_dim
    return replace(s, params=max(1, full - math.ceil(s.sparsity * full)), sparsity=0.0)


def require_budget(space: Space, s: OptEmbedSettings) -> None:
    """PolicyError unless a policy within the budget exists, whatever the training finds."""
    if not s.params:
        return
    if not s.prunes:
        space.require_columns(s.params)
        return
    width, codes = _width_with_rows(s), _num_codes(space)
    least = (len(space.names) + 1) * width + codes
    if s.params < least:
        raise PolicyError(
            f"a budget of {s.params} parameters; a row of {width} for the pruned ids of each of "
            f"{len(space.names)} features, one of an id, and {codes} codes of hashed features take "
            f"{least}, the smallest feasible budget; raise it, or lower sparsity"
        )


def with_codes(space: Space) -> Space:
    """Hashed features with a code for every hash, which so far says row ``1 + hash``.

    Pruned ids then read row 0 of all tables.
    """
    codes = {
        name: np.arange(1, r + 1, dtype=np.int32)
        for name, r in zip(space.names, space.rows, strict=True)
        if name not in space.vocabularies
    }
    rows = (r + (n in codes) for n, r in zip(space.names, space.rows, strict=True))
    return replace(space, rows=tuple(rows), codes=codes)


def _num_codes(space: Space) -> int:
    return sum(c.size for c in space.codes.values())


def pruned_space(space: Space, kept: Kept) -> Space:
    """The rows that are left, and their ids; pruned hashes have code 0."""
    vocabularies, codes = dict(space.vocabularies), dict(space.codes)
    for name, rows in zip(space.names, kept, strict=True):
        if name in vocabularies:
            vocabularies[name] = vocabularies[name][rows[1:]]
        elif name in codes:
            row = (np.cumsum(rows, dtype=np.int32) - 1) * rows
            codes[name] = row[codes[name]].astype(np.int32)
    left = tuple(int(k.sum()) for k in kept)
    return replace(space, rows=left, vocabularies=vocabularies, codes=codes)


def require_backbone(
    served: Sequence[int], space: Space, s: OptEmbedSettings, m: ModelSettings
) -> None:
    """PolicyError unless the backbone can be built of the features that have rows left."""
    widths, numeric = [s.max_dim] * len(served), len(space.schema.numeric)
    try:
        build_backbone(m.backbone, numeric, widths, m.hidden, m.dropout, m.interaction)
    except ValueError as error:
        raise PolicyError(
            f"{len(served)} of {len(space.names)} features have rows above their thresholds, too "
            f"few for the backbone {m.backbone!r} ({error}): alpha {s.alpha} or threshold_lr "
            f"{s.threshold_lr} is too large for these data; lower them"
        ) from error


# ---- the widths --------------------------------------------------------------------------


@torch.no_grad()
def score(model: Supernet, val: Stream, candidates: Sequence[Candidate]) -> list[float]:
    """Validation AUC of the supernet at the widths of each candidate, in one pass over the rows.

    Args:
        model: The supernet.
        val: This process's share of the rows; all processes call this at once.
        candidates: The same in all processes.
    """
    model.eval()
    everywhere = ranks()
    device = everywhere.device
    masks_CE = model.column_mask(torch.tensor(candidates, device=device))
    logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in candidates]
    labels, weights = [], []
    for batch in val:
        labels.append(batch.labels_B.numpy())
        weights.append(batch.row_weights.numpy())
        here = batch.to(device)
        x_BE = model.embed(here.sparse)
        for mask_E, scored in zip(masks_CE, logits, strict=True):
            scored.append(model.backbone(here.dense_BN, x_BE * mask_E).cpu().numpy())
    y, w = _of_all(labels), _of_all(weights)
    scored_C = [_of_all(z) for z in logits]
    return everywhere.on_first(lambda: [binary_metrics(z, y, w).auc for z in scored_C])


def _of_all(parts: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The values of all processes one after the other, which is another order than the rows'."""
    return np.concatenate(ranks().gather(np.concatenate(parts)))


# ---- the weights -------------------------------------------------------------------------


def policy_weights(
    model: Supernet,
    kept: Kept,
    dims: Sequence[int],
    model_settings: ModelSettings,
    state: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Weights of the policy's own model: the rows and columns of the supernet's that are left.

    Args:
        model: the supernet.
        kept, dims: its rows and widths; width 0 drops a feature.
        model_settings: the backbone, one of ``SLICED``.
        state: the supernet's weights, by the names of a ``RecModel`` of full width.
    """
    space, s = model.space, model.settings
    weights = backbone_columns(dims, s.max_dim, len(space.schema.numeric), model_settings, state)
    for name, rows, dim in zip(space.names, kept, dims, strict=True):
        if not dim:
            continue
        key = f"embedding.ebc.embedding_bags.{table_key(name)}.weight"
        table_VD = state[key].detach().cpu()[torch.from_numpy(rows), :dim].clone()
        if s.zeros:
            table_VD[0] = 0
        weights[key] = table_VD
    return weights


def _loses_dense_vectors(dims: Sequence[int], numeric: int, m: ModelSettings, D: int) -> bool:
    """Whether products of dense columns' vectors had more columns than any feature has left."""
    return traits_of(m.backbone).widens_numeric and numeric > 1 and max(dims) < D


def check_weights(s: OptEmbedSettings, m: ModelSettings) -> None:
    """ValueError if weights are asked for of a backbone that cannot be cut down."""
    allowed = {"none": (m.backbone,), "initial": SLICED, "trained": EXACT}[s.weights]
    if m.backbone not in allowed:
        raise ValueError(
            f"weights {s.weights!r} with the backbone {m.backbone!r}, of which columns cannot be "
            f"taken out; allowed: none, or one of the backbones {', '.join(allowed)}"
        )


# ---- the search --------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """A supernet at the rows and widths that were found, ``dims`` 0 where none is left."""

    model: Supernet
    kept: Kept
    dims: tuple[int, ...]
    val_auc: float
    evolved: Evolved
    seconds: float
    peak_bytes: int


def search_supernet(
    data: DataSet, settings: OptEmbedSettings, training: Training, out: Path | None = None
) -> Searched:
    """Phases 1 and 2; the supernet computes with what was found only.

    Raises:
        PolicyError: the budget cannot be met, or too few features have a row above its threshold.
    """
    f, model_settings = training.fit, training.model
    check_weights(settings, model_settings)
    space = open_space(data, settings, f.seed)
    s = with_budget(space, settings)
    if s.prunes:
        space = with_codes(space)
    require_budget(space, s)
    train, val = train_stream(data, f), eval_stream(data, "val")
    whole = space.policy([s.max_dim] * len(space.names))
    plain = build_model(whole, len(space.schema.numeric), model_settings, f.seed)
    here, draws = ranks(), SharedDraws(f.seed, ranks())
    model = Supernet(plain, space, s, draws).to(here.device)
    optimizers = make_optimizers(model, f)
    step = KeptDraws(draws)
    result = fit(model, train, val, optimizers, f, out=out, after_step=step, title="optembed")
    kept = here.on_first(lambda: kept_rows(model))
    served = model.freeze(kept)
    if s.prunes and not any(bool(kept[i][1:].any()) for i in served):
        raise PolicyError(
            f"no row of any feature is above its threshold: alpha {s.alpha} or threshold_lr "
            f"{s.threshold_lr} is too large for these data; lower them"
        )
    require_backbone(served, space, s, model_settings)
    state = out / STATE_FILE if out else None
    dims, val_auc, evolved = _search_widths(model, kept, served, val, f.seed, state)
    model.dims = dims
    peak = embedding_bytes(model.tables, [optimizers["rows"]])
    return Searched(model, kept, dims, val_auc, evolved, result.seconds + evolved.seconds, peak)


def _search_widths(
    model: Supernet, kept: Kept, served: Sequence[int], val: Stream, seed: int, state: Path | None
) -> tuple[Candidate, float, Evolved]:
    """A width for every feature, 0 for those not ``served``, its AUC, and how it was found."""
    s = model.settings

    def of_all(candidate: Sequence[int]) -> Candidate:
        widths = dict(zip(served, candidate, strict=True))
        return tuple(widths.get(i, 0) for i in range(len(kept)))

    if not s.narrows:
        widest = of_all([s.max_dim] * len(served))
        return widest, score(model, val, [widest])[0], Evolved()
    codes = [model.space.codes.get(model.space.names[i], ()) for i in served]
    plan = Evolution(
        tuple(int(kept[i].sum()) for i in served),
        s.max_dim,
        s.params and s.params - sum(map(len, codes)),
        s.generations,
        s.mutations,
        s.crossovers,
        s.mutation_rate,
        s.parents,
        seed,
    )
    here = ranks()
    begun = here.on_first(lambda: evolved_so_far(plan, state))
    evolved = evolve(
        plan,
        lambda found: score(model, val, [of_all(c) for c in found]),
        state if here.first else None,
        begun,
    )
    best = evolved.ranked(plan)[0]
    found = of_all(best)
    if s.params and s.fill:
        left, most = pruned_space(model.space, kept), [s.max_dim] * len(kept)
        filled = tuple(left.fill([float(d) for d in found], s.params, most))
        if filled != found:
            return filled, score(model, val, [filled])[0], evolved
    return found, evolved.scores[evolved.candidates.index(best)], evolved


def optembed(
    data: DataSet, settings: OptEmbedSettings, training: Training, out: Path | None = None
) -> Found:
    """Rows above their thresholds, at the widths of the best candidate.

    ``sparsity`` of the record is ``1 - floats / (rows D)``.

    Raises:
        PolicyError: the budget cannot be met, or too few features have a row above its threshold.
        ValueError: ``weights`` of a backbone that cannot be sliced.
    """
    searched = search_supernet(data, settings, training, out)
    model_settings = training.model
    model, dims, s = searched.model, searched.dims, searched.model.settings
    space, numeric = model.space, len(model.space.schema.numeric)
    left = pruned_space(space, searched.kept)
    origin = space.origin("optembed", dims, asdict(settings))
    room = s.params if s.fill and s.weights == "none" else 0
    policy = left.policy(dims, room, origin)
    weights: dict[str, torch.Tensor] = {}
    if s.weights == "trained" and _loses_dense_vectors(dims, numeric, model_settings, s.max_dim):
        log.warning(
            "no weights: the vectors of dense columns have %d columns and no feature has more than "
            "%d, so that the policy's model cannot compute what the supernet does",
            s.max_dim,
            max(dims),
        )
    elif s.weights != "none":
        state = dict(model.state_dict())
        if s.weights == "initial":
            whole = space.policy([s.max_dim] * len(dims))
            state = build_model(whole, numeric, model_settings, training.fit.seed).state_dict()
        weights = policy_weights(model, searched.kept, dims, model_settings, state)
    by_name = dict(zip(space.names, range(len(dims)), strict=True))
    record = {
        "sparsity": 1 - policy.num_params / (sum(space.rows) * s.max_dim),
        "rows": {name: [int(searched.kept[i].sum()), space.rows[i]] for name, i in by_name.items()},
        "dims": {name: dims[i] for name, i in by_name.items()},
        "thresholds": {
            name: model.thresholds_F[i].item() for name, i in by_name.items() if s.prunes
        },
        "candidates": len(searched.evolved.candidates),
        "generations": searched.evolved.history,
    }
    return Found(policy, searched.val_auc, searched.seconds, searched.peak_bytes, record, weights)
