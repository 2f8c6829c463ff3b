"""What the kernels and a training step take on this device.

Letters: B rows, K lookups.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.gpu.fused import make_tables
from benchmarks.gpu.lines import Lines, Run, forbidden, measure, note
from benchmarks.ranks import throughput
from benchmarks.ranks.workload import zipf_batches, zipf_schema
from benchmarks.speed import kernels
from seo_rec.batch import Batch
from seo_rec.methods import monolithic
from seo_rec.model import ModelSettings, build_model
from seo_rec.plan import plan_policy
from seo_rec.train import Ranks, make_optimizers, topology_here
from seo_rec.train.optimizers import ADAGRAD_EPS
from seo_rec.train.steps import PlainSteps

OF_COPY = 0.7  # goal: the bytes that must be moved, at so much of the bandwidth of a copy
GOALS = {"chunk_bag forward": OF_COPY, "chunk_bag both": OF_COPY, "remap": OF_COPY}
TILES = ((512, 2), (512, 4), (1024, 2), (1024, 4), (2048, 4), (2048, 8), (4096, 8))
FETCH_LIMIT, FETCH_BYTES = 5, 32  # cudaLimitMaxL2FetchGranularity, and a row of eight floats


# ---- kernels -----------------------------------------------------------------------------


def _scale(run: Run) -> kernels.Scale:
    scale = kernels.SCALES[run.device.type]
    return replace(scale, batch=64) if run.small else scale


def _clock(run: Run) -> str:
    return "gpu" if run.device.type == "cuda" else "wall"


def every_op(run: Run) -> Lines:
    """Every op beside its rivals, with results compared first; fractions of a copy's bandwidth."""
    copy = kernels.copy_bandwidth(run.device.type, _clock(run))
    yield measure("copy", copy / 1e9, "GB/s")
    for make in (kernels.remap, kernels.chunk_bag, kernels.robe_bag, kernels.weighted):
        contestants = make(_scale(run), False)
        times = kernels.measure(contestants, run.pick(15, 2), _clock(run))
        for c, taken in zip(contestants, times, strict=True):
            ours = c.name == "ours"
            yield measure(
                f"{c.op}: {c.name}",
                c.num_bytes / min(taken) / copy,
                "of copy",
                GOALS.get(c.op) if ours and run.device.type == "cuda" else None,
                ms=1e3 * statistics.median(taken),
            )


def tiles(run: Run) -> Lines:
    """``chunk_bag`` by floats and warps of a program; the first line is what the package takes."""
    if run.device.type != "cuda":
        yield forbidden("tiles", "there are no programs of a GPU on a CPU")
        return
    from seo_kernels.block_bag import kernel

    ours = [c for c in kernels.chunk_bag(_scale(run), False) if c.name == "ours"]
    for tile, warps in ((kernel.TILE, kernel.WARPS), *TILES):
        kernel.TILE, kernel.WARPS = tile, warps
        for c, taken in zip(ours, kernels.measure(ours, 10, "gpu"), strict=True):
            ms = 1e3 * statistics.median(taken)
            yield measure(f"{c.op}: {tile} floats, {warps} warps", ms, "ms")


def fetch(run: Run) -> Lines:
    """``chunk_bag`` where the cache fetches 32 bytes at a time: a row of a chunk, and no more.

    By default it fetches 64, so half of what is read for a row of eight floats goes unused.
    """
    if run.device.type != "cuda":
        yield forbidden("fetch granularity", "a setting of GPUs")
        return
    failed = set_fetch_bytes()
    if failed:
        yield forbidden("fetch granularity", failed)
        return
    copy = kernels.copy_bandwidth("cuda", "gpu")
    ours = [c for c in kernels.chunk_bag(_scale(run), False) if c.name == "ours"]
    for c, taken in zip(ours, kernels.measure(ours, 15, "gpu"), strict=True):
        rate = c.num_bytes / min(taken) / copy
        ms = 1e3 * statistics.median(taken)
        yield measure(f"{c.op}: fetches of {FETCH_BYTES} bytes", rate, "of copy", ms=ms)


def set_fetch_bytes() -> str:
    """Set the limit for this process; why not, or nothing."""
    torch.cuda.init()
    found = re.findall(r"\S*/libcudart\S*\.so\S*", Path("/proc/self/maps").read_text())
    if not found:
        return "libcudart is not loaded as a library of its own"
    limit = ctypes.CDLL(found[0]).cudaDeviceSetLimit
    limit.argtypes = (ctypes.c_int, ctypes.c_size_t)
    status = limit(FETCH_LIMIT, FETCH_BYTES)
    return f"cudaDeviceSetLimit gave status {status}" if status else ""


# ---- steps -------------------------------------------------------------------------------


def every_method(run: Run) -> Lines:
    """A training step of every method at one size, whole in this process."""
    yield from _throughput(run, [])


