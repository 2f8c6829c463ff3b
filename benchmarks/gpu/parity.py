"""A sharded model is the unsharded one, on this device and on the CPU, for every kind of plan.

Letters: B rows, E sum of widths.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torchrec.distributed.types import ShardingType

from benchmarks.gpu.cause import cause
from benchmarks.gpu.lines import Lines, Run, check, forbidden, holds
from benchmarks.ranks.workload import zipf_batches, zipf_schema
from seo_rec.batch import Batch
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.plan import Placement, PlanError, Shard
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.train import Ranks, distribute, make_optimizers
from seo_rec.train.optimizers import ADAGRAD_EPS, FUSED, inner_model
from seo_rec.train.ranks import ranks_of
from seo_rec.train.state import Sharded, weights_of
from seo_rec.train.steps import PipelinedSteps, PlainSteps

KINDS = tuple(kind.value for kind in ShardingType)
MIXED = "mixed"
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "adam")
CUT_BY_COLUMN = ("column_wise", "table_column_wise", "grid_shard")
BY_ROW = ("row_wise", "table_row_wise", "grid_shard")
SAME_WEIGHTS = 1e-6  # vectors of the same weights; sums of a bag may have another order
LOSS = 1e-5
WEIGHTS = 1e-5  # 99 of 100 weights of each tensor: where gradients cancel, optimizers that divide
SHARE = 0.99  # by their size turn the last bits of a sum into a step of any size
STEPS, ROWS, FEATURES = 6, 64, 5
LR = 0.02


def small_policy(names: Sequence[str]) -> Policy:
    """Shared tables of several shapes, a feature with three lookups; all widths are fours."""
    tables = (Table("a", 61, 8), Table("b", 40, 16), Table("c", 33, 8), Table("d", 12, 4))
    choices = (("a", "b"), ("b", "c", "d"), ("a", "d"), ("c",), ("b", "a"))
    features = (
        Feature(name, tuple(Lookup(t, "hash", 100 * i + j + 1) for j, t in enumerate(chosen)))
        for i, (name, chosen) in enumerate(zip(names, itertools.cycle(choices), strict=False))
    )
    return Policy(tables, tuple(features))


def placed(policy: Policy, kind: str, world: int) -> tuple[Placement, ...]:
    """Every table placed by ``kind`` on one machine of ``world`` ranks; ``mixed``: in turn."""
    kinds = itertools.cycle(k for k in KINDS if k in ("table_wise", "row_wise", "column_wise"))
    found = []
    for i, t in enumerate(policy.tables):
        its = next(kinds) if kind == MIXED else kind
        if its in CUT_BY_COLUMN and t.dim < 8:  # FBGEMM reads rows in fours
            its = "table_wise" if kind == MIXED else its
        if its == ShardingType.DATA_PARALLEL.value:
            found.append(Placement(t.name, its))
            continue
        columns = 2 if its in CUT_BY_COLUMN and t.dim >= 8 else 1
        rows = world if its in BY_ROW else 1
        block, width = -(-t.num_rows // rows), t.dim // columns
        shards = []
        for c, r in itertools.product(range(columns), range(rows)):
            first = min(r * block, t.num_rows)
            size = min(block, t.num_rows - first)
            rank = r if rows > 1 else (i + c) % world
            shards.append(Shard(rank, first, c * width, size, width))
        found.append(Placement(t.name, its, tuple(shards)))
    return tuple(found)


class Case:
    """One small model, and the batches that it is trained on.

    Args:
        here: the processes; each gets its share of every batch.
    """

    def __init__(self, here: Ranks) -> None:
        schema = zipf_schema(FEATURES, 300, 3)
        self.policy = small_policy([c.name for c in schema.features])
        dims = {t.name: t.dim for t in self.policy.tables}
        self.widths = [dims[k.table] for f in self.policy.features for k in f.lookups]
        self.num_dense, self.here = len(schema.numeric), here
        self.batches = zipf_batches(schema, 1.05, ROWS * here.world_size, STEPS + 1, 7)
        self.shares = [_share(b, here) for b in self.batches]

    def model(self) -> RecModel:
        return build_model(self.policy, self.num_dense, ModelSettings(hidden=(16,)), 3)

    def optimizers(self, model: nn.Module, name: str) -> dict[str, torch.optim.Optimizer]:
        return make_optimizers(model, name, lr_of(name), 2e-3)

    def whole(
        self, device: torch.device, name: str, fused: bool = False
    ) -> tuple[list[float], RecModel]:
        """Losses of the steps in one process, and the model after them.

        ``fused`` updates tables within the backward pass, as one process on a GPU does where no
        running mean is kept.
        """
        model = self.model()
        if fused:
            model.embedding.update_in_backward(name, ADAGRAD_EPS, device)
        model = model.to(device)
        steps = PlainSteps(model, self.optimizers(model, name), Ranks(device=device))
        return [float(s.loss) for s in steps(self.batches[:STEPS])], model

    def sharded(self, kind: str, name: str) -> nn.Module:
        """A model of the initial weights over the processes."""
        placements = placed(self.policy, kind, self.here.world_size)
        return distribute(
            self.model(), placements, self.here, row_optimizer=name, row_lr=lr_of(name)
        )


def lr_of(optimizer: str) -> float:
    return 2e-3 if optimizer == "adam" else LR


def _share(batch: Batch, here: Ranks) -> Batch:
    """This rank's rows of a batch with one id in every bag."""
    rows = len(batch.labels_B) // here.world_size
    own = slice(here.rank * rows, (here.rank + 1) * rows)
    keys = batch.sparse.keys()
    ids_FB = batch.sparse.values().view(len(keys), -1)[:, own]
    sparse = type(batch.sparse)(
        keys=keys,
        values=ids_FB.reshape(-1),
        lengths=torch.ones(ids_FB.numel(), dtype=torch.int32),
        stride=rows,
    )
    return replace(
        batch,
        dense_BN=batch.dense_BN[own],
        sparse=sparse,
        labels_B=batch.labels_B[own],
        num_rows=rows,
        mean_rows=float(rows),
    )


