"""How much a policy may take to serve: a number of floats, or of bytes at a precision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from seo_rec.policy.dtypes import BITS, DTYPES, FLOAT_BYTES, SCALE_BYTES, row_bytes
from seo_rec.policy.entries import FULL_BITS, ID_BITS, SHORT_BITS, Budget, PolicyError, id_bytes
from seo_rec.policy.policy import Policy

FLOATS, BYTES = "parameters", "bytes"
CODE_BYTES = 4
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMG]?)(i?)")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3}
_LARGEST = 2**62


@dataclass(frozen=True)
class Allowance:
    """What a policy may take to serve.

    In floats it is counted as :attr:`seo_rec.policy.Policy.num_params` counts, so that ids are
    free. In bytes it is counted as :attr:`seo_rec.policy.Policy.num_bytes` counts: rows in the
    precision, with scales and offsets, 8 or 4 for every id of a vocabulary, 4 for every code.

    Args:
        amount: How many floats or bytes.
        unit: ``parameters`` (floats) or ``bytes``.
        precision: The type of stored rows, one of :data:`seo_rec.policy.DTYPES`.
        id_bits: Of an id in a vocabulary: 64, or 32 for its digest.

    Raises:
        ValueError: The unit, the precision or the number of bits is unknown.
    """

    amount: int
    unit: str = FLOATS
    precision: str = "float32"
    id_bits: int = FULL_BITS

    def __post_init__(self) -> None:
        if self.unit not in (FLOATS, BYTES):
            raise ValueError(f"unit {self.unit!r}; allowed: {FLOATS}, {BYTES}")
        check_precision(self.precision)
        check_id_bits(self.id_bits)

    @property
    def in_bytes(self) -> bool:
        """Whether it is a number of bytes."""
        return self.unit == BYTES

    def row(self, dim: int) -> int:
        """What a row of ``dim`` floats takes."""
        return row_bytes(dim, self.precision) if self.in_bytes else dim

    def ids(self, count: int) -> int:
        """What so many ids of vocabularies take; nothing where floats are counted."""
        return id_bytes(self.id_bits) * count if self.in_bytes else 0

    def codes(self, count: int) -> int:
        """What so many codes take."""
        return CODE_BYTES * count if self.in_bytes else count

    def projection(self, numbers: int) -> int:
        """What so many numbers of projections take, which are float32."""
        return FLOAT_BYTES["float32"] * numbers if self.in_bytes else numbers

    def flat(self) -> tuple[int, int, int]:
        """Of a flat array: the cost of its smallest part, the floats of that, and a fixed cost."""
        if not self.in_bytes:
            return 1, 1, 0
        if self.precision in FLOAT_BYTES:
            return FLOAT_BYTES[self.precision], 1, 0
        return 1, 8 // BITS[self.precision], SCALE_BYTES

    def of(self, policy: Policy) -> int:
        """What a policy takes whose tables have their types already."""
        return policy.num_bytes if self.in_bytes else policy.num_params

    def with_amount(self, amount: int) -> Allowance:
        """Another amount, counted alike."""
        return replace(self, amount=amount)

    def typed(self, policy: Policy) -> Policy:
        """The policy with the precision for all tables and arrays; as it is for floats alone.

        With ``id_bits`` 32 every vocabulary of the policy must hold digests already, as
        :meth:`seo_rec.data.dataset.DataSet.counts` gives them; its feature then says so.
        """
        says = self.in_bytes or self.precision != "float32"
        made = with_precision(policy, self.precision) if says else policy
        return made if self.id_bits == FULL_BITS else with_digests(made)

    def to_json(self) -> dict[str, Any]:
        """What a policy records: ``params`` or ``num_bytes``; what else is not the default."""
        told = {"precision": self.precision, "id_bits": self.id_bits}
        return {"num_bytes" if self.in_bytes else "params": self.amount, **without_unset(told)}

    def budget(self) -> Budget | None:
        """The budget that a policy records; None for nothing."""
        if not self.amount:
            return None
        return Budget(num_bytes=self.amount) if self.in_bytes else Budget(params=self.amount)

    def __str__(self) -> str:
        kept = "" if self.precision == "float32" else f", rows as {self.precision}"
        kept += "" if self.id_bits == FULL_BITS else f", ids of {self.id_bits} bits"
        return f"{self.amount} {self.unit}{kept}"


def allowance_of(budget: int | Allowance) -> Allowance:
    """A whole number counts floats."""
    return budget if isinstance(budget, Allowance) else Allowance(budget)


def allowance_from(
    params: int, num_bytes: int, precision: str, id_bits: int = FULL_BITS
) -> Allowance:
    """The allowance of settings: bytes where ``num_bytes`` is above 0, else floats.

    Raises:
        ValueError: Both numbers are given, one is negative, or the precision or the number of bits
            is unknown.
    """
    for name, number in (("params", params), ("num_bytes", num_bytes)):
        if number < 0:
            raise ValueError(f"{name} is {number}; allowed: 0 or more")
    if params and num_bytes:
        raise ValueError(f"params {params} and num_bytes {num_bytes}; allowed: one of the two")
    return Allowance(num_bytes or params, BYTES if num_bytes else FLOATS, precision, id_bits)


@dataclass(frozen=True)
class BudgetSettings:
    """The budget among the settings of a method or a search.

    Args:
        params: Budget in parameters, in which ids are free.
        num_bytes: Budget in bytes to serve, ids included, in place of params; 0: params says it.
        precision: The type in which rows are stored.
        id_bits: Bits of an id in a vocabulary: 64, or 32 for its digest.

    Raises:
        ValueError: See :func:`allowance_from`.
    """

    params: int = 0
    num_bytes: int = field(default=0, kw_only=True)
    precision: str = field(default="float32", kw_only=True)
    id_bits: int = field(default=FULL_BITS, kw_only=True)

    def __post_init__(self) -> None:
        allowance_from(self.params, self.num_bytes, self.precision, self.id_bits)

    @property
    def allowance(self) -> Allowance:
        """The budget and the precision."""
        return allowance_from(self.params, self.num_bytes, self.precision, self.id_bits)


def without_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as records keep them: as earlier releases did where the budget is in floats.

    A number of bytes of 0, the precision float32 and ids of 64 bits are left out.
    """
    unset = {"num_bytes": 0, "precision": "float32", "id_bits": FULL_BITS}
    return {k: v for k, v in values.items() if k not in unset or unset[k] != v}


