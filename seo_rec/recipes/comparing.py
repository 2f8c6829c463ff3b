"""Compare methods at one budget, on real data or on made-up data."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from seo_rec import apply, methods
from seo_rec.data.synthetic import synthetic
from seo_rec.data.vocabulary import read_vocabulary
from seo_rec.files import append_line, write_json
from seo_rec.methods import SUFFIX, Mlet, inner_policy
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy, PolicyError
from seo_rec.recipes.folders import SEARCH_FILE, Run, RunError, SearchCost, open_run, read_runs
from seo_rec.recipes.published import PUBLISHED, is_published, published_policy
from seo_rec.recipes.search_by import search_by
from seo_rec.recipes.searching import RunOff, check_search, check_space, search
from seo_rec.recipes.training import train
from seo_rec.schema import SCHEMA_FILE, Schema, read_schema
from seo_rec.search import SEARCHES, seo
from seo_rec.search.dimgrow import adapt_of
from seo_rec.train import FitSettings, ranks

log = logging.getLogger(__name__)


def method_policy(
    method: str,
    data: Path,
    params: int,
    dim: int,
    chunk_dim: int,
    seed: int,
    exact_below: int = 0,
    same_hash: tuple[tuple[str, ...], ...] = (),
) -> Policy:
    """The policy of a plain method by its ``compare`` name; the budget is in parameters.

    ``separate``, ``separate-cardinality``, ``monolithic``, ``multi-size`` (``dim / chunk_dim``
    lookups), ``multi-size-K`` (K lookups), ``collisionless`` (its size is its own), those of
    :data:`PUBLISHED`, and the searches that train nothing (:data:`UNTRAINED`).

    ``exact_below`` and ``same_hash`` are those of :class:`seo_rec.methods.Sharing`, for every
    method that has no search; ``collisionless`` keeps all features exact and hashes none.

    Raises:
        PolicyError: an infeasible budget.
        ValueError: unknown name of a method or of a feature, or a method that keeps none exact.
    """
    schema = read_schema(data)
    if exact_below or same_hash:
        _check_sharing(method, exact_below, same_hash, schema)
    if (exact_below or same_hash) and method != "collisionless":
        name, rows = _published_twin(method, dim, chunk_dim)
        sharing = methods.Sharing(rows=rows, exact_below=exact_below, same_hash=same_hash)
        return published_policy(name, data, params, dim, seed, sharing)
    if method == "separate":
        return methods.separate(schema, params, dim, seed=seed)
    if method == "separate-cardinality":
        return methods.separate(schema, params, dim, rows="cardinality", seed=seed)
    if method == "monolithic":
        return methods.monolithic(schema, params, dim, seed=seed)
    if method == "multi-size" or _is_multi_size(method):
        k = _lookups(method, dim, chunk_dim)
        return methods.multi_size(schema, params, dim, lookups=k, seed=seed)
    if is_published(method):
        return published_policy(method, data, params, dim, seed)
    if method == "collisionless":
        vocabularies = {c.name: read_vocabulary(data, c.name)[0] for c in schema.features}
        return methods.collisionless(schema, dim, vocabularies)
    if method in UNTRAINED:
        wanted = SEARCHES[method].settings(params=params, max_dim=_widest(method, dim))
        fit_settings = FitSettings(seed=seed)
        return SEARCHES[method].run(data, wanted, ModelSettings(), fit_settings).policy
    if method in SEARCHES:
        raise ValueError(
            f"method {method!r} needs a search; run `seo-rec search --method {method}` and train "
            "its policy with --policy"
        )
    raise ValueError(f"method {method!r}; allowed: {', '.join((*PLAIN_METHODS, *UNTRAINED))}")


def _check_sharing(
    method: str, exact_below: int, same_hash: tuple[tuple[str, ...], ...], schema: Schema
) -> None:
    if exact_below < 0:
        raise ValueError(f"exact_below is {exact_below}; allowed: 0 or more")
    if method == "seo" or method in SEO_METHODS or method in SEARCHES:
        raise ValueError(
            f"exact_below or same_hash with method {method!r}; allowed with: "
            f"{', '.join(PLAIN_METHODS)}"
        )
    named = [name for names in same_hash for name in names]
    if unknown := sorted(set(named) - {c.name for c in schema.features}):
        raise ValueError(
            f"same_hash names {unknown}; allowed: {', '.join(c.name for c in schema.features)}"
        )
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"same_hash names {twice} twice; allowed: each feature once")


def _published_twin(method: str, dim: int, chunk_dim: int) -> tuple[str, str]:
    """The name in :data:`PUBLISHED` of a method, and how its features divide the rows.

    The tables and hash functions of the two are the same; those of the latter can leave features
    out.
    """
    if is_published(method):
        return method, "cardinality"
    if method in ("separate", "separate-cardinality"):
        return "hashing-trick", "even" if method == "separate" else "cardinality"
    if method == "monolithic":
        return "multiplexed-hashing-trick", "cardinality"
    if method == "multi-size" or _is_multi_size(method):
        k = _lookups(method, dim, chunk_dim)
        if k < 1 or dim % k:
            raise ValueError(f"{k} lookups; allowed: a divisor of dim {dim}")
        return f"multiplexed-pq-{k}", "cardinality"
    raise ValueError(f"method {method!r}; allowed: {', '.join(PLAIN_METHODS)}")


def _lookups(method: str, dim: int, chunk_dim: int) -> int:
    """K of ``multi-size-K``; ``multi-size`` has as many as there are chunks."""
    if _is_multi_size(method):
        return int(method.removeprefix("multi-size-"))
    if chunk_dim < 1 or dim % chunk_dim:
        raise ValueError(f"chunk_dim {chunk_dim}; allowed: a divisor of dim {dim}")
    return dim // chunk_dim


def _widest(method: str, dim: int) -> int:
    """``max_dim`` of a search among methods of width ``dim``: it needs room above the mean."""
    return dim if method == "no-search" else 2 * dim


def _is_multi_size(method: str) -> bool:
    return method.startswith("multi-size-") and method.removeprefix("multi-size-").isdigit()


PLAIN_METHODS = (
    "separate",
    "separate-cardinality",
    "monolithic",
    "multi-size",
    "multi-size-K",
    "collisionless",
    *PUBLISHED,
)
SEO_METHODS = {"seo-exact": "exact", "seo-rr": "round-robin"}
MLET_FILE = "mlet.json"  # how the methods with the suffix of MLET are trained
UNTRAINED = ("mixed-dimension", "no-search")  # searches that only look at the vocabularies
METHODS = (*PLAIN_METHODS, *SEO_METHODS, "seo", *SEARCHES)


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` runs: methods at one budget, each with every seed.

    ``methods``: names, each plain or with the suffix ``+mlet``: the same policy, trained with
    ``mlet``; ``data``: one prepared data set, or several (random splits): seed s uses number s
    modulo their count; ``seeds``: number of seeds, counted from ``first_seed``; ``searches``:
    settings of searches of ``SEARCHES`` by name, without a budget (default: their own, features up
    to twice as wide as ``settings.dim``); ``exact_below``, ``same_hash``: see
    :func:`method_policy`.
    """

    data: tuple[Path, ...]
    methods: tuple[str, ...]
    settings: seo.SeoSettings
    seeds: int = 5
    first_seed: int = 0
    model: ModelSettings = ModelSettings()
    fit: FitSettings = FitSettings()
    run_off: RunOff = RunOff()
    searches: Mapping[str, Any] = field(default_factory=dict)
    mlet: Mlet | None = None
    exact_below: int = 0
    same_hash: tuple[tuple[str, ...], ...] = ()

    def search_settings(self, method: str) -> Any:
        """Settings of a search of ``SEARCHES`` at the budget of the comparison."""
        kind = SEARCHES[method].settings
        given = self.searches.get(method)
        if given is None:
            given = kind(max_dim=_widest(method, self.settings.dim))
            if method == "dimgrow":
                given = replace(given, adapt=adapt_of(self.model.backbone))
        return replace(given, params=self.settings.params)

    def plain_policy(self, method: str, data: Path, seed: int) -> Policy:
        """The policy of a method that has no search; see :func:`method_policy`."""
        s, method = self.settings, method.removesuffix(SUFFIX)
        return method_policy(
            method, data, s.params, s.dim, s.chunk_dim, seed, self.exact_below, self.same_hash
        )


