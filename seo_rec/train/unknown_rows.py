"""Rows of unknown ids in a training that goes on: the mean of the rows of the candidates.

A run with rows of candidates is served with this mean as its row of unknown ids, and the next day
starts from what was served (:mod:`seo_rec.policy.candidates`). Letters: R rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from seo_kernels.row_bag import share_left
from seo_rec.policy import Ids, Policy
from seo_rec.policy.candidates import LeftOut, left_out
from seo_rec.train.carrying import RowMove
from seo_rec.train.state import State


@dataclass(frozen=True)
class UnknownRow:
    """A row of unknown ids of an earlier table, and what continues it.

    Args:
        parameter: The name of the new table's parameter.
        before: The earlier table.
        candidates: Rows of the earlier table whose mean was served.
        into: Rows of the new table that continue the row of unknown ids.
    """

    parameter: str
    before: str
    candidates: Ids
    into: Ids


def unknown_rows(
    left: Mapping[str, LeftOut], moves: Mapping[str, RowMove], tables: Mapping[str, str]
) -> list[UnknownRow]:
    """Every row of unknown ids that was served as the mean of candidates.

    Args:
        left: By earlier table, its candidates.
        moves: By new table, where its rows come from.
        tables: By parameter, the new table.
    """
    return list(_unknown_rows(left, moves, tables))


def _unknown_rows(
    left: Mapping[str, LeftOut], moves: Mapping[str, RowMove], tables: Mapping[str, str]
) -> Iterator[UnknownRow]:
    for parameter, table in tables.items():
        if (move := moves.get(table)) is None:
            continue
        for number, before in enumerate(move.tables):
            if before in left:
                for row, candidates in left[before].candidates.items():
                    into = np.flatnonzero((move.table_R == number) & (move.row_R == row))
                    yield UnknownRow(parameter, before, candidates, into)


def mean_row(table_RD: torch.Tensor, rows: Ids) -> torch.Tensor:
    """The mean of some rows, (D,), added up in float64."""
    return table_RD[torch.from_numpy(rows)].double().mean(0).to(table_RD.dtype)


def present_means(
    mean_RD: torch.Tensor,
    weight_RD: torch.Tensor,
    at_R1: torch.Tensor | None,
    steps: int,
    average: float,
) -> torch.Tensor:
    """Running means of rows brought up to the last step of a run.

    Args:
        mean_RD, weight_RD: The means that were kept, and the weights.
        at_R1: The step up to which the mean of each row was kept, -1 for a row without one; None
            where all are up to the last step.
        steps: The last step.
        average: The decay of the mean.
    """
    if at_R1 is None:
        return mean_RD
    left = share_left(at_R1.clamp(min=0), steps, average)
    now = weight_RD + left.to(weight_RD.dtype) * (mean_RD - weight_RD)
    return torch.where(at_R1 < 0, weight_RD, now)


@torch.no_grad()
def served_tensor(table_RD: torch.Tensor, left: LeftOut) -> torch.Tensor:
    """The rows of a trained table that are served, with the means of the candidates.

    ``t[r] = T[left.rows_R[r]]``, and ``t[u]`` is the mean of the rows of the candidates that read
    the row u of unknown ids when they are served.
    """
    served = table_RD[torch.from_numpy(left.rows_R)].clone()
    for row, candidates in left.candidates.items():
        served[row] = mean_row(table_RD, candidates)
    return served


def served_weights(
    weights: State, served: Policy, trained: Policy, keys: Mapping[str, str]
) -> State:
    """The weights of the model of ``served`` from those of the model of ``trained``.

    Args:
        weights: By parameter, each whole.
        served, trained: A policy without and with rows of candidates.
        keys: By parameter, the table that it holds.
    """
    left = left_out(served, trained)
    found = dict(weights)
    for name, table in keys.items():
        if table in left:
            whole = weights[name]
            assert isinstance(whole, torch.Tensor)
            found[name] = served_tensor(whole, left[table])
    return found
