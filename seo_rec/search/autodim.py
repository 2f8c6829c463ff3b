"""AutoDim: one width out of a few candidates for each feature, by a relaxed choice.

"AutoDim: Field-aware Embedding Dimension Search in Recommender Systems".
Letters: B batch, F features, C candidate widths, D the largest of them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.model import build_model
from seo_rec.plan import rates_of
from seo_rec.policy import Policy
from seo_rec.search.found import Found, table_bytes
from seo_rec.search.held_out import Cooling, HeldOut, HeldOutStep
from seo_rec.search.space import SpaceSettings, open_space, require
from seo_rec.train import Training, eval_stream, fit, optimizers_of, ranks, shard, train_stream
from seo_rec.train.replicas import Place, SharedDraws, place_of, summed


@dataclass(frozen=True)
class AutoDimSettings(SpaceSettings):
    """Settings of AutoDim: a softmax over candidate widths, trained on held-out rows.

    The temperature at a step is ``max(temperature_end, 1 - temperature_step * step)``.

    Args:
        candidates: Widths to choose from, ascending to max_dim; none takes 1, 2, 4, ..., max_dim.
        logit_lr: Learning rate of the logits that choose the widths.
        every: Training steps between two steps of the logits, which use held-out rows.
        temperature_step: How much the temperature of the softmax falls in each step.
        temperature_end: The temperature below which it does not fall.
    """

    candidates: tuple[int, ...] = ()
    logit_lr: float = 1e-2
    every: int = 1
    temperature_step: float = 5e-5
    temperature_end: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        good = self.choices[-1] == self.max_dim
        good = good and list(self.choices) == sorted({c for c in self.choices if c > 0})
        allowed = f"ascending widths, the last of them max_dim {self.max_dim}"
        require(good, "candidates", self.candidates, allowed)
        require(self.logit_lr > 0, "logit_lr", self.logit_lr, "above 0")
        require(self.every >= 1, "every", self.every, "1 or more")
        require(self.temperature_step >= 0, "temperature_step", self.temperature_step, "0 or more")
        end = self.temperature_end
        require(0 < end <= 1, "temperature_end", end, "above 0, to 1")

    @property
    def choices(self) -> tuple[int, ...]:
        """The candidates, or the powers of two below ``max_dim`` and itself."""
        doubled = (2**k for k in range(self.max_dim.bit_length()) if 2**k < self.max_dim)
        return self.candidates or (*doubled, self.max_dim)


class NormOverRanks(nn.BatchNorm1d):
    """Batch normalisation without a scale, by the mean and variance of the rows of all processes.

    In one process, and in evaluation, it is ``nn.BatchNorm1d(..., affine=False)``.

    Attributes:
        place: where this process's rows of the next batch stand; what lies beyond them is padding.
    """

    place: Place

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, affine=False)
        self.num_batches_tracked = None  # a count has no running mean

    def forward(self, x_BE: torch.Tensor) -> torch.Tensor:
        """float32 (B, E), of every process at once."""
        here = ranks()
        if not self.training or here.world_size == 1:
            return super().forward(x_BE)
        rows, total = self.place.rows, self.place.total
        mean_E = summed(x_BE[:rows].sum(0), here) / total
        centred_BE = x_BE - mean_E
        variance_E = summed(centred_BE[:rows].square().sum(0), here) / total
        with torch.no_grad():
            for running, new in (
                (self.running_mean, mean_E),
                (self.running_var, variance_E * (total / max(1, total - 1))),
            ):
                assert running is not None and self.momentum is not None
                running.lerp_(new, self.momentum)
        return centred_BE * torch.rsqrt(variance_E + self.eps)


class WidthChoice(nn.Module):
    """The gate: a weighted sum of every candidate width, all brought to width D.

    ``y_f = sum_c p_fc BatchNorm(x_f[:d_c] W_fc)``, ``p_f = softmax((log softmax(a_f) + G) / t)``,
    where G is Gumbel noise in training and 0 otherwise. BatchNorm has no scale of its own, so that
    no candidate can outgrow the others; the candidates read the first columns of one table.

    Several processes draw the same noise, and normalise by the rows of all of them.
    """

    def __init__(self, num_features: int, candidates: tuple[int, ...], seed: int) -> None:
        super().__init__()
        F, C, D = num_features, len(candidates), candidates[-1]
        self.candidates = candidates
        self.temperature = 1.0
        self.logits_FC = nn.Parameter(torch.zeros(F, C))
        used_CD = torch.arange(D) < torch.tensor(candidates)[:, None]
        draw = torch.Generator().manual_seed(seed + 3_000_017)
        weight = torch.randn(F, C, D, D, generator=draw) * used_CD[None, :, :, None]
        self.weight = nn.Parameter(weight / torch.tensor(candidates).sqrt()[None, :, None, None])
        self.norm = NormOverRanks(F * C * D)
        self.draws = SharedDraws(seed, ranks())
        self.register_buffer("used_CD", used_CD.float(), persistent=False)

    def probabilities(self) -> torch.Tensor:
        """Weights of the candidates of every feature, (F, C); each row's sum is one."""
        logits = torch.log_softmax(self.logits_FC, dim=1)
        if self.training:
            logits = logits - torch.log(
                -torch.log(self.draws.uniform_like(logits).clamp(1e-10, 1 - 1e-7))
            )
        return torch.softmax(logits / self.temperature, dim=1)

    def widths(self, policy: Policy) -> tuple[int, ...]:
        return (self.candidates[-1],) * self.logits_FC.shape[0]

    def forward(self, lookups_BE: torch.Tensor) -> torch.Tensor:
        F, C = self.logits_FC.shape
        x_BFD = lookups_BE.view(lookups_BE.shape[0], F, -1)
        masked = self.weight * self.get_buffer("used_CD")[None, :, :, None]
        y = torch.einsum("bfd,fcde->bfce", x_BFD, masked)
        y = self.norm(y.flatten(1)).view(len(y), F, C, -1)
        return torch.einsum("bfce,fc->bfe", y, self.probabilities()).flatten(1)


