"""TorchRec's models around ``embed.build``, sharded over two ranks: as one unsharded process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.optim import _apply_optimizer_in_backward as optimize_in_backward
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from at_length import at_length
from cases import BAGS, Bags
from seo_rec import embed
from seo_rec.batch import Batch
from seo_rec.plan import Placement, Shard, check_placements, sharding_plan
from seo_rec.policy import Policy
from spawn import RankError, run_ranks
from torchrec_models import CROSSES, IDS_PATH, MODELS, POLICY, SPECIAL, WithLoss, clicks

CPU = torch.device("cpu")
RANKS, ROWS, STEPS = 2, 12, 6  # rows of one rank
ROW_LR, DENSE_LR, EPS = 0.1, 0.01, 1e-8

# Table-wise, cut by columns, cut by rows, and whole everywhere.
PLACEMENTS = (
    Placement("a", "table_wise", (Shard(1, 0, 0, 40, 8),)),
    Placement("b", "column_wise", (Shard(1, 0, 0, 30, 4), Shard(0, 0, 4, 30, 4))),
    Placement("c", "row_wise", (Shard(0, 0, 0, 25, 4), Shard(1, 25, 0, 25, 4))),
    Placement("d", "data_parallel"),
)


def new_model(model: str, weighted: bool = False, policy: Policy = POLICY) -> WithLoss:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return WithLoss(MODELS[model](embed.build(policy, init_scale=0.5, weighted=weighted)))


def batches(rank: int, bags: Bags, steps: int = STEPS) -> Iterator[Batch]:
    for step in range(steps):
        yield clicks(ROWS, 100 * step + rank, bags)


def row_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=ROW_LR, eps=EPS)


def dense_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=DENSE_LR)


def unsharded(model: WithLoss, bags: Bags) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores of every step (STEPS, RANKS * ROWS) and the weights after them, in one process."""
    rows = {n: p for n, p in model.named_parameters() if ".ebc." in n}
    rest = [p for n, p in model.named_parameters() if n not in rows]
    optimizers = row_optimizer(rows.values()), dense_optimizer(rest)
    scores = []
    for parts in zip(*(batches(r, bags) for r in range(RANKS)), strict=True):
        for optimizer in optimizers:
            optimizer.zero_grad()
        outcomes = [model(part) for part in parts]
        (sum(loss for loss, _ in outcomes) / RANKS).backward()
        for optimizer in optimizers:
            optimizer.step()
        scores.append(torch.cat([s.detach() for _, s in outcomes]))
    return torch.stack(scores), {n: p.detach() for n, p in model.named_parameters()}


def shard(model: WithLoss) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """The model under DistributedModelParallel, with the weights it had."""
    check_placements(POLICY, PLACEMENTS, RANKS)
    start = copy.deepcopy(model.state_dict())
    ebc = model.model.sparse_arch.embedding_bag_collection.rows.ebc
    optimize_in_backward(torch.optim.Adagrad, ebc.parameters(), {"lr": ROW_LR, "eps": EPS})
    plan = sharding_plan(
        PLACEMENTS, dict.fromkeys("abcd", "fused"), "cpu", RANKS, f"model.{IDS_PATH}"
    )
    sharded = DistributedModelParallel(
        model, device=CPU, plan=plan, sharders=[EmbeddingBagCollectionSharder()]
    )
    with torch.no_grad():  # on a CPU the shards start anew
        for name, found in sharded.state_dict().items():
            if not hasattr(found, "local_shards"):
                found.copy_(start[name])
                continue
            for part in found.local_shards():
                (r, c), (h, w) = part.metadata.shard_offsets, part.metadata.shard_sizes
                part.tensor.copy_(start[name][r : r + h, c : c + w])
    left = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    tables = {n: p for n, p in left.items() if ".ebc." in n}  # the data-parallel one
    rest = {n: p for n, p in left.items() if n not in tables}
    optimizer = CombinedOptimizer(
        [
            ("fused", sharded.fused_optimizer),
            ("rows", KeyedOptimizerWrapper(tables, row_optimizer)),
            ("dense", KeyedOptimizerWrapper(rest, dense_optimizer)),
        ]
    )
    return sharded, optimizer


def pieces(sharded: DistributedModelParallel) -> list[tuple[str, int, int, torch.Tensor]]:
    """Name, first row, first column and values of what this rank holds."""
    held = []
    for name, found in sharded.state_dict().items():
        if hasattr(found, "local_shards"):
            held += [(name, *s.metadata.shard_offsets, s.tensor) for s in found.local_shards()]
        else:
            held.append((name, 0, 0, found.detach()))
    return held


def pipelined(pipeline: TrainPipelineSparseDist) -> tuple[list[str], int]:
    """Names of the sharded modules whose input moves ahead, and how many modules before them."""
    return [m.forward.name for m in pipeline._pipelined_modules], len(pipeline._pipelined_postprocs)


