"""Row-wise Adagrad on the dense gradients of small tables, in one pass over them."""

from __future__ import annotations

from typing import Any

import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad, adagrad

from seo_kernels.row_bag import RowTable, RowUpdate, step_rows


class DenseRowWiseAdagrad(RowWiseAdagrad):
    """TorchRec's ``RowWiseAdagrad``, whose state it has, in one pass over the gradient.

    ``s <- s + mean(g^2)``, ``w <- w - lr g / (sqrt(s) + eps)`` for each row w with gradient g. Rows
    whose gradient is zero are not touched, which is the same: neither s nor w would move. With L2,
    a decay of the rate, or on a GPU, TorchRec's own step is taken.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Raises:
            ValueError: A closure is given; gradients must be there already.
        """
        if closure is not None:
            raise ValueError("step takes no closure; call backward before it")
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            plain = not (group["weight_decay"] or group["lr_decay"] or group["maximize"])
            in_one_pass = [p for p in with_gradient if plain and _is_table(p)]
            self._in_one_pass(in_one_pass, group)
            rest = [p for p in with_gradient if not (plain and _is_table(p))]
            adagrad(
                rest,
                [p.grad for p in rest],
                [self.state[p]["sum"] for p in rest],
                [self.state[p]["step"] for p in rest],
                **{name: group[name] for name in ("lr", "weight_decay", "lr_decay", "eps")},
                maximize=group["maximize"],
            )

    def _in_one_pass(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        update = RowUpdate("rowwise_adagrad", float(group["lr"]), 1, eps=group["eps"])
        tables, gradients = [], []
        for parameter in parameters:
            state = self.state[parameter]
            state["step"] += 1
            tables.append(RowTable(parameter.detach(), state["sum"]))
            assert parameter.grad is not None
            gradients.append(parameter.grad.contiguous())
        step_rows(tables, gradients, update)


def _is_table(parameter: torch.Tensor) -> bool:
    """Whether C can step a parameter: float32 on a CPU, row after row."""
    on_cpu = parameter.device.type == "cpu" and parameter.dtype == torch.float32
    return on_cpu and parameter.ndim == 2 and parameter.is_contiguous()