def choice_step(gate: WidthChoice, settings: AutoDimSettings, held_out: HeldOut) -> HeldOutStep:
    """Held-out steps of the choice, and its temperature."""
    s = settings
    cooling = Cooling(gate, lambda step: max(s.temperature_end, 1 - s.temperature_step * step))
    return HeldOutStep(
        [gate.logits_FC], s.logit_lr, held_out, every=s.every, cooling=cooling, draws=gate.draws
    )


def autodim(
    data: DataSet, settings: AutoDimSettings, training: Training, out: Path | None = None
) -> Found:
    """Train tables of width D and the choice between its candidates; take the likeliest.

    The likeliest by the running mean of the weights at the best epoch (``average``, 0: by the
    weights themselves). The method itself cannot be told how large its answer may be. With a budget
    the chosen widths say the proportions, and the budget the scale (:meth:`Space.fill
    <seo_rec.search.space.Space.fill>`).

    Raises:
        PolicyError: the budget is below one column of every feature.
    """
    f = training.fit
    space = open_space(data, settings, f.seed)
    space.require_columns(settings.amount)
    F, D = len(space.names), settings.max_dim
    train, val = train_stream(data, f), eval_stream(data, "val")
    gate = WidthChoice(F, settings.choices, f.seed)
    built = build_model(space.policy([D] * F), data.num_numeric, training.model, f.seed, gate)

    def note_rows(_: nn.Module, arguments: tuple[Batch]) -> None:
        gate.norm.place = place_of(arguments[0], ranks())

    built.register_forward_pre_hook(note_rows)
    model = shard(built, f, rates=rates_of(data.schema))
    optimizers = optimizers_of(model, f)
    optimizers["gate"] = torch.optim.Adam([gate.weight], lr=f.dense_lr)
    step = choice_step(gate, settings, HeldOut(data, f))
    result = fit(model, train, val, optimizers, f, out=out, after_step=step, title="autodim")
    trained = time.perf_counter()
    gate.eval()
    chosen = [settings.choices[c] for c in gate.logits_FC.argmax(dim=1).tolist()]
    dims = chosen
    if settings.amount:
        dims = space.fill([float(d) for d in chosen], settings.amount, [D] * F)
    policy = space.policy(dims, settings.amount, space.origin("autodim", dims, asdict(settings)))
    probabilities = torch.softmax(gate.logits_FC.detach(), dim=1).tolist()
    record = {
        "chosen": dict(zip(space.names, chosen, strict=True)),
        "probabilities": dict(zip(space.names, probabilities, strict=True)),
    }
    peak = table_bytes(model, optimizers)
    seconds = result.seconds + time.perf_counter() - trained  # those before a resume as well
    return Found(policy, result.val.quality, seconds, peak, record)
