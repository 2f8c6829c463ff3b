"""How the model grows and shrinks, and its optimizers with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from seo_rec.search.dimgrow.model import GrowingModel
from seo_rec.search.dimgrow.settings import DimGrowSettings
from seo_rec.settings import settled
from seo_rec.train import FitSettings
from seo_rec.train.optimizers import DENSE_OPTIMIZERS, ROW_OPTIMIZERS


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
