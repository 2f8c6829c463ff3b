"""The state of a training run as named tensors, whatever plan cut them into shards.

A :class:`Sharded` is a global tensor of which this process holds some pieces; a tensor that every
rank holds whole is a plain one. Names do not depend on the plan: a table's weight is
``embedding.ebc.embedding_bags.<table>.weight``, its Adam moment is that name with ``.exp_avg``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

FUSED_STATE = {"momentum1": "sum", "momentum_1": "sum"}  # FBGEMM's name of Adagrad's accumulator

MEANS = ("mean", "mean_at")  # state of an optimizer that is part of the running mean


@dataclass(frozen=True)
class Piece:
    """A part of a global tensor: ``tensor`` begins at ``offsets`` of it."""

    tensor: torch.Tensor
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Sharded:
    """The pieces of a global tensor of ``shape`` that this process holds (maybe none).

    The methods with two underscores are how ``torch.distributed.checkpoint`` asks a value for
    what it writes and reads.
    """

    shape: torch.Size
    pieces: tuple[Piece, ...]

    def size(self) -> torch.Size:
        return self.shape

    def piece_at(self, offsets: Iterable[int]) -> torch.Tensor:
        wanted = tuple(offsets)
        return next(p.tensor for p in self.pieces if p.offsets == wanted)

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size(p.offsets), p.tensor.size()) for p in self.pieces]

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        return [
            WriteItem(
                MetadataIndex(name, chunk.offsets),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk, TensorProperties.create_from_tensor(p.tensor), self.shape
                ),
            )
            for p, chunk in zip(self.pieces, self.__create_chunk_list__(), strict=True)
        ]


State = dict[str, "torch.Tensor | Sharded"]


def local_tensors(state: Mapping[str, torch.Tensor | Sharded]) -> list[torch.Tensor]:
    """What this process holds of ``state``, in its order."""
    return [
        tensor
        for value in state.values()
        for tensor in ([p.tensor for p in value.pieces] if isinstance(value, Sharded) else [value])
    ]


def in_pieces(state: Mapping[str, torch.Tensor | Sharded], floats: int) -> State:
    """The same state, every tensor of two dimensions cut into blocks of rows of bounded size.

    Whoever writes or reads a checkpoint holds one piece more than the state.

    Args:
        state: Tensors, or pieces of them.
        floats: Numbers in a piece, at most, if a row has no more.
    """

    def cut(piece: Piece) -> list[Piece]:
        rows = max(1, floats // max(1, piece.tensor.shape[1]))
        first, *rest = piece.offsets
        starts = range(0, len(piece.tensor), rows)
        blocks = piece.tensor.split(rows)
        return [Piece(t, (first + n, *rest)) for n, t in zip(starts, blocks, strict=True)]

    pieces: State = {}
    for name, value in state.items():
        if isinstance(value, Sharded):
            of_value, shape = value.pieces, value.shape
        else:
            of_value, shape = (Piece(value, (0,) * value.dim()),), value.shape
        large = any(p.tensor.dim() == 2 and p.tensor.numel() > floats for p in of_value)
        parts = (q for p in of_value for q in cut(p))
        pieces[name] = Sharded(shape, tuple(parts)) if large else value
    return pieces


def bytes_of(state: Mapping[str, torch.Tensor | Sharded]) -> int:
    """What this process holds of ``state``, in bytes."""
    return sum(t.numel() * t.element_size() for t in local_tensors(state))


def copied(state: Mapping[str, torch.Tensor | Sharded], keep_device: bool = False) -> State:
    """The same state in memory of its own, on the CPU unless its device is kept."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(tensor.device if keep_device else "cpu", copy=True)

    return {
        name: Sharded(value.shape, tuple(Piece(copy(p.tensor), p.offsets) for p in value.pieces))
        if isinstance(value, Sharded)
        else copy(value)
        for name, value in state.items()
    }


@torch.no_grad()
def copy_into(state: Mapping[str, torch.Tensor | Sharded], values: Iterable[torch.Tensor]) -> None:
    """Overwrite what this process holds of ``state``; ``values`` as ``local_tensors`` gives."""
    for mine, value in zip(local_tensors(state), values, strict=True):
        mine.copy_(value)


def weights_of(model: nn.Module) -> State:
    """Every weight of ``model``, sharded or not; the tensors are the model's own memory."""
    return {name: _as_state(value) for name, value in model.state_dict().items()}


