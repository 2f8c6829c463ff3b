"""One self-contained HTML page: what the runs say, as an engineer wants to read it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import seo_rec
from seo_rec.apply import STRATEGIES
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.files import write_text
from seo_rec.policy import Policy
from seo_rec.policy.allowance import FLOATS
from seo_rec.report import charts, formats, frontier
from seo_rec.report.collisions import Collisions, collisions
from seo_rec.report.comparison import SAME_BUDGET, Group, group, winner_of
from seo_rec.report.groups import Groups, groups_of
from seo_rec.report.rounds import rounds_chart
from seo_rec.report.tunings import shown_tuning
from seo_rec.runs import reading
from seo_rec.runs.command_settings import repeat_command
from seo_rec.runs.decision import decided
from seo_rec.runs.halving import story
from seo_rec.runs.reading import Attention, Records, SearchRun, TrainingRun
from seo_rec.schema import SPLITS, DataError

TEMPLATE = "page.html.j2"
MAX_SLOTS = 32  # tables in a slot picture
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


@dataclass(frozen=True)
class Slots:
    """Which lookup of a feature reads which table: ``cells[f][t]`` is '' or lookup numbers."""

    title: str
    tables: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, int, int], ...]
    cells: tuple[tuple[str, ...], ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class CountedCollisions:
    """The collisions of one method's policy."""

    method: str
    seed: int
    collisions: Collisions


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


@dataclass(frozen=True)
class Origin:
    """Where numbers came from: a heading, and (name, value) lines."""

    title: str
    lines: tuple[tuple[str, str], ...]


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
        origins=_origins(records),
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
    counted, notes = _collisions(found)
    pictures = _slot_policies(found)
    return Section(
        anchor=f"g{number}",
        group=found,
        headline=_headline(found),
        budget_line=_budget_line(found),
        best=_best(found),
        auc_chart=charts.auc_by_method(found, mark) if found.rows else "",
        curves=charts.training_curves(found, mark),
        groups=groups_of(found, mark),
        heatmaps=tuple((i, _heatmaps(s)) for i, s in enumerate(found.searches)),
        slots=tuple(_slots(title, p) for title, p in pictures if _fits(p)),
        slot_notes=tuple(_too_wide(title, p) for title, p in pictures if not _fits(p)),
        counted=counted,
        collision_notes=notes,
    )


# ---- sentences ---------------------------------------------------------------------------


def _headline(found: Group) -> str:
    rows = [r for r in found.rows if r.at_budget]
    if not rows:
        return "No method was trained at a budget here."
    top = rows[0]
    text = (
        f"Best mean test {found.quality} at the budget: {top.method}, "
        f"{formats.plus_minus(top.test_auc.mean, top.test_auc.sd)} ({_seeds(top.test_auc.n)})"
    )
    if found.reference is None:
        return text + "; there is no plain method to compare it with."
    if top.method == found.reference.method:
        return text + ", which is also the reference: no other method is ahead of it."
    d = top.difference
    if d is None:
        return text + f"; it shares no seed with the reference {found.reference.method}."
    if math.isnan(d.p):
        tail = "with one seed there is no test of it" if d.n < 2 else "no test is possible"
    elif d.p < 0.05:
        tail = f"p {_equals(d.p)}, not corrected for choosing the best of {len(rows)}"
    else:
        tail = f"p {_equals(d.p)}: within the noise of {_seeds(d.n)}"
    gain = formats.difference(d.mean, d.standard_error)
    return f"{text}; {gain} over the reference {found.reference.method} ({tail})."


def _equals(p: float) -> str:
    text = formats.p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"


def _budget_line(found: Group) -> str:
    runs = [t for row in found.rows if row.at_budget for t in row.runs]
    sizes = {t.params for t in runs}
    beside = [row.method for row in found.rows if not row.at_budget]
    text = ""
    if len(sizes) == 1:
        text = f"Every method holds exactly {sizes.pop():,} embedding parameters (floats)"
    elif sizes:
        text = (
            f"The budget is {found.budget:,} {_unit(found)}; the methods hold "
            f"{min(sizes):,} to {max(sizes):,}{'' if found.unit == FLOATS else ' parameters'}"
        )
    if text:
        text += _bytes_line([t.num_bytes for t in runs if t.num_bytes])
    if beside:
        text += f" Not at the budget, its size follows from the data: {', '.join(beside)} (†)."
    return text.strip()


