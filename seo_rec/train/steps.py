"""Training steps: forward, backward, update, for one process and for TorchRec's pipelines."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist
from torchrec.distributed.train_pipeline.postproc import PipelinedPostproc

from seo_rec.batch import Batch
from seo_rec.train.ranks import Ranks
from seo_rec.train.replicas import average_gradients


class Step(NamedTuple):
    """What one step was: this rank's part of the mean loss, and the rows of all ranks."""

    loss: torch.Tensor
    rows: int


class Steps(Protocol):
    """An epoch's training steps, one after the other."""

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Step]: ...


class PlainSteps:
    """Steps of a model that is whole in this process, and in every other one of a launch.

    Its gradients are averaged over the processes. All start from the same weights and get the same
    gradients, so the models stay alike.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        ranks: Ranks,
        clip_norm: float = 0.0,
    ) -> None:
        self.model, self.optimizer, self.ranks = model, _Together(optimizers, clip_norm), ranks

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Step]:
        for batch in ready(batches, self.ranks):
            self.optimizer.zero_grad()
            loss, _ = self.model(batch.to(self.ranks.device))
            loss.backward()
            average_gradients(self.optimizer.parameters(), self.ranks)
            self.optimizer.step()
            yield _step(loss, batch, self.ranks)


class PipelinedSteps:
    """Steps of a sharded model by one of TorchRec's pipelines, which work batches ahead.

    On CUDA ``TrainPipelineSparseDist``: while one batch is trained on, the next one is remapped
    and sent to the ranks of its rows, and the one after it is copied to the device. On CPU
    ``TrainPipelineBase``, which has nothing to overlap.

    Args:
        overlap: TrainPipelineSparseDist; it takes the model's forward pass over until an epoch
            ends, so nothing else may call the model meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        ranks: Ranks,
        overlap: bool,
        clip_norm: float = 0.0,
    ) -> None:
        self.model, self.optimizer, self.ranks = model, _Together(optimizers, clip_norm), ranks
        self.overlap = overlap

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Step]:
        pipeline: Any
        if self.overlap:
            pipeline = TrainPipelineSparseDist(
                self.model,
                self.optimizer,
                self.ranks.device,
                execute_all_batches=True,
                pipeline_postproc=True,
                custom_model_fwd=self._forward,
            )
        else:
            model = _Forward(self.model, self._forward)
            pipeline = TrainPipelineBase(model, self.optimizer, self.ranks.device)
        source = ready(batches, self.ranks)
        try:
            while True:
                try:
                    step = pipeline.progress(source)
                except StopIteration:
                    return
                yield step
        finally:
            if self.overlap:
                pipeline.detach()
                _put_back(self.model)

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, Step]:
        loss, _ = self.model(batch)
        return loss, _step(loss, batch, self.ranks)


def _put_back(model: nn.Module) -> None:
    """Undo what is left of a pipeline's changes to ``model`` after ``detach``.

    A pipeline wraps the modules in front of the tables (:class:`Remap`), and a wrapper answers with
    the result of the batch that was prepared ahead, whatever it is called with. TorchRec before 1.8
    leaves the wrappers of nested modules in the model, and hangs the modules themselves under
    their whole dotted names at its top. Every later call would then read the rows of the last batch
    of the epoch.
    """
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if "." in name:  # no module is named so, except by mistake
                del parent._modules[name]
            elif isinstance(child, PipelinedPostproc):
                parent._modules[name] = child.postproc_module


class _Forward(nn.Module):
    """A model whose second output is a :class:`Step`; TrainPipelineBase takes no other forward."""

    def __init__(
        self, model: nn.Module, forward: Callable[[Batch], tuple[torch.Tensor, Step]]
    ) -> None:
        super().__init__()
        self.train(model.training)
        self.forward = forward


@contextmanager
def without_autograd_notice() -> Iterator[None]:
    """torch says that FBGEMM's dense lookup may not be differentiable; the tests show it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fbgemm::dense_embedding", category=UserWarning)
        yield


def make_steps(
    model: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    ranks: Ranks,
    alone: bool,
    clip_norm: float = 0.0,
) -> Steps:
    """Plain steps for a model that is whole in every process, a pipeline for a sharded one.

    Args:
        alone: nothing but these steps calls the model during an epoch.
        clip_norm: the largest norm of the gradient of the dense layers; 0 sets no limit.
    """
    if not isinstance(model, DistributedModelParallel):
        return PlainSteps(model, optimizers, ranks, clip_norm)
    overlap = alone and ranks.device.type == "cuda"
    return PipelinedSteps(model, optimizers, ranks, overlap, clip_norm)


def ready(batches: Iterable[Batch], ranks: Ranks) -> Iterator[Batch]:
    """Batches of equal size on every rank: a last one that is shorter somewhere is padded."""
    for batch in batches:
        yield batch.padded(math.ceil(batch.mean_rows)) if ranks.world_size > 1 else batch


def _step(loss: torch.Tensor, batch: Batch, ranks: Ranks) -> Step:
    return Step(loss.detach(), round(batch.mean_rows * ranks.world_size))


class _Together:
    """Several optimizers that step as one.

    Before a step the gradient of all parameters of the optimizer ``dense`` together is scaled down
    to the norm ``clip_norm`` where it is longer. Tables, arrays and factors stay as they are: a row
    that few batches read has few gradients, and their optimizers scale each by its own history.
    In every process the gradient is the mean over the processes by then, so all scale alike.
    """

    def __init__(
        self, optimizers: Mapping[str, torch.optim.Optimizer], clip_norm: float = 0.0
    ) -> None:
        self.optimizers, self.clip_norm = list(optimizers.values()), clip_norm
        self.dense = optimizers.get("dense")

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        if self.clip_norm and self.dense is not None:
            dense = [p for group in self.dense.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(dense, self.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those that the optimizers move; a search may add some between two steps."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                yield from group["params"]