def check_comparison(comparison: Comparison) -> None:
    """ValueError for an unknown method, or settings that do not go together."""
    if not comparison.methods or comparison.seeds < 1 or not comparison.data:
        raise ValueError(
            f"{len(comparison.methods)} methods, {comparison.seeds} seeds, {len(comparison.data)} "
            "data sets; allowed: 1 or more of each"
        )
    if comparison.first_seed < 0:
        raise ValueError(f"first_seed is {comparison.first_seed}; allowed: 0 or more")
    names = {m.removesuffix(SUFFIX) for m in comparison.methods}
    if comparison.mlet is None and names != set(comparison.methods):
        raise ValueError(
            f"methods {', '.join(m for m in comparison.methods if m.endswith(SUFFIX))} without "
            "settings of MLET; give --mlet-dim"
        )
    schema = read_schema(comparison.data[0])
    for method in sorted(names):
        known = method in METHODS and method not in PUBLISHED
        if not known and not _is_multi_size(method) and not is_published(method):
            raise ValueError(
                f"method {method!r}; allowed: {', '.join(METHODS)}, each also with {SUFFIX}"
            )
        if comparison.exact_below or comparison.same_hash:
            _check_sharing(method, comparison.exact_below, comparison.same_hash, schema)
        if method in SEARCHES and ranks().world_size > 1:
            raise ValueError(
                f"method {method!r} in {ranks().world_size} processes; allowed: 1, of the searches "
                "only seo shards"
            )
    for name, given in comparison.searches.items():
        if name not in SEARCHES or type(given) is not SEARCHES[name].settings or given.params:
            raise ValueError(
                f"searches[{name!r}] = {given!r:.80}; allowed: settings of {', '.join(SEARCHES)}, "
                "without params: the budget is the comparison's"
            )
    for run_off in {
        None if m in SEO_METHODS else comparison.run_off
        for m in names
        if m == "seo" or m in SEO_METHODS
    }:
        check_search(schema, comparison.settings, comparison.fit, run_off)


