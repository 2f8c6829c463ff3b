"""One self-contained HTML page: what the runs say, as an engineer wants to read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import seo_rec
from seo_rec.files import write_text
from seo_rec.report import charts, formats, frontier
from seo_rec.report.comparison import SAME_BUDGET, Group, group
from seo_rec.report.counted import CountedCollisions, counted_collisions
from seo_rec.report.groups import Groups, groups_of
from seo_rec.report.heatmaps import Heatmap, heatmaps_of
from seo_rec.report.provenance import origins_of
from seo_rec.report.rounds import rounds_chart
from seo_rec.report.sentences import best_figures, budget_line, headline
from seo_rec.report.slots import Slots, fits_picture, pictured_policies, slots_of, too_wide
from seo_rec.report.tunings import shown_tuning
from seo_rec.runs import reading
from seo_rec.runs.decision import decided
from seo_rec.runs.finished import Records
from seo_rec.runs.halving import story

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class OverSizes:
    """Test AUC over size on one data set: a chart, or in words why there is none."""

    dataset: str
    methods: tuple[str, ...]
    chart: str
    why_not: str


@dataclass(frozen=True)
class Section:
    """Everything the page shows about one group."""

    anchor: str
    group: Group
    headline: str
    budget_line: str
    best: Mapping[str, float]
    auc_chart: str
    curves: str
    groups: Groups
    heatmaps: tuple[tuple[int, tuple[Heatmap, ...]], ...]
    slots: tuple[Slots, ...]
    slot_notes: tuple[str, ...]
    counted: tuple[CountedCollisions, ...]
    collision_notes: tuple[str, ...]


def build(runs: Sequence[Path], out: Path) -> None:
    """Write one HTML page about ``runs``; it loads nothing, and equal runs give equal bytes.

    Args:
        runs: folders of comparisons, trainings and searches.
        out: the page; an existing file is replaced.

    Raises:
        ReportError: see :func:`seo_rec.runs.reading.read`.
    """
    write_page(reading.read(runs), runs, out)


def write_page(records: Records, runs: Sequence[Path], out: Path) -> None:
    """Write the page about ``records``, which were read from ``runs``."""
    write_text(out, render(records, [str(run) for run in runs]))


def render(records: Records, given: Sequence[str]) -> str:
    """The page as text."""
    groups = group(records)
    mark = charts.marks(sorted({row.method for g in groups for row in g.rows}))
    sections = [_section(i, g, mark) for i, g in enumerate(groups, 1)]
    over_sizes = [
        _over_sizes(
            dataset, [g for g in groups if (g.dataset, g.quality) == (dataset, quality)], mark
        )
        for dataset, quality in dict.fromkeys((g.dataset, g.quality) for g in groups if g.rows)
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        version=seo_rec.__version__,
        given=given,
        records=records,
        sections=sections,
        over_sizes=over_sizes,
        mark=mark,
        tunings=[shown_tuning(t) for t in records.tunings],
        origins=origins_of(records),
        f=formats,
        decided=decided,
        size=" and ".join(dict.fromkeys(group.unit for group in groups)),
        story=story,
        rounds_chart=rounds_chart,
        isnan=math.isnan,
    )


def _over_sizes(dataset: str, same: Sequence[Group], mark: Mapping[str, charts.Mark]) -> OverSizes:
    found = frontier.points(same)
    methods = tuple(sorted({p.method for p in found}))
    sizes = [p.held for p in found]
    if max(sizes) > min(sizes) * (1 + SAME_BUDGET):
        return OverSizes(dataset, methods, frontier.svg(found, mark), "")
    held = f"{max(sizes):,.0f} {same[0].unit}"
    who = "its one method holds" if len(methods) == 1 else "its methods all hold"
    why = f"{who} {held}, so there is no size to draw over; seo-rec frontier trains at several"
    return OverSizes(dataset, methods, "", why)


def _section(number: int, found: Group, mark: Mapping[str, charts.Mark]) -> Section:
    counted, notes = counted_collisions(found)
    pictures = pictured_policies(found)
    return Section(
        anchor=f"g{number}",
        group=found,
        headline=headline(found),
        budget_line=budget_line(found),
        best=best_figures(found),
        auc_chart=charts.auc_by_method(found, mark) if found.rows else "",
        curves=charts.training_curves(found, mark),
        groups=groups_of(found, mark),
        heatmaps=tuple((i, heatmaps_of(s)) for i, s in enumerate(found.searches)),
        slots=tuple(slots_of(title, p) for title, p in pictures if fits_picture(p)),
        slot_notes=tuple(too_wide(title, p) for title, p in pictures if not fits_picture(p)),
        counted=counted,
        collision_notes=notes,
    )
