"""How fast the planner is, and how well its plans are balanced beside TorchRec's own.

    python -m benchmarks.ranks.planner --record

Two laws: 1,000 features on 64 chunk tables are planned for 1,024 devices in under 60 s, and on
three realistic policies the load imbalance is at most 1.05 where TorchRec's plan has one that is
higher. The command exits with 1 if one is broken. No row of any data set is read: the policies
are made of lists of columns with round vocabulary sizes.

``TorchRec's`` is its planner as it comes; ``told`` is the same planner given the number of reads
of every table as pooling factors, which it cannot work out by itself.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.pages.markdown import entry, table
from benchmarks.record import append, path_of
from seo_rec.apply import exact
from seo_rec.plan import Estimate, Topology, plan_policy, read_topology
from seo_rec.plan.cost import Prices
from seo_rec.plan.estimate import default_placements, estimate
from seo_rec.policy import Feature, Lookup, Policy, Table

RECORD = path_of("planner")
SECONDS, BALANCED = 60.0, 1.05

# Chunks that searches gave to columns of such data: a few earn them all, most keep one or two.
MOVIELENS = {"user": 4, "item": 4, "gender": 1, "age": 1, "occupation": 1, "zip": 1}
CRITEO = {f"I{i}": 1 + (i in (1, 6, 7, 11)) for i in range(1, 14)} | {
    f"C{i}": 4 if i in (3, 4, 12, 16) else 3 if i in (7, 10, 15, 24) else 1 + i % 2
    for i in range(1, 27)
}


def chunk_policy(chunks: dict[str, int], tables: int, dim: int, params: int, seed: int) -> Policy:
    """A SEO policy: ``tables`` chunk tables, of which each feature reads its number of chunks.

    Searches agree on some chunks more than on others, so chunk i is drawn with weight 1 / (i + 2).
    """
    draw = random.Random(seed)
    weights = [1 / (i + 2) for i in range(tables)]
    features = []
    for name, count in chunks.items():
        chosen: set[int] = set()
        while len(chosen) < count:
            chosen.add(draw.choices(range(tables), weights)[0])
        lookups = tuple(Lookup(f"chunk{i}", "hash", draw.getrandbits(62)) for i in sorted(chosen))
        features.append(Feature(name, lookups))
    read = {k.table for f in features for k in f.lookups}
    used = tuple(Table(f"chunk{i}", 1, dim) for i in range(tables) if f"chunk{i}" in read)
    return exact(Policy(used, tuple(features)), params)


def movielens_policy() -> Policy:
    """MovieLens' columns with wide chunks: 4 tables of width 64, 2.56e9 parameters."""
    return chunk_policy(MOVIELENS, tables=4, dim=64, params=2_560_000_000, seed=1)


def criteo_policy() -> Policy:
    """Criteo's 39 columns: 8 tables of width 64, 1e10 parameters."""
    return chunk_policy(CRITEO, tables=8, dim=64, params=10_000_000_000, seed=2)


def synthetic_policy(features: int = 500, tables: int = 64, dim: int = 32) -> Policy:
    """Many made-up features of 1 to 4 chunks, 3e10 parameters."""
    draw = random.Random(3)
    chunks = {f"f{i}": draw.choice((1, 1, 2, 2, 3, 4)) for i in range(features)}
    return chunk_policy(chunks, tables, dim, params=30_000_000_000, seed=3)


def skewed_policy(features: int = 24, dim: int = 16, rows: int = 20_000) -> Policy:
    """Very uneven reads, small enough to train: of 8 tables two are read by nearly all features.

    Dealt in turn, as a planner does that takes all tables for equal, both of those fall to the
    same rank of two or four.
    """
    readers = (features, 2, 1, 1, features - 2, 2, 1, 1)
    tables = tuple(Table(f"chunk{i}", rows, dim) for i in range(len(readers)))
    names = [f"f{i}" for i in range(features)]
    lookups: dict[str, list[Lookup]] = {n: [] for n in names}
    for i, count in enumerate(readers):
        for j in range(count):
            lookups[names[j]].append(Lookup(f"chunk{i}", "hash", 1 + 1000 * i + j))
    return Policy(tables, tuple(Feature(n, tuple(lookups[n])) for n in names))


