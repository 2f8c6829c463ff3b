"""Which rank takes which piece: longest first, then moves and swaps until none helps.

Letters: P pieces, W ranks, F features.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TIE = 0.01  # loads this close, in parts of the piece that is placed, count as equal
GOOD_ENOUGH = 1e-4  # a local search stops when the fullest rank is this close to the mean


@dataclass(frozen=True)
class Piece:
    """Some columns of a table: its cost in milliseconds and bytes wherever it goes."""

    table: str
    columns: int
    ms: float
    memory: int


@dataclass(frozen=True)
class NoRoom:
    """The piece that found no rank, and the room that was left on the emptiest one."""

    piece: Piece
    rank: int
    free: int


@dataclass(frozen=True)
class Ranks:
    """What every rank carries already, and what any of them can hold.

    Args:
        ms_W: milliseconds of each of the W ranks.
        memory_W: bytes that each has.
        capacity: bytes that each may have.
    """

    ms_W: Floats
    memory_W: npt.NDArray[np.int64]
    capacity: int

    @classmethod
    def alike(cls, world_size: int, ms: float, memory: int, capacity: int) -> Ranks:
        """All of them carry the same."""
        return cls(np.full(world_size, float(ms)), np.full(world_size, memory), capacity)

    @property
    def world_size(self) -> int:
        return len(self.ms_W)


def pack(
    pieces: list[Piece], ranks: Ranks, readers: dict[str, npt.NDArray[np.float32]]
) -> list[int] | NoRoom:
    """The rank of every piece, so that the fullest rank has little to do; deterministic.

    Longest first: each piece goes to the least loaded rank that can hold it; among equals, to the
    one whose tables share the fewest features with it. Loads of tables that one feature reads rise
    and fall together, batch by batch, so they are better apart. If that ends without room, the
    pieces are placed by size first. Then :func:`_improve` and :func:`_in_turn`.

    Args:
        pieces: P of them.
        ranks: their loads so far.
        readers: by table, one for each of the F features that reads it, zero for the others.
    """
    by_ms = sorted(range(len(pieces)), key=lambda i: (-pieces[i].ms, -pieces[i].memory, i))
    by_memory = sorted(range(len(pieces)), key=lambda i: (-pieces[i].memory, -pieces[i].ms, i))
    found = _longest_first(pieces, by_ms, ranks, readers)
    if isinstance(found, NoRoom):
        found = _longest_first(pieces, by_memory, ranks, readers)
    if isinstance(found, NoRoom):
        return found
    return _in_turn(pieces, _improve(pieces, found, ranks), readers)


def _longest_first(
    pieces: list[Piece],
    order: list[int],
    ranks: Ranks,
    readers: dict[str, npt.NDArray[np.float32]],
) -> list[int] | NoRoom:
    size = ranks.world_size
    ms, free = ranks.ms_W.copy(), ranks.capacity - ranks.memory_W
    features = next(iter(readers.values())).size if readers else 0
    present = np.zeros((size, features), dtype=np.float32)
    placed = [0] * len(pieces)
    for i in order:
        piece = pieces[i]
        room = free >= piece.memory
        if not room.any():
            rank = int(free.argmax())
            return NoRoom(piece, rank, int(free[rank]))
        load = np.where(room, ms, np.inf)
        equal = np.flatnonzero(load <= load.min() + TIE * piece.ms)
        shared = (present @ readers[piece.table])[equal]
        rank = int(equal[np.lexsort((equal, load[equal], shared))[0]])
        placed[i] = rank
        ms[rank] += piece.ms
        free[rank] -= piece.memory
        np.maximum(present[rank], readers[piece.table], out=present[rank])
    return placed


def _in_turn(
    pieces: list[Piece], placed: list[int], readers: dict[str, npt.NDArray[np.float32]]
) -> list[int]:
    """Equal pieces change places, so that earlier tables are on lower ranks.

    Vectors come out of an exchange rank by rank. Where that is the order of the policy, a model
    need not put them in order in every step. Loads stay what they are, and so does which features
    meet on a rank: only whole tables change places whose features read no other table.
    """
    reads = sum(readers.values(), np.zeros(1, np.float32))
    cuts = Counter(p.table for p in pieces)
    alike: dict[tuple[int, float, int], list[int]] = {}
    for i, piece in enumerate(pieces):
        alone = (reads * readers[piece.table] == readers[piece.table]).all()
        if alone and cuts[piece.table] == 1:
            alike.setdefault((piece.columns, piece.ms, piece.memory), []).append(i)
    turned = list(placed)
    for group in alike.values():
        for i, rank in zip(group, sorted(placed[i] for i in group), strict=True):
            turned[i] = rank
    return turned


def _improve(pieces: list[Piece], placed: list[int], ranks: Ranks) -> list[int]:
    """Move or swap pieces of the fullest rank as long as that empties it without filling another.

    Every step lowers the load of the fullest rank, or the number of ranks that have it; the number
    of steps is bounded all the same.
    """
    where = np.array(placed, dtype=np.int64)
    cost = np.array([p.ms for p in pieces])
    memory = np.array([p.memory for p in pieces], dtype=np.int64)
    ms: Floats = ranks.ms_W + np.bincount(where, cost, ranks.world_size)
    held = ranks.memory_W + np.bincount(where, memory, ranks.world_size).astype(np.int64)
    for _ in range(4 * len(pieces)):
        fullest = int(ms.argmax())
        if ms[fullest] <= ms.mean() * (1 + GOOD_ENOUGH):
            break
        step = _best_step(fullest, where, cost, memory, ms, held, ranks.capacity)
        if step is None:
            break
        for piece, rank in step:
            old = where[piece]
            where[piece] = rank
            ms[old] -= cost[piece]
            ms[rank] += cost[piece]
            held[old] -= memory[piece]
            held[rank] += memory[piece]
    return [int(rank) for rank in where]


def _best_step(
    fullest: int,
    where: npt.NDArray[np.int64],
    cost: Floats,
    memory: npt.NDArray[np.int64],
    ms: Floats,
    held: npt.NDArray[np.int64],
    capacity: int,
) -> list[tuple[int, int]] | None:
    """The move or swap after which the higher of the two ranks is lowest, if it helps at all."""
    best, step = float(ms[fullest]) * (1 - 1e-9), None
    others = np.flatnonzero(where != fullest)
    for piece in np.flatnonzero(where == fullest):
        after = np.maximum(ms[fullest] - cost[piece], ms + cost[piece])
        after[fullest] = np.inf
        after[held + memory[piece] > capacity] = np.inf
        rank = int(after.argmin())
        if after[rank] < best:
            best, step = float(after[rank]), [(int(piece), rank)]
        if not others.size:
            continue
        less, more = cost[piece] - cost[others], memory[piece] - memory[others]
        after = np.maximum(ms[fullest] - less, ms[where[others]] + less)
        fits = (held[where[others]] + more <= capacity) & (held[fullest] - more <= capacity)
        after[~fits | (less <= 0)] = np.inf
        k = int(after.argmin())
        if after[k] < best:
            other = int(others[k])
            best, step = float(after[k]), [(int(piece), int(where[other])), (other, fullest)]
    return step
