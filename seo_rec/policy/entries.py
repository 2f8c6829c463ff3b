"""What a policy is made of: tables, flat arrays, lookups, features, the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

# The fields that an address uses, besides the table; a field it does not use stays at its default.
ADDRESS_FIELDS: dict[str, tuple[str, ...]] = {
    "hash": ("seed",),
    "id": ("seed", "unknown_rows"),
    "quotient": ("modulus",),
    "remainder": ("modulus",),
    "codes": ("seed", "modulus", "codes"),
    "blocks": ("seed", "block", "width"),
}
ADDRESSES = tuple(ADDRESS_FIELDS)
COMBINES = ("concat", "sum", "mul", "weighted_sum")
MAX_SEED = 2**63 - 1
MAX_ROWS = 2**31 - 1
MAX_WIDTH = 65536
MAX_BUDGET = 2**63 - 1
MAX_COLUMNS = 8  # of one cross
MAX_CROSS_IDS = 256  # that a cross makes of one row of the data
MISSING_ID = 2**62 - 1  # the id of a missing value, in data and in crosses
FULL_BITS, SHORT_BITS = 64, 32  # of an id in a vocabulary: the id itself, or its digest
ID_BITS = (FULL_BITS, SHORT_BITS)
DIGEST_SEED = 0x3243F6A8885A308D  # of the hash that makes digests; from the digits of pi

Ids = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]


class PolicyError(ValueError):
    """A policy that cannot be built; the message names the entry, what it holds and the fix."""


def id_bytes(id_bits: int) -> int:
    """Bytes that one id of a vocabulary takes: 8, or 4 where its digest is stored."""
    return id_bits // 8


class BagConfig(Protocol):
    """The fields that are read of TorchRec's ``EmbeddingBagConfig``; a ``pooling`` must be SUM."""

    name: str
    num_embeddings: int
    embedding_dim: int
    feature_names: list[str]


@dataclass(frozen=True)
class Table:
    """An embedding table of ``num_rows`` rows of ``dim`` floats.

    ``dtype`` says how a row is stored to be served, one of :data:`seo_rec.policy.DTYPES`. Training
    holds what its own ``storage`` says, float32 by default.
    """

    name: str
    num_rows: int
    dim: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Array:
    """A flat array of ``size`` floats, read in blocks; no table has its name.

    ``dtype`` is as in :class:`Table`; where rows have a scale and an offset, an array has one of
    each.
    """

    name: str
    size: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Lookup:
    """One vector per id: a row of a table, or blocks of a flat array.

    The *index* of an id is 1 + its rank in the feature's vocabulary, 0 if it is not in it; where
    the feature's ``id_bits`` are 32, its digest takes the place of the id.
    ``address`` says how an id becomes a row of ``table``:

    * ``hash``: ``floor(mix(id, seed) * num_rows / 2^32)``, see :mod:`seo_rec.embed.remap`.
      Two lookups of one id with equal seeds into tables of equal size read the same row number.
    * ``id``: ``unknown_rows - 1 + index`` for the ids of the vocabulary. All other ids share the
      first ``unknown_rows`` rows by hash with ``seed``; with one such row, the row is the index.
    * ``remainder``: the index modulo ``modulus``.
    * ``quotient``: the index divided by ``modulus``, rounded down, modulo the rows of the table
      (which matters for the middle digits of three components or more).
    * ``codes``: ``codes[base]`` of the policy's array named ``codes``, where base is the id hashed
      with ``seed`` into ``modulus`` rows or, with ``modulus`` 0, the index. Rows that a search
      pruned have the code 0 in common.
    * ``blocks``: ``width`` floats of the flat array ``table``, ``block`` neighbours at a time
      (the last block may be shorter), each block from a place of its own by hash with ``seed``.
    """

    table: str
    address: str = "hash"
    seed: int = 0
    modulus: int = 0
    block: int = 0
    width: int = 0
    codes: str = ""
    unknown_rows: int = 1

    @property
    def uses_index(self) -> bool:
        """Whether the row depends on the id's rank in the feature's vocabulary."""
        by_code = self.address == "codes" and not self.modulus
        return by_code or self.address in ("id", "quotient", "remainder")


@dataclass(frozen=True)
class Feature:
    """A feature's lookups, how ``combine`` joins them, and the width it makes of them.

    ``concat`` puts the vectors of an id side by side, in the order of the lookups; ``sum`` adds
    and ``mul`` multiplies vectors of equal width; ``weighted_sum`` adds them, each times its
    number in the row that ``weights`` looks up, whose table is as wide as there are lookups. The
    vectors of an id are combined first, then the ids of a bag are summed. ``project`` is the
    width of a learnt linear map (no bias) applied to that.

    ``columns`` are the data's columns that the ids come from; by default the one of the feature's
    own name. Two and more make the feature a *cross*: its ids are a mix of theirs, see
    :mod:`seo_rec.embed.cross`. Their order matters.

    ``id_bits`` says what the vocabulary holds: ids (64), or their digests of 32 bits
    (:func:`seo_rec.policy.addresses.digests`), which take half of the bytes. Ids of one digest are
    one id to all lookups by index. Of n digests, an id that was never kept has one with probability
    ``n / 2^32``. Only features with a lookup by index have ``id_bits`` 32.
    """

    name: str
    lookups: tuple[Lookup, ...]
    combine: str = "concat"
    project: int | None = None
    weights: Lookup | None = None
    columns: tuple[str, ...] = ()
    id_bits: int = FULL_BITS

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            raise PolicyError(
                f"feature {self.name!r} has columns {self.columns!r}; give a tuple of names, "
                f"({self.columns!r},) for one column"
            )
        object.__setattr__(self, "columns", tuple(self.columns) or (self.name,))

    @property
    def is_cross(self) -> bool:
        """Whether the ids are a mix of the ids of several columns."""
        return len(self.columns) > 1

    @property
    def all_lookups(self) -> tuple[Lookup, ...]:
        """The lookups of the vectors and, last, the lookup of the importance weights."""
        return self.lookups if self.weights is None else (*self.lookups, self.weights)


@dataclass(frozen=True)
class Budget:
    """What a policy was made for: a number of floats, of bytes to serve, or both.

    Args:
        params: floats, as :attr:`seo_rec.policy.Policy.num_params` counts them.
        num_bytes: bytes, as :attr:`seo_rec.policy.Policy.num_bytes` counts them.

    Raises:
        PolicyError: both are None, or a number is out of range.
    """

    params: int | None = None
    num_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.params is None and self.num_bytes is None:
            raise PolicyError(
                "the budget has neither params nor num_bytes; give one of them, or no budget"
            )
        for name in ("params", "num_bytes"):
            number = getattr(self, name)
            if number is not None and not 1 <= number <= MAX_BUDGET:
                raise PolicyError(f"the budget has {name} {number}; allowed: 1 to 2^63 - 1")