class InfeasibleError(PolicyError):
    """Methods of a comparison have no policy at its budget; ``reasons``: why, by their names."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        each = [f"{method}: {why}" for method, why in reasons.items()]
        super().__init__("; ".join([*each, "leave them out of --methods to go on without"]))
        self.reasons = dict(reasons)


def infeasible(comparison: Comparison) -> dict[str, str]:
    """Methods of which it is known before any training that they cannot be had, and why.

    For those that train nothing to find a policy it is made; of SEO, the space that is searched
    and the trivial policies of the run-off. Other searches are not looked at.
    """
    reasons = {}
    for method in comparison.methods:
        for data in dict.fromkeys(comparison.data):
            try:
                _require_feasible(comparison, method, data)
            except PolicyError as error:
                reasons[method] = str(error)
    return reasons


def _require_feasible(comparison: Comparison, name: str, data: Path) -> None:
    """PolicyError for what :func:`infeasible` says of a method on one data set."""
    method, seed = name.removesuffix(SUFFIX), comparison.first_seed
    if method == "seo" or method in SEO_METHODS:
        run_off = comparison.run_off if method == "seo" else None
        check_space(read_schema(data), comparison.settings, run_off, seed)
        return
    if method in UNTRAINED:
        found = SEARCHES[method].run(
            data,
            comparison.search_settings(method),
            comparison.model,
            replace(comparison.fit, seed=seed),
        )
        policy = found.policy
    elif method in SEARCHES:
        return
    else:
        policy = comparison.plain_policy(method, data, seed)
    if name != method and comparison.mlet is not None:
        inner_policy(policy, comparison.mlet)


def asked_of(comparison: Comparison) -> dict[str, Any]:
    """What ``run.json`` says of a comparison: all but what may grow."""
    asked = asdict(comparison)
    for growing in ("methods", "seeds", "first_seed", "mlet"):
        asked.pop(growing)
    for later in ("searches", "exact_below", "same_hash"):  # not in files written before them
        if not asked[later]:
            asked.pop(later)
    return asked | {
        "kind": "compare",
        "model": comparison.model.as_json(),
        "data": [str(d) for d in comparison.data],
        "data_fingerprints": [read_schema(d).fingerprint for d in comparison.data],
    }


def compare(comparison: Comparison, out: Path) -> list[Run]:
    """Run what is not yet in ``out/results.jsonl``, and return all its lines.

    Resumable: called again with the same ``out`` it goes on where it stopped; more methods and
    seeds may be asked for.

    Raises:
        InfeasibleError: before the first training, or after a search.
        RunError: ``out`` holds a comparison with other data or settings.
        ValueError: an unknown method, or one with the suffix of MLET without settings of it.
    """
    check_comparison(comparison)
    if reasons := infeasible(comparison):
        raise InfeasibleError(reasons)
    asked = asked_of(comparison)
    here = ranks()
    results = out / "results.jsonl"

    def begin() -> list[Run]:
        open_run(out, asked, resume=True)
        if comparison.mlet is not None:
            _claim_mlet(out / MLET_FILE, comparison.mlet)
        return read_runs(results) if results.exists() else []

    done = {(r.method, r.seed): r for r in here.on_first(begin)}
    runs: list[Run] = []
    for i in range(comparison.seeds):
        seed = comparison.first_seed + i
        data = comparison.data[seed % len(comparison.data)]
        for method in comparison.methods:
            run = done.get((method, seed))
            if run is None:
                run = _compare_one(comparison, method, data, seed, out)
                line = json.dumps(asdict(run), sort_keys=True)
                here.on_first(partial(append_line, results, line))
            runs.append(run)
            if here.first:
                log.info("%s seed %d: test AUC %.5f", method, seed, run.test_auc)
    return runs


def _claim_mlet(path: Path, mlet: Mlet) -> None:
    """Record how the methods with the suffix are trained; RunError if it was otherwise."""
    if path.exists() and (found := json.loads(path.read_text())) != asdict(mlet):
        raise RunError(
            f"{path} says {found} and this comparison {asdict(mlet)}; choose another --out, or "
            "call it as before"
        )
    write_json(path, asdict(mlet))


def _compare_one(comparison: Comparison, name: str, data: Path, seed: int, out: Path) -> Run:
    fit_settings, model = replace(comparison.fit, seed=seed), comparison.model
    method = name.removesuffix(SUFFIX)
    if method != name:
        model = replace(model, mlet=comparison.mlet)
    try:
        policy, cost = _policy(comparison, method, data, seed, out)
    except PolicyError as error:
        both = [m for m in comparison.methods if m.removesuffix(SUFFIX) == method]
        raise InfeasibleError(dict.fromkeys(both, str(error))) from error
    return train(
        data,
        policy,
        out / "runs" / f"{name}-seed{seed}",
        model,
        fit_settings,
        method=name,
        resume=True,
        budget=comparison.settings.params,
        search=cost,
    )


def _policy(
    comparison: Comparison, method: str, data: Path, seed: int, out: Path
) -> tuple[Policy, SearchCost]:
    """The policy of a method without suffix, and what its search took."""
    settings, fit_settings = comparison.settings, replace(comparison.fit, seed=seed)
    if method == "seo" or method in SEO_METHODS:
        raw = method in SEO_METHODS
        folder = out / "searches" / f"{'seo-raw' if raw else 'seo'}-seed{seed}"
        policy = search(
            data,
            folder,
            settings,
            comparison.model,
            fit_settings,
            None if raw else comparison.run_off,
            resume=True,
            attentions=out / "attentions",
        )
        if raw:
            policy = apply.STRATEGIES[SEO_METHODS[method]](policy, settings.params)
        record = ranks().on_first((folder / SEARCH_FILE).read_text)
        return policy, SearchCost(float(json.loads(record)["seconds"]), settings.search_bytes)
    if method in SEARCHES:
        found = search_by(
            method,
            data,
            out / "searches" / f"{method}-seed{seed}",
            comparison.search_settings(method),
            comparison.model,
            fit_settings,
            resume=True,
        )
        return found.policy, SearchCost(found.seconds, found.peak_bytes)
    return comparison.plain_policy(method, data, seed), SearchCost()


# ---- the main job on made-up data --------------------------------------------------------

DEMO_METHODS = ("separate", "monolithic", "multi-size", "seo-exact", "seo-rr", "seo")


def demo(out: Path, *, quick: bool = False, seed: int = 0) -> list[Run]:
    """Prepare synthetic data, search, apply, train the applier and its rivals at one budget.

    The data have features of very different worth, so that how they share the budget matters.
    Called again it goes on where it stopped. ``quick`` only shows that everything works.
    """
    data = out / f"data-seed{seed}"

    def prepared() -> None:
        if not (data / SCHEMA_FILE).exists():
            synthetic(data, rows=8_000 if quick else 100_000, seed=seed + 1, progress=True)

    ranks().on_first(prepared)
    comparison = Comparison(
        data=(data,),
        methods=DEMO_METHODS,
        settings=seo.SeoSettings(budget_rows=500 if quick else 4000),
        seeds=1 if quick else 2,
        first_seed=seed,
        fit=FitSettings(
            epochs=2 if quick else 12,
            patience=4,
            batch_size=512,
            row_lr=1e-3,
            dense_lr=1e-3,
            row_l2=3e-3,
            log_every=50,
        ),
        run_off=RunOff(epochs=1 if quick else 8, chunk_dims=(8,), trivial_lookups=(2, 4)),
    )
    return compare(comparison, out / "compare")
