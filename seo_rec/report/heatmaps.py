"""The attention of searches as tables of coloured cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seo_rec.report import formats
from seo_rec.runs.finished import Attention, SearchRun

LOW, HIGH = (86, 180, 233), (230, 159, 0)  # below and above uniform; dark text reads on both
FULL_COLOUR = 1.5  # attention this many times uniform, at least, has the full colour


@dataclass(frozen=True)
class Heatmap:
    """One search's attention relative to uniform (1 = uniform), and the chunks it chose.

    ``cells[f][c]`` is (text, CSS colour, chosen); ``sums`` is each feature's mean over its chunks.
    """

    title: str
    note: str
    features: tuple[str, ...]
    chunks: tuple[str, ...]
    cells: tuple[tuple[tuple[str, str, bool], ...], ...]
    sums: tuple[tuple[str, str], ...]


def heatmaps_of(search: SearchRun) -> tuple[Heatmap, ...]:
    return tuple(_heatmap(search, a) for a in search.attentions)


def _heatmap(search: SearchRun, attention: Attention) -> Heatmap:
    """Attention times F C, so that 1 is uniform."""
    F, C = len(attention.features), len(attention.values[0])
    relative = [[a * F * C for a in row] for row in attention.values]
    logs = [abs(math.log2(r)) for row in relative for r in row if r > 0]
    most = max([*logs, math.log2(FULL_COLOUR)])
    chosen, note = _chosen(search, attention)
    tables = [f"chunk{c}" for c in range(C)]
    cells = tuple(
        tuple(
            (f"{r:.2f}", _shade(r, most), (name, t) in chosen)
            for r, t in zip(row, tables, strict=True)
        )
        for name, row in zip(attention.features, relative, strict=True)
    )
    means = [sum(row) / C for row in relative]
    return Heatmap(
        f"chunks of {attention.chunk_dim} floats; search model: validation AUC "
        f"{formats.number(attention.val_auc, 5)}, {formats.seconds(attention.seconds)} s",
        note,
        attention.features,
        tuple(tables),
        cells,
        tuple((f"{m:.2f}", _shade(m, most)) for m in means),
    )


def _chosen(search: SearchRun, attention: Attention) -> tuple[set[tuple[str, str]], str]:
    """(feature, table) pairs taken from this attention, and which policy took them."""
    of_width = {
        c.name: c.val_auc
        for c in search.candidates
        if (c.origin.get("chunk_dim"), c.origin.get("apply")) == (attention.chunk_dim, "exact")
    }
    if not search.candidates:
        policy, note = search.policy, "outlined: chosen by the search"
    elif search.winner in of_width:
        policy, note = search.policies.get(search.winner), f"outlined: chosen, {search.winner}"
    else:
        name = max(of_width, key=lambda n: of_width[n], default="")
        policy, note = search.policies.get(name), f"outlined: the chunks of candidate {name}"
    if policy is None:
        return set(), ""
    return {(f.name, k.table) for f in policy.features for k in f.lookups}, note


def _shade(relative: float, most: float) -> str:
    """White at 1, orange above, blue below, on a logarithmic scale that ends at 2^most."""
    level = -1.0 if relative <= 0 else max(-1.0, min(1.0, math.log2(relative) / most))
    colour = HIGH if level > 0 else LOW
    red, green, blue = (round(255 + abs(level) * (c - 255)) for c in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"
