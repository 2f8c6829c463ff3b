"""The analyses as tables in the terminal, and how many ids share rows, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from seo_rec import methods
from seo_rec.analysis.gradients import GradientSizes
from seo_rec.analysis.inner_products import SIGMAS, Measured
from seo_rec.analysis.orthogonality import Orthogonality, growth
from seo_rec.analysis.vocabularies import only, vocabularies_of
from seo_rec.data.dataset import DataSet
from seo_rec.report import formats
from seo_rec.report.collisions import Pair, collisions
from seo_rec.report.terminal import open_console


@dataclass(frozen=True)
class SharedRows:
    """Shares of all ids that share a row within their feature, and with other features.

    As counted and as uniform hashing would have it; see :mod:`seo_rec.report.collisions`.
    """

    method: str
    num_rows: int
    intra: Pair
    inter: Pair


def shared_rows(
    data: DataSet, num_rows: Sequence[int], features: Sequence[str] = (), seed: int = 0
) -> Iterator[SharedRows]:
    """Of the tables of the encodings that :func:`compare_encodings` measures."""
    schema = only(data.schema, features)
    ids = {name: ids for name, (ids, _) in vocabularies_of(data, schema).items()}
    schema = only(schema, list(ids))
    for rows in num_rows:
        for name, policy in (
            ("unified", methods.monolithic(schema, rows, 1, seed=seed)),
            (
                "hashed, by cardinality",
                methods.separate(schema, rows, 1, rows="cardinality", seed=seed),
            ),
            ("hashed, even", methods.separate(schema, rows, 1, seed=seed)),
        ):
            found = collisions(policy, ids)
            yield SharedRows(name, rows, found.mean("intra"), found.mean("inter"))


def print_inner_products(found: Sequence[Measured]) -> None:
    """One line per encoding: measured mean and variance, and the closed form."""
    _print(
        ("tokens of x and y", "rows", "encoding", "|x|²", "|y|²", "<x, y>", "mean", "variance"),
        ("closed form", "measured / closed", ""),
        [
            (
                m.tokens,
                formats.count(m.num_rows),
                m.encoding,
                formats.count(m.norm_x),
                formats.count(m.norm_y),
                formats.count(m.inner),
                formats.plus_minus(m.mean, SIGMAS * m.mean_error, 4),
                f"{m.variance:.4g} ± {SIGMAS * m.variance_error:.2g}",
                f"{m.closed_form:.4g}",
                f"{m.variance / m.closed_form:.3f}" if m.closed_form else formats.MISSING,
                "" if m.within else "outside",
            )
            for m in found
        ],
        f"mean and variance of <phi(x), phi(y)> over {found[0].seeds:,} hash functions; ± is an "
        "interval of 99 %, `outside` if it does not hold the closed form",
    )


def print_shared_rows(found: Sequence[SharedRows]) -> None:
    """One line per encoding: ids that share rows, beside what uniform hashing would give."""
    _print(
        ("rows", "encoding", "intra", "expected", "inter", "expected"),
        (),
        [
            (
                formats.count(c.num_rows),
                c.method,
                formats.percent(c.intra.actual),
                formats.percent(c.intra.expected),
                formats.percent(c.inter.actual),
                formats.percent(c.inter.expected),
            )
            for c in found
        ],
        "ids that share their row with an id of their own feature (intra), and with one of another "
        "feature (inter), of all training ids; one hash function",
    )


def print_orthogonality(found: Sequence[Orthogonality]) -> None:
    """One line per model, and how norms grow with the number of ids per row."""
    unified = growth([r for r in found if r.tables == "unified"])
    _print(
        ("tables", "rows", "seed", "ids per row", "mean angle", "least", "largest"),
        ("mean norm", "validation AUC", "epochs"),
        [
            (
                r.tables,
                formats.count(r.rows),
                str(r.seed),
                f"{r.ids_per_row:.3g}",
                f"{r.mean_angle:.1f}°",
                f"{r.least_angle:.1f}°",
                f"{r.largest_angle:.1f}°",
                f"{r.mean_norm:.3g}",
                formats.number(r.val_auc, 5),
                str(r.epochs),
            )
            for r in found
        ],
        "angles between the weights of two features; all start at 0°. The mean squared norm of a "
        f"shared row grows as (ids per row)^{formats.number(unified, 2)}",
    )


def print_gradients(found: Sequence[GradientSizes]) -> None:
    """One line per model and time: the parts of a gradient relative to the true one."""

    def over_true(size: float, g: GradientSizes) -> str:
        return formats.number(size / g.true, 3) if g.true else "n/a"

    _print(
        ("rows", "seed", "when", "ids per row", "true"),
        ("intra / true", "inter / true", "inter along / true", "validation AUC"),
        [
            (
                formats.count(g.rows),
                str(g.seed),
                g.when,
                f"{g.ids_per_row:.3g}",
                f"{g.true:.3g}",
                *(over_true(size, g) for size in (g.intra, g.inter, g.inter_along)),
                formats.number(g.val_auc, 5),
            )
            for g in found
        ],
        "root mean squares over ids of the parts of a shared row's gradient; the feature sees only "
        "the part of inter that is along its own weights",
    )


def _print(
    headings: Sequence[str], more: Sequence[str], rows: Sequence[Sequence[str]], note: str
) -> None:
    console = open_console()
    table = Table(box=None, pad_edge=False)
    texts = ("tokens of x and y", "encoding", "tables", "")
    for heading in (*headings, *more):
        table.add_column(heading, justify="left" if heading in texts else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(Text(note + "\n"))
