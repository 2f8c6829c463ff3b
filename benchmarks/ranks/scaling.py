"""Step time and memory of 10^9 to 10^12 parameters on 8 to 1,024 GPUs, from the planner's model.

    python -m benchmarks.ranks.scaling --record

Four ways to spend the same parameters on the same 128 features of 64 floats each:

    separate   a table per feature, rows in proportion to its vocabulary (sizes fall as 1 / rank)
    unified    one table that all features read; as many as the limit of 2^31 rows asks for
    applier    chunk tables of width 16, of which features read 1 to 8 (4 on average), as a search
               with a skewed attention leaves them
    dealt      the same numbers of chunks, dealt to the tables in turn (SEO's round robin)

The batch is fixed over all GPUs (strong scaling). Besides the planner's phases two numbers of the
dense part are added, from its size alone: arithmetic and the all-reduce of its gradients.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.record import path_of, replace_all
from seo_rec.apply import round_robin
from seo_rec.plan import PlanError, Topology, plan_policy, read_topology
from seo_rec.plan.cost import LANES, Prices
from seo_rec.policy import MAX_ROWS, Feature, Lookup, Policy, Table, split_rows

RECORD = path_of("scaling")
PARAMS = (10**9, 10**10, 10**11, 10**12)
NODES = (1, 8, 32, 128)  # of eight GPUs
GPU = "8xH100-80GB"
FEATURES, WIDTH, CHUNK = 128, 64, 16
GLOBAL_BATCH = 65_536
HIDDEN = (1024, 512, 256, 1)
FLOPS = 200e12  # reached by dense layers in reduced precision; a fifth of the maker's figure
PHASES = {
    "input_dist": "ids sent",
    "lookup": "rows read",
    "output_dist": "vectors sent",
    "gradient_dist": "gradients sent",
    "update": "rows updated",
    "dense": "dense layers",
    "all_reduce": "dense gradients",
}


def separate_policy(params: int) -> Policy:
    """A table per feature; no table has more rows than a policy allows, the others get the rest."""
    weights = [1 / (i + 1) for i in range(FEATURES)]
    rows = split_rows(params, [WIDTH] * FEATURES, weights)
    for _ in range(FEATURES):  # what a table cannot take goes to those that can
        over = sum(max(0, r - MAX_ROWS) for r in rows)
        open_ = [i for i, r in enumerate(rows) if r < MAX_ROWS]
        rows = [min(r, MAX_ROWS) for r in rows]
        for i in open_ if over else ():
            rows[i] += over // len(open_)
    tables = tuple(Table(f"t{i}", r, WIDTH) for i, r in enumerate(rows))
    return Policy(tables, tuple(Feature(f"f{i}", (Lookup(f"t{i}"),)) for i in range(FEATURES)))


def unified_policy(params: int) -> Policy:
    """As few tables as possible; features are dealt to them in turn."""
    count = -(-params // (WIDTH * MAX_ROWS))
    rows = split_rows(params, [WIDTH] * count, [1.0] * count)
    tables = tuple(Table(f"t{i}", r, WIDTH) for i, r in enumerate(rows))
    features = (Feature(f"f{i}", (Lookup(f"t{i % count}", seed=i),)) for i in range(FEATURES))
    return Policy(tables, tuple(features))


def applier_policy(params: int) -> Policy:
    """Chunk tables; features draw theirs with weight 1 / (i + 4), as attention is skewed."""
    count = max(32, -(-params // (CHUNK * MAX_ROWS)))
    rows = split_rows(params, [CHUNK] * count, [1.0] * count)
    draw = random.Random(0)
    weights = [1 / (i + 4) for i in range(count)]
    chunks = [1, 2, 2, 3, 4, 5, 7, 8] * (FEATURES // 8)
    features = []
    for i, size in enumerate(chunks):
        chosen = {i % count}  # every table is read
        while len(chosen) < size:
            chosen.add(draw.choices(range(count), weights)[0])
        lookups = tuple(Lookup(f"chunk{j}", seed=i * count + j) for j in sorted(chosen))
        features.append(Feature(f"f{i}", lookups))
    tables = tuple(Table(f"chunk{i}", r, CHUNK) for i, r in enumerate(rows))
    return Policy(tables, tuple(features))


def dealt_policy(params: int) -> Policy:
    """The chunks of :func:`applier_policy`, dealt in turn: every table is read equally often."""
    return round_robin(applier_policy(params), params)


WAYS = {
    "separate": separate_policy,
    "unified": unified_policy,
    "applier": applier_policy,
    "dealt": dealt_policy,
}


def dense_ms(topology: Topology, batch: int) -> dict[str, float]:
    """Arithmetic and all-reduce of an MLP over all features' vectors, in milliseconds."""
    widths = (FEATURES * WIDTH, *HIDDEN)
    floats = sum((a + 1) * b for a, b in pairwise(widths))
    slowest = topology.inter_bandwidth if topology.nodes > 1 else topology.intra_bandwidth
    ring = 2 * (topology.world_size - 1) / topology.world_size
    return {
        "dense": 1e3 * 6 * floats * batch / FLOPS,
        "all_reduce": 1e3 * ring * 4 * floats / slowest,
    }


