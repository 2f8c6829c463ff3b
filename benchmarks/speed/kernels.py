"""What do the ops of seo_kernels cost, against plain PyTorch and FBGEMM?

    python -m benchmarks.speed.kernels [--device cpu|cuda] [--threads 2] [--cpu-time] [--compiled]
        [--record]

Every row does the same work on the same batch of skewed 62-bit ids, one id per bag:

    remap      row numbers of 4,096 x 39 x 2 lookups
    chunk_bag  26 features x 4 chunks of 8 floats, scaled by attention, from four chunk tables
    robe_bag   39 features of 32 floats in blocks of 8, one array of 16 MB; `hashed` has blocks of 1
    weighted   26 features of 2 weighted rows of 16 floats (hash embeddings): is an op of our own
               needed beside FBGEMM's per-sample weights?

"forward" is the op alone, "both" is forward and backward with gradients of all floats (dense, as
every contestant here makes them) and of the attention or weights. Rounds are interleaved; given
are the smallest and the median time. Bytes are what must be moved once: ids, the floats that are
looked up, the output (and for "both" the output's gradient, and the dense gradient written).
"copy" is the bandwidth of copying a tensor larger than the caches, measured in the same run; a
fraction above 1 means that data stayed in a cache. On a GPU a batch has 65,536 bags of a feature
and the tables are 64 times as large, so that they do not. There each call is queued behind a wait,
so that the time between two events is the device's and not Python's; the "torch" ways that read a
number back from the device wait for it, and their time holds that. `--cpu-time` counts one thread's
own seconds instead of the clock's, for a machine that does other things too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    DenseTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

import seo_kernels
from benchmarks.command import make_parser, set_up
from benchmarks.pages import kernels
from benchmarks.record import append, path_of
from seo_kernels import native
from seo_kernels.block_bag import reference as block_reference
from seo_kernels.remap import reference as remap_reference
from seo_kernels.robe_bag import reference as robe_reference

RECORD = path_of("kernels")
LEAD = 5_000_000  # clock cycles that a GPU waits before a call: two to three milliseconds


@dataclass(frozen=True)
class Contestant:
    """One way to do the work of an op; the first of each op is ours."""

    op: str
    name: str
    run: Callable[[], object]
    num_bytes: int


@dataclass(frozen=True)
class Scale:
    """``batch`` bags of a feature; ``tables`` times the rows of the tables on a CPU."""

    device: str
    batch: int
    tables: int


SCALES = {"cpu": Scale("cpu", 4096, 1), "cuda": Scale("cuda", 65_536, 64)}


def skewed_ids(num: int, device: str) -> Tensor:
    """Cubed uniform numbers: a few ids are frequent, most are rare; scattered over 62 bits."""
    ranks = (torch.rand(num) ** 3 * 1_000_000).to(torch.int64)
    return (remap_reference.mix(ranks) & (2**62 - 1)).to(device)


def seeds(num: int) -> list[int]:
    return torch.randint(0, 2**62, (num,)).tolist()


def both(
    forward: Callable[[], Tensor], grad: Tensor, leaves: list[Tensor]
) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward; the gradients are handed over, not accumulated."""
    return lambda: torch.autograd.grad(forward(), leaves, grad)


