"""The models of the throughput benchmark: whole or sharded, ready to be timed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from benchmarks.ranks.traffic import Traffic, watched
from benchmarks.ranks.workload import CHUNKS, search_settings
from benchmarks.speed.stages import Clock, staged
from seo_rec.batch import Batch
from seo_rec.embed import PolicyEmbedding, table_key
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.plan import Estimate, Placement, Topology, plan_policy, sharding_plan
from seo_rec.plan.cost import Prices
from seo_rec.plan.estimate import default_placements, estimate
from seo_rec.policy import Policy
from seo_rec.search import seo
from seo_rec.train import Ranks, distribute, make_optimizers, topology_here
from seo_rec.train.dense_rows import DenseRowWiseAdagrad
from seo_rec.train.optimizers import ADAGRAD_EPS, FUSED, inner_model
from seo_rec.train.steps import make_steps

LR = 1e-3
TORCHREC, REGROUPED = THEIRS = ("torchrec", "torchrec, regrouped")
HASHED = "ours, pre-hashed"
FED_ROWS = (HASHED, *THEIRS)


# ---- models ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """A plan of a policy's tables and what the planner thinks that it costs."""

    placements: tuple[Placement, ...]
    estimate: Estimate


def place(
    policy: Policy,
    plan: str,
    topology: Topology,
    rows: int,
    optimizer: str,
    rates: Mapping[str, float] | None,
) -> Placed | str:
    """The plan ``ours`` or TorchRec's ``default``, or why there is none."""
    if plan == "ours":
        made = plan_policy(
            policy,
            topology,
            batch_size=rows,
            row_optimizer=optimizer,
            rates=rates,
            default=False,
        )
        return Placed(made.placements, made.estimate)
    found = default_placements(policy, topology, rows, optimizer)
    if isinstance(found, str):
        return found
    return Placed(found, estimate(found, Prices(policy, topology, rows, optimizer, rates)))


class PlainEmbedding(PolicyEmbedding):
    """TorchRec's collection of a policy's tables and nothing else: KJT[lookups] -> (B, E).

    Args:
        policy: tables and lookups.
        regroup: give the columns in the policy's order, with TorchRec's own ``regroup``; otherwise
            they lie as the collection gives them, which depends on the plan.
    """

    def __init__(self, policy: Policy, regroup: bool) -> None:
        super().__init__(policy)
        self.groups = [self.lookup_keys] if regroup else None

    def forward(self, lookups: KeyedJaggedTensor) -> torch.Tensor:
        pooled = self.ebc(lookups)
        if self.groups is None:
            return pooled.values()
        return KeyedTensor.regroup([pooled], self.groups)[0]


def by_torchrec(
    model: RecModel,
    placements: tuple[Placement, ...],
    here: Ranks,
    *,
    row_optimizer: str,
    row_lr: float,
) -> DistributedModelParallel:
    """The model sharded as TorchRec's documents do it: FBGEMM updates tables in the backward pass.

    Tables on every rank have dense gradients, and so have all with an optimizer that FBGEMM does
    not fuse. On a CPU the weights are new random ones.
    """
    # The import compiles eight optimizers of TorchScript, which the other contestants never need.
    from torch.distributed.optim import (
        _apply_optimizer_in_backward as apply_optimizer_in_backward,
    )

    fusable = row_optimizer in FUSED
    kernels = {p.table: "fused" if p.shards and fusable else "dense" for p in placements}
    bags = model.embedding.ebc.embedding_bags
    for table in (t for t, kernel in kernels.items() if kernel == "fused"):
        optimizer, settings = FUSED[row_optimizer]
        apply_optimizer_in_backward(
            optimizer, bags[table_key(table)].parameters(), {"lr": row_lr, **settings}
        )
    plan = sharding_plan(placements, kernels, here.device.type, here.local_size)
    return DistributedModelParallel(
        model, device=here.device, plan=plan, sharders=[EmbeddingBagCollectionSharder()]
    )


class RowsAsTheyAre(nn.Module):
    """In place of a Remap: the lookups' row numbers are known already."""

    names = ()  # of columns: a batch has lookups in their place

    def forward(self, lookups: KeyedJaggedTensor, same_bags: bool = False) -> KeyedJaggedTensor:
        return lookups