@torch.no_grad()
def vectors_apart(sharded: nn.Module, whole: RecModel, case: Case) -> tuple[float, str]:
    """The largest distance between vectors of the sharded model and of ``whole``, which gets its
    weights, on a CPU; of all batches, those that no training step has seen included.

    Returns:
        The distance, and if it is too large what the first wrong vectors are (:func:`cause`).
    """
    _gather_weights(sharded, whole, case.here)
    device, embedding = ranks_of(sharded).device, inner_model(sharded).embedding
    expected = [whole.embedding(batch.sparse) for batch in case.shares]
    initial = case.model().embedding
    largest, why = 0.0, ""
    for i, (batch, x_BE) in enumerate(zip(case.shares, expected, strict=True)):
        found_BE = embedding(batch.to(device).sparse).cpu()
        largest = max(largest, float((found_BE - x_BE).abs().nan_to_num(torch.inf).max()))
        others = {f"batch {j}": x for j, x in enumerate(expected) if j != i}
        others["the initial weights"] = initial(batch.sparse)
        found = cause(found_BE, x_BE, others, case.widths, SAME_WEIGHTS)
        why = why or (f"batch {i}: {found}" if found else "")
    return largest, why


def _gather_weights(sharded: nn.Module, whole: RecModel, here: Ranks) -> None:
    """Put the weights that the ranks hold together into ``whole``."""
    own = whole.state_dict()
    for name, value in weights_of(sharded).items():
        if not isinstance(value, Sharded):
            own[name].copy_(value.cpu())
            continue
        parts = [(p.offsets, p.tensor.cpu().numpy()) for p in value.pieces]
        for offsets, part in (piece for found in here.gather(parts) for piece in found):
            at = tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True))
            own[name][at] = torch.from_numpy(part)


