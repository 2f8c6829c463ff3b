"""What the tables of a training take in memory, and whether that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from seo_rec.policy import Policy
from seo_rec.policy.dtypes import FLOAT_BYTES
from seo_rec.settings import FitSettings, settled
from seo_rec.train.ranks import Ranks

MEMORY = Path("/proc/meminfo")
GROUPS = (  # limit and use of a container, in bytes
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
# Numbers of four bytes that an optimizer keeps for every float, and for every row.
STATES = {
    "adam": (2, 0),
    "lazy_adam": (2, 1),
    "adagrad": (1, 0),
    "rowwise_adagrad": (0, 1),
    "sgd": (0, 0),
}


class TooLargeError(RuntimeError):
    """The tables of a training do not fit into memory; the message says what would help."""


def training_bytes(policy: Policy, settings: FitSettings) -> int:
    """Weights of all tables and arrays, optimizer state, running mean and dense gradients.

    Args:
        policy: The tables as they are trained.
        settings: The training.
    """
    chosen = settled(settings, policy.num_params)
    per_float, per_row = STATES[chosen.row_optimizer]
    dense = chosen.has_dense_gradients
    if dense:  # the gradient, and all tables behind each other, to be read
        per_float += 1 + (len(policy.tables) > 1)
    if chosen.row_l2 and chosen.l2_on == "frequency":
        per_row += 1
    if chosen.average:
        per_row += not dense
    rows = sum(t.num_rows for t in policy.tables)
    own = FLOAT_BYTES[chosen.storage] * (1 + (chosen.average > 0))  # a mean is of the same type
    return policy.num_params * (own + 4 * per_float) + 4 * rows * per_row


def require_memory(
    policy: Policy,
    settings: FitSettings,
    ranks: Ranks,
    *,
    search: str = "",
    shared: bool = True,
    lever: str = "a smaller --dim",
) -> None:
    """Refuse tables that cannot fit, before any memory is taken for them.

    Args:
        policy: The tables as they are trained.
        settings: The training.
        ranks: The processes that share the tables; those of one machine share its memory.
        search: The search that trains these tables, for its message; empty for a policy.
        lever: What makes the tables of the search smaller.
        shared: Whether the processes divide the tables; else each has all, and dense gradients.

    Raises:
        TooLargeError: With three things that would help.
    """
    room = available_bytes(ranks.device)
    on_one = ranks.local_size if ranks.device.type == "cpu" else 1
    needed = training_bytes(policy, settings) * on_one // (ranks.world_size if shared else 1)
    if room is None or needed <= room:
        return
    floats = policy.num_params * room // needed
    helps = [f"a policy of at most {floats:,} parameters (`seo-rec apply --params`)"]
    if search:
        helps = [f"a search among tables of at most {floats:,} parameters ({lever})"]
    chosen = settled(settings, policy.num_params)
    by_rows = chosen.row_optimizer == "rowwise_adagrad" and not chosen.has_dense_gradients
    if shared and not by_rows:
        helps.append("--optimizer rowwise_adagrad with --l2-on read, one number per row")
    if chosen.average:
        helps.append("--average 0, which keeps no mean of the weights")
    if chosen.storage == "float32" and not (policy.arrays or search):
        helps.append("--storage bfloat16, two bytes for a parameter and two for its mean")
    if shared:
        times = -(-needed // max(1, room))
        helps.append(f"tables shared by {times * ranks.world_size:,} processes")
    helps.append(f"a machine with {needed:,} free bytes")
    raise TooLargeError(
        f"the tables of {policy.num_params:,} parameters {f'of {search} ' * bool(search)}take "
        f"{needed:,} bytes of memory in training, with what {chosen.row_optimizer} keeps, and "
        f"{room:,} are free here. Things that would help: {'; '.join(helps[:3])}; nothing was "
        "allocated"
    )


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device, of a container if that has less; None if nobody knows."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = MEMORY.read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    rooms = [1024 * free]
    for limit, use in GROUPS:
        try:
            rooms.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
        except (OSError, ValueError):  # no such group, or no limit
            continue
    return max(0, min(rooms))


@contextmanager
def memory_said(policy: Policy, settings: FitSettings) -> Iterator[None]:
    """Within the block an allocation that fails becomes a :class:`TooLargeError`."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and "DefaultCPUAllocator" not in text:
            raise
        raise TooLargeError(
            f"out of memory in training: the tables of {policy.num_params:,} parameters take "
            f"{training_bytes(policy, settings):,} bytes of it over all processes; a smaller "
            "--batch-size, or what `seo-rec train --help` lists under --optimizer and --average, "
            f"takes less ({text.splitlines()[0] if text else type(error).__name__})"
        ) from error
