"""The options of a budget and of a plain method, each read into one object by several commands.

A command asks for the object in its signature; its decorator makes the options of the fields::

    @takes_settings(method_options=PLAIN_METHOD)
    def train(data: Data, out: Out, *, method_options: PlainMethodOptions) -> None: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

from seo_rec.cli import parameters as par
from seo_rec.cli.budget import Wish

TYPE_BY_SEARCH = "auto"  # of --precision


@dataclass(frozen=True)
class SharedOptions:
    """Options that are the fields of a dataclass, each annotated as typer reads it.

    Args:
        kind: The dataclass; all its fields have defaults.
    """

    kind: type[Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of the command, in order."""
        return tuple(field.name for field in fields(self.kind))

    def parameters(self) -> list[inspect.Parameter]:
        """The options as typer reads them."""
        hints = get_type_hints(self.kind, include_extras=True)
        return [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(self.kind)
        ]

    def read(self, values: Mapping[str, Any]) -> Any:
        """The object of the values that typer has read."""
        return self.kind(**{name: values[name] for name in self.names})


@dataclass(frozen=True)
class BudgetOptions:
    """A budget in parameters or in bytes, and what a feature's embedding is stored in."""

    params: par.Params = None
    bytes_: par.Bytes = None
    budget_of: par.BudgetOf = None
    dim: par.Dim = 16
    precision: par.Precision = "float32"
    id_bits: par.IdBits = None

    @property
    def wish(self) -> Wish:
        """The options without the width."""
        return Wish(self.params, self.bytes_, self.budget_of, self.precision, self.id_bits)


@dataclass(frozen=True)
class SearchBudgetOptions(BudgetOptions):
    """The same of a search, which may itself decide in which type rows are stored."""

    precision: par.SearchPrecision = TYPE_BY_SEARCH

    @property
    def wish(self) -> Wish:
        """The options without the width; a type that the search decides is float32 at first."""
        wish = super().wish
        return replace(wish, precision="float32") if self.precision == TYPE_BY_SEARCH else wish


@dataclass(frozen=True)
class PlainMethodOptions(BudgetOptions):
    """A method without a search, its budget and its settings."""

    method: par.MethodInPlaceOfPolicy = ""
    set_: par.Set = None
    exact_below: par.ExactBelow = 0
    same_hash: par.SameHash = None


BUDGET_OPTIONS = SharedOptions(BudgetOptions)
SEARCH_BUDGET = SharedOptions(SearchBudgetOptions)
PLAIN_METHOD = SharedOptions(PlainMethodOptions)