def remap(scale: Scale, compiled: bool) -> list[Contestant]:
    device, B = scale.device, scale.batch
    F, K = 39, 78
    ids = skewed_ids(B * F, device)
    starts, features = [B * f for f in range(F + 1)], [k // 2 for k in range(K)]
    seeds_K = torch.tensor(seeds(K), device=device)
    rows_K = torch.full((K,), 100_000, device=device)

    def plain() -> Tensor:
        return remap_reference.remap(ids, starts, features, seeds_K, rows_K)

    feature_K = torch.tensor(features, device=device)
    mix = seo_rec_mix()

    def in_place() -> Tensor:
        mixed = mix(ids.view(F, B).index_select(0, feature_K) ^ seeds_K[:, None])
        return mixed.bitwise_and_(0xFFFFFFFF).mul_(rows_K[:, None]).bitwise_right_shift_(32)

    ways = {
        "ours": lambda: seo_kernels.remap(ids, starts, features, seeds_K, rows_K),
        "torch": plain,
        "torch in place": in_place,
    }
    if compiled:
        ways["torch.compile"] = torch.compile(plain)
    for name, way in ways.items():
        assert torch.equal(way().view(-1), plain()), name
    moved = 8 * (ids.numel() + K * B)
    return [Contestant("remap", name, way, moved) for name, way in ways.items()]


def seo_rec_mix() -> Callable[[Tensor], Tensor]:
    """The mixing of :mod:`seo_rec.embed.remap`, which works in place."""
    from seo_rec.embed.remap import mix_

    return mix_


def chunk_bag(scale: Scale, compiled: bool) -> list[Contestant]:
    device, B = scale.device, scale.batch
    F, C, D, rows = 26, 4, 8, 100_000 * scale.tables
    lookups = [(i, f, s) for (f, i), s in zip(pairs(F, C), seeds(F * C), strict=True)]
    blocks = seo_kernels.chunk_blocks([rows] * C, [D] * C, lookups, F).to(device)
    flat = (torch.randn(C * rows * D, device=device) * 0.01).requires_grad_()
    attention = torch.rand(F * C, device=device).requires_grad_()
    ids = skewed_ids(B * F, device)
    offsets = torch.arange(F * B + 1, device=device)
    grad = torch.randn(B, F * C * D, device=device)

    tables = table_batched([(rows, D)] * C, [t for t, _, _ in lookups], device)
    features = [f for _, f, _ in lookups]
    feature_K = torch.tensor(features, device=device)
    seeds_K1 = blocks.table[1][:, None]
    bounds = torch.arange(F * C * B + 1, device=device)

    def unfused() -> Tensor:
        ids_KB = ids.view(F, B).index_select(0, feature_K)
        rows_KB = remap_reference.hash_rows(ids_KB, seeds_K1, rows)
        x_BE = tables(rows_KB.view(-1), bounds)
        return (x_BE.view(B, -1, D) * attention[:, None]).flatten(1)

    def fused() -> Tensor:
        return seo_kernels.chunk_bag(flat, ids, offsets, blocks, attention)

    def plain() -> Tensor:
        arguments = (ids, offsets, blocks.table, F, blocks.width, None)
        return block_reference.forward(flat, attention, *arguments)

    with torch.no_grad():
        tables.weights.copy_(flat)
        torch.testing.assert_close(fused(), unfused())
        torch.testing.assert_close(fused(), plain())
    leaves = [flat, attention]
    moved = 8 * ids.numel() + 2 * 4 * grad.numel()
    more = 8 * ids.numel() + 3 * 4 * grad.numel() + 4 * flat.numel()
    out = [
        Contestant("chunk_bag forward", "ours", fused, moved),
        Contestant("chunk_bag forward", "hash, FBGEMM, multiply", unfused, moved),
        Contestant("chunk_bag forward", "torch", plain, moved),
        Contestant("chunk_bag both", "ours", both(fused, grad, leaves), moved + more),
        Contestant(
            "chunk_bag both",
            "hash, FBGEMM, multiply",
            both(unfused, grad, [tables.weights, attention]),
            moved + more,
        ),
        Contestant("chunk_bag both", "torch", both(plain, grad, leaves), moved + more),
    ]
    if compiled:
        fast = torch.compile(unfused_lookup)
        arguments = (ids.view(F, B), feature_K, seeds_K1, rows, C, D)
        torch.testing.assert_close(fast(flat, attention, *arguments), fused())
        way = lambda: fast(flat, attention, *arguments)  # noqa: E731
        out.insert(3, Contestant("chunk_bag forward", "torch.compile", way, moved))
        out.append(
            Contestant("chunk_bag both", "torch.compile", both(way, grad, leaves), moved + more)
        )
    return out


def unfused_lookup(
    flat: Tensor,
    attention: Tensor,
    ids_FB: Tensor,
    feature_K: Tensor,
    seeds_K1: Tensor,
    rows: int,
    num_tables: int,
    dim: int,
) -> Tensor:
    """The lookup for bags of one id and equal tables as one graph, for a compiler to fuse."""
    row_KB = remap_reference.hash_rows(ids_FB[feature_K], seeds_K1, rows)
    table_K1 = (torch.arange(feature_K.numel(), device=flat.device) % num_tables)[:, None]
    parts_KBD = flat.view(-1, dim)[table_K1 * rows + row_KB] * attention[:, None, None]
    return parts_KBD.transpose(0, 1).flatten(1)


def robe_bag(scale: Scale, compiled: bool) -> list[Contestant]:
    return [
        *robe_blocks("robe_bag", 8, 32, scale, compiled),
        *robe_blocks("hashed", 1, 16, scale, compiled),
    ]


def robe_blocks(op: str, Z: int, D: int, scale: Scale, compiled: bool) -> list[Contestant]:
    """D floats of 39 features in blocks of Z from one array."""
    device, B, F, N = scale.device, scale.batch, 39, 4_000_000 * scale.tables
    of_feature = [seeds(D // Z) for _ in range(F)]
    parts = ([0] * F, [N] * F, [D] * F, Z)
    blocks = seo_kernels.robe_blocks(of_feature, *parts).to(device)
    array = (torch.randn(N, device=device) * 0.01).requires_grad_()
    ids = skewed_ids(B * F, device)
    offsets = torch.arange(F * B + 1, device=device)
    grad = torch.randn(B, F * D, device=device)
    seeds_J = blocks.table[1]

    def fused() -> Tensor:
        return seo_kernels.robe_bag(array, ids, offsets, blocks)

    def naive() -> Tensor:
        return robe_reference.robe_bag(array, ids, offsets, of_feature, *parts)

    def one_index() -> Tensor:
        row = remap_reference.hash_rows(ids.view(F, -1, 1), seeds_J.view(F, 1, -1), N - Z + 1)
        at = row[..., None] + torch.arange(Z, device=device)
        return array[at.transpose(0, 1).reshape(B, -1)]

    with torch.no_grad():
        torch.testing.assert_close(fused(), naive())
        torch.testing.assert_close(fused(), one_index())
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": fused,
        "torch, by feature": naive,
        "torch, one index": one_index,
    }
    if compiled:
        ways["torch.compile"] = torch.compile(one_index)
    moved = 8 * ids.numel() + 2 * 4 * grad.numel()
    more = 8 * ids.numel() + 2 * 4 * grad.numel() + 4 * N
    return [
        *(Contestant(f"{op} forward", name, way, moved) for name, way in ways.items()),
        *(
            Contestant(f"{op} both", name, both(way, grad, [array]), moved + more)
            for name, way in ways.items()
        ),
    ]


def weighted(scale: Scale, compiled: bool) -> list[Contestant]:
    device, B = scale.device, scale.batch
    F, k, D, rows = 26, 2, 16, 100_000 * scale.tables
    ids = torch.randint(0, rows, (F * B * k,), device=device)
    offsets = torch.arange(0, F * B * k + 1, k, device=device)
    weights = torch.rand(F * B * k, device=device).requires_grad_()
    grad = torch.randn(B, F * D, device=device)
    tables = table_batched([(rows, D)], [0] * F, device)

    def fbgemm() -> Tensor:
        return tables(ids, offsets, weights)

    def unweighted() -> Tensor:
        return tables(ids, offsets)

    def torch_bag() -> Tensor:
        table = tables.weights.view(rows, D)
        out = torch.nn.functional.embedding_bag(
            ids, table, offsets[:-1], mode="sum", per_sample_weights=weights
        )
        return out.view(F, B, D).transpose(0, 1).flatten(1)

    lookups = [(0, f, s) for f, s in enumerate(seeds(F))]
    blocks = seo_kernels.chunk_blocks([rows], [D], lookups, F).to(device)

    def block_bag() -> Tensor:
        return seo_kernels.chunk_bag(tables.weights, ids, offsets, blocks, None, weights)

    with torch.no_grad():
        torch.testing.assert_close(fbgemm(), torch_bag())
    leaves = [tables.weights, weights]
    moved = 12 * ids.numel() + 4 * D * ids.numel() + 4 * grad.numel()
    more = 12 * ids.numel() + 4 * D * ids.numel() + 4 * grad.numel() + 4 * rows * D
    return [
        Contestant("weighted forward", "FBGEMM", fbgemm, moved),
        Contestant("weighted forward", "FBGEMM, no weights", unweighted, moved),
        Contestant("weighted forward", "ours (hashes the ids)", block_bag, moved),
        Contestant("weighted forward", "torch", torch_bag, moved),
        Contestant("weighted both", "FBGEMM", both(fbgemm, grad, leaves), moved + more),
        Contestant(
            "weighted both", "FBGEMM, no weights", both(unweighted, grad, leaves[:1]), moved + more
        ),
        Contestant(
            "weighted both", "ours (hashes the ids)", both(block_bag, grad, leaves), moved + more
        ),
        Contestant("weighted both", "torch", both(torch_bag, grad, leaves), moved + more),
    ]


def pairs(F: int, C: int) -> list[tuple[int, int]]:
    return [(f, i) for f in range(F) for i in range(C)]


def table_batched(
    specs: list[tuple[int, int]], table_of: list[int], device: str
) -> DenseTableBatchedEmbeddingBagsCodegen:
    return DenseTableBatchedEmbeddingBagsCodegen(
        specs, feature_table_map=table_of, pooling_mode=PoolingMode.SUM, use_cpu=device == "cpu"
    )


def seconds(run: Callable[[], object], clock: str) -> float:
    if clock == "gpu":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(LEAD)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    now = time.thread_time if clock == "cpu-time" else time.perf_counter
    start = now()
    run()
    return now() - start


def copy_bandwidth(device: str, clock: str) -> float:
    """Bytes per second, read and written, of copying half a gigabyte (128 MB on a CPU)."""
    source = torch.ones(2**27 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    times = [seconds(lambda: target.copy_(source), clock) for _ in range(12)]
    return 8 * source.numel() / min(times[2:])


def measure(contestants: list[Contestant], rounds: int, clock: str) -> list[list[float]]:
    """Seconds of every contestant in every round, after two rounds to warm up."""
    times: list[list[float]] = [[] for _ in contestants]
    for i in range(rounds + 2):
        for times_of, contestant in zip(times, contestants, strict=True):
            taken = seconds(contestant.run, clock)
            if i >= 2:
                times_of.append(taken)
    return times


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=2)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=list(SCALES), default=here)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--compiled", action="store_true", help="torch.compile too; takes minutes")
    parser.add_argument("--cpu-time", action="store_true", help="implies one thread")
    options = parser.parse_args()
    if options.cpu_time:  # of one thread: gradients then run in this one, too
        options.threads, options.device = 1, "cpu"
        torch.autograd.set_multithreading_enabled(False)
    clock = "cpu-time" if options.cpu_time else "gpu" if options.device == "cuda" else "wall"
    torch.manual_seed(0)
    environment = {**set_up(options.threads), "native_missing": native.missing()}
    copy = copy_bandwidth(options.device, clock)
    scale, lines = SCALES[options.device], []
    for make in (remap, chunk_bag, robe_bag, weighted):
        contestants = make(scale, options.compiled)
        times = measure(contestants, options.rounds, clock)
        ours = {c.op: min(t) for c, t in reversed(list(zip(contestants, times, strict=True)))}
        for c, t in zip(contestants, times, strict=True):
            rate = c.num_bytes / min(t)
            lines.append(
                {
                    "benchmark": "kernels",
                    "device": options.device,
                    "clock": clock,
                    "batch": scale.batch,
                    "op": c.op,
                    "way": c.name,
                    "min_ms": round(min(t) * 1e3, 4),
                    "median_ms": round(statistics.median(t) * 1e3, 4),
                    "bytes": c.num_bytes,
                    "gb_per_s": round(rate / 1e9, 3),
                    "copy_gb_per_s": round(copy / 1e9, 3),
                    "of_copy": round(rate / copy, 4),
                    "time_over_ours": round(min(t) / ours[c.op], 3),
                    "rounds": options.rounds,
                    "environment": environment,
                }
            )
    print(*kernels.region(lines), sep="\n")
    for line in lines if options.record else ():
        append(RECORD, line)


if __name__ == "__main__":
    main()
