"""The law that a training which was ended goes on to the same bits, for models of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy
from seo_rec.runs import Run
from seo_rec.train import Training, loop


def goes_on_to_the_bit(
    data: DataSet, policy: Policy, training: Training, whole: Path, out: Path
) -> Run:
    """Train into ``out``, ended by its second evaluation, and go on: the weights equal ``whole``.

    Args:
        data: What is trained on.
        policy: Of ``separate``.
        training: Settings of the model and the training.
        whole: Folder of the same training, which nothing ended.
        out: A folder that does not exist.

    Returns:
        The record of the training that went on.
    """
    calls: list[int] = []
    evaluate = loop.evaluate

    def ends(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate", ends)
        with pytest.raises(KeyboardInterrupt):
            recipes.train(data, policy, out, training, method="separate")
    again = recipes.train(data, policy, out, training, method="separate", resume=True)
    found, wanted = recipes.load_trained(out), recipes.load_trained(whole)
    for a, b in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(a, b)
    return again