def train_sharded(model: WithLoss, bags: Bags, loop: str) -> tuple[torch.Tensor, list[Any], Any]:
    sharded, optimizer = shard(model)
    data = batches(dist.get_rank(), bags)
    scores: list[torch.Tensor] = []
    ahead: Any = None
    if loop == "plain":
        for part in data:
            optimizer.zero_grad()
            loss, scores_B = sharded(part)
            loss.backward()
            optimizer.step()
            scores.append(scores_B.detach())
    else:
        if loop == "base":
            pipeline = TrainPipelineBase(sharded, optimizer, CPU)
        else:
            pipeline = TrainPipelineSparseDist(
                sharded, optimizer, CPU, pipeline_postproc=loop == "sparse-dist"
            )
        for _ in range(STEPS):
            scores.append(pipeline.progress(data).detach())
        if loop.startswith("sparse-dist"):
            ahead = pipelined(pipeline)
    return torch.stack(scores), pieces(sharded), ahead


@pytest.mark.parametrize(
    "loop", at_length(["plain", "base", "sparse-dist"], ["plain", "sparse-dist"])
)
@pytest.mark.parametrize("model", MODELS)
def test_sharded_equals_unsharded(model, loop):
    """Scores of every step and all weights after the last, for every kind of cut at once."""
    trains_as_one_process(
        lambda: new_model(model), BAGS["single" if loop == "base" else "bags"], loop
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loop", ["plain", "base", "sparse-dist"])
def test_every_combine_and_address(loop, weighted):
    """Bags of one id, where a product is looked up id by id, in numbers that differ by rank."""
    bags = BAGS["bags-weighted" if weighted else "bags"]
    trains_as_one_process(lambda: new_model("dlrm", weighted, SPECIAL), bags, loop)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loop", ["plain", "base", "sparse-dist"])
def test_crosses(loop, weighted):
    """Bags of several columns are crossed before rows are sent, a product of crosses included."""
    bags = BAGS["bags-weighted" if weighted else "bags"]
    trains_as_one_process(lambda: new_model("dlrm", weighted, CROSSES), bags, loop)


def trains_as_one_process(make: Callable[[], WithLoss], bags: Bags, loop: str) -> None:
    scores, weights = unsharded(make(), bags)
    start = dict(make().named_parameters())
    assert all((weights[n] - start[n]).abs().max() > 1e-3 for n in weights)
    found = run_ranks(train_sharded, RANKS, make(), bags, loop)
    torch.testing.assert_close(torch.cat([f[0] for f in found], 1), scores, rtol=0, atol=1e-6)
    covered = {n: torch.zeros_like(w) for n, w in weights.items()}
    for _, held, _ in found:
        for name, r, c, values in held:
            h, w = (*values.shape, 1)[:2]
            part = weights[name][r : r + h, c : c + w] if values.dim() == 2 else weights[name]
            torch.testing.assert_close(values, part, rtol=0, atol=1e-6, msg=name)
            if values.dim() == 2:
                covered[name][r : r + h, c : c + w] = 1
            else:
                covered[name].fill_(1)
    assert [n for n, seen in covered.items() if not seen.all()] == []


def test_the_tables_input_is_pipelined():
    """The look-ups' input moves ahead, behind the check and the remap; only if asked to."""
    (_, _, ahead), _ = run_ranks(
        train_sharded, RANKS, new_model("dlrm"), BAGS["bags"], "sparse-dist"
    )
    assert ahead == ([f"model.{IDS_PATH}"], 2)
    (_, _, ahead), _ = run_ranks(
        train_sharded, RANKS, new_model("dlrm"), BAGS["bags"], "sparse-dist-without-postproc"
    )
    assert ahead == ([], 0)


def test_crosses_are_pipelined_too():
    """They stand between the check and the remap, and move ahead with both."""
    (_, _, ahead), _ = run_ranks(
        train_sharded, RANKS, new_model("dlrm", policy=CROSSES), BAGS["bags"], "sparse-dist"
    )
    assert ahead == ([f"model.{IDS_PATH}"], 3)


def test_weights_of_ids_count_in_shards_too():
    bags = BAGS["bags-weighted"]
    scores, _ = unsharded(new_model("dlrm", weighted=True), bags)
    found = run_ranks(train_sharded, RANKS, new_model("dlrm", weighted=True), bags, "sparse-dist")
    torch.testing.assert_close(torch.cat([f[0] for f in found], 1), scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("loop", ["plain", "sparse-dist"])
def test_weights_are_refused_rather_than_left_out(loop):
    with pytest.raises(RankError, match="build it with weighted=True"):
        run_ranks(train_sharded, RANKS, new_model("dlrm"), BAGS["bags-weighted"], loop)


def started_on_meta() -> tuple[float, torch.Tensor]:
    """The largest table weight and the scores of a model made without memory."""
    with torch.device("meta"):
        embedding = embed.build(POLICY, init_scale=0.125, device=torch.device("meta"))
    plan = sharding_plan(
        PLACEMENTS, dict.fromkeys("abcd", "dense"), "cpu", RANKS, f"model.{IDS_PATH}"
    )
    sharded = DistributedModelParallel(
        WithLoss(MODELS["dlrm"](embedding)),
        device=CPU,
        plan=plan,
        sharders=[EmbeddingBagCollectionSharder()],
    )
    _, scores_B = sharded(next(batches(0, BAGS["bags"])))
    largest = max(float(v.abs().max()) for n, _, _, v in pieces(sharded) if ".ebc." in n)
    return largest, scores_B.detach()


def test_a_model_made_on_meta_starts_within_the_scale():
    """And finds its rows: what says how ids become rows is never on the meta device."""
    (one, first), (other, second) = run_ranks(started_on_meta, RANKS)
    assert 0.1 < max(one, other) <= 0.125
    torch.testing.assert_close(first, second)
