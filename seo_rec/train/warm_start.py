"""A training that goes on from an earlier run: its first checkpoint is made of the earlier one.

``fit`` gets this checkpoint in memory, or finds it in the new run folder, and goes on from it like
from any other, so that a warm start is resumed and shared out over processes like every training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seo_kernels.row_bag import share_left
from seo_rec.data.dataset import DataSet
from seo_rec.embed.tables import table_key
from seo_rec.model import RecModel, build_model
from seo_rec.policy import Policy
from seo_rec.policy.candidates import left_out
from seo_rec.runs.layout import CHECKPOINTS_FOLDER
from seo_rec.settings import Training
from seo_rec.train.average import AT, WeightAverage
from seo_rec.train.carrying import RowMove, row_moves
from seo_rec.train.checkpoint import (
    COPIED_BYTES,
    Checkpoints,
    claimed,
    open_checkpoint,
)
from seo_rec.train.columns import ParameterMove, backbone_moves
from seo_rec.train.earlier import Carried, Earlier, columns_of, mean_starts_anew
from seo_rec.train.earlier_tensors import Source, Tensors
from seo_rec.train.kept_state import KeptState
from seo_rec.train.optimizers import optimizers_of
from seo_rec.train.ranks import ranks
from seo_rec.train.run_state import Progress, first_values
from seo_rec.train.saved import Saved
from seo_rec.train.state import State, bytes_of, make_room, optimizer_state, weights_of
from seo_rec.train.streams import train_stream
from seo_rec.train.unknown_rows import mean_row, present_means, unknown_rows

BAGS = "embedding.ebc.embedding_bags."
FLAT = "embedding.flat."


@dataclass(frozen=True)
class Begun:
    """How a run begins that continues an earlier one.

    Args:
        carried: What was carried; None where the run is resumed.
        model, optimizers, first: The model, its optimizers and the state that it goes on from, if
            no checkpoint was written of them.
    """

    carried: Carried | None = None
    model: RecModel | None = None
    optimizers: Mapping[str, torch.optim.Optimizer] | None = None
    first: Saved | None = None


def continue_from(
    earlier: Earlier, out: Path, data: DataSet, policy: Policy, training: Training
) -> Begun:
    """Make the state that the run in ``out`` begins with, unless it has a checkpoint.

    One process on a CPU hands the state over in memory if it is at most :data:`COPIED_BYTES`. If
    it is killed before the first checkpoint, the state is made again. Otherwise the state is
    written as the first checkpoint, from which every process reads its part. Every process calls
    this.

    Args:
        earlier: What the run continues.
        out: The run folder.
        data, policy, training: See :func:`write_first_checkpoint`.

    Raises:
        CheckpointError: See :func:`write_first_checkpoint`; or another process trains the run.
    """
    here = ranks()

    def begin() -> Begun:
        if Checkpoints(out / CHECKPOINTS_FOLDER).steps():
            return Begun()
        made = _WarmStart(data, policy, training, earlier)
        made.fill()
        alone = here.world_size == 1 and here.device.type == "cpu"
        tensors = made.tensors()
        if alone and bytes_of(tensors) <= COPIED_BYTES:
            plain = {n: t for n, t in tensors.items() if isinstance(t, torch.Tensor)}
            first = Saved.in_memory(earlier.run, made.values(), plain)
            return Begun(made.carried(), made.model, made.optimizers, first)
        made.write(out)
        return Begun(made.carried())

    with claimed(out, here):
        return here.on_first(begin)


def write_first_checkpoint(
    out: Path, data: DataSet, policy: Policy, training: Training, earlier: Earlier
) -> Carried:
    """Write checkpoint 0 of the run in ``out``; the calling process holds the whole model.

    Args:
        out: The run folder.
        data: What is trained on.
        policy: Of the new run.
        training: Of the new run; its model is the earlier one's.
        earlier: What it continues.

    Raises:
        CheckpointError: The earlier checkpoint is damaged, or the new one cannot be written.
    """
    made = _WarmStart(data, policy, training, earlier)
    made.fill()
    made.write(out)
    return made.carried()


class _WarmStart:
    """A new model in memory, and what of an earlier one goes into it."""

    def __init__(self, data: DataSet, policy: Policy, training: Training, earlier: Earlier) -> None:
        self.earlier, self.data, self.policy, self.fit = earlier, data, policy, training.fit
        fit = training.fit
        self.model: RecModel = build_model(
            policy, data.num_numeric, training.model, fit.seed, storage=fit.storage
        )
        self.optimizers = optimizers_of(self.model, fit)
        self.kept = KeptState(self.model, self.optimizers)
        saved = None if earlier.state is None else open_checkpoint(earlier.state)
        self.state = None if saved is None else Tensors(saved)
        self.best = self.state if earlier.is_last_best else Tensors(open_checkpoint(earlier.best))
        anew = mean_starts_anew(earlier.mean_anew, fit)
        self.steps = 0 if saved is None or anew else _steps(saved)
        self.means = self.state if earlier.is_last_best and not anew else None
        self.rows = row_moves(earlier.trained, policy, earlier.known, earlier.stand_ins)
        numeric = tuple(c.name for c in data.schema.numeric)
        new = columns_of(policy, numeric)
        self.backbone = backbone_moves(training.model, earlier.columns, new)
        self.anew: list[str] = []
        self.weights = weights_of(self.model)
        self.mean = WeightAverage(self.model, fit.average, self.optimizers)
        self.optimizer: State = {}
        self.keys = {f"{BAGS}{table_key(t.name)}.weight": t.name for t in policy.tables}
        left = left_out(earlier.policy, earlier.trained)
        self.unknown = unknown_rows(left, self.rows, self.keys)

    def tensors(self) -> State:
        """Everything that the checkpoint holds."""
        parts = (("model", self.weights), ("optimizer", self.optimizer))
        named = {f"{kind}.{n}": t for kind, state in parts for n, t in state.items()}
        return named | {f"average.{n}": t for n, t in self.mean.state.items()}

    def values(self) -> dict[str, Any]:
        """The plain values of the checkpoint."""
        return first_values(train_stream(self.data, self.fit, self.policy.columns), self.steps)

    def write(self, out: Path) -> None:
        """Write the checkpoint of step 0 of the run in ``out``."""
        checkpoints = Checkpoints(out / CHECKPOINTS_FOLDER, self.fit.keep)
        checkpoints.save(0, self.tensors(), self.values())

    def carried(self) -> Carried:
        moved = {name: move.carried for name, move in self.rows.items() if move.carried}
        taken = {t for name in moved for t in self.rows[name].tables}
        return Carried(
            moved,
            tuple(t.name for t in self.policy.tables if t.name not in moved),
            tuple(t.name for t in self.earlier.policy.tables if t.name not in taken),
            tuple(self.anew),
            bool(self.optimizer),
        )

    @torch.no_grad()
    def fill(self) -> None:
        """Move weights, running means and optimizer state."""
        for name, weight in self.weights.items():
            assert isinstance(weight, torch.Tensor)
            if not self._move(name, self._weight(), weight):
                self.anew.append(name)
        self._start_unknown_rows()
        self._fill_optimizer()
        if self.fit.average:
            self._fill_mean()
            self._start_unknown_means()

    # ---- what the earlier run holds ----------------------------------------------------------

    def _weight(self) -> Source:
        """The live weights, or the best ones where no checkpoint of their epoch is left."""
        assert self.best is not None
        return Source(self.best, "model.", "")

    def _move(self, name: str, source: Source, into: torch.Tensor, state: bool = False) -> bool:
        """Write what continues into ``into``; whether anything does.

        Args:
            name: Of the new parameter.
            source: Where earlier tensors are.
            into: The tensor of the parameter, or of its state.
            state: Whether rows that begin as copies of the unknown row are left out.
        """
        if name in self.keys:
            return self._move_rows(self.keys[name], source, into, state)
        move = self._plain(name, into)
        old = None if move is None else source.read(move.name)
        return move is not None and old is not None and move.moved(old, into)

    def _plain(self, name: str, into: torch.Tensor) -> ParameterMove | None:
        """Where a parameter outside of tables comes from."""
        if name.startswith("backbone."):
            move = self.backbone.get(name.removeprefix("backbone."))
            return None if move is None else replace(move, name=f"backbone.{move.name}")
        if name.startswith(FLAT) and self.earlier.policy.arrays != self.policy.arrays:
            return None
        return ParameterMove(name, (None,) * into.dim())

    def _move_rows(self, table: str, source: Source, into: torch.Tensor, state: bool) -> bool:
        move = self.rows.get(table)
        if move is None or not move.carried:
            return False
        if into.dim() == 0:  # one number for the whole table, such as Adam's step
            old = source.read(_bag(move.tables[0]))
            return old is not None and old.dim() == 0 and bool(into.copy_(old) is into)
        done = False
        for number, name in enumerate(move.tables):
            old = source.read(_bag(name))
            if old is None or old.dim() != 2 or old.shape[1] != into.shape[1]:
                continue
            if move.whole:
                into.copy_(old)
            else:
                rows = _rows(move, number, state)
                into[rows] = old[torch.from_numpy(move.row_R)[rows]].to(into.dtype)
            done = True
        return done

    # ---- optimizer state and running mean ----------------------------------------------------

    def _fill_optimizer(self) -> None:
        if self.state is None:
            return
        sizes: dict[str, Any] = {}
        for name, weight in self.weights.items():
            assert isinstance(weight, torch.Tensor)
            sizes |= self._state_sizes(name, weight)
        known = optimizer_state(self.model, self.optimizers)  # which is there before a step
        for full, tensor in {**known, **make_room(self.model, self.optimizers, sizes)}.items():
            name, _, key = full.rpartition(".")
            assert isinstance(tensor, torch.Tensor)
            source = Source(self.state, "optimizer.", f".{key}")
            if self._move(name, source, tensor, state=True) or full in known:
                self.optimizer[full] = tensor

    def _state_sizes(self, name: str, weight: torch.Tensor) -> dict[str, Any]:
        """Shape and type of what an optimizer on dense gradients keeps of a parameter."""
        assert self.state is not None
        old = name
        if name in self.keys:
            move = self.rows.get(self.keys[name])
            if move is None or not move.carried:
                return {}
            old = _bag(move.tables[0])
        else:
            plain = self._plain(name, weight)
            if plain is None:
                return {}
            old = plain.name
        start, found = f"optimizer.{old}.", {}
        for full, (size, dtype) in self.state.saved.sizes.items():
            key = full.removeprefix(start)
            if full.startswith(start) and "." not in key and self.kept.keeps(name, key):
                if not size:
                    shape = size
                else:
                    per_row = size[-1] == 1 and weight.dim() == 2 and weight.shape[1] != 1
                    per_row = per_row and name in self.keys
                    shape = torch.Size((len(weight), 1)) if per_row else weight.shape
                found[f"{name}.{key}"] = (shape, dtype)
        return found if self.kept.is_whole(name, len(found)) else {}

    def _fill_mean(self) -> None:
        """Running means go on; where there are none to continue, they start at the weights."""
        for name, mean in self.mean.state.items():
            if name.endswith(AT):
                continue
            assert isinstance(mean, torch.Tensor)
            weight = self.weights[name]
            assert isinstance(weight, torch.Tensor)
            at = self.mean.state.get(name + AT)
            assert at is None or isinstance(at, torch.Tensor)
            if self.means is None:
                self._start_mean(mean, weight, at)
                continue
            steps_kept = self._read_steps(name)
            self._start_mean(mean, weight, at)
            if not self._move(name, Source(self.means, "average.", ""), mean):
                continue
            if steps_kept is None:
                if at is not None:
                    at.fill_(self.steps)
                continue
            if at is not None:
                at.copy_(steps_kept)
            else:
                left = share_left(steps_kept.clamp(min=0), self.steps, self.fit.average)
                now = weight + left.to(weight.dtype) * (mean - weight)
                mean.copy_(torch.where(steps_kept < 0, weight, now))

    @staticmethod
    def _start_mean(mean: torch.Tensor, weight: torch.Tensor, at: torch.Tensor | None) -> None:
        if at is None:
            mean.copy_(weight)
        else:  # a row that has no mean yet is its own
            at.fill_(-1)

    def _start_unknown_rows(self) -> None:
        """Rows of unknown ids start from the mean that was served, as do ids that were unknown."""
        for u in self.unknown:
            old, weight = self._weight().read(_bag(u.before)), self.weights[u.parameter]
            assert isinstance(weight, torch.Tensor)
            if old is not None and old.shape[1] == weight.shape[1]:
                weight[u.into] = mean_row(old, u.candidates).to(weight.dtype)

    def _start_unknown_means(self) -> None:
        """The running means of these rows go on as the mean of those of the candidates."""
        if self.means is None:
            return  # all means start at the weights
        kept, steps = (Source(self.means, "average.", suffix) for suffix in ("", AT))
        for u in self.unknown:
            name = _bag(u.before)
            old, weight = kept.read(name), self._weight().read(name)
            mean = self.mean.state.get(u.parameter)
            if old is None or weight is None or not isinstance(mean, torch.Tensor):
                continue
            if old.shape[1] != mean.shape[1]:
                continue
            now = present_means(old, weight, steps.read(name), self.steps, self.fit.average)
            mean[u.into] = mean_row(now, u.candidates).to(mean.dtype)
            if isinstance(at := self.mean.state.get(u.parameter + AT), torch.Tensor):
                at[u.into] = self.steps

    def _read_steps(self, name: str) -> torch.Tensor | None:
        """Up to which step the means of rows were kept, if the earlier run kept them by rows."""
        assert self.means is not None
        if name not in self.keys:
            return None
        table = self.keys[name]
        move, rows = self.rows.get(table), self.policy.table(table).num_rows
        source = Source(self.means, "average.", AT)
        if move is None or not any(source.has(_bag(t)) for t in move.tables):
            return None
        steps = torch.full((rows, 1), -1, dtype=torch.int32)
        self._move_rows(table, source, steps, False)
        return steps


def _bag(table: str) -> str:
    return f"{BAGS}{table_key(table)}.weight"


def _rows(move: RowMove, number: int, state: bool) -> torch.Tensor:
    """The rows that come from one earlier table."""
    chosen = move.table_R == number
    if state:
        chosen &= ~move.fresh_R
    return torch.from_numpy(np.flatnonzero(chosen))


def _steps(saved: Saved) -> int:
    """Steps of the earlier run and of the runs that it continued."""
    before = saved.values.get("earlier_steps", 0)
    return saved.record(Progress, "progress").step + int(before)
