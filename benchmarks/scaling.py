"""Step time and memory of 10^9 to 10^12 parameters on 8 to 1,024 GPUs, from the planner's model.

    python -m benchmarks.scaling --record      # results/scaling.jsonl and docs/measured/scaling.md

Three ways to spend the same parameters on the same 128 features of 64 floats each:

    separate   a table per feature, rows in proportion to its vocabulary (sizes fall as 1 / rank)
    unified    one table that all features read; as many as the limit of 2^31 rows asks for
    applier    chunk tables of width 16, of which features read 1 to 8 (4 on average), as a search
               with a skewed attention leaves them

The batch is fixed over all GPUs (strong scaling). Besides the planner's phases two numbers of the
dense part are added, from its size alone: arithmetic and the all-reduce of its gradients.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.environment import append_jsonl, stamp
from seo_rec.files import write_text
from seo_rec.plan import PlanError, Topology, plan_policy, read_topology
from seo_rec.policy import MAX_ROWS, Feature, Lookup, Policy, Table, split_rows

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "measured" / "scaling.md"
BEGIN, END = "<!-- written by benchmarks.scaling -->", "<!-- end of scaling -->"
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


WAYS = {"separate": separate_policy, "unified": unified_policy, "applier": applier_policy}


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
        "memory_gb": round(max(r.memory_bytes for r in plan.estimate.ranks) / 1e9, 3),
    }


def table_of(lines: list[dict[str, Any]], way: str) -> list[str]:
    """Rows: parameters; columns: GPUs; a cell: step, memory, what takes longest."""
    here = [x for x in lines if x["way"] == way]
    gpus = sorted({x["gpus"] for x in here})
    out = [
        f"### {way}",
        "",
        "| parameters | " + " | ".join(f"{g:,} GPUs" for g in gpus) + " |",
        "|---" * (len(gpus) + 1) + "|",
    ]
    for params in sorted({x["parameters"] for x in here}):
        cells = []
        for g in gpus:
            x = next(x for x in here if x["parameters"] == params and x["gpus"] == g)
            cells.append(
                f"{x['step_ms']:.2f} ms, {x['memory_gb']:.1f} GB, {PHASES[x['bottleneck']]}, "
                f"imbalance {x['imbalance']:.2f}"
                if x["fits"]
                else "does not fit"
            )
        out.append(f"| 10^{len(str(params)) - 1} | " + " | ".join(cells) + " |")
    return [*out, ""]


def measured(path: Path = RESULTS / "throughput.jsonl") -> list[str]:
    """The model beside measured steps (``benchmarks.throughput``), the latest of each kind.

    Left out are models that every rank trains whole beside the others (``apart``: one rank's plan)
    and one rank's sharded collection (``--against-torchrec``), which is not what one rank plans.
    """
    if not path.is_file():
        return ["Not measured yet: `python -m benchmarks.throughput --plans --record`.", ""]
    found: dict[tuple[str, str, int, str], dict[str, Any]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        planned = line["kind"] == "measurement" and "measured_ms" in line
        one_rank_sharded = line["question"] == "torchrec" and line["world_size"] == 1
        if planned and line["way"] != "apart" and not one_rank_sharded:
            found[line["policy"], line["way"], line["ranks"], line["row_optimizer"]] = line
    if not found:
        return ["No measurement with an estimate has been recorded.", ""]
    out = [
        "| policy | plan | ranks | row optimizer | estimated ms | measured ms | "
        "measured / estimated |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios: dict[int, list[float]] = {}
    for (policy, way, ranks, optimizer), line in sorted(found.items()):
        guess, real = line["estimate_ms"]["step"], sum(line["measured_ms"].values())
        if guess <= 0 or real <= 0:
            continue
        ratios.setdefault(ranks, []).append(real / guess)
        out.append(
            f"| {policy} | {way} | {ranks} | {optimizer} | {guess:.1f} | {real:.1f} | "
            f"{real / guess:.2f} |"
        )
    out += ["", "| ranks | runs | measured / estimated: median | least | most |", "|---" * 5 + "|"]
    for ranks, those in sorted(ratios.items()):
        middle = statistics.median(those)
        out.append(
            f"| {ranks} | {len(those)} | {middle:.2f} | {min(those):.2f} | {max(those):.2f} |"
        )
    return [*out, ""]


def write_page(lines: list[dict[str, Any]]) -> None:
    """Put the tables between the markers of ``docs/measured/scaling.md``."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    section = [BEGIN, ""]
    for way in WAYS:
        section += table_of(lines, way)
    section += ["## Checked against measured runs", "", *measured(), END]
    write_text(PAGE, before + "\n".join(section) + after)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write scaling.jsonl and the page")
    parser.add_argument("--page", action="store_true", help="write the page from scaling.jsonl")
    args = parser.parse_args(arguments)
    path = RESULTS / "scaling.jsonl"
    if args.page:
        lines = [json.loads(text) for text in path.read_text().splitlines()]
    else:
        lines = []
        for way in WAYS:
            for params in PARAMS:
                for nodes in NODES:
                    lines.append(simulate(way, params, nodes))
                    print(json.dumps(lines[-1]), flush=True)
    if args.record:
        environment = stamp()
        path.unlink(missing_ok=True)  # a simulation: the last one holds
        for line in lines:
            append_jsonl(path, {**line, "environment": environment})
    if args.record or args.page:
        write_page(lines)
    for way in WAYS:
        print(*table_of(lines, way), sep="\n")
    print(*measured(), sep="\n")


if __name__ == "__main__":
    main()
