"""A model over the processes of a launch: which plan, and what machines it is for."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from seo_rec.model import RecModel
from seo_rec.plan import (
    DEFAULT_KERNELS,
    FUSED,
    LANES,
    PRESETS,
    Placement,
    Plan,
    PlanError,
    Topology,
    plan_policy,
    read_topology,
)
from seo_rec.policy import Policy
from seo_rec.settings import FitSettings, settled
from seo_rec.train.distributed import distribute, fusable
from seo_rec.train.fused_rows import FUSED_ON
from seo_rec.train.optimizers import ADAGRAD_EPS
from seo_rec.train.ranks import Ranks, ranks

log = logging.getLogger(__name__)

# An exchange of four gloo processes on two cores took about four times as long as one of two
# (benchmarks/results/throughput.jsonl): the power of the processes per core.
CROWDED = 2
UNKNOWN_GPU = "V100-32GB"  # preset whose bandwidths stand for those of a GPU that is none


def shard(
    model: RecModel,
    settings: FitSettings,
    plan: Path | None = None,
    rates: Mapping[str, float] | None = None,
) -> nn.Module:
    """``model`` over all processes of the launch; as it is, if there is one.

    Args:
        model: the same in every process.
        settings: batch and row optimizer decide what a plan costs.
        plan: a plan file; None: one is made.
        rates: mean ids per bag by feature, for a plan that is made; 1 for all if None.

    Raises:
        PlanError: ``plan`` is for another policy, another row optimizer or other processes, or a
            plan cannot be made; on every rank.
    """
    here, policy = ranks(), model.embedding.stored
    settings = settled(settings, policy.num_params)
    if here.world_size == 1:
        if plan is not None:
            _placements(policy, settings, plan, rates, here)
        if fuses_alone(policy, settings, here.device):
            embedding = model.embedding
            embedding.update_in_backward(settings.row_optimizer, ADAGRAD_EPS, here.device)
        return model.to(here.device)
    placements = here.on_first(lambda: _placements(policy, settings, plan, rates, here))
    return distribute(
        model,
        placements,
        here,
        row_optimizer=settings.row_optimizer,
        row_lr=settings.row_lr,
        row_l2=settings.row_l2,
        l2_on=settings.l2_on,
        mean=settings.average > 0,
    )


def fuses_alone(policy: Policy, settings: FitSettings, device: torch.device) -> bool:
    """Whether one process on a device updates its tables within the backward pass.

    Args:
        policy: The tables as they are trained.
        settings: Of the training, :func:`seo_rec.settings.settled`.
        device: Of the process.
    """
    return (
        device.type in FUSED_ON
        and bool(policy.tables)
        and settings.storage == "float32"
        and fusable(settings.row_optimizer, settings.average > 0, settings.row_l2 > 0)
        and all(t.dim % LANES == 0 for t in policy.tables)
    )


def _placements(
    policy: Policy,
    settings: FitSettings,
    plan: Path | None,
    rates: Mapping[str, float] | None,
    here: Ranks,
) -> tuple[Placement, ...]:
    rows = settings.batch_size // here.world_size
    updates = settings.row_optimizer, settings.average > 0, settings.row_l2 > 0
    if plan is None:
        made = plan_policy(
            policy,
            topology_here(here),
            batch_size=rows,
            row_optimizer=settings.row_optimizer,
            rates=rates,
            row_l2=settings.row_l2 if settings.l2_on == "all" else 0.0,
            copyable=settings.storage == "float32"
            and not (settings.row_l2 and settings.l2_on != "all"),
            storage=settings.storage,
            default=False,
            compute_kernels=DEFAULT_KERNELS if fusable(*updates) else (FUSED,),
        )
        return made.placements
    read = check_plan(plan, policy, settings, here)
    if read.batch_size != rows:
        log.warning(
            "%s was made for batches of %d rows a rank; this run has %d, so its memory and times "
            "are others than planned (`seo-rec plan --batch %d`)",
            plan,
            read.batch_size,
            rows,
            rows,
        )
    return read.placements


def check_plan(plan: Path, policy: Policy, settings: FitSettings, here: Ranks) -> Plan:
    """The plan of a file. PlanError unless it is for this policy, optimizer and processes."""
    read, settings = Plan.load(plan), settled(settings, policy.num_params)
    if (read.world_size, read.device) != (here.world_size, here.device.type):
        raise PlanError(
            f"{plan} is for {read.world_size} ranks on {read.device}; there are {here.world_size} "
            f"on {here.device.type}; make one with `seo-rec plan --topology`"
        )
    if read.local_size != here.local_size:
        raise PlanError(
            f"{plan} is for machines of {read.local_size} ranks; here a machine has "
            f"{here.local_size} of {here.world_size}; make one with `seo-rec plan --topology "
            "--nodes`"
        )
    if read.row_optimizer != settings.row_optimizer:
        raise PlanError(
            f"{plan} is for row optimizer {read.row_optimizer}, whose memory and cuts it counts "
            f"on; this run has {settings.row_optimizer}; make one with `seo-rec plan "
            f"--row-optimizer {settings.row_optimizer}`"
        )
    try:
        read.check(policy)
    except PlanError as error:
        raise PlanError(f"{plan}: {error}") from error
    return read


def topology_here(here: Ranks) -> Topology:
    """The preset of the devices of this launch, with their own memory and share of the machine's.

    A process on the CPU has its share of the machine's memory; with more processes than cores, each
    waits for its turn in every exchange (:data:`CROWDED`). A GPU that is no preset gets the
    bandwidths of :data:`UNKNOWN_GPU`, and a warning says so.
    """
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // here.local_size
    if here.device.type == "cpu":
        preset = read_topology(f"{here.local_size}xcpu")
        memory, host = host, 0
        crowd = max(1.0, here.local_size / len(os.sched_getaffinity(0)))
        preset = replace(preset, exchange_ms=preset.exchange_ms * crowd**CROWDED)
    else:
        found = torch.cuda.get_device_properties(here.device)
        memory = found.total_memory
        preset = read_topology(f"{here.local_size}x{_preset_of(found.name, memory)}")
    nodes = here.world_size // here.local_size
    return replace(preset, nodes=nodes, memory_bytes=memory, host_memory_bytes=host)


def _preset_of(gpu: str, memory: int) -> str:
    """The preset of a GPU by the words of its name; of several the one nearest in memory."""
    words = re.split(r"[^A-Z0-9]+", gpu.upper())  # "NVIDIA L40S" is no L4
    known = [p for p in PRESETS if p.partition("-")[0] in words]
    if not known:
        log.warning(
            "GPU %r is no preset (%s); the plan counts on its %d bytes and on the bandwidths of "
            "%s, which are those TorchRec assumes. `seo-rec plan --topology FILE.json` and --plan "
            "plan for what it is",
            gpu,
            ", ".join(PRESETS),
            memory,
            UNKNOWN_GPU,
        )
    return min(known, key=lambda p: abs(PRESETS[p].memory_bytes - memory), default=UNKNOWN_GPU)
