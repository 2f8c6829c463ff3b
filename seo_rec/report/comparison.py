"""Which runs may be compared, and what the comparison says: means, spreads, paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.methods import SUFFIX
from seo_rec.policy import Policy
from seo_rec.policy.allowance import FLOATS
from seo_rec.runs.finished import Records, SearchRun, TrainingRun
from seo_rec.schema import BINARY, LOSS_NAMES, QUALITY_NAMES

Place = tuple[str, str]  # the fingerprint of a data set, and the unit of budgets
Key = tuple[Place, int, str]  # of a comparison: its place, its budget, and its settings
SAME_BUDGET = 0.01  # budgets this close, relatively, are one budget: methods waste part of a row
NAN = float("nan")
# settings that tuning chooses for every method of a comparison
TUNED_FIELDS = {
    "fit": ("row_l2", "l2_on", "row_lr", "dense_lr", "batch_size"),
    "model": ("dropout",),
}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1; NaN for one value) of ``n`` values."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of ``n`` paired differences, its standard error sd / sqrt(n), and the t-test's p."""

    mean: float
    standard_error: float
    p: float
    n: int


@dataclass(frozen=True)
class Row:
    """One method of a comparison; ``at_budget`` is False for a method that has none.

    ``num_bytes`` counts all that is stored to serve; its mean is NaN where a run does not say it.
    """

    method: str
    at_budget: bool
    searched: bool
    params: Spread
    num_bytes: Spread
    test_auc: Spread
    val_auc: Spread
    test_logloss: Spread
    seconds_per_epoch: Spread
    epochs: Spread
    seconds: Spread
    search_seconds: Spread
    search_peak_bytes: int
    difference: Difference | None
    description: str
    runs: tuple[TrainingRun, ...]