def least_imbalance(prices: Prices, mean_ms: float) -> float:
    """The load of a rank that holds the finest piece of the busiest table, over the mean load.

    No cut that FBGEMM reads is finer than four columns, of which the ranks of one machine share the
    rows: a cut by rows over machines sends the vectors of all bags from each of them, empty or not.

    Args:
        prices: Of the policy on the topology.
        mean_ms: The mean load of the ranks in a plan, in milliseconds.
    """
    local, busiest = prices.topology.local_size, 1.0
    for t in prices.tables.values():
        whole = prices.price(t.name, "column_wise", t.num_rows, LANES).ms
        shared = prices.price(t.name, "grid_shard", -(-t.num_rows // local), LANES).ms
        busiest = max(busiest, min(whole, shared) / mean_ms)
    return busiest


def simulate(way: str, params: int, nodes: int) -> dict[str, Any]:
    """One line: a way, a size, a number of machines."""
    topology = read_topology(GPU, nodes)
    batch = GLOBAL_BATCH // topology.world_size
    line: dict[str, Any] = {"way": way, "parameters": params, "gpus": topology.world_size}
    policy = WAYS[way](params)
    try:
        plan = plan_policy(
            policy, topology, batch_size=batch, row_optimizer="adagrad", default=False
        )
    except PlanError as error:
        return {**line, "fits": False, "error": str(error)}
    phases = {**plan.estimate.phases_ms, **dense_ms(topology, batch)}
    prices = Prices(policy, topology, batch, "adagrad", None)
    mean_ms = sum(r.ms for r in plan.estimate.ranks) / topology.world_size
    largest = max(phases, key=phases.__getitem__)
    return {
        **line,
        "fits": True,
        "tables": len(policy.tables),
        "shards": sum(len(p.shards) for p in plan.placements),
        "kinds": sorted({p.kind for p in plan.placements}),
        "step_ms": round(plan.step_ms + phases["dense"] + phases["all_reduce"], 4),
        "phases_ms": {k: round(v, 4) for k, v in phases.items()},
        "bottleneck": largest,
        "imbalance": plan.imbalance,
        "least_imbalance": round(least_imbalance(prices, mean_ms), 4),
        "memory_gb": round(max(r.memory_bytes for r in plan.estimate.ranks) / 1e9, 3),
        "outside_gb": round(max(r.host_memory_bytes for r in plan.estimate.ranks) / 1e9, 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, RECORD)
    options = parser.parse_args(arguments)
    environment = set_up(options.threads)
    lines = []
    for way, params, nodes in product(WAYS, PARAMS, NODES):
        line = simulate(way, params, nodes)
        print(json.dumps(line), flush=True)
        lines.append({**line, "environment": environment})
    if options.record:  # a simulation: the last one holds
        replace_all(RECORD, lines)


if __name__ == "__main__":
    main()