def against_torchrec(run: Run) -> Lines:
    """Our embedding beside TorchRec's collection, whose vectors must be the same to the bit.

    This is where a sharded model once gave other vectors on a GPU.
    """
    yield from _throughput(run, ["--against-torchrec", "--methods", "multi-size"])


def no_plans(run: Run) -> str:
    """Why no plan can be made with this TorchRec, whose cost model the planner asks; or nothing."""
    schema = zipf_schema(3, 100, 1)
    try:
        plan_policy(monolithic(schema, 1600, 16), topology_here(run.ranks), batch_size=8)
    except (AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _throughput(run: Run, question: list[str]) -> Lines:
    why = no_plans(run)
    if why:
        yield forbidden("steps of planned models", f"no plan with this TorchRec ({why})")
        return
    size = ["--features", "26", "--batch", "16384", "--params", "53248000", "--batches", "2"]
    if run.small:
        size = ["--features", "6", "--batch", "24", "--params", "9600", "--vocabulary", "500"]
        size += ["--hidden", "8", "--batches", "2"]
    arguments = [*size, "--repeats", str(run.pick(6, 2)), "--steps", str(run.pick(4, 1))]
    for line in throughput.run(throughput.parse([*question, *arguments]), run.ranks):
        if line["kind"] == "measurement":
            name = f"step: {line['policy']}, {line['way']}"
            yield measure(name, line["ms_per_step"]["median"], "ms")
        else:
            yield measure(f"{line['policy']}: {line['what']}", line["median"], "ratio")


def sizes(run: Run) -> Lines:
    """Milliseconds of a step against rows of the table: ours, and FBGEMM's fused tables bare.

    39 lookups of 16 floats of one table, row-wise Adagrad, the same MLP on both sides; the bare
    tables are given row numbers, and ours hashes ids. Ours updates within the backward pass, and
    again with the gradients of the rows that were read, as it does where a running mean is kept.
    """
    dim, rows, batch = 16, (20_000, 2_000_000, 20_000_000, 60_000_000), run.pick(16_384, 16)
    schema = zipf_schema(39, 1_000_000, 13)
    batches = zipf_batches(schema, 1.05, batch, 3, 0)
    for count in rows[:1] if run.small else rows:
        try:
            ours = _ours(run, count, dim, batches, fused=True)
            by_rows = _ours(run, count, dim, batches, fused=False)
            bare = _bare(run, count, dim, batches)
        except torch.cuda.OutOfMemoryError as error:
            yield note(f"{count} rows", f"do not fit: {str(error).splitlines()[0]}")
            return
        yield measure(f"step of {count} rows: ours", ours, "ms")
        over = {"ours_over": ours / by_rows}
        yield measure(f"step of {count} rows: ours, gradients of rows", by_rows, "ms", **over)
        yield measure(
            f"step of {count} rows: FBGEMM fused, bare", bare, "ms", ours_over=ours / bare
        )


def _ours(run: Run, rows: int, dim: int, batches: list[Batch], *, fused: bool) -> float:
    schema = zipf_schema(39, 1_000_000, 13)
    policy = monolithic(schema, rows * dim, dim)
    model = build_model(policy, 13, ModelSettings(hidden=(256, 128)), 0)
    if fused:
        model.embedding.update_in_backward("rowwise_adagrad", ADAGRAD_EPS, run.device)
    model = model.to(run.device)
    optimizers = make_optimizers(model, "rowwise_adagrad", 0.01, 1e-3)
    steps = PlainSteps(model, optimizers, Ranks(device=run.device))
    on_device = [b.to(run.device) for b in batches]
    return _ms(run, lambda: [None for _ in steps(on_device)], len(batches))


def _bare(run: Run, rows: int, dim: int, batches: list[Batch]) -> float:
    tables = make_tables("EXACT_ROWWISE_ADAGRAD", [(rows, dim)], run.device, [0] * 39)
    layers = nn.Sequential(
        nn.Linear(39 * dim + 13, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1)
    ).to(run.device)
    adam = torch.optim.Adam(layers.parameters(), lr=1e-3, fused=True)
    on_device = [b.to(run.device) for b in batches]

    def step(batch: Batch) -> None:
        sparse: KeyedJaggedTensor = batch.sparse
        adam.zero_grad()
        x_BE = tables(sparse.values() % rows, sparse.offsets().long())
        logits_B = layers(torch.cat([batch.dense_BN, x_BE], 1)).squeeze(1)
        functional.binary_cross_entropy_with_logits(logits_B, batch.labels_B).backward()
        adam.step()

    def epoch() -> None:
        for batch in on_device:
            step(batch)

    return _ms(run, epoch, len(batches))


def _ms(run: Run, work: Callable[[], object], steps: int) -> float:
    """Milliseconds of a step: the median of repeats after some to warm up."""
    times = []
    for _ in range(run.pick(12, 3)):
        _wait(run)
        started = time.perf_counter()
        work()
        _wait(run)
        times.append((time.perf_counter() - started) / steps)
    return 1e3 * statistics.median(itertools.islice(times, run.pick(3, 1), None))


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