@dataclass(frozen=True)
class Group:
    """Runs that share data set, budget and training settings, and the searches behind them.

    Runs of MLET stand beside runs of one layer, under names that end in ``+mlet``. ``rows`` are
    sorted by mean test AUC, best first; ``reference`` is the method that the differences are taken
    against, or None if there is no plain one; ``unit`` of the budget is parameters or bytes.
    """

    title: str
    dataset: str
    budget: int
    rows: tuple[Row, ...]
    reference: Row | None
    searches: tuple[SearchRun, ...]
    unit: str = FLOATS

    @property
    def tuned(self) -> str:
        """A sentence about the tuning of the methods, or the empty text."""
        trials = self.rows[0].runs[0].trials if self.rows else 0
        if not trials:
            return ""
        return (
            f"Every method was tuned first, with {trials} trials each on validation rows: L2, "
            "rates, dropout and batch, and the width where the method decides by rule."
        )

    @property
    def quality(self) -> str:
        """What the methods are compared by: AUC, or R2 of a regression."""
        return QUALITY_NAMES[self._task]

    @property
    def loss(self) -> str:
        """The loss of a row: log loss, or the squared error of a regression."""
        return LOSS_NAMES[self._task]

    @property
    def _task(self) -> str:
        return self.rows[0].runs[0].task if self.rows else BINARY


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    array = np.asarray(values, dtype=np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else NAN
    return Spread(float(array.mean()), sd, len(array))


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """Paired comparison: ``d_i = values_i - reference_i``.

    ``mean(d)``, ``sd(d) / sqrt(n)`` and the two-sided p-value of the paired t-test; the last two
    are NaN for one pair, and p is NaN if all d_i are equal.
    """
    d = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if len(d) < 2:
        return Difference(float(d.mean()), NAN, NAN, len(d))
    error = float(d.std(ddof=1) / math.sqrt(len(d)))
    equal = bool(np.ptp(d) <= 1e-12)
    p = NAN if equal else _two_sided(float(d.mean()) / error, len(d) - 1)
    return Difference(float(d.mean()), error, p, len(d))


def _two_sided(t: float, degrees: int) -> float:
    """``P(|T| >= |t|)`` of Student's T with so many degrees of freedom."""
    from scipy.special import stdtr  # scipy.stats takes four times as long to import

    return float(2 * stdtr(degrees, -abs(t)))


def is_searched(run: TrainingRun) -> bool:
    """Whether a search decided the run's policy; the others are plain methods."""
    decision = run.policy.decision if run.policy else None
    return bool(decision.get("searched")) if decision else run.search_seconds > 0


def winner_of(run: TrainingRun) -> str | None:
    """The candidate that won the search of a run's policy; None if there was no choice."""
    decision = (run.policy.decision if run.policy else None) or {}
    winner = decision.get("winner")
    return str(winner) if winner and winner != decision.get("method") else None


def group(records: Records) -> tuple[Group, ...]:
    """Runs sorted into comparisons: same data set, same budget, same training settings.

    Data sets are the same if their fingerprints are equal, or if one comparison folder used both
    (one random split per seed). Runs without a budget join every comparison of their data set.
    """
    world = _worlds(records)
    runs: list[TrainingRun | SearchRun] = [*records.trainings, *records.searches]
    names = {_place(run, world): run.dataset for run in reversed(runs)}
    trainings = _name_factored(_name_policies(records.trainings))
    budgets = _budgets(trainings, records.searches, world)
    keys: dict[Key, list[TrainingRun]] = {}
    for t in trainings:
        if t.budget is not None:
            key = (_place(t, world), budgets[_place(t, world), t.budget], _setup(t))
            keys.setdefault(key, []).append(t)
    for t in trainings:
        if t.budget is None:
            at = [k for k in keys if k[0][0] == world[t.fingerprint] and k[2] == _setup(t)]
            for key in at or [(_place(t, world), t.params, _setup(t))]:
                keys.setdefault(key, []).append(t)
    searches: dict[Key, list[SearchRun]] = {}
    for s in sorted(records.searches, key=lambda s: (not s.candidates, s.seed)):
        place = (_place(s, world), budgets[_place(s, world), s.budget])
        key = (*place, _setup(s))
        if key not in keys:
            key = next((k for k in keys if k[:2] == place), key)
        keys.setdefault(key, [])
        searches.setdefault(key, []).append(s)
    groups = []
    for key in sorted(keys, key=lambda k: (names[k[0]], k[0], k[1])):
        setups = [k[2] for k in keys if k[:2] == key[:2]]
        dataset = names[key[0]]
        unit = key[0][1]
        title = f"{dataset}, {key[1]:,} {unit}"
        if len(setups) > 1:
            title += f" ({_told_apart(setups)[key[2]]})"
        rows, reference = _rows(_unique_labels(keys[key]))
        there = tuple(searches.get(key, ()))
        groups.append(Group(title, dataset, key[1], rows, reference, there, unit))
    return tuple(groups)


def _place(run: TrainingRun | SearchRun, world: Mapping[str, str]) -> Place:
    """The data set of a run, and whether its budget is in parameters or in bytes."""
    return world[run.fingerprint], run.unit


def _worlds(records: Records) -> dict[str, str]:
    """Fingerprint -> the first fingerprint that stands for the same data set."""
    world: dict[str, str] = {}
    runs: list[TrainingRun | SearchRun] = [*records.trainings, *records.searches]
    first: dict[tuple[Path, str], str] = {}
    for run in runs:
        here = world.setdefault(run.fingerprint, run.fingerprint)
        there = first.setdefault((run.given, run.dataset), run.fingerprint)
        for fingerprint, stands_for in world.items():
            if stands_for == here:
                world[fingerprint] = world[there]
    return world


def _budgets(
    trainings: Sequence[TrainingRun], searches: Sequence[SearchRun], world: dict[str, str]
) -> dict[tuple[Place, int], int]:
    """(place, budget) -> the largest budget within 1% that is found there."""
    found = {(_place(t, world), t.budget) for t in trainings if t.budget is not None}
    found |= {(_place(s, world), s.budget) for s in searches}
    stands_for: dict[tuple[Place, int], int] = {}
    last: tuple[Place, int] | None = None
    for place, budget in sorted(found, reverse=True):
        if last is None or last[0] != place or budget < last[1] * (1 - SAME_BUDGET):
            last = (place, budget)
        stands_for[place, budget] = last[1]
    return stands_for


def _setup(run: TrainingRun | SearchRun) -> str:
    """Settings of the model and its training, without the seed and MLET's."""
    settings = {k: dict(v) for k, v in run.settings.items() if k in ("model", "fit")}
    settings.get("fit", {}).pop("seed", None)
    if run.trials:  # every method has its own best values of what was tuned
        for part, names in TUNED_FIELDS.items():
            for name in names:
                settings.get(part, {}).pop(name, None)
        settings["tuning"] = {"trials": run.trials}
    for name in ("mlet", "regression"):  # a scale is part of the data
        settings.get("model", {}).pop(name, None)
    return json.dumps(settings, sort_keys=True)


def _told_apart(setups: Sequence[str]) -> dict[str, str]:
    """In words, what each of these has that not all of them have."""
    flat = {text: _flat(json.loads(text)) for text in setups}
    names = dict.fromkeys(name for settings in flat.values() for name in settings)
    differ = [n for n in names if len({json.dumps(s.get(n)) for s in flat.values()}) > 1]
    return {
        text: ", ".join(f"{n} {settings[n]}" for n in differ if n in settings) or "other settings"
        for text, settings in flat.items()
    }


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their own name, of groups by ``group.name``; without the outermost groups."""
    found: dict[str, Any] = {}
    for group_of in settings.values():
        for name, value in group_of.items():
            if isinstance(value, Mapping):
                found |= {f"{name}.{inner}": v for inner, v in value.items()}
            else:
                found[name] = value
    return found


def _mlet(run: TrainingRun) -> tuple[Any, ...] | None:
    """Inner dimension and standard deviation of a run that MLET trained."""
    given = run.settings.get("model", {}).get("mlet")
    return (given["dim"], given["std"]) if given else None


def _name_factored(trainings: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Runs of MLET end in ``+mlet``, and in its settings where these are not the same for all."""
    kinds = {_mlet(t) for t in trainings} - {None}
    named = []
    for t in trainings:
        if found := _mlet(t):
            which = f" {found[0]} x {found[1]:g}" if len(kinds) > 1 else ""
            t = replace(t, method=t.method.removesuffix(SUFFIX) + SUFFIX + which)
        named.append(t)
    return named


def _name_policies(trainings: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Runs of ``train --policy``, all called ``policy``, are named by their policy's origin."""
    seen: dict[str, list[Policy | None]] = {}
    named = []
    for t in trainings:
        if t.method == "policy":
            origin = t.policy.provenance if t.policy else {}
            label = f"policy ({origin.get('apply') or origin.get('method') or t.folder.name})"
            known = seen.setdefault(label, [])
            if t.policy not in known:
                known.append(t.policy)
            number = known.index(t.policy) + 1
            t = replace(t, method=label if number == 1 else f"{label} #{number}")
        named.append(t)
    return named


def _unique_labels(trainings: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Where two folders hold the same method and seed, their folder becomes part of the name."""
    places: dict[tuple[str, int, str], set[Path]] = {}
    for t in trainings:
        places.setdefault((t.method, t.seed, t.fingerprint), set()).add(t.folder)
    twice = {method for (method, _, _), folders in places.items() if len(folders) > 1}
    names = {t.given for t in trainings if t.method in twice}
    short = len({p.name for p in names}) == len(names)
    return [
        replace(t, method=f"{t.method} [{t.given.name if short else t.given}]")
        if t.method in twice
        else t
        for t in trainings
    ]


def _rows(trainings: Sequence[TrainingRun]) -> tuple[tuple[Row, ...], Row | None]:
    methods: dict[str, list[TrainingRun]] = {}
    for t in sorted(trainings, key=lambda t: t.seed):
        methods.setdefault(t.method, []).append(t)
    rows = [_row(method, runs) for method, runs in methods.items()]
    plain = [r for r in rows if not r.searched and r.at_budget and not math.isnan(r.val_auc.mean)]
    single = [r for r in plain if _mlet(r.runs[0]) is None]
    reference = max(single or plain, key=lambda r: r.val_auc.mean, default=None)
    if reference:
        rows = [replace(r, difference=difference_of(r, reference, _test_auc)) for r in rows]
        reference = next(r for r in rows if r.method == reference.method)
    rows.sort(key=lambda r: (math.isnan(r.test_auc.mean), -r.test_auc.mean, r.method))
    return tuple(rows), reference


def _test_auc(run: TrainingRun) -> float:
    return run.test_auc


def _row(method: str, runs: Sequence[TrainingRun]) -> Row:
    return Row(
        method=method,
        at_budget=runs[0].budget is not None,
        searched=is_searched(runs[0]),
        params=spread([t.params for t in runs]),
        num_bytes=spread([NAN if t.num_bytes is None else t.num_bytes for t in runs]),
        test_auc=spread([t.test_auc for t in runs]),
        val_auc=spread([t.val_auc for t in runs]),
        test_logloss=spread([t.test_logloss for t in runs]),
        seconds_per_epoch=spread([t.seconds_per_epoch for t in runs]),
        epochs=spread([t.epochs for t in runs]),
        seconds=spread([t.seconds for t in runs]),
        search_seconds=spread([t.search_seconds for t in runs]),
        search_peak_bytes=max(t.search_peak_bytes for t in runs),
        difference=None,
        description=_description(runs),
        runs=tuple(runs),
    )


def _description(runs: Sequence[TrainingRun]) -> str:
    """The policy in words; of a search that chose differently by seed, every choice."""
    said: dict[str, list[int]] = {}
    for t in runs:
        winner = winner_of(t)
        text = f"{winner}: {t.description}" if winner else t.description
        said.setdefault(text, []).append(t.seed)
    if len(said) == 1:
        return next(iter(said))
    texts = [f"{text} (seed {', '.join(map(str, seeds))})" for text, seeds in said.items()]
    more = [f"and {len(texts) - 3} more"] if len(texts) > 4 else []
    return "; or ".join([*texts[: 3 if more else 4], *more])


def difference_of(
    row: Row, reference: Row, value: Callable[[TrainingRun], float]
) -> Difference | None:
    """The paired difference of a quality of two methods, run by run of one seed and data set.

    None for the reference itself, and where no pair has the quality (NaN) on both sides.
    """
    if row.method == reference.method:
        return None
    base = {(t.seed, t.fingerprint): value(t) for t in reference.runs}
    pairs = [(value(t), base.get((t.seed, t.fingerprint), NAN)) for t in row.runs]
    known = [pair for pair in pairs if not any(map(math.isnan, pair))]
    return paired_difference(*zip(*known, strict=True)) if known else None