def _unit(found: Group) -> str:
    return (
        "embedding parameters (floats)" if found.unit == FLOATS else "bytes to serve, ids included"
    )


def _bytes_line(sizes: Sequence[int]) -> str:
    """The end of a sentence about sizes: the bytes that are stored, where the runs say them."""
    if not sizes:
        return "."
    least, most = min(sizes), max(sizes)
    shown = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f", which take {shown} bytes to serve, ids of vocabularies included."


def _best(found: Group) -> dict[str, float]:
    """The best mean of each quality among methods at the budget; NaN for a single method."""
    rows = [r for r in found.rows if r.at_budget]
    if len(rows) < 2:
        return dict.fromkeys(("test_auc", "val_auc", "test_logloss"), math.nan)
    return {
        "test_auc": max(r.test_auc.mean for r in rows),
        "val_auc": max(r.val_auc.mean for r in rows),
        "test_logloss": min(r.test_logloss.mean for r in rows),
    }


# ---- searches ----------------------------------------------------------------------------


def _heatmaps(search: SearchRun) -> tuple[Heatmap, ...]:
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


def _slot_policies(found: Group) -> list[tuple[str, Policy]]:
    """The searched policies worth a picture: of trained methods, else of the searches."""
    pictures = []
    for row in found.rows:
        first = row.runs[0]
        if row.searched and first.policy:
            winner = winner_of(first)
            note = f", which is candidate {winner}" if winner else ""
            pictures.append((f"{row.method}, seed {first.seed}{note}", first.policy))
    if pictures:
        return pictures
    for search in found.searches:
        if search.policy:
            pictures.append((f"seed {search.seed}: winner, {search.winner}", search.policy))
        for strategy in STRATEGIES:
            scores = {
                c.name: c.val_auc
                for c in search.candidates
                if c.origin.get("apply") == strategy and c.name in search.policies
            }
            scores.pop(search.winner, None)
            if scores:
                name = max(scores, key=lambda n: scores[n])
                title = f"seed {search.seed}: best {strategy} candidate, {name}"
                pictures.append((title, search.policies[name]))
    return pictures


def _fits(policy: Policy) -> bool:
    return len(policy.tables) <= MAX_SLOTS


def _too_wide(title: str, policy: Policy) -> str:
    """Why a policy has no picture, and the little that can be said of it."""
    readers: dict[str, set[str]] = {}
    for f in policy.features:
        for k in f.all_lookups:
            readers.setdefault(k.table, set()).add(f.name)
    own = {name for names in readers.values() if len(names) == 1 for name in names}
    return (
        f"{title}: {len(policy.tables)} tables, too many for a picture (at most {MAX_SLOTS}); "
        f"{len(own)} of {len(policy.features)} features have a table of their own"
    )


def _slots(title: str, policy: Policy) -> Slots:
    cells = tuple(
        tuple(
            ", ".join(str(j) for j, k in enumerate(f.lookups, 1) if k.table == t.name)
            for t in policy.tables
        )
        for f in policy.features
    )
    return Slots(
        title,
        tuple((t.name, f"{t.num_rows:,} × {t.dim}") for t in policy.tables),
        tuple((f.name, len(f.lookups), policy.width(f)) for f in policy.features),
        cells,
        policy.dropped,
    )


# ---- collisions --------------------------------------------------------------------------


def _collisions(found: Group) -> tuple[tuple[CountedCollisions, ...], tuple[str, ...]]:
    """Of the first seed of every method whose policy and data set are still there."""
    counted, notes = [], []
    opened: dict[Path, DataSet] = {}
    for row in found.rows:
        run = next((t for t in row.runs if t.policy and t.data), None)
        if run is None or run.policy is None or run.data is None:
            notes.append(f"{row.method}: its policy.json or run.json is not there")
            continue
        try:
            if run.data not in opened:
                opened[run.data] = _open_data(run)
            if crosses := [f.name for f in run.policy.features if f.is_cross]:
                raise DataError(f"the ids of crosses are not counted ({', '.join(crosses[:3])})")
            known = {f.name: opened[run.data].vocabulary(f.columns[0]) for f in run.policy.features}
            counted.append(CountedCollisions(row.method, run.seed, collisions(run.policy, known)))
        except (DataError, ValueError, OSError) as error:
            notes.append(f"{row.method}: {error}")
    return tuple(counted), tuple(notes)


