"""What ``benchmarks.accuracy.analysis`` recorded: inner products, shared rows and angles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from benchmarks.accuracy.analysis import RECORD
from benchmarks.pages.markdown import Column, table
from benchmarks.record import Line, read
from seo_rec import analysis
from seo_rec.analysis.inner_products import SIGMAS
from seo_rec.report.charts import as_png


def data_of(line: Line) -> str:
    """The data set, and the number of its features where they are not all."""
    what = line["what"]
    return f"{what['dataset']}" + (f", {len(what['features'])}" if what["features"] else "")


def of_part(lines: Sequence[Line], part: str) -> list[Line]:
    """Lines of a part, by data set and rows."""
    found = [x for x in lines if x["part"] == part]
    return sorted(found, key=lambda x: (x["what"]["dataset"], x["what"]["rows"]))


def _as(kind: type[Any], found: Mapping[str, Any]) -> Any:
    return kind(**{f.name: found[f.name] for f in fields(kind)})


def inner_products(lines: Sequence[Line]) -> list[str]:
    """Mean and variance over hash functions beside the closed form."""
    rows = [
        (data_of(line), _as(analysis.Measured, found))
        for line in of_part(lines, "collisions")
        for found in line["inner_products"]
    ]

    def variance(row: tuple[str, analysis.Measured]) -> str:
        m = row[1]
        text = f"{m.variance:.4g} ± {SIGMAS * m.variance_error:.2g}"
        return text if m.within else f"{text}, outside"

    columns = [
        Column("data", lambda row: row[0]),
        Column("tokens", lambda row: row[1].tokens),
        Column("rows", lambda row: row[1].num_rows, ",d"),
        Column("encoding", lambda row: row[1].encoding),
        Column("<x, y>", lambda row: row[1].inner, "d"),
        Column("mean", lambda row: f"{row[1].mean:.4f} ± {SIGMAS * row[1].mean_error:.4f}"),
        Column("variance", variance),
        Column("closed form", lambda row: row[1].closed_form, ".4g"),
    ]
    return table(columns, rows)


def shared_rows(lines: Sequence[Line]) -> list[str]:
    """Which part of the ids shares a row at all, beside what is expected."""
    rows = [
        (data_of(line), found)
        for line in of_part(lines, "collisions")
        for found in line["shared_rows"]
    ]

    def share(kind: str, of: str) -> Column:
        heading = kind if of == "actual" else "expected"
        return Column(heading, lambda row: f"{100 * row[1][kind][of]:.1f} %")

    columns = [
        Column("data", lambda row: row[0]),
        Column("rows", lambda row: row[1]["num_rows"], ",d"),
        Column("encoding", lambda row: row[1]["method"]),
        *(share(kind, of) for kind in ("intra", "inter") for of in ("actual", "expected")),
    ]
    return table(columns, rows)


def models(lines: Sequence[Line]) -> dict[str, list[analysis.Orthogonality]]:
    """What ``orthogonality`` measured, by data set."""
    found: dict[str, list[analysis.Orthogonality]] = {}
    for line in of_part(lines, "orthogonality"):
        found.setdefault(data_of(line), []).append(_as(analysis.Orthogonality, line))
    return found


def angles(lines: Sequence[Line]) -> list[str]:
    """Angles between the weights of features, norms of rows, and how the norms grow."""
    found = models(lines)
    columns = [
        Column("data", lambda row: row[0]),
        Column("rows", lambda row: row[1].rows, ",d"),
        Column("ids per row", lambda row: row[1].ids_per_row, ".3g"),
        Column("tables", lambda row: row[1].tables),
        Column("mean angle", lambda row: f"{row[1].mean_angle:.1f}°"),
        Column(
            "least to largest",
            lambda row: f"{row[1].least_angle:.1f}° to {row[1].largest_angle:.1f}°",
        ),
        Column("mean norm", lambda row: row[1].mean_norm, ".3f"),
        Column("validation AUC", lambda row: row[1].val_auc, ".5f"),
        Column("epochs", lambda row: row[1].epochs, "d"),
    ]
    out = table(columns, [(data, model) for data, of in found.items() for model in of])
    for data, of in found.items():
        growth = analysis.growth([model for model in of if model.tables == "unified"])
        out += [f"{data}: the squared norm of a shared row grows as (N/M)^{growth:.2f}.", ""]
    return out


def regions() -> dict[str, list[str]]:
    lines = read(RECORD)
    return {
        "inner products": inner_products(lines),
        "shared rows": shared_rows(lines),
        "angles": angles(lines),
    }


def plot() -> bytes:
    """A PNG of the angles of the first data set: the Criteo columns, as in Figure 2."""
    return bytes(as_png(analysis.figure(next(iter(models(read(RECORD)).values())))))
