"""What to say when the tables do not fit: which, by how much, and what would help."""

from __future__ import annotations

from seo_rec.plan.cost import RESERVED, Prices
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
    stored = prices.table_bytes(prices.row_optimizer) // size  # a device's part of the tables
    saved = stored - prices.table_bytes("sgd") // size
    buffers = max(0, capacity + short - stored)
    batch = f"a --batch below {prices.batch_size:,} rows of one device"
    larger = _device(topology.memory_bytes, short)
    helps = [batch] if buffers > stored else []
    room = capacity - buffers
    if room > 0:
        devices = max(size + 1, -(-stored * size // room))
        helps.append(f"{devices:,} devices of this kind in place of {size:,}")
        helps.append(
            f"at most {floats * room // stored:,} parameters in place of {floats:,} "
            "(`seo-rec apply --params`)"
        )
    if saved:
        uvm = topology.host_memory_bytes > 0 and size > 1
        beside = " and lets tables be in main memory (fused_uvm_caching)" * uvm
        helps.append(
            f"--row-optimizer rowwise_adagrad or sgd, which frees about {saved:,} bytes a device"
            f"{beside}"
        )
    helps += [f"devices of {larger:,} bytes (--topology)", batch]
    return list(dict.fromkeys(helps))[:3]


def host_shortage(prices: Prices, share: int, needed: int) -> PlanError:
    """The error of a plan in which the tables outside the devices fill a machine's main memory.

    Args:
        prices: of the policy.
        share: bytes of a machine's main memory that tables may take.
        needed: bytes that they would take there.
    """
    topology = prices.topology
    floats = sum(t.num_rows * t.dim for t in prices.tables.values())
    machines = -(-needed * topology.nodes // max(1, share))
    lean = "" if prices.row_optimizer == "sgd" else " or --row-optimizer rowwise_adagrad or sgd"
    return PlanError(
        f"tables outside the devices are short by {needed - share:,} bytes of main memory on a "
        f"machine of {topology.name}: they take {needed:,} of the {share:,} that are for them. "
        f"Three things that would help: {machines:,} machines (--nodes); at most "
        f"{floats * share // needed:,} parameters in place of {floats:,} (`seo-rec apply "
        f"--params`){lean}; machines of more main memory (--topology FILE)"
    )


def flat_shortage(prices: Prices, usable: int) -> PlanError:
    """The error of a policy whose flat arrays, which every device holds whole, fill one.

    Args:
        prices: of the policy.
        usable: bytes of a device that tables and arrays may take.
    """
    topology, needed = prices.topology, prices.flat_bytes()
    floats = sum(prices.arrays.values())
    short = needed - usable + 1  # tables need some, too
    each = needed // floats
    lean = floats * (each - {"adam": 8, "lazy_adam": 8, "adagrad": 4}.get(prices.row_optimizer, 0))
    helps = [
        f"at most {(usable - 1) // each:,} floats in flat arrays in place of {floats:,} (a smaller "
        "budget)",
        f"devices of {_device(topology.memory_bytes, short):,} bytes (--topology)",
        "a method with tables (multi-size, unified, ...), which can be sharded",
    ]
    if lean < needed:
        helps[2] = (
            f"--row-optimizer sgd, under which they take {lean:,} bytes, or a method with tables, "
            "which can be sharded"
        )
    largest = max(prices.arrays, key=lambda name: (prices.arrays[name], name))
    return PlanError(
        f"flat array {largest!r} ({prices.arrays[largest]:,} floats) is short by {short:,} bytes "
        f"on every device of {topology.name}: flat arrays are not sharded, and with their "
        f"gradients and optimizer states they take {needed:,} bytes where {usable:,} of "
        f"{topology.memory_bytes:,} are free. Three things that would help: " + "; ".join(helps)
    )


def _device(memory: int, short: int) -> int:
    """Bytes of a device that has room for ``short`` bytes more than one of ``memory``."""
    return memory + int(short / (1 - RESERVED)) + 1