def _open_data(run: TrainingRun) -> DataSet:
    """The data set of a run; DataError if it is gone, or is not what the run was trained on."""
    assert run.data is not None
    if not run.data.is_dir():
        raise DataError(f"the data set {run.data} is not there any more")
    data = open_data(run.data)
    if data.fingerprint != run.fingerprint:
        raise DataError(
            f"the data set {run.data} has changed since: fingerprint {data.fingerprint}, trained "
            f"on {run.fingerprint}"
        )
    return data


# ---- provenance --------------------------------------------------------------------------


def _origins(records: Records) -> list[Origin]:
    """Per folder given: commands, data, environments and settings, each said once."""
    places: dict[Path, list[TrainingRun | SearchRun]] = {}
    runs: list[TrainingRun | SearchRun] = [*records.trainings, *records.searches]
    for run in runs:
        places.setdefault(run.given, []).append(run)
    origins = []
    for given, members in places.items():
        lines: list[tuple[str, str]] = []
        trained = sum(isinstance(m, TrainingRun) for m in members)
        runs_of = (
            formats.number_of(trained, "training", "trainings"),
            formats.number_of(len(members) - trained, "search", "searches"),
        )
        lines.append(("runs", ", ".join(runs_of)))
        lines += [("command", text) for text in dict.fromkeys(m.command for m in members)]
        repeats = dict.fromkeys(m.repeat for m in members if m.repeat)
        lines += [("repeat with", repeat_command(path.parent) or "") for path in repeats]
        lines += [("data", text) for text in dict.fromkeys(_data_line(m) for m in members)]
        lines += _environment_lines(members)
        lines += _settings_lines(members)
        origins.append(Origin(str(given), tuple(lines)))
    return origins


def _data_line(run: TrainingRun | SearchRun) -> str:
    text = f"{run.dataset}, fingerprint {run.fingerprint}"
    if run.data is None:
        return text
    text += f", {run.data}"
    try:
        schema = open_data(run.data).schema
    except (DataError, OSError):
        return text + " (not there any more)"
    if schema.fingerprint != run.fingerprint:
        return text + f" (changed since: now {schema.fingerprint})"
    rows = ", ".join(f"{s} {schema.num_rows[s]:,}" for s in SPLITS if s in schema.num_rows)
    ids = sum(c.vocab_size or 0 for c in schema.features)
    return (
        f"{schema.dataset}, fingerprint {run.fingerprint}, {run.data}: rows {rows}; "
        f"{len(schema.features)} features with {ids:,} training ids, "
        f"{len(schema.numeric)} numeric columns"
    )


def _environment_lines(members: Sequence[TrainingRun | SearchRun]) -> list[tuple[str, str]]:
    """One line per state of the code and one per machine; dates as a range."""
    codes: dict[str, None] = {}
    dates: dict[str, list[str]] = {}
    for run in members:
        stamp = dict(run.environment)
        sha, dirty = stamp.pop("git_sha", None), stamp.pop("git_dirty", None)
        state = {True: ", with uncommitted changes", False: ""}.get(dirty, ", state unknown")
        codes[f"git {sha}{state}" if sha else "git sha unknown"] = None
        date = str(stamp.pop("date", "unknown date"))
        dates.setdefault(_plain(stamp), []).append(date)
    lines = [("code", text) for text in codes]
    for text, seen in dates.items():
        first, last = min(seen), max(seen)
        lines += [("environment", text), ("date", first if first == last else f"{first} to {last}")]
    return lines


def _settings_lines(members: Sequence[TrainingRun | SearchRun]) -> list[tuple[str, str]]:
    lines: dict[tuple[str, str], None] = {}
    for run in members:
        for part, values in run.settings.items():
            shown = {k: v for k, v in values.items() if not (part == "fit" and k == "seed")}
            lines[f"settings: {part}", _plain(shown)] = None
    seeds = sorted({run.seed for run in members})
    return [("seeds", ", ".join(map(str, seeds))), *lines]


def _plain(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items())