def drop_caches(model: nn.Module) -> None:
    """Forget what GPUs cache of tables outside them, after these tables were written from outside.

    Reading the weights of a model writes its caches back first, so nothing is lost.
    """
    for module in model.modules():
        for lookup in getattr(module, "_lookups", []):  # TorchRec's collections do not list them
            for kernel in lookup.modules():
                if hasattr(kernel, "reset_cache_states"):
                    kernel.reset_cache_states()


def _as_state(value: Any) -> torch.Tensor | Sharded:
    if not isinstance(value, ShardedTensor):
        return value.detach()
    pieces = (
        Piece(s.tensor.detach(), tuple(s.metadata.shard_offsets)) for s in value.local_shards()
    )
    return Sharded(value.size(), tuple(pieces))


def optimizer_state(model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> State:
    """State tensors of every parameter that has some: ``<parameter>.<state>``.

    Raises:
        ValueError: an optimizer holds a parameter that is not the model's.
    """
    state: State = {}
    weights = weights_of(model)
    names = {id(p): n for n, p in model.named_parameters()}
    for label, optimizer in optimizers.items():
        if is_fused(optimizer):
            state |= dict(_fused_state(optimizer))
            continue
        for parameter, values in optimizer.state.items():
            if id(parameter) not in names:
                raise ValueError(f"optimizer {label!r} holds a parameter that is not the model's")
            name = names[id(parameter)]
            for key, value in values.items():
                if isinstance(value, torch.Tensor) and key not in MEANS:
                    state[f"{name}.{key}"] = like(weights[name], value)
    return state


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether FBGEMM applies this optimizer within the backward pass."""
    return hasattr(optimizer, "init_state")


def _fused_state(optimizer: Any) -> Iterator[tuple[str, torch.Tensor | Sharded]]:
    for name, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            kind = key.rpartition(".")[2]
            if kind in FUSED_STATE and isinstance(value, (torch.Tensor, ShardedTensor)):
                yield f"{name}.{FUSED_STATE[kind]}", _flat_rows(_as_state(value))


def _flat_rows(value: torch.Tensor | Sharded) -> torch.Tensor | Sharded:
    """One number per row is (R,) to FBGEMM and (R, 1) to the optimizer of a dense gradient."""
    if not isinstance(value, Sharded) or len(value.shape) == 2:
        return value
    pieces = (Piece(p.tensor.view(-1, 1), (p.offsets[0], 0)) for p in value.pieces)
    return Sharded(torch.Size((value.shape[0], 1)), tuple(pieces))


def like(weight: torch.Tensor | Sharded, value: torch.Tensor) -> torch.Tensor | Sharded:
    """A parameter's optimizer state, cut as its weight is.

    The shards that one process holds of a table are stacked by rows in one parameter.
    """
    if value.dim() == 0 or not isinstance(weight, Sharded):
        return value
    pieces, row = [], 0
    per_row = value.shape[-1] == 1 and weight.shape[-1] != 1
    for p in weight.pieces:
        rows, columns = p.tensor.shape
        part = value.view(-1, 1 if per_row else columns)[row : row + rows]
        pieces.append(Piece(part, (p.offsets[0], 0) if per_row else p.offsets))
        row += rows
    width = 1 if per_row else weight.shape[1]
    return Sharded(torch.Size((weight.shape[0], width)), tuple(pieces))


def make_room(
    model: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    sizes: Mapping[str, tuple[torch.Size, torch.dtype]],
) -> State:
    """Optimizer state to read a checkpoint into; what an optimizer lacks yet is made, as zeros.

    Args:
        model, optimizers: of the run that goes on.
        sizes: shape and dtype of the saved tensors by their name, as ``optimizer_state`` names
            them.
    """
    weights = weights_of(model)
    owners = {
        id(p): o
        for o in optimizers.values()
        if not is_fused(o)
        for g in o.param_groups
        for p in g["params"]
    }
    for name, parameter in model.named_parameters():
        optimizer, weight = owners.get(id(parameter)), weights.get(name)
        if (
            optimizer is None
            or weight is None
            or (isinstance(weight, Sharded) and not weight.pieces)
        ):
            continue
        for saved, (size, dtype) in sizes.items():
            owner, _, key = saved.rpartition(".")
            if owner == name and key not in optimizer.state[parameter]:
                shape: tuple[int, ...] = tuple(size)
                if isinstance(weight, Sharded) and shape:
                    shape = (parameter.shape[0], 1 if size[-1] == 1 else parameter.shape[1])
                optimizer.state[parameter][key] = torch.zeros(
                    shape, dtype=dtype, device=parameter.device
                )
    found = optimizer_state(model, optimizers)
    return {name: value for name, value in found.items() if name in sizes}
