"""The studies behind the results: run or resume them, collect their lines.

    python -m benchmarks.accuracy.evidence movielens --data data/ml-1m
    python -m benchmarks.accuracy.evidence criteo --data data/criteo-0 ... data/criteo-4
    python -m benchmarks.accuracy.evidence synthetic --data data/synthetic-0 ... data/synthetic-4

Each study is one or more comparisons (``seo-rec compare``) in ``--out``, and can be stopped and
started again. ``--record`` writes one JSON object per run to
``benchmarks/results/<study>.jsonl`` and one per search model to ``<study>-searches.jsonl`` there,
whenever a seed is done. Several processes may run parts, seeds or methods of one study.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.record import RESULTS, Line, merge, path_of
from seo_rec import recipes, report
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.methods import SUFFIX, Mlet
from seo_rec.policy import Policy
from seo_rec.runs import read_runs
from seo_rec.runs.layout import (
    POLICY_FILE,
    RESULT_FILE,
    RESULTS_FILE,
    RUN_FILE,
    WORK_FOLDER,
    training_folder,
)
from seo_rec.search import find
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSettings
from seo_rec.settings import FitSettings, Training

PLAIN = ("separate", "monolithic", "multi-size", "multi-size-4", "multi-size-8")
APPLIERS = ("seo-exact", "seo-rr")
# A table per feature.
WIDTHS = ("no-search", "mixed-dimension", "sseds", "dimgrow", "optembed", "autodim")
RIVALS = ("separate", "monolithic", "multi-size", "multi-size-8", "seo-rr", "seo")
L2_TRIED = ("mixed-dimension", "sseds")  # with more L2 also trained by MLET
MORE_L2 = (*RIVALS[1:], *WIDTHS)
MLET = Mlet(dim=32, std=0.5)


@dataclass(frozen=True)
class Part:
    """One comparison of a study: a folder name, its methods, and how the search is set.

    ``factored``: methods that are also trained by MLET, with the first three seeds.
    """

    name: str
    methods: tuple[str, ...]
    settings: SeoSettings
    fit: FitSettings
    run_off: RunOff
    seeds: int = 5
    factored: tuple[str, ...] = ()

    def comparison(
        self, data: tuple[DataSet, ...], methods: tuple[str, ...], seed: int
    ) -> recipes.Comparison:
        """Methods of one family with one seed; SEO's have the settings of this part."""
        seo = _differences(self.settings)
        if "seo" in methods:
            seo["run_off"] = self.run_off
        return recipes.Comparison(
            data=data,
            methods=methods,
            params=self.settings.params,
            dim=self.settings.dim,
            seeds=1,
            first_seed=seed,
            training=Training(fit=self.fit),
            settings={"seo": seo} if family_of(methods[0]) == "seo" else {},
            mlet=MLET if any(m.endswith(SUFFIX) for m in methods) else None,
        )

    def names(self, seed: int) -> tuple[str, ...]:
        """The methods of a seed, those that are also trained by MLET last."""
        again = self.factored if seed < 3 else ()
        return (*self.methods, *(m + SUFFIX for m in again))


