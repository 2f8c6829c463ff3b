"""What to say when the tables do not fit: which, by how much, and what would help."""

from __future__ import annotations

from seo_rec.plan.cost import Prices
from seo_rec.plan.placement import PlanError


def shortage(prices: Prices, capacity: int, table: str, short: int, rank: int = 0) -> PlanError:
    """The error of a plan in which ``table`` finds no room, however it is cut.

    Args:
        prices: of the policy that does not fit.
        capacity: bytes of a device that tables may take.
        table: the one that finds no room.
        short: bytes that it lacks.
        rank: the device with the most room.
    """
    return PlanError(
        f"table {table!r} is short by {short:,} bytes on device {rank} of "
        f"{prices.topology.name}: {capacity:,} of its {prices.topology.memory_bytes:,} bytes are "
        "for tables, their optimizer states and the ids and vectors of a step. Three things that "
        "would help: " + "; ".join(_helps(prices, capacity, short))
    )


def _helps(prices: Prices, capacity: int, short: int) -> list[str]:
    """Three things, each with the number that it needs, the surest first."""
    topology, size = prices.topology, prices.topology.world_size
    floats = sum(t.num_rows * t.dim for t in prices.tables.values())
    states = {"adam": 2.0, "adagrad": 1.0}.get(prices.row_optimizer, 0.0)
    stored = int(4 * floats * (1 + states + prices.dense)) // size  # a device's part of the tables
    buffers = max(0, capacity + short - stored)
    batch = f"a --batch below {prices.batch_size:,} rows of one device"
    larger = int((capacity + short) / capacity * topology.memory_bytes)
    helps = [batch] if buffers > stored else []
    room = capacity - buffers
    if room > 0:
        devices = max(size + 1, -(-stored * size // room))
        helps.append(f"{devices:,} devices of this kind in place of {size:,}")
        helps.append(
            f"at most {floats * room // stored:,} parameters in place of {floats:,} "
            "(`seo-rec apply --params`)"
        )
    if states:
        saved = int(4 * floats * states) // size
        helps.append(
            f"--row-optimizer rowwise_adagrad or sgd, which frees about {saved:,} bytes a device"
        )
    helps += [f"devices of {larger:,} bytes (--topology)", batch]
    return list(dict.fromkeys(helps))[:3]