@dataclass
class Trainee:
    """A model, its optimizers and batches on this rank, ready to be timed.

    Args:
        name: of the method or policy.
        way: ``alone`` (rank 0 trains a whole model, the others wait), ``apart`` (each rank trains
            a whole model of its own, at the same time), a plan (``ours``, ``default``), or
            ``torchrec`` (its own collection, on our plan; ``torchrec, regrouped`` gives columns in
            the policy's order, as ours does), or ``ours, pre-hashed`` (our embedding without the
            hash: the collection, and our order of the columns).
        policy: tables and lookups.
        model: whole or sharded.
        optimizers: by name.
        batches: of this rank.
        ranks: that train together.
        active: whether this rank trains.
        placed: of a sharded model.
        seconds, cpu, stages: per step, one entry for each repeat, of this rank.
    """

    name: str
    way: str
    policy: Policy
    model: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    batches: Sequence[Batch]
    ranks: Ranks
    active: bool
    placed: Placed | None = None
    peak_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)

    def train(self, steps: int) -> None:
        """Note a repeat: ``steps`` steps of the loop that ``seo-rec train`` runs."""
        loop = make_steps(self.model, self.optimizers, self.ranks, alone=True)
        with self._timed(steps):
            for _ in loop(self._next(steps)):
                pass

    def train_staged(self, steps: int) -> None:
        """Note the mean seconds of every stage over ``steps`` steps, one after the other."""
        clock = Clock(self.ranks.device)
        total: dict[str, float] = {}
        with staged(self.model, clock):
            for batch in self._next(steps, self.ranks.device):
                clock.start()
                self._reset()
                loss, _ = self.model(batch)
                clock.mark("dense forward")
                self._back(loss.backward, clock)
                for stage, passed in clock.read().items():
                    total[stage] = total.get(stage, 0.0) + passed / steps
        self.stages.append(total)

    def embed(self, steps: int) -> None:
        """Note a repeat of the embedding alone: there, back with ones, the tables' update."""
        embedding = inner_model(self.model).embedding
        tables = [o for name, o in self.optimizers.items() if name != "dense"]
        shape = (len(self.batches[0].labels_B), sum(embedding.dims))
        ones = torch.ones(shape, device=self.ranks.device)
        with self._timed(steps):
            for batch in self._next(steps, self.ranks.device):
                for optimizer in tables:
                    optimizer.zero_grad()
                embedding(batch.sparse).backward(ones)
                for optimizer in tables:
                    optimizer.step()

    def _next(self, steps: int, device: torch.device | None = None) -> Iterator[Batch]:
        """Batches in turn, as a loader would give them: without what TorchRec once found out.

        On ``device``; None: where they are, for a loop that copies them itself.
        """
        for batch in itertools.islice(itertools.cycle(self.batches), steps):
            old = batch.sparse
            sparse = KeyedJaggedTensor(
                keys=old.keys(),
                values=old.values(),
                lengths=old.lengths(),
                weights=old.weights_or_none(),
                stride=old.stride(),
            )
            found = replace(batch, sparse=sparse)
            yield found if device is None else found.to(device)

    def forget(self) -> None:
        """Begin anew with an empty list of repeats."""
        self.seconds, self.cpu, self.stages = [], [], []

    @contextmanager
    def _timed(self, steps: int) -> Iterator[None]:
        synchronize(self.ranks.device)
        start, cpu = time.perf_counter(), time.process_time()
        yield
        synchronize(self.ranks.device)
        self.seconds.append((time.perf_counter() - start) / steps)
        self.cpu.append((time.process_time() - cpu) / steps)

    def sent(self) -> Traffic:
        """Bytes of the exchanges of one step on the first batch, as they are called."""
        with watched() as sent:
            loss, _ = self.model(self.batches[0].to(self.ranks.device))
            sent.backward = True
            loss.backward()
        self._reset()
        return sent.traffic

    def _reset(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def _back(self, backward: Callable[[], Any], clock: Clock) -> None:
        backward()
        clock.mark("all-reduce" if clock.passed("table backward") else "table backward")
        for name, optimizer in sorted(self.optimizers.items(), key=lambda item: item[0] == "dense"):
            optimizer.step()
            clock.mark("dense update" if name in ("dense", "gate") else "table update")


@dataclass(frozen=True)
class Recipe:
    """What all models of a run have in common."""

    num_dense: int
    hidden: tuple[int, ...]
    row_optimizer: str
    batches: Sequence[Batch]
    rows: int
    params: int
    dim: int
    rates: Mapping[str, float] | None = None

    def place(self, policy: Policy, plan: str, topology: Topology) -> Placed | str:
        return place(policy, plan, topology, self.rows, self.row_optimizer, self.rates)

    def whole(self, name: str, policy: Policy, way: str, here: Ranks) -> Trainee:
        """A model that is whole on every rank that trains it."""
        with peak_memory(here.device) as peak:
            model = self._model(name, policy).to(here.device)
            alone = Ranks(device=here.device)
            trainee = self._trainee(name, way, policy, model, alone)
            trainee.active = way == "apart" or here.first
            placed = self.place(policy, "ours", topology_here(alone))
            trainee.placed = None if isinstance(placed, str) else placed
            trainee.train(2)
        trainee.forget()
        return replace(trainee, peak_bytes=peak[0])

    def sharded(self, name: str, policy: Policy, way: str, placed: Placed, here: Ranks) -> Trainee:
        """A model sharded over all ranks; ``way`` as in :class:`Trainee`.

        Ours is whole where there is one rank, as ``seo-rec train`` has it; TorchRec's collection is
        sharded over that one rank.
        """
        with peak_memory(here.device) as peak:
            whole = self._model(name, policy)
            batches = self.batches
            if way in FED_ROWS:
                remap = whole.embedding.remap
                batches = [replace(b, sparse=remap(b.sparse)) for b in batches]
            if way == HASHED:
                whole.embedding.remap = RowsAsTheyAre()  # type: ignore[assignment]
            if way in THEIRS:
                plain = PlainEmbedding(policy, regroup=way == REGROUPED)
                plain.load_state_dict(whole.embedding.state_dict())
                whole = RecModel(plain, whole.backbone)
            alone = here.world_size == 1 and way not in THEIRS
            model = whole.to(here.device) if alone else self._shard(whole, way, placed, here)
            trainee = self._trainee(name, way, policy, model, here)
            trainee.batches, trainee.placed = batches, None if alone else placed
            trainee.train(2)
        trainee.forget()
        return replace(trainee, peak_bytes=peak[0])

    def _shard(self, whole: RecModel, way: str, placed: Placed, here: Ranks) -> nn.Module:
        shard = by_torchrec if way in THEIRS else distribute
        return shard(whole, placed.placements, here, row_optimizer=self.row_optimizer, row_lr=LR)

    def _model(self, name: str, policy: Policy) -> RecModel:
        settings = ModelSettings(hidden=self.hidden)
        gate = None
        if name == "search":
            with torch.random.fork_rng(devices=[]):
                gate = seo.Attention(len(policy.features), CHUNKS, self.dim // 2)
        return build_model(policy, self.num_dense, settings, 0, gate)

    def _trainee(
        self, name: str, way: str, policy: Policy, model: nn.Module, here: Ranks
    ) -> Trainee:
        optimizers = make_optimizers(model, self.row_optimizer, LR, LR)
        if way in THEIRS and isinstance(rows := optimizers.get("rows"), DenseRowWiseAdagrad):
            tables = rows.param_groups[0]["params"]  # its own optimizer, not ours
            optimizers["rows"] = RowWiseAdagrad(tables, lr=LR, eps=ADAGRAD_EPS)
        gate = inner_model(model).embedding.gate
        if isinstance(gate, seo.Attention):
            settings = search_settings(self.params, self.dim)
            optimizers |= seo.gate_optimizers(gate, settings, LR)
        return Trainee(name, way, policy, model, optimizers, self.batches, here, active=True)


# ---- machine -----------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """The list's entry becomes the bytes by which the process grew at most within the block.

    On CUDA they are the bytes of PyTorch's allocator on the device; on CPU the resident set as
    Linux counts it, and 0 where that cannot be read.
    """
    found = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) - before
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        yield found
        return
    before = _resident("VmRSS")
    yield found
    found[0] = max(0, _resident("VmHWM") - before)


def _resident(line: str) -> int:
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line):
            return int(text.split()[1]) * 1024
    return 0