def large_policy() -> Policy:
    """1,000 features on 64 chunk tables of width 64."""
    return synthetic_policy(features=1000, tables=64, dim=64)


def rates(policy: Policy) -> dict[str, float]:
    """Every tenth feature has bags of three ids, every seventh is missing half of the time."""
    found = {}
    for i, f in enumerate(policy.features):
        found[f.name] = 3.0 if i % 10 == 9 else 0.5 if i % 7 == 6 else 1.0
    return found


def measure(name: str, policy: Policy, topology: Topology, batch: int) -> dict[str, Any]:
    """Plan, and say how long that took and how the loads are spread."""
    began = time.perf_counter()
    options: dict[str, Any] = {
        "batch_size": batch,
        "row_optimizer": "adagrad",
        "rates": rates(policy),
    }
    plan = plan_policy(policy, topology, default=False, **options)
    seconds = time.perf_counter() - began
    plan.check(policy)
    line: dict[str, Any] = {
        "policy": name,
        "features": len(policy.features),
        "tables": len(policy.tables),
        "parameters": policy.num_params,
        "topology": plan.topology,
        "batch": batch,
        "seconds": round(seconds, 3),
        "imbalance": plan.imbalance,
        "step_ms": plan.step_ms,
        "shards": sum(len(p.shards) for p in plan.placements),
    }
    if topology.world_size <= 32:
        plan = plan_policy(policy, topology, default=True, **options)
        line |= beside("torchrec", plan.default)
        prices = Prices(policy, topology, batch, "adagrad", options["rates"])
        found = default_placements(policy, topology, batch, "adagrad", prices.reads)
        line |= beside("told", None if isinstance(found, str) else estimate(found, prices))
    return line


def beside(name: str, other: Estimate | None) -> dict[str, Any]:
    """The same numbers of another plan; None where there is none."""
    return {
        f"{name}_imbalance": None if other is None else other.imbalance,
        f"{name}_step_ms": None if other is None else other.step_ms,
    }


def cases() -> list[tuple[str, Policy, Topology, int]]:
    """Name, policy, devices, rows per device."""
    gpus = read_topology("8xH100-80GB")
    return [
        ("movielens", movielens_policy(), gpus, 8192),
        ("criteo", criteo_policy(), gpus, 8192),
        ("synthetic-500", synthetic_policy(), gpus, 4096),
        ("synthetic-500", synthetic_policy(), read_topology("8xH100-80GB", 4), 2048),
        ("skewed", skewed_policy(), read_topology("2xcpu"), 1024),
        ("skewed", skewed_policy(), read_topology("4xcpu"), 1024),
        ("large-1000", large_policy(), read_topology("8xH100-80GB", 128), 512),
    ]


COLUMNS = (
    entry("policy"),
    entry("topology"),
    *(
        entry(name, format=".3f")
        for name in (
            *("seconds", "imbalance", "torchrec_imbalance", "told_imbalance"),
            *("step_ms", "torchrec_step_ms", "told_step_ms"),
        )
    ),
)
LAWFUL = {("movielens", 8), ("criteo", 8), ("synthetic-500", 8)}


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser(__doc__, RECORD).parse_args(arguments)
    environment = set_up(options.threads)
    broken: list[str] = []
    lines = []
    for name, policy, topology, batch in cases():
        line = measure(name, policy, topology, batch)
        lines.append(line)
        if line["seconds"] > SECONDS:
            broken.append(f"{name}: {line['seconds']} s; allowed: {SECONDS}")
        if (name, topology.world_size) in LAWFUL and not (
            line["imbalance"] <= BALANCED < line["torchrec_imbalance"]
        ):
            broken.append(f"{name}: {line['imbalance']} beside {line['torchrec_imbalance']}")
        if options.record:
            append(RECORD, {**line, "environment": environment})
    print(*table(COLUMNS, lines), *broken, sep="\n")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