def weights_apart(found: RecModel, expected: RecModel, share: float = SHARE) -> float:
    """Of each tensor the distance that ``share`` of its weights stay below; the largest of all."""
    wanted = expected.state_dict()
    return max(
        float((value.cpu() - wanted[name].cpu()).abs().double().flatten().quantile(share))
        for name, value in found.state_dict().items()
    )


def compare(case: Case, kind: str, optimizer: str, way: str) -> Lines:
    """Train sharded; losses, weights and vectors against one process on the CPU.

    Args:
        case: model and batches.
        kind: of the plan.
        optimizer: of the rows.
        way: ``plain``, or ``pipelined`` as on GPUs.
    """
    name, here = f"{kind}, {optimizer}, {way}", case.here
    expected, whole = case.whole(torch.device("cpu"), optimizer)
    try:
        model = case.sharded(kind, optimizer)
    except PlanError as error:
        yield forbidden(name, str(error))
        return
    modules = [(key, id(m)) for key, m in model.named_modules()]
    held, initial = case.model(), case.model()
    start = vectors_apart(model, held, case)
    steps = PipelinedSteps(model, case.optimizers(model, optimizer), here, way == "pipelined")
    losses = torch.stack([step.loss for step in steps(case.shares[:STEPS])])
    losses = here.mean_(losses).cpu()
    found = case.model()
    end = vectors_apart(model, found, case)
    yield check(f"weights before training: {name}", weights_apart(held, initial, 1.0), 0.0)
    yield check(f"vectors before training: {name}", start[0], SAME_WEIGHTS, start[1])
    yield check(f"vectors after training: {name}", end[0], SAME_WEIGHTS, end[1])
    yield check(f"losses: {name}", float((losses - torch.tensor(expected)).abs().max()), LOSS)
    yield check(f"weights: {name}", weights_apart(found, whole), WEIGHTS)
    restored = [(key, id(m)) for key, m in model.named_modules()] == modules
    yield holds(f"the model is as it was: {name}", restored)


def unsharded(run: Run) -> Lines:
    """One process on this device against one on the CPU, every optimizer and way of updates."""
    case = Case(Ranks(device=run.device))
    for name in OPTIMIZERS:
        expected, whole = case.whole(torch.device("cpu"), name)
        losses, found = case.whole(run.device, name)
        apart = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        yield check(f"losses: {name}", apart, LOSS)
        yield check(f"weights: {name}", weights_apart(found, whole), WEIGHTS)
        if name in FUSED:
            losses, found = case.whole(run.device, name, fused=True)
            apart = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
            yield check(f"losses: {name}, fused", apart, LOSS)
            yield check(f"weights: {name}, fused", weights_apart(found, whole), WEIGHTS)


def plans(run: Run) -> Lines:
    """Every kind of plan with three optimizers, and every optimizer with the mixed plan.

    In small sizes two of the three take turns with the kinds, and the third has one kind.
    """
    case = Case(run.ranks)
    pairs = [(MIXED, o) for o in OPTIMIZERS if o != "rowwise_adagrad"]
    whole_rows = [(k, "rowwise_adagrad") for k in KINDS if k not in CUT_BY_COLUMN]
    if run.small:
        pairs += zip(KINDS, itertools.cycle(("sgd", "adagrad")), strict=False)
        pairs += whole_rows[:1]
    else:
        pairs += [*itertools.product(KINDS, ("sgd", "adagrad")), *whole_rows]
    for kind, optimizer in pairs:
        yield from guarded(case, kind, optimizer, "plain")


def pipelines(run: Run) -> Lines:
    """The pipeline of GPUs, which works batches ahead, with plans that differ in what is sent."""
    case = Case(run.ranks)
    for kind, optimizer in itertools.product((MIXED, "row_wise"), ("sgd", "adam")):
        yield from guarded(case, kind, optimizer, "pipelined")


def guarded(case: Case, kind: str, optimizer: str, way: str) -> Lines:
    """:func:`compare`; what raises is a check that failed, and the next one is made."""
    try:
        yield from compare(case, kind, optimizer, way)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        yield holds(f"runs: {kind}, {optimizer}, {way}", False, text)
