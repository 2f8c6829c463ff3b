"""Rows of several requests, prepared in one call, and joined."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from seo_rec.schema import DataError
from seo_rec.serve.bags import Bags, Floats, Inputs
from seo_rec.serve.few_rows import Few
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.server.bodies import Body


@dataclass(frozen=True)
class Group:
    """Requests whose rows were prepared in one call.

    Args:
        places: Their places among all requests, ascending.
        inputs: Their rows in this order; or why the rows of the only one cannot be prepared.
    """

    places: list[int]
    inputs: Inputs | Exception


def prepared(preparation: Preparation, bodies: Sequence[Body]) -> list[Group]:
    """The rows of all requests as ids and numbers.

    Few rows of all requests are prepared together, and tables with tables of the same columns and
    types. Where a group fails, each of its requests is prepared alone, so that each has the result
    or the message that it would have had alone.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, body in enumerate(bodies):
        groups.setdefault(_form(body, place), []).append(place)
    found = []
    for places in groups.values():
        group = _group(preparation, bodies, places)
        if isinstance(group.inputs, Exception) and len(places) > 1:
            found += [_group(preparation, bodies, [place]) for place in places]
        else:
            found.append(group)
    return found


def _form(body: Body, place: int) -> Hashable:
    """What requests have in common that are prepared together."""
    if body.weights:
        return place
    if isinstance(body.rows, Few):
        return "few"
    return tuple((field.name, field.type) for field in body.rows.schema)


def _group(preparation: Preparation, bodies: Sequence[Body], places: list[int]) -> Group:
    rows = [bodies[place].rows for place in places]
    try:
        if isinstance(rows[0], Few):
            return Group(places, preparation.few_rows.encode(rows))
        table = rows[0] if len(rows) == 1 else pa.concat_tables(rows)
        return Group(places, preparation.encode(table, bodies[places[0]].weights))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        bad = error if isinstance(error, DataError) else DataError(str(error))
        return Group(places, bad)
    except Exception as error:  # a fault of this program, which other requests may not have
        return Group(places, error)


def joined(pieces: Sequence[Inputs]) -> Inputs:
    """The rows of all pieces, in order; an id without a weight gets 1 if another has one."""
    if len(pieces) == 1:
        return pieces[0]
    columns = {}
    for name in pieces[0].columns:
        bags = [piece.columns[name] for piece in pieces]
        lengths = weights = None
        if any(b.lengths is not None for b in bags):
            lengths = np.concatenate([b.counts() for b in bags])
        if any(b.weights is not None for b in bags):
            weights = np.concatenate([_weights(b) for b in bags])
        columns[name] = Bags(np.concatenate([b.ids for b in bags]), lengths, weights)
    return Inputs(np.concatenate([piece.dense_BN for piece in pieces]), columns)


def _weights(bags: Bags) -> Floats:
    """float32 (V,): the weight of each id, 1 where none is given."""
    return np.ones(len(bags.ids), np.float32) if bags.weights is None else bags.weights