def check_precision(precision: str) -> None:
    """ValueError unless ``precision`` is a type in which rows can be stored."""
    if precision == "auto":
        raise ValueError(
            "precision 'auto', which only seo-rec search decides, with --bytes and a limit; "
            f"allowed: {', '.join(DTYPES)}"
        )
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r}; allowed: {', '.join(DTYPES)}")


def check_id_bits(id_bits: int) -> None:
    """ValueError unless vocabularies can hold ids of so many bits."""
    if id_bits not in ID_BITS:
        raise ValueError(f"id_bits {id_bits}; allowed: 64 (ids), 32 (digests of ids)")


def with_digests(policy: Policy) -> Policy:
    """The policy whose vocabularies, which hold digests, say so.

    Raises:
        PolicyError: A vocabulary has a number that is no digest.
    """
    features = tuple(
        replace(f, id_bits=SHORT_BITS) if f.name in policy.vocabularies else f
        for f in policy.features
    )
    return replace(policy, features=features)


def stored_types(policy: Policy) -> list[str]:
    """The types in which the rows of tables and arrays are stored, sorted."""
    return sorted({t.dtype for t in policy.tables} | {a.dtype for a in policy.arrays})


def with_precision(policy: Policy, precision: str | None) -> Policy:
    """The policy with this type for every table and array; None changes nothing.

    Raises:
        ValueError: There is no such type.
    """
    if precision is None:
        return policy
    check_precision(precision)
    return replace(
        policy,
        tables=tuple(replace(t, dtype=precision) for t in policy.tables),
        arrays=tuple(replace(a, dtype=precision) for a in policy.arrays),
    )


def read_bytes(text: str) -> int:
    """``384k`` as a number of bytes: k, M and G are powers of 1000; Ki, Mi and Gi of 1024.

    A B may follow, as in ``384kB`` and ``1.5 MiB``.

    Raises:
        PolicyError: No such number, not whole bytes, or less than one.
    """
    text = text.strip()
    return _read(text, text.removesuffix("B"), "bytes")


def read_params(text: str) -> int:
    """``96k`` as a number of parameters, with the signs of :func:`read_bytes` and no B.

    Raises:
        PolicyError: No such number, not a whole one, or less than one.
    """
    return _read(text, text.strip(), "parameters")


def _read(text: str, number: str, unit: str) -> int:
    read = _NUMBER.fullmatch(number)
    found = Fraction(0)
    if read and not (read[3] and not read[2]):
        found = Fraction(read[1]) * (1024 if read[3] else 1000) ** _POWERS[read[2]]
    if found.denominator != 1 or not 1 <= found <= _LARGEST:
        raise PolicyError(
            f"{text!r} is no number of {unit}; allowed: a whole number of 1 or more, with k, M or "
            "G (powers of 1000) or Ki, Mi or Gi (powers of 1024) behind it, as 384k or 1.5Mi"
        )
    return int(found)