def movielens() -> list[Part]:
    """B_base 6,000: the main table, SEO's Table 2, and the readings of the paper beside it."""
    fit = FitSettings(row_l2=2e-4)
    run_off = RunOff(cost=0)
    base = SeoSettings(budget_rows=6000)
    shared = replace(base, chunk_hashing="shared")
    parts = [Part("ml-1m", (*PLAIN, *APPLIERS, "seo"), base, fit, run_off, factored=RIVALS)]
    for project, adjust in ((False, True), (True, False), (True, True)):
        settings = replace(base, use_down_projection=project, adjust_hash_buckets=adjust)
        name = f"ml-1m-dp{int(project)}-ah{int(adjust)}"
        parts.append(Part(name, APPLIERS, settings, fit, run_off))
    held_out = replace(base, search_split="held-out")
    doubled = replace(fit, row_l2=4e-4, epochs=40)  # does MLET gain what more L2 would?
    fourfold = replace(doubled, row_l2=8e-4)
    eightfold = replace(doubled, row_l2=16e-4)
    sixteenfold = replace(doubled, row_l2=32e-4, epochs=80)
    half = replace(base, budget_rows=3000)
    shorter = RunOff(chunk_dims=(8,), cost=0)
    return [
        *parts,
        Part("ml-1m-widths", WIDTHS, base, fit, run_off, 3, WIDTHS),
        Part("ml-1m-l2-4e-4", L2_TRIED, base, doubled, run_off, 3, L2_TRIED),
        Part("ml-1m-l2-8e-4", MORE_L2, base, fourfold, shorter, 3, L2_TRIED),
        Part("ml-1m-l2-16e-4", ("no-search", "sseds"), base, eightfold, run_off, 3),
        Part("ml-1m-l2-32e-4", ("no-search",), base, sixteenfold, run_off, 3),
        Part("ml-1m-48000", (*RIVALS, *WIDTHS), half, fit, shorter, 3, (*RIVALS, *WIDTHS)),
        Part("ml-1m-shared", APPLIERS, shared, fit, run_off),
        Part("ml-1m-collisionless", ("collisionless",), base, fit, run_off),
        Part("ml-1m-min0", APPLIERS, replace(base, min_chunks=0), fit, run_off),
        Part("ml-1m-shared-min0", APPLIERS, replace(shared, min_chunks=0), fit, run_off, 3),
        Part("ml-1m-held-out", APPLIERS, held_out, fit, run_off, 3),
    ]


def criteo() -> list[Part]:
    """The 137,139-row sample with all 39 columns embedded, at three budgets."""
    fit = FitSettings(batch_size=512, row_lr=1e-3, dense_lr=1e-3, row_l2=3e-3)
    run_off = RunOff(epochs=6, cost=0)
    parts = []
    for rows in (2000, 20000, 5000):
        settings = SeoSettings(budget_rows=rows)
        methods = (*PLAIN, *APPLIERS, "seo")
        factored = RIVALS if rows == 5000 else ()
        part = Part(f"criteo-{rows * 16}", methods, settings, fit, run_off, factored=factored)
        parts.append(part)
    middle = SeoSettings(budget_rows=5000)
    parts.append(Part("criteo-80000-widths", WIDTHS, middle, fit, run_off, 3, WIDTHS))
    held_out = SeoSettings(budget_rows=2000, search_split="held-out")
    parts.append(Part("criteo-32000-held-out", APPLIERS, held_out, fit, run_off))
    return parts


def synthetic() -> list[Part]:
    """Planted structure: features of very different worth, at one budget."""
    fit = FitSettings(batch_size=512, row_lr=1e-3, dense_lr=1e-3, row_l2=3e-3, patience=4)
    run_off = RunOff(epochs=6, cost=0)
    settings = SeoSettings(budget_rows=4000)
    return [Part("synthetic-64000", (*PLAIN, "seo"), settings, fit, run_off)]


STUDIES = {"movielens": movielens, "criteo": criteo, "synthetic": synthetic}


@dataclass(frozen=True)
class Some:
    """What of a study to run; empty: all. Names of methods are with or without ``+mlet``."""

    parts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def of(self, part: Part) -> list[tuple[int, str]]:
        """Seed and method of every run of a part, seed by seed."""
        if self.parts and part.name not in self.parts:
            return []
        return [
            (seed, method)
            for seed in range(part.seeds)
            if not self.seeds or seed in self.seeds
            for method in part.names(seed)
            if not self.methods or method in self.methods
        ]

    def check(self, parts: list[Part]) -> None:
        """ValueError for a name that no part has."""
        known = {"part": {p.name for p in parts}, "method": {m for p in parts for m in p.names(0)}}
        for kind, names in (("part", self.parts), ("method", self.methods)):
            if unknown := sorted(set(names) - known[kind]):
                raise ValueError(f"{kind} {unknown}; allowed: {', '.join(sorted(known[kind]))}")


def family_of(method: str) -> str:
    """Methods of one family run in one comparison, so that SEO's share their search."""
    return find(method.removesuffix(SUFFIX)).family


