"""The budget of a command: given, taken from a policy, or proposed from the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seo_rec.cli.options import is_typed
from seo_rec.methods.budget import proposed_budget, reason_of_proposal
from seo_rec.policy import Allowance, row_bytes, stored_types
from seo_rec.policy.allowance import BYTES, FLOATS, check_id_bits, check_precision, read_bytes
from seo_rec.policy.entries import FULL_BITS, SHORT_BITS

if TYPE_CHECKING:
    from seo_rec.data.dataset import DataSet
    from seo_rec.policy import Policy

OPTIONS = {"params": "--params", "bytes_": "--bytes", "budget_of": "--budget-of"}


@dataclass(frozen=True)
class Wish:
    """What the options of a command say of its budget.

    Args:
        params: The value of ``--params``; None if it was not given.
        bytes_: The value of ``--bytes``; None if it was not given.
        budget_of: The value of ``--budget-of``; None if it was not given.
        precision: The value of ``--precision``.
        id_bits: The value of ``--id-bits``; None if it was not given.
    """

    params: int | None
    bytes_: str | None
    budget_of: Path | None
    precision: str = "float32"
    id_bits: int | None = None

    def bits(self, in_bytes: bool) -> int:
        """Bits of an id in a vocabulary: by default 32 where bytes are counted, else 64.

        Raises:
            ValueError: Another number was given.
        """
        if self.id_bits is None:
            return SHORT_BITS if in_bytes else FULL_BITS
        try:
            check_id_bits(self.id_bits)
        except ValueError as error:
            raise ValueError(f"--{str(error).replace('_', '-')}") from None
        return self.id_bits


def budget(
    context: typer.Context, data: DataSet, dim: int, wish: Wish, *, whole_rows: bool
) -> Allowance:
    """The budget of a command in parameters (floats) or in bytes, the precision and the id bits.

    A budget that no option gives is proposed from the data, and a message on stderr says so.

    Args:
        context: The command, which has the options of :data:`OPTIONS`.
        data: The data set, to propose a budget from.
        dim: The value of ``--dim``, in floats.
        wish: The values of the options.
        whole_rows: Whether a budget in parameters must be whole rows of ``dim``; the budget of a
            policy is rounded down to them.

    Raises:
        ValueError: Several options were given, or the budget is less than one row.
    """
    check_precision(wish.precision)
    if dim < 1:
        raise ValueError(f"--dim {dim}; allowed: 1 or more")
    by = _said_by(context, wish)
    if by == "bytes_" and wish.bytes_ is not None:
        return Allowance(_read(wish.bytes_), BYTES, wish.precision, wish.bits(True))
    if by == "params" and (params := wish.params) is not None:
        if params < 0 or (whole_rows and (params < dim or params % dim)):
            allowed = f"a multiple of --dim {dim}" if whole_rows else "0 or more"
            raise ValueError(f"--params {params}; allowed: {allowed}")
        return Allowance(params, FLOATS, wish.precision, wish.bits(False))
    if by == "budget_of" and wish.budget_of is not None:
        return _of_policy(wish.budget_of, dim, whole_rows, wish)
    proposed = proposed_budget(data.schema, dim)
    takes = proposed // dim * row_bytes(dim, wish.precision)
    typer.echo(
        f"budget: {proposed:,} parameters ({takes:,} bytes), "
        f"{reason_of_proposal(data.schema)}; --params sets it",
        err=True,
    )
    return Allowance(proposed, FLOATS, wish.precision, wish.bits(False))


def resolved(at: Allowance) -> Mapping[str, Any]:
    """The options that ask for this budget again, for the settings of a run."""
    in_bytes = at.in_bytes
    return {
        "params": None if in_bytes else at.amount or None,
        "bytes": str(at.amount) if in_bytes else None,
        "budget_of": None,
    }


def _said_by(context: typer.Context, wish: Wish) -> str | None:
    """The option that sets the budget; a typed one replaces another that only --config gives."""
    given = [name for name in OPTIONS if getattr(wish, name) is not None]
    if len(given) > 1:
        given = [name for name in given if is_typed(context, name)] or given
    if len(given) > 1:
        names = " and ".join(OPTIONS[name] for name in sorted(given))
        each = "both set" if len(given) == 2 else "each set"
        raise ValueError(f"{names} {each} the budget; give one of them")
    return given[0] if given else None


def _read(text: str) -> int:
    try:
        return read_bytes(text)
    except ValueError as error:
        raise ValueError(f"--bytes {error}") from None


def _of_policy(path: Path, dim: int, whole_rows: bool, wish: Wish) -> Allowance:
    from seo_rec.apply import default_budget
    from seo_rec.policy import Policy

    policy = Policy.load(path)
    made_for = policy.budget
    if made_for is not None and made_for.params is None and made_for.num_bytes is not None:
        typer.echo(f"budget of {path}: {made_for.num_bytes} bytes", err=True)
        return Allowance(made_for.num_bytes, BYTES, wish.precision, wish.bits(True))
    found = default_budget(policy)
    if found < dim:
        raise ValueError(f"{path}: {found} parameters; a row of --dim {dim} needs {dim}")
    if whole_rows:
        rows = found // dim
        typer.echo(f"budget of {path}: {found} parameters, {rows} rows of {dim}", err=True)
        found = rows * dim
    return Allowance(found, FLOATS, wish.precision, wish.bits(False))


def in_bytes(policy: Policy, text: str) -> Allowance:
    """``--bytes`` for a policy that says in which type its rows are stored.

    Raises:
        ValueError: No number of bytes, or rows of several types.
    """
    types = stored_types(policy)
    if len(types) > 1:
        raise ValueError(
            f"--bytes with a policy of {', '.join(types)}; allowed with one type for all "
            "rows; give --params"
        )
    return Allowance(_read(text), BYTES, types[0])


def size(policy: Policy) -> str:
    """The size of a policy in words: parameters and bytes."""
    return f"{policy.num_params} parameters, {policy.num_bytes} bytes"