def compare_feasible(
    comparison: Callable[[tuple[str, ...]], recipes.Comparison],
    methods: tuple[str, ...],
    folder: Path,
    title: str,
) -> None:
    """Run the comparison of methods; those without a policy are named, and the others go on."""
    while methods:
        try:
            recipes.compare(comparison(methods), folder)
            return
        except recipes.InfeasibleError as error:
            print(f"{title}: {error}", flush=True)
            methods = tuple(m for m in methods if m not in error.reasons)


def run(study: str, data: list[Path], out: Path, some: Some, record: bool) -> None:
    """Train what is unfinished, print its tables, write the lines of a seed when it is done."""
    parts = STUDIES[study]()
    some.check(parts)
    command = (
        f"python -m benchmarks.accuracy.evidence {study} --data {' '.join(str(d) for d in data)}"
    )
    opened = tuple(map(open_data, data))
    for part in parts:
        folder = out / part.name
        for seed, runs in groupby(some.of(part), key=lambda x: x[0]):
            families: dict[str, list[str]] = {}
            for _, method in runs:
                families.setdefault(family_of(method), []).append(method)
            for methods in families.values():
                of = partial(part.comparison, opened, seed=seed)
                compare_feasible(of, tuple(methods), folder, f"{part.name}, seed {seed}")
            if record:
                write_lines(study, part, folder, command)
        if (folder / RESULTS_FILE).exists():
            report.print_comparison([folder])
            if record:
                write_lines(study, part, folder, command)


def write_lines(study: str, part: Part, folder: Path, command: str) -> None:
    """Put what ``folder`` holds into the record."""
    runs: list[Line] = []
    searches: list[Line] = []
    for done in read_runs(folder / RESULTS_FILE):
        line = {"study": part.name, "search": _differences(part.settings), **asdict(done)}
        line["command"] = f"{command} --only {part.name} --methods {done.method}"
        line |= {"search_peak_bytes": done.search_peak_bytes or None}
        policy = Policy.load(training_folder(folder, done.method, done.seed) / POLICY_FILE)
        line["id_bytes"] = 8 * sum(len(ids) for ids in policy.vocabularies.values())
        winner = (policy.decision or {}).get("winner")
        line["winner"] = None if winner == done.method.removesuffix(SUFFIX) else winner
        runs.append(line)
    for path in sorted((folder / WORK_FOLDER).glob(f"*/attentions/*/{RESULT_FILE}")):
        line = _search_line(part, path) | {"command": f"{command} --only {part.name}"}
        searches.append(line)
    merge(path_of(study), runs, ("study", "method", "seed"))
    merge(path_of(f"{study}-searches"), searches, ("study", "chunk_dim", "seed"))


def _differences(settings: SeoSettings) -> dict[str, Any]:
    """What differs from the default search, budget and width aside."""
    default = asdict(SeoSettings())
    given = ("budget_rows", "dim")
    return {k: v for k, v in asdict(settings).items() if v != default[k] and k not in given}


def _search_line(part: Part, path: Path) -> dict[str, Any]:
    asked = json.loads((path.parent / RUN_FILE).read_text())
    found = json.loads(path.read_text())
    return {
        "study": part.name,
        "search": _differences(part.settings),
        "method": "seo, search model",
        "data": asked["data"],
        "chunk_dim": asked["seo"]["chunk_dim"],
        "embedding_params": asked["seo"]["budget_rows"]
        * asked["seo"]["dim" if asked["seo"]["adjust_hash_buckets"] else "search_dim"],
        "budget": asked["seo"]["budget_rows"] * asked["seo"]["dim"],
        "seed": asked["fit"]["seed"],
        "data_fingerprint": asked["data_fingerprint"],
        **{k: found[k] for k in ("val_auc", "test_auc", "seconds", "seconds_per_epoch")},
        "attention": found["alpha"],
    }


def main() -> None:
    parser = make_parser(__doc__, RESULTS / "STUDY.jsonl", out="runs")
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared data sets")
    parser.add_argument("--only", nargs="*", default=[], help="names of parts to run")
    parser.add_argument("--methods", nargs="*", default=[], help="names of methods to run")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="some only")
    options = parser.parse_args()
    set_up(options.threads)
    some = Some(tuple(options.only), tuple(options.methods), tuple(options.seeds))
    try:
        run(options.study, options.data, options.out, some, options.record)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
